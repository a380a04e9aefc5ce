//! All that happened to the files of a disk, in order.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
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

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { name, file } => write!(f, "{file} is named {}", name.display()),
            Self::Unnamed { name } => write!(f, "{} is gone", name.display()),
            Self::Renamed { from, to, file } => {
                write!(f, "{file} is renamed from {} to {}", from.display(), to.display())
            }
            Self::Written { file, offset, data } => {
                write!(f, "{file} is written at {offset}, {} bytes", data.len())
            }
            Self::Resized { file, size } => write!(f, "{file} has {size} bytes now"),
            Self::Synced { file } => write!(f, "{file} is synced"),
            Self::SyncFailed { file } => write!(f, "{file} could not be synced"),
            Self::FolderSynced => f.write_str("the folder is synced"),
            Self::Note(note) => write!(f, "# {}", String::from_utf8_lossy(note).trim().replace('\n', ", ")),
        }
    }
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

    /// Writes what happened to a file, a line each, to be read by people.
    ///
    /// # Errors
    /// As the system has them.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let lines = self.changes.iter().enumerate().map(|(place, change)| format!("{place}: {change}\n"));
        std::fs::write(path, lines.collect::<String>())
    }

    /// The notes with their places in the order.
    pub fn notes(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.changes.iter().enumerate().filter_map(|(place, change)| match change {
            Change::Note(note) => Some((place, &**note)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_record_has_a_line_for_each_change() {
        let record = Record::of(vec![
            Change::Named { name: "a".into(), file: 3 },
            Change::Written { file: 3, offset: 8, data: (*b"xy").into() },
            Change::Note((*b"one\ntwo\n").into()),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        record.save(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "0: 3 is named a\n1: 3 is written at 8, 2 bytes\n2: # one, two\n");
    }
}
