//! What a process writes down: the test kit's records, a line each, in a file of its own.
//!
//! It differs from the test kit's ledger in one thing: a record can bear the time at which what it tells *began*.
//! A settlement is known once it is confirmed, and by then another process may have read what it gave back; told
//! by the time it was sent, it comes before that in every order of the two.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use millstream_testkit::ledger::{Entry, Ledger, Record};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the Unix epoch. All processes of a storm run on one machine, by one clock: the kernel is asked for
/// it directly, which is also the truth in a process whose C library was given another time.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default() * 1_000_000_000 + nanos.unwrap_or_default()
}

/// A file of records.
#[derive(Debug)]
pub(crate) struct Journal(Mutex<File>);

impl Journal {
    pub(crate) fn append_to(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)))
    }

    /// Writes what happens now.
    pub(crate) fn write(&self, record: Record) {
        self.write_at(now(), record);
    }

    /// Writes what began at this time.
    ///
    /// A journal with gaps would accuse the innocent: if it cannot be written, the process ends.
    pub(crate) fn write_at(&self, at: u64, record: Record) {
        let written =
            serde_json::to_vec(&Entry { at, record }).map_err(io::Error::other).and_then(|mut line| {
                line.push(b'\n');
                // One write a line: a process that is killed loses at most the line it is writing.
                self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
            });
        if let Err(error) = written {
            eprintln!("the journal cannot be written: {error}");
            std::process::exit(3);
        }
    }

    /// Reads one, by time.
    pub(crate) fn read(path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Ledger::read(path)?;
        entries.sort_by_key(|entry| entry.at);
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_earlier_is_read_earlier() {
        // Given a record of something that began before what was written first.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::append_to(&path).unwrap();
        let acked = |id: &str| Record::Acked { id: id.into() };
        let began = now();
        journal.write(acked("second"));
        journal.write_at(began, acked("first"));
        // When it is read, then they come by the time they tell.
        let records: Vec<_> = Journal::read(&path).unwrap().into_iter().map(|e| e.record).collect();
        assert_eq!(records, [acked("first"), acked("second")]);
    }
}
