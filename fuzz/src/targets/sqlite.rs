//! A file of the sqlite driver for targets that write into it what the driver never would.

use std::path::Path;
use std::time::Duration;

use crc32fast::Hasher;
use millstream::core::{
    End, OpenRequest, ReadLimits, Reader as _, Settlement, Settler as _, Source as _, Writer as _,
};
use millstream::{Message, Result};
use millstream_sqlite::SqliteStore;
use millstream_sqlite::rusqlite::Connection;
use tempfile::TempDir;
use tokio::time::timeout;

/// How long anything may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long nothing must come for it to be believed that nothing will.
const QUIET: Duration = Duration::from_millis(2);

/// A folder, in memory where the system has such a place: a file of this target need not survive anything.
pub(super) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// A file that is open: by the driver, and by a connection that writes into it.
pub(super) struct Place {
    pub(super) store: SqliteStore,
    pub(super) connection: Connection,
    _folder: TempDir,
}

impl Place {
    /// With so many messages in the topic `t`, which is number 1.
    pub(super) fn new(messages: usize) -> Self {
        let folder = folder();
        let path = folder.path().join("app.db");
        let store = super::wait_for_real(async {
            let store = SqliteStore::builder(&path).private().open().await.expect("opened");
            let messages = (0..messages).map(message).collect();
            store.writer().write(messages).await.expect("written").into_result().expect("all of them");
            store
        });
        let connection = Connection::open(path).expect("opened");
        connection.busy_timeout(PATIENCE).expect("set");
        Self { store, connection, _folder: folder }
    }
}

pub(super) fn message(n: usize) -> Message {
    Message::new("t", format!("payload {n}")).with_id(n.to_string()).with_key(format!("k{}", n % 5))
}

/// Fails if something does not come back.
pub(super) async fn promptly<F: Future>(what: F) -> F::Output {
    timeout(PATIENCE, what).await.expect("it hangs")
}

/// Reads what a request brings within a moment, acknowledges it, and closes.
pub(super) async fn take_all(store: &SqliteStore, request: OpenRequest) -> Result<Vec<Message>> {
    // Where there is an end, it comes.
    let quiet = if request.end == End::Never { QUIET } else { PATIENCE };
    let mut opened = promptly(store.reader().open(request)).await?;
    let mut taken = Vec::new();
    let mut deliveries = Vec::new();
    while let Ok(read) =
        timeout(quiet, opened.source.read(&mut deliveries, ReadLimits::new(100, 1 << 20))).await
    {
        let ended = !matches!(read, Ok(millstream::core::Read::Deliveries));
        let (messages, acks): (Vec<_>, Vec<_>) =
            deliveries.drain(..).map(|d| (Message::clone(&d.message), Settlement::ack(d.token))).unzip();
        taken.extend(messages);
        let _ = promptly(opened.settler.settle(acks)).await;
        if ended {
            break;
        }
    }
    let _ = promptly(opened.source.close()).await;
    let _ = promptly(opened.settler.close()).await;
    Ok(taken)
}

/// Parts under a checksum, as the driver computes it.
#[derive(Default)]
pub(super) struct Checksum(Hasher);

impl Checksum {
    /// Bytes of a known number.
    pub(super) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    /// Bytes behind their length; absent is not empty.
    pub(super) fn part(self, bytes: Option<&[u8]>) -> Self {
        let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        self.fixed(&length.to_le_bytes()).fixed(bytes.unwrap_or_default())
    }

    pub(super) fn done(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

/// Removes a file and those beside it.
pub(super) fn remove(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let _ = std::fs::remove_file(name);
    }
}
