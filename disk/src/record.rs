//! All that happened to the files of a disk, in order.

use std::ffi::OsString;
use std::sync::Arc;

/// Names a file for as long as the disk lives, whatever it is called.
pub type FileId = u64;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The file got this name; whatever had it before is no longer called so. A new file is empty.
    Named {
        /// The name.
        name: OsString,
        /// The file.
        file: FileId,
    },
    /// Nothing is called so any more.
    Unnamed {
        /// The name.
        name: OsString,
    },
    /// A file got another name, as one step.
    Renamed {
        /// The name that is gone.
        from: OsString,
        /// The name it has now.
        to: OsString,
        /// The file.
        file: FileId,
    },
    /// Bytes were written.
    Written {
        /// To which file.
        file: FileId,
        /// From which byte on.
        offset: u64,
        /// What.
        data: Arc<[u8]>,
    },
    /// The file has this size now.
    Resized {
        /// The file.
        file: FileId,
        /// In bytes.
        size: u64,
    },
    /// The file was synced: all of it that was written before is durable.
    Synced {
        /// The file.
        file: FileId,
    },
    /// Syncing the file failed: what was written since it was last synced is never going to be.
    SyncFailed {
        /// The file.
        file: FileId,
    },
    /// The folder was synced: all names as they were are durable.
    FolderSynced,
    /// A process said something, in between; see [`NOTES`](crate::NOTES).
    Note(Arc<[u8]>),
}

/// All that happened to a disk, from when it was empty.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub(crate) changes: Vec<Change>,
}

impl Record {
    /// A record of what never happened, for tests.
    #[must_use]
    pub fn of(changes: Vec<Change>) -> Self {
        Self { changes }
    }

    /// What happened, in order.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The notes with their places in the order.
    pub fn notes(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.changes.iter().enumerate().filter_map(|(place, change)| match change {
            Change::Note(note) => Some((place, &**note)),
            _ => None,
        })
    }
}
