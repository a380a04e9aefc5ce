//! Moving what is committed from the write-ahead log into the file, beside the writer and without stopping it.
//!
//! SQLite's automatic checkpoints run inside a commit and swallow their errors; so they are off, and this thread does
//! it and says what failed.
//!
//! The log starts again from its beginning if all of it is moved in the moment when somebody begins to write. Beside a
//! writer that never rests that moment does not come by itself: the log would only grow, and to sync a file that grows
//! takes twice as long as to sync one that is overwritten. So once it is large, and nearly all of it is moved, the writer
//! moves the rest itself, between two commits.

use std::cell::Cell;
use std::os::raw::c_int;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use crate::errors;
use crate::hub::Shared;
use crate::open::{self, Role};

/// How often at most, and how often at least if anything was committed.
const EVERY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(2);

/// So much is written to the log before it is moved.
pub(crate) const AFTER: u64 = 4 << 20;

/// A write-ahead log of this size is to start again.
const LARGE: u64 = 16 << 20;

/// A write-ahead log of this size is cut back, if nobody reads it at the moment.
const TOO_LARGE: u64 = 64 << 20;
/// How long cutting it back may wait for readers.
const PATIENCE: Duration = Duration::from_millis(5);

pub(crate) fn run(shared: &Shared, mut connection: Connection) {
    let mut failed = false;
    let mut tight = false;
    let mut cut = Instant::now();
    loop {
        // One that failed is tried again by itself: on a disk that is full now and then, the log would grow at each try
        // that meets it so, until it has taken all the room that the file would need.
        let rung = shared.checkpoint_bell.wait(if failed || tight { EVERY } else { IDLE });
        if rung.shut {
            return;
        }
        if !rung.rung && !failed && !tight {
            continue;
        }
        match move_most(&connection) {
            Ok(large) => {
                shared.log_is_large.store(large, Ordering::Release);
                if failed {
                    failed = false;
                    tracing::info!(path = %shared.path.display(), "checkpoints work again");
                }
            }
            Err(error) => {
                if !failed {
                    tracing::error!(path = %shared.path.display(), %error,
                        "a checkpoint failed: nothing is lost, and the write-ahead log grows; look at the disk");
                }
                failed = true;
                tight |= errors::is_full(&error);
                if errors::breaks_connection(&error)
                    && let Ok(new) =
                        open::connect(&shared.path, Role::Checkpointer, shared.settings.busy_timeout)
                {
                    connection = new;
                }
            }
        }
        tight |= shared.no_room.swap(false, Ordering::AcqRel);
        // Room that the log has once had it keeps, and the file may need it to grow: on a full disk it is cut at once.
        let large = open::wal_size(&shared.path) > TOO_LARGE && cut.elapsed() > IDLE;
        if large || (tight && !failed) {
            cut = Instant::now();
            let _ = connection.busy_timeout(PATIENCE);
            match checkpoint(&connection, "TRUNCATE") {
                Ok(pages) => tight &= pages > 0,
                Err(error) => {
                    tracing::debug!(path = %shared.path.display(), %error, "the write-ahead log is in use");
                }
            }
        }
        std::thread::sleep(EVERY);
    }
}

thread_local! {
    /// Pages in the log after this thread's last commit.
    static LENGTH: Cell<u64> = const { Cell::new(0) };
}

/// Has SQLite tell how long the log is after each commit of this connection's. One row that changes may rewrite ten
/// pages: from what is published it cannot be told how the log grows.
pub(crate) fn measure(connection: &Connection) {
    fn note(_: &Wal, pages: c_int) -> rusqlite::Result<()> {
        LENGTH.set(u64::try_from(pages).unwrap_or(0));
        Ok(())
    }
    connection.wal_hook(Some(note));
}

/// What this thread has written to the log, in pages, and what of it was to be moved last.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    page: u64,
    asked: u64,
}

impl Growth {
    /// Whether enough came since this last said so. A log that is shorter than then has started again.
    pub(crate) fn is_due(&mut self, connection: &Connection) -> bool {
        let length = LENGTH.get();
        if length < self.asked {
            self.asked = 0;
        }
        if self.page == 0 {
            self.page = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap_or(4_096);
        }
        let due = (length - self.asked) * self.page >= AFTER;
        if due {
            self.asked = length;
        }
        due
    }
}

