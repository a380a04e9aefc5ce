//! Every async function of the sqlite driver, dropped at every poll. `CANCEL_SEEDS=50` tries more variations than the
//! usual one.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use millstream_core::erased::DynDedupStore;
use millstream_core::{
    BoundWriter, BoxFuture, Connection, DedupKey, DedupStore, Endpoint, ErrorKind, Message, Reserve, Result,
    Writer,
};
use millstream_sqlite::rusqlite::TransactionBehavior;
use millstream_sqlite::{SqliteStore, driver};
use millstream_testkit::cancel::driver::{FUNCTIONS, Report, STORE_FUNCTIONS, check, check_store};
use millstream_testkit::cancel::public::uncovered;
use millstream_testkit::cancel::{Cut, Moment, Pace, Tally, at_every_poll};
use millstream_testkit::conformance::{Harness, Scale};
use tokio::time::timeout;

fn seeds() -> u64 {
    std::env::var("CANCEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Prints how much was tried, and fails with what went wrong.
fn assert_kept(what: &str, report: Report) {
    println!("{what}:\n{report}\n");
    if let Err(failures) = report.into_result() {
        panic!("{what}:\n{failures}");
    }
}

struct OnAFile {
    file: File,
    /// Keeps the file open between connections.
    open: Mutex<Option<SqliteStore>>,
}

impl OnAFile {
    fn new() -> Self {
        Self { file: file(), open: Mutex::new(None) }
    }
}

/// A file in memory, where there is such a place: what is dropped does not depend on the disk.
fn file() -> File {
    match tempfile::Builder::new().prefix("millstream-cancel-").tempdir_in("/dev/shm") {
        Ok(folder) => File { folder },
        Err(_) => File::new(),
    }
}

impl Harness for OnAFile {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            let store = self.file.open().await;
            let connection = store.connection();
            self.open.lock().unwrap().get_or_insert(store);
            Ok(connection)
        })
    }

    fn scale(&self) -> Scale {
        Scale::default()
    }
}

#[test]
fn the_driver_may_be_dropped_at_every_poll() {
    assert_kept("sqlite", check(OnAFile::new, seeds()));
}

#[test]
fn the_deduplication_store_may_be_dropped_at_every_poll() {
    let make = || -> BoxFuture<'static, (Arc<dyn DynDedupStore>, File)> {
        Box::pin(async {
            let file = file();
            let store = file.open().await.dedup_store(Duration::from_secs(3_600));
            (Arc::new(store) as Arc<dyn DynDedupStore>, file)
        })
    };
    assert_kept("sqlite store", check_store(make, seeds()));
}

/// Opens a file in one of its ways, dropped at every poll, and uses it afterwards.
#[allow(clippy::future_not_send, reason = "it is run on the thread that makes it")]
async fn opened_at_every_poll<T>(open: impl AsyncFn(&File) -> Result<T>) -> Tally {
    let tally = at_every_poll(async |cut| {
        let file = file();
        let opened = cut.run(open(&file)).await.transpose().map_err(|e| e.to_string())?;
        // With other settings: that is refused while the first is open.
        drop(opened);
        let again = async {
            loop {
                match file.builder().lease(Duration::from_secs(3)).open().await {
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    other => break other,
                }
            }
        };
        let store = timeout(PATIENCE, again).await.map_err(|_| "it stays open".to_owned())?;
        publish(&store.map_err(|e| e.to_string())?, messages(1)).await;
        Ok(())
    });
    let tally = tally.await.unwrap();
    println!("opening: {tally}");
    tally
}

#[tokio::test]
async fn opening_a_file_may_be_dropped_at_every_poll() {
    let by_url = |file: &File| format!("sqlite://{}?lease=2s", file.path().display());
    let mut tally = opened_at_every_poll(async |file| SqliteStore::open(file.path()).await).await;
    tally.add(opened_at_every_poll(async |file| file.builder().open().await).await);
    tally.add(opened_at_every_poll(async |file| SqliteStore::connect(&by_url(file)).await).await);
    tally.add(
        opened_at_every_poll(async |file| driver().connect(Endpoint::parse(&by_url(file))?).await).await,
    );
    assert!(tally.under_way > 0);
}

