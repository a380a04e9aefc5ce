//! Moving what is committed from the write-ahead log into the file, beside the writer and without stopping it.
//!
//! SQLite's automatic checkpoints run inside a commit and swallow their errors; so they are off, and this thread does
//! it and says what failed.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::hub::Shared;
use crate::open;

/// How often at most, and how often at least if anything was committed.
const EVERY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(2);

/// A write-ahead log of this size is cut back, if nobody reads it at the moment.
const TOO_LARGE: u64 = 64 << 20;
/// How long cutting it back may wait for readers.
const PATIENCE: Duration = Duration::from_millis(5);

pub(crate) fn run(shared: &Shared, connection: &Connection) {
    let mut failed = false;
    let mut cut = Instant::now();
    loop {
        let rung = shared.checkpoint_bell.wait(IDLE);
        if rung.shut {
            return;
        }
        if !rung.rung {
            continue;
        }
        match checkpoint(connection, "PASSIVE") {
            Ok(()) if failed => {
                failed = false;
                tracing::info!(path = %shared.path.display(), "checkpoints work again");
            }
            Ok(()) => {}
            Err(error) => {
                if !failed {
                    tracing::error!(path = %shared.path.display(), %error,
                        "a checkpoint failed: nothing is lost, and the write-ahead log grows; look at the disk");
                }
                failed = true;
            }
        }
        if open::wal_size(&shared.path) > TOO_LARGE && cut.elapsed() > IDLE {
            cut = Instant::now();
            let _ = connection.busy_timeout(PATIENCE);
            if let Err(error) = checkpoint(connection, "TRUNCATE") {
                tracing::debug!(path = %shared.path.display(), %error, "the write-ahead log is in use");
            }
        }
        std::thread::sleep(EVERY);
    }
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    // Busy, pages in the log, pages moved: a passive one that moved less is taken up by the next.
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}