/// Moves what is committed, and says whether the writer is to move what came meanwhile, so that the log starts again.
fn move_most(connection: &Connection) -> rusqlite::Result<bool> {
    let page: u64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let is_large = |pages: i64| u64::try_from(pages).unwrap_or(0) * page >= LARGE;
    if !is_large(checkpoint(connection, "PASSIVE")?) {
        return Ok(false);
    }
    // It took a while, in which others wrote. What they write during this one is little.
    Ok(is_large(checkpoint(connection, "PASSIVE")?))
}

/// The writer's part, between two commits.
pub(crate) fn move_rest(connection: &Connection) -> rusqlite::Result<()> {
    checkpoint(connection, "PASSIVE").map(drop)
}

/// Moves what it can; says how many pages the log has.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<i64> {
    // Busy, pages in the log, pages moved: a passive one that moved less is taken up by the next.
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(1))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::open::{Create, Role, connect, prepare};

    const SECOND: Duration = Duration::from_secs(1);

    struct File {
        path: PathBuf,
        writer: Connection,
        checkpointer: Connection,
        _folder: TempDir,
    }

    fn file() -> File {
        let folder = TempDir::new().unwrap();
        let path = prepare(&folder.path().join("app.db"), Create::Missing, SECOND).unwrap();
        let connection = |role| connect(&path, role, SECOND).unwrap();
        let (writer, checkpointer) = (connection(Role::Writer), connection(Role::Checkpointer));
        writer.execute_batch("CREATE TABLE t(a BLOB)").unwrap();
        File { writer, checkpointer, _folder: folder, path }
    }

    impl File {
        fn write(&self, bytes: u64) {
            self.writer.execute("INSERT INTO t VALUES(zeroblob(?1))", [bytes]).unwrap();
        }
    }

    #[test]
    fn a_large_log_starts_again_once_the_writer_has_moved_what_came_meanwhile() {
        // Given a large log, of which all is moved but what came while it was.
        let file = file();
        file.write(LARGE);
        assert!(move_most(&file.checkpointer).unwrap());
        file.write(1_000);
        let size = open::wal_size(&file.path);
        // When the writer has moved the rest, and writes.
        move_rest(&file.writer).unwrap();
        file.write(LARGE / 2);
        // Then the log is written from its beginning on, and does not grow.
        assert_eq!(open::wal_size(&file.path), size);
        assert!(!move_most(&file.checkpointer).unwrap());
    }

    #[test]
    fn a_log_that_is_read_goes_on_and_starts_again_later() {
        let file = file();
        file.write(LARGE);
        let reader = connect(&file.path, Role::Reader, SECOND).unwrap();
        let reading = reader.unchecked_transaction().unwrap();
        reading.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        file.write(1_000);
        assert!(move_most(&file.checkpointer).unwrap());
        move_rest(&file.writer).unwrap();
        file.write(1_000);
        drop(reading);
        assert!(move_most(&file.checkpointer).unwrap());
    }

    #[test]
    fn what_grows_the_log_counts_and_not_what_was_written() {
        // Given a row so large that a change of one number in it rewrites many pages.
        let file = file();
        measure(&file.writer);
        let mut growth = Growth::default();
        file.writer.execute_batch("CREATE TABLE n(n INT); INSERT INTO n VALUES(0)").unwrap();
        file.writer.execute_batch("CREATE INDEX by_n ON n(n)").unwrap();
        assert!(!growth.is_due(&file.writer));
        // When it changes often, a few bytes at a time.
        let mut asked = 0;
        for _ in 0..3_000 {
            file.writer.execute_batch("UPDATE n SET n = n + 1").unwrap();
            asked += u64::from(growth.is_due(&file.writer));
        }
        // Then the log was to be moved as often as it grew by so much.
        let grown = open::wal_size(&file.path);
        assert!(asked >= grown / AFTER - 1 && asked <= grown / AFTER && asked > 2, "{asked} of {grown}");
    }

    #[test]
    fn a_small_log_is_left_to_the_checkpoints() {
        let file = file();
        file.write(LARGE / 2);
        assert!(!move_most(&file.checkpointer).unwrap());
    }
}
