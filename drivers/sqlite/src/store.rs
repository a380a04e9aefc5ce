//! Opening a file, and what it gives: a reader, a writer, an administrator, a deduplication store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Connection, Endpoint, Error, ErrorKind, Result};

use crate::admin::SqliteAdmin;
use crate::dedup::SqliteDedupStore;
use crate::hub::{Hub, Settings};
use crate::open::{self, Create};
use crate::retention::Retention;
use crate::{SqliteReader, SqliteWriter, driver};

/// A file with topics, open. Cloning shares it; it is closed when the last clone and the last part of it are gone.
///
/// All who open the same file in one process share its threads and its transactions.
///
/// ```
/// # async fn example() -> millstream_core::Result<()> {
/// use std::time::Duration;
/// use millstream_sqlite::SqliteStore;
///
/// let store = SqliteStore::builder("app.db").lease(Duration::from_secs(5)).open().await?;
/// let connection = store.connection();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    hub: Arc<Hub>,
}

impl SqliteStore {
    /// Opens a file with settings of your choice.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteStoreBuilder {
        SqliteStoreBuilder {
            path: path.into(),
            create: Create::default(),
            identity: Identity::Shared,
            settings: Settings {
                lease: Duration::from_secs(10),
                busy_timeout: Duration::from_secs(5),
                retention: Retention::default(),
                max_message: 64 << 20,
            },
        }
    }

    /// Opens a file with the default settings; one that is not there is made.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::open`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::builder(path).open().await
    }

    /// Opens a file by its URL, with its parameters: what `Bus::connect` does, for who needs more of the file than a
    /// bus, such as its deduplication store.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for what is no `sqlite://` URL; as [`SqliteStoreBuilder::open`].
    pub async fn connect(url: &str) -> Result<Self> {
        driver::builder(&Endpoint::parse(url)?)?.open().await
    }

    /// Opens subscriptions.
    #[must_use]
    pub fn reader(&self) -> SqliteReader {
        SqliteReader::new(Arc::clone(&self.hub))
    }

    /// Writes. Each writer is closed on its own.
    #[must_use]
    pub fn writer(&self) -> SqliteWriter {
        SqliteWriter::new(Arc::clone(&self.hub))
    }

    /// Looks into topics and groups.
    #[must_use]
    pub fn admin(&self) -> SqliteAdmin {
        SqliteAdmin::new(Arc::clone(&self.hub))
    }

    /// A reader, a writer and an administrator, as `sqlite://` gives them.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(self.reader(), self.writer()).with_admin(self.admin())
    }

    /// A deduplication store in this file, for groups of several processes. A handled id is remembered for `window`
    /// at least. With a reader of the same file its confirmation commits with the acknowledgement.
    #[must_use]
    pub fn dedup_store(&self, window: Duration) -> SqliteDedupStore {
        SqliteDedupStore::new(Arc::clone(&self.hub), window)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.hub.shared().path
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// Sets how a file is opened.
#[derive(Debug, Clone)]
#[must_use = "it opens nothing before `open`"]
pub struct SqliteStoreBuilder {
    path: PathBuf,
    create: Create,
    identity: Identity,
    settings: Settings,
}

/// Whether all who open a file in one process are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Shared,
    Private,
}

impl SqliteStoreBuilder {
    /// What is made if it is not there. Default [`Create::Missing`].
    pub fn create(mut self, create: Create) -> Self {
        self.create = create;
        self
    }

    /// How long a member that says nothing is taken to live. Default 10 s, at least 100 ms. A process that ended is
    /// noticed at once by others of the same machine; this is for one that stands still.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long to wait for the file's lock while another process writes. Default 5 s.
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout;
        self
    }

    /// What of finished messages is kept, and how long. Default 7 days.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.settings.retention = retention;
        self
    }

    /// Bytes of a message at most, as [`Message::size`](millstream_core::Message::size) counts. Default 64 MiB, at
    /// most 512 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.settings.max_message = bytes;
        self
    }

    /// Threads and an identity of its own, as another process would have: for tests of several processes in one.
    pub fn private(mut self) -> Self {
        self.identity = Identity::Private;
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a setting out of its range; [`NotFound`](ErrorKind::NotFound),
    /// [`Denied`](ErrorKind::Denied), [`Corrupt`](ErrorKind::Corrupt), [`Unavailable`](ErrorKind::Unavailable) or
    /// [`Io`](ErrorKind::Io) for a file that is not there, may not be written, is no database, is locked, or lies on a
    /// broken or full disk; [`Unsupported`](ErrorKind::Unsupported) for a network filesystem or a newer format.
    pub async fn open(self) -> Result<SqliteStore> {
        let Self { path, create, identity, settings } = self;
        check(&settings)?;
        let opening = tokio::task::spawn_blocking(move || {
            let path = open::prepare(&path, create, settings.busy_timeout)?;
            match identity {
                Identity::Shared => Hub::shared_or_open(&path, &settings),
                Identity::Private => Hub::open(&path, settings).map(Arc::new),
            }
        });
        let hub = opening.await.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Internal, "opening the file did not come to an end").source(e))
        })?;
        Ok(SqliteStore { hub })
    }
}

fn check(settings: &Settings) -> Result<()> {
    let refuse = |what: &str, fix: &str| Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix));
    if settings.lease < Duration::from_millis(100) || settings.lease > Duration::from_secs(24 * 3600) {
        return refuse("lease is below 100 ms or above a day", "give it some seconds");
    }
    if settings.busy_timeout > Duration::from_secs(3600) {
        return refuse("busy_timeout is above an hour", "give it some seconds");
    }
    if settings.max_message == 0 || settings.max_message > 512 << 20 {
        return refuse("max_message is 0 or above 512 MiB", "give it a value in between");
    }
    Ok(())
}