#[tokio::test]
async fn closing_waits_for_a_write_that_was_dropped() {
    // Given a file that another connection has locked, and a write that was dropped on its way to it
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(1)).await;
    let writer = store.writer();
    let mut blocker = file.connection();
    let lock = blocker.transaction_with_behavior(TransactionBehavior::Immediate);
    let lock = lock.unwrap();
    let dropped = Cut::after(1, Moment::AtOnce, Pace::Free).run(writer.write(vec![message(7, "k")])).await;
    assert!(dropped.is_none());

    // when the writer is closed,
    let mut closing = std::pin::pin!(writer.close());
    let early = timeout(QUIET, &mut closing).await;

    // then it is not closed before what was handed over is on disk.
    assert!(early.is_err(), "it was closed while a write was on its way");
    drop(lock);
    timeout(PATIENCE, closing).await.unwrap().unwrap();
    let mut member = member(&store).await;
    assert_eq!(ids(&member.take(2).await), ["id-0", "id-7"]);
}

#[tokio::test]
async fn a_write_that_waits_for_room_and_is_no_longer_polled_does_not_keep_the_writer_open() {
    // Given a file that another connection has locked, as much on its way to it as may be, and a write behind that
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(1)).await;
    let mut blocker = file.connection();
    let lock = blocker.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let (first, second) = (store.writer(), store.writer());
    let large = |id: &str| vec![Message::new(TOPIC, vec![7; 40 << 20]).with_id(id.to_owned())];
    let at_once = || Cut::after(1, Moment::AtOnce, Pace::Free);
    assert!(at_once().run(first.write(large("one"))).await.is_none());
    let mut kept = Box::pin(second.write(large("two")));
    assert!(timeout(QUIET, &mut kept).await.is_err());

    // when the writer of the last is closed, it does not wait for it,
    timeout(PATIENCE, second.close()).await.expect("it never closes").unwrap();
    drop(lock);

    // and the write learns that it is.
    let error = timeout(PATIENCE, kept).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BusIsShutdown);
}

#[tokio::test]
async fn an_id_whose_reservation_nobody_heard_of_is_free_again() {
    // Given a file that another connection has locked, and a wish to reserve that was dropped on its way to it
    let file = File::new();
    let dedup = file.open().await.dedup_store(Duration::from_secs(60));
    let key = DedupKey { group: "g".into(), id: "1".into() };
    let lease = Duration::from_secs(3_600);
    let mut blocker = file.connection();
    let lock = blocker.transaction_with_behavior(TransactionBehavior::Immediate);
    let lock = lock.unwrap();
    let wish = DedupStore::reserve(&dedup, vec![key.clone()], lease);
    assert!(Cut::after(1, Moment::AtOnce, Pace::Free).run(wish).await.is_none());
    drop(lock);

    // when it is asked for again, it is free long before the lease of the first ends.
    let again = async {
        let ask = || DedupStore::reserve(&dedup, vec![key.clone()], lease);
        while !matches!(ask().await.unwrap()[0], Reserve::Reserved(_)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("the reservation leaked");
}

#[tokio::test]
async fn a_bound_write_that_is_never_polled_is_in_the_transaction_all_the_same() {
    use millstream_core::Bind;
    let file = File::new();
    let store = file.open().await;
    let writer = store.writer();
    let tally = at_every_poll(async |cut| {
        let mut connection = file.connection();
        let mut transaction = connection.transaction().map_err(|e| e.to_string())?;
        let batch = vec![message(cut.polls(), "k")];
        let mut bound = writer.bind(&mut transaction);
        drop(cut.run(bound.write(batch)).await);
        // The user rolls back: nothing is left, whatever became of the future.
        transaction.rollback().map_err(|e| e.to_string())
    });
    assert!(tally.await.unwrap().cases > 0);
    publish(&store, vec![message(9, "k")]).await;
    let mut member = member(&store).await;
    assert_eq!(ids(&member.soon().await), ["id-9"]);
}

#[test]
fn every_async_function_of_the_driver_has_a_case() {
    let here =
        ["SqliteStore::open", "SqliteStore::connect", "SqliteStoreBuilder::open", "BoundWriter::write"];
    let covered = FUNCTIONS.iter().chain(STORE_FUNCTIONS).chain(&here).copied();
    let forgotten = uncovered(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), covered).unwrap();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}
