//! The conformance suite on a file: within one process, and with members that share nothing but the file, as those of
//! different processes do.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use millstream_core::{BoxFuture, Connection, Result};
use millstream_sqlite::SqliteStore;
use millstream_testkit::conformance::{self, Harness, Scale};
use tempfile::TempDir;

struct File {
    folder: TempDir,
    /// Whether each connection has threads and an identity of its own.
    apart: bool,
    /// Keeps the one store of a process open.
    open: Mutex<Option<SqliteStore>>,
}

fn file(apart: bool) -> File {
    #[allow(clippy::unwrap_used, reason = "without a folder there is nothing to test")]
    File { folder: tempfile::tempdir().unwrap(), apart, open: Mutex::new(None) }
}

impl File {
    async fn store(&self) -> Result<SqliteStore> {
        let builder = SqliteStore::builder(self.folder.path().join("app.db"))
            .lease(Duration::from_secs(2))
            .max_message(2 << 20);
        if self.apart { builder.private().open().await } else { builder.open().await }
    }
}

impl Harness for File {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            let store = self.store().await?;
            let connection = store.connection();
            if !self.apart {
                *self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(store);
            }
            Ok(connection)
        })
    }

    fn scale(&self) -> Scale {
        let mut scale = Scale::default();
        scale.quiet = Duration::from_millis(60);
        scale
    }
}

fn main() -> ExitCode {
    conformance::main(vec![("one-process", || file(false)), ("apart", || file(true))])
}
