//! The writing side: batches into the next commit, or into a transaction of the caller's own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{
    Bind, BoundWriter, Durability, Error, ErrorKind, Message, Result, WriteOutcome, WriteReport, Writer,
    WriterCapabilities,
};
use rusqlite::Transaction;
use tokio::sync::RwLock;

use crate::hub::{Held, Hub};
use crate::publish::{self, Known};

/// Writes to a file. Cloning shares it, and its end.
///
/// A topic that does not exist is made. A message is written once it is on disk. What many write at the same time is
/// gathered into one transaction; the messages of one batch that can be written commit together.
#[derive(Debug, Clone)]
pub struct SqliteWriter {
    hub: Arc<Hub>,
    /// Whether it is closed. Writes hold it to read until they are done, so that closing waits for those under way.
    closed: Arc<RwLock<bool>>,
}

impl SqliteWriter {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, closed: Arc::new(RwLock::new(false)) }
    }

    /// Tells readers at once that something was published in a transaction of the caller's own, after its commit.
    /// Without it they see it within 250 ms.
    pub fn wake(&self) {
        let shared = self.hub.shared();
        shared.reader_bell.ring_from_outside();
    }
}

impl Writer for SqliteWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = Durability::Disk;
        can.delay = Some(Duration::from_secs(100 * 366 * 24 * 3600));
        can.max_message = Some(self.hub.shared().settings.max_message);
        can.max_batch = 1_000;
        can.store = Some(self.hub.shared().store);
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        // Room first: who waits for it, perhaps no longer polled, does not keep the writer from being closed.
        let room = self.hub.room(&batch).await?;
        let open = Arc::clone(&self.closed).read_owned().await;
        if *open {
            return Err(Error::new(ErrorKind::BusIsShutdown, "the sqlite writer is closed")
                .fix("write before it is closed, or take a new writer from the store"));
        }
        let topic = batch.first().map(|message| message.topic.clone());
        let outcomes =
            self.hub.publish(batch, Held { _room: room, _open: open }).await.map_err(
                |error| match topic {
                    Some(topic) => error.topic(&*topic),
                    None => error,
                },
            )?;
        Ok(WriteReport::each(outcomes))
    }

    async fn close(&self) -> Result<()> {
        *self.closed.write().await = true;
        Ok(())
    }
}

/// Publishing in a transaction of the user's own, on the same file, from any connection or process.
///
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use millstream_core::{Bind, Message};
/// use millstream_sqlite::{SqliteStore, rusqlite};
///
/// let store = SqliteStore::open("app.db").await?;
/// let writer = store.writer();
/// let mut connection = rusqlite::Connection::open("app.db")?;
/// // Immediate, since it writes: one that reads first may find that it cannot write any more.
/// let mut transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
/// transaction.execute("UPDATE stock SET count = count - 1 WHERE item = ?1", ["apple"])?;
/// writer.bind(&mut transaction).add(&[Message::new("stock.taken", "apple")])?;
/// transaction.commit()?;
/// writer.wake();
/// # Ok(())
/// # }
/// ```
impl Bind for SqliteWriter {
    type Transaction<'c> = Transaction<'c>;
    type Bound<'t, 'c: 't> = SqliteBound<'t, 'c>;

    fn bind<'t, 'c: 't>(&'t self, transaction: &'t mut Transaction<'c>) -> SqliteBound<'t, 'c> {
        SqliteBound { writer: self, transaction, known: Known::default() }
    }
}

/// Writes in the caller's transaction.
#[derive(Debug)]
pub struct SqliteBound<'t, 'c> {
    writer: &'t SqliteWriter,
    transaction: &'t mut Transaction<'c>,
    known: Known,
}

impl SqliteBound<'_, '_> {
    /// Adds messages to the transaction: all of them, or none. As [`BoundWriter::write`], without an `await`, across
    /// which a transaction cannot be held by a future that is `Send`.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if the transaction is on another file; of a message that cannot be
    /// written; as SQLite has them.
    pub fn add(&mut self, batch: &[Message]) -> Result<()> {
        let shared = self.writer.hub.shared();
        same_file(self.transaction, &shared.path)?;
        // Numbers are never taken from memory: others may have written in the same transaction.
        self.known.forget();
        let savepoint = self
            .transaction
            .savepoint()
            .map_err(|e| crate::errors::sqlite("the messages cannot be set apart in the transaction", e))?;
        let outcomes = publish::write(&savepoint, &mut self.known, batch, shared.settings.max_message)?;
        for outcome in outcomes {
            // Dropped, the savepoint undoes all of the batch.
            if let WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) = outcome {
                return Err(error);
            }
        }
        savepoint
            .commit()
            .map_err(|e| crate::errors::sqlite("the messages cannot be added to the transaction", e))
    }
}

impl BoundWriter for SqliteBound<'_, '_> {
    fn write(&mut self, batch: Vec<Message>) -> impl Future<Output = Result<()>> {
        std::future::ready(self.add(&batch))
    }
}

/// Refuses a transaction on another file.
fn same_file(connection: &rusqlite::Connection, path: &Path) -> Result<()> {
    let theirs = connection.path().and_then(|theirs| std::fs::canonicalize(theirs).ok());
    if theirs.as_deref() == Some(path) {
        return Ok(());
    }
    let name = theirs.map_or_else(|| "in memory".to_owned(), |theirs| theirs.display().to_string());
    Err(Error::new(
        ErrorKind::InvalidConfig,
        format!("the transaction is on another file ({name}) than the topics ({})", path.display()),
    )
    .fix("open the connection on the bus's own file, or publish outside the transaction"))
}
