//! A disk that fails while the driver opens, commits and checkpoints: what was confirmed is there, and it goes on.
//!
//! The disk is served by another process, this program with another argument: SQLite maps a file on it, and who serves
//! such a file himself can wait for himself. Where FUSE is not allowed the tests are reported as ignored, with the
//! reason.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use common::{GROUP, PATIENCE, TOPIC, message, messages};
use libtest_mimic::{Arguments, Completion, Trial};
use millstream_core::{
    Delivery, End, Message, OpenRequest, Read, ReadLimits, Reader, Result, Source, Writer,
};
use millstream_disk::{Apart, Failure, Fault, Lasts, NotMounted, Operation, Survives, serve};
use millstream_sqlite::SqliteStore;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

/// The argument with which this program serves a disk.
const SERVE: &str = "serve-a-disk";
/// How long a test may take.
const LONGEST: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == SERVE) {
        let served = arguments.next().map_or(Ok(()), |point| serve(PathBuf::from(point)));
        return if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let trials = vec![
        trial(
            "whichever_open_fails_while_the_file_is_opened_messages_can_be_published_afterwards",
            whichever_open_fails_while_the_file_is_opened_messages_can_be_published_afterwards,
        ),
        trial(
            "whichever_open_fails_while_the_file_is_opened_the_log_is_carried_into_it_afterwards",
            whichever_open_fails_while_the_file_is_opened_the_log_is_carried_into_it_afterwards,
        ),
        trial(
            "whichever_sync_fails_what_is_confirmed_survives_a_power_cut",
            whichever_sync_fails_what_is_confirmed_survives_a_power_cut,
        ),
        trial(
            "a_full_disk_refuses_and_goes_on_when_there_is_room",
            a_full_disk_refuses_and_goes_on_when_there_is_room,
        ),
        trial(
            "a_subscription_goes_on_when_a_disk_comes_back_that_was_gone_altogether",
            a_subscription_goes_on_when_a_disk_comes_back_that_was_gone_altogether,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that is given a disk, or is ignored where there is none.
fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn(OnDisk) -> F) -> Trial {
    Trial::ignorable_test(name, move || {
        let on = match OnDisk::mount() {
            Ok(on) => on,
            Err(why) => return Ok(Completion::ignored_with(why.to_string())),
        };
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let ended = runtime.block_on(async { timeout(LONGEST, test(on)).await });
        runtime.shutdown_background();
        ended.map_err(|_| format!("it did not end within {LONGEST:?}"))?;
        Ok(Completion::Completed)
    })
}

struct OnDisk {
    disk: Apart,
    folder: TempDir,
}

impl OnDisk {
    fn mount() -> Result<Self, NotMounted> {
        let folder = tempfile::tempdir().unwrap();
        let point = folder.path().join("disk");
        fs::create_dir(&point).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let disk = Apart::mount(command.arg(SERVE).arg(&point), &point)?;
        Ok(Self { disk, folder })
    }

    fn file(&self) -> PathBuf {
        self.disk.point().join("app.db")
    }

    async fn open(&self) -> Result<SqliteStore> {
        SqliteStore::builder(self.file()).private().open().await
    }

    fn arm(&mut self, operation: Operation, nth: u64, failure: Failure, lasts: Lasts) {
        self.disk.arm(Fault { operation, nth, failure, lasts }).unwrap();
    }

    fn has_struck(&mut self) -> bool {
        self.disk.failed().unwrap() > 0
    }

    /// Opens it with the nth operation of a kind failing, and again if that fails; none if there were fewer.
    async fn open_failing(&mut self, operation: Operation, nth: u64) -> Option<SqliteStore> {
        self.arm(operation, nth, Failure::NoSpace, Lasts::Once);
        let opened = self.open().await;
        let struck = self.has_struck();
        self.disk.heal().unwrap();
        match opened {
            _ if !struck => None,
            Ok(store) => Some(store),
            Err(error) => {
                assert!(error.context().fix.is_some(), "{error}");
                Some(self.open().await.unwrap())
            }
        }
    }

    /// What a group without a name finds in what is left if the power is cut now and nothing survives that was not
    /// synced.
    async fn left_without_power(&mut self, name: &str) -> Vec<String> {
        let left = self.folder.path().join(name);
        fs::create_dir(&left).unwrap();
        self.disk.write_left(Survives::Nothing, 0, &left).unwrap();
        browse(&SqliteStore::builder(left.join("app.db")).private().open().await.unwrap()).await
    }
}

async fn write(store: &SqliteStore, messages: Vec<Message>) -> Result<()> {
    store.writer().write(messages).await?.into_result().map(drop)
}

/// Publishes, again if it fails, as long as anything may take.
async fn write_in_the_end(store: &SqliteStore, message: &Message) {
    let begun = Instant::now();
    while let Err(error) = write(store, vec![message.clone()]).await {
        assert!(begun.elapsed() < PATIENCE, "it does not go on: {error}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn browse(store: &SqliteStore) -> Vec<String> {
    let request = OpenRequest::new(TOPIC).end(End::Latest);
    let mut source = store.reader().open(request).await.unwrap().source;
    let mut all: Vec<Delivery> = Vec::new();
    while !matches!(source.read(&mut all, ReadLimits::new(100, 1 << 20)).await, Ok(Read::End)) {}
    all.into_iter().map(|delivery| delivery.message.id.to_string()).collect()
}

async fn whichever_open_fails_while_the_file_is_opened_messages_can_be_published_afterwards(mut on: OnDisk) {
    // SQLite opens a file just for reading if it cannot have it otherwise, and stays with that.
    drop(on.open().await.unwrap());
    let mut nth = 1;
    while let Some(store) = on.open_failing(Operation::Open, nth).await {
        write_in_the_end(&store, &message(nth as usize, "key")).await;
        nth += 1;
    }
    assert!(nth > 5, "{nth} opens failed");
}

async fn whichever_open_fails_while_the_file_is_opened_the_log_is_carried_into_it_afterwards(mut on: OnDisk) {
    drop(on.open().await.unwrap());
    let mut nth = 1;
    while let Some(store) = on.open_failing(Operation::Open, nth).await {
        let before = fs::metadata(on.file()).unwrap().len();
        let begun = Instant::now();
        let mut number = 0;
        // Each asks for a checkpoint; the first may find that it cannot be done.
        while fs::metadata(on.file()).unwrap().len() < before + (256 << 10) {
            assert!(begun.elapsed() < PATIENCE, "with open {nth} failing nothing is carried into the file");
            number += 1;
            let large = Message::new(TOPIC, vec![b'x'; 1 << 20]).with_id(format!("{nth} {number}"));
            write_in_the_end(&store, &large).await;
            sleep(Duration::from_millis(150)).await;
        }
        nth += 1;
    }
    assert!(nth > 5, "{nth} opens failed");
}

async fn whichever_sync_fails_what_is_confirmed_survives_a_power_cut(mut on: OnDisk) {
    // SQLite syncs the folder for the write-ahead log's name, and swallows the error.
    drop(on.open().await.unwrap());
    let mut nth = 1;
    loop {
        on.arm(Operation::Sync, nth, Failure::Io, Lasts::Once);
        let store = match on.open().await {
            Ok(store) => store,
            Err(_) => on.open().await.unwrap(),
        };
        let text = format!("after sync {nth}");
        write_in_the_end(&store, &Message::new(TOPIC, text.clone()).with_id(text.clone())).await;
        let struck = on.has_struck();
        let left = on.left_without_power(&nth.to_string()).await;
        assert!(left.contains(&text), "sync {nth} failed, and what was confirmed is lost");
        if !struck {
            break;
        }
        nth += 1;
    }
    assert!(nth > 3, "{nth} syncs failed");
}

async fn a_full_disk_refuses_and_goes_on_when_there_is_room(mut on: OnDisk) {
    // Given a file with a message, and a disk that takes no more
    let store = on.open().await.unwrap();
    write(&store, vec![message(0, "key")]).await.unwrap();
    on.arm(Operation::Write, 1, Failure::NoSpace, Lasts::UntilHealed);

    // when messages are published, they are refused,
    for number in 1..4 {
        let error = write(&store, vec![message(number, "key")]).await.unwrap_err();
        assert!(error.context().fix.is_some(), "{error}");
    }
    on.disk.heal().unwrap();

    // and when there is room again, it takes them, and has all that was confirmed.
    write_in_the_end(&store, &message(4, "key")).await;
    let left = on.left_without_power("left").await;
    assert!(left.contains(&"id-0".to_owned()) && left.contains(&"id-4".to_owned()), "{left:?}");
}

async fn a_subscription_goes_on_when_a_disk_comes_back_that_was_gone_altogether(mut on: OnDisk) {
    // Given a subscription, and a disk on which nothing can be written, synced or opened any more.
    let store = on.open().await.unwrap();
    let mut opened = store.reader().open(OpenRequest::new(TOPIC).group(GROUP)).await.unwrap();
    write(&store, messages(1)).await.unwrap();
    on.arm(Operation::Any, 1, Failure::Io, Lasts::UntilHealed);
    write(&store, vec![message(1, "key")]).await.unwrap_err();
    // Long enough for the file to be opened again, in vain.
    sleep(Duration::from_millis(700)).await;
    on.disk.heal().unwrap();
    // When it is there again and something is published, then it is delivered.
    let late = message(2, "key");
    write_in_the_end(&store, &late).await;
    let begun = Instant::now();
    let mut came = Vec::new();
    while !came.iter().any(|delivery: &Delivery| delivery.message.id == late.id) {
        assert!(begun.elapsed() < PATIENCE, "the subscription stands still");
        let reading = opened.source.read(&mut came, ReadLimits::new(10, 1 << 20));
        let _ = timeout(Duration::from_millis(100), reading).await;
    }
}
