//! What the tests of the sqlite driver share: a folder with a file, and short ways to write, read and settle.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::PathBuf;
use std::time::Duration;

use millstream_core::{
    Delivery, Effect, Message, OpenRequest, Opened, Park, ParkNote, Read, ReadLimits, Reader, Result,
    Settled, Settlement, Settler, Source, Verdict, Writer,
};
use millstream_sqlite::{SqlEffect, SqliteSettler, SqliteSource, SqliteStore, SqliteStoreBuilder, rusqlite};
use tempfile::TempDir;
use tokio::time::timeout;

pub(crate) const TOPIC: &str = "orders";
pub(crate) const GROUP: &str = "billing";
/// How long anything that must come may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must come for it to be believed that nothing will.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

/// A folder with a file that is not there yet.
pub(crate) struct File {
    pub(crate) folder: TempDir,
}

impl File {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    pub(crate) fn builder(&self) -> SqliteStoreBuilder {
        SqliteStore::builder(self.path()).lease(Duration::from_secs(2))
    }

    /// The store that all of this process share.
    pub(crate) async fn open(&self) -> SqliteStore {
        self.builder().open().await.unwrap()
    }

    /// A store as another process has it.
    pub(crate) async fn apart(&self) -> SqliteStore {
        self.builder().private().open().await.unwrap()
    }

    /// A plain connection of the user's own.
    pub(crate) fn connection(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    }

    /// The one number that a query gives.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.connection().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// A subscription of the tests.
pub(crate) struct Member {
    pub(crate) source: SqliteSource,
    pub(crate) settler: SqliteSettler,
}

pub(crate) fn request() -> OpenRequest {
    OpenRequest::new(TOPIC).group(GROUP)
}

pub(crate) async fn open(store: &SqliteStore, request: OpenRequest) -> Member {
    let Opened { source, settler, .. } = store.reader().open(request).await.unwrap();
    Member { source, settler }
}

/// A member of the usual group on the usual topic.
pub(crate) async fn member(store: &SqliteStore) -> Member {
    open(store, request()).await
}

impl Member {
    /// Waits for the next deliveries, at most so many.
    pub(crate) async fn try_read(&mut self, messages: usize) -> Result<Vec<Delivery>> {
        let mut into = Vec::new();
        let read = self.source.read(&mut into, ReadLimits::new(messages, usize::MAX));
        let read = timeout(PATIENCE, read).await.expect("deliveries come")?;
        assert!(matches!(read, Read::Deliveries), "{read:?}");
        Ok(into)
    }

    /// Waits until just so many came.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            all.extend(self.try_read(count - all.len()).await.unwrap());
        }
        all
    }

    pub(crate) async fn one(&mut self) -> Delivery {
        self.take(1).await.remove(0)
    }

    /// What comes within a moment.
    pub(crate) async fn soon(&mut self) -> Vec<Delivery> {
        let mut into = Vec::new();
        let read = self.source.read(&mut into, ReadLimits::new(1_000, usize::MAX));
        let _ = timeout(QUIET, read).await;
        into
    }

    pub(crate) async fn settle(&mut self, delivery: Delivery, verdict: Verdict) -> Settled {
        self.settler.settle(vec![Settlement::new(delivery.token, verdict)]).await.remove(0)
    }

    pub(crate) async fn ack(&mut self, deliveries: Vec<Delivery>) {
        let batch = deliveries.into_iter().map(|d| Settlement::ack(d.token)).collect();
        let settled = self.settler.settle(batch).await;
        assert!(settled.iter().all(Settled::is_done), "{settled:?}");
    }

    /// Acknowledges with an effect.
    pub(crate) async fn ack_with(&mut self, delivery: Delivery, effect: Effect) -> Settled {
        let mut settlement = Settlement::ack(delivery.token);
        settlement.along_mut().effects = vec![effect];
        self.settler.settle(vec![settlement]).await.remove(0)
    }
}

pub(crate) fn park(after: Option<Duration>) -> Verdict {
    let note = ParkNote { attempts: 2, first_failure: None, error: "down".to_owned() };
    Verdict::Park(Box::new(Park { after, note }))
}

pub(crate) fn message(number: usize, key: &str) -> Message {
    Message::new(TOPIC, format!("payload {number}")).with_id(format!("id-{number}")).with_key(key.to_owned())
}

pub(crate) fn messages(count: usize) -> Vec<Message> {
    (0..count).map(|n| message(n, &format!("key {}", n % 20))).collect()
}

pub(crate) async fn publish(store: &SqliteStore, messages: Vec<Message>) {
    let report = store.writer().write(messages).await.unwrap();
    assert!(report.is_all_written(), "{report:?}");
}

pub(crate) fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| d.message.id.to_string()).collect()
}

pub(crate) fn sql(text: &'static str) -> Effect {
    SqlEffect::statement(text, ()).unwrap().into_effect()
}
