//! What SQLite says, as errors that tell what to do.

use millstream_core::{Error, ErrorKind};
use rusqlite::ffi;

/// An error of SQLite's, with what was attempted.
pub(crate) fn sqlite(what: &str, error: rusqlite::Error) -> Error {
    let (kind, fix) = meaning(&error);
    Error::new(kind, what).fix(fix).source(error)
}

/// Whether nobody knows if what failed so has happened: the disk failed while it was asked to make it last.
pub(crate) fn is_unknown(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(e, _) if e.extended_code & 0xff == ffi::SQLITE_IOERR)
}

/// Whether there was no room.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(e, _) if e.extended_code & 0xff == ffi::SQLITE_FULL)
}

/// Whether the disk is to blame, and not what was asked of it.
pub(crate) fn is_of_the_disk(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(e, _) if matches!(
        e.extended_code & 0xff,
        ffi::SQLITE_FULL | ffi::SQLITE_IOERR | ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB | ffi::SQLITE_NOMEM
    ))
}

/// Whether the connection is not to be used any more: what it holds in memory may not be what is on disk, or SQLite
/// could open one of its files just to read it, in a bad moment, and never tries again.
pub(crate) fn breaks_connection(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(e, _) if matches!(
        e.extended_code & 0xff,
        ffi::SQLITE_IOERR | ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB | ffi::SQLITE_PROTOCOL | ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_READONLY
    ))
}

fn meaning(error: &rusqlite::Error) -> (ErrorKind, &'static str) {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return (ErrorKind::Internal, "this is a defect in Millstream: please report it with this text");
    };
    match failure.extended_code {
        ffi::SQLITE_READONLY_DIRECTORY => (
            ErrorKind::Denied,
            "make the folder writable too: SQLite keeps two more files beside the database",
        ),
        ffi::SQLITE_READONLY_DBMOVED => {
            (ErrorKind::Io, "the file was moved or deleted while it was open: put it back, then start again")
        }
        code => match code & 0xff {
            ffi::SQLITE_FULL => (ErrorKind::Io, "free space on the disk, or move the file to a larger one"),
            ffi::SQLITE_IOERR => (ErrorKind::Io, "look at the disk: the operating system's log says more"),
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => (
                ErrorKind::Unavailable,
                "another program holds the file's lock: end its transaction, or close the tool that has it open",
            ),
            ffi::SQLITE_SCHEMA => {
                (ErrorKind::Unavailable, "tables are made all the time: it is tried again when they are")
            }
            ffi::SQLITE_READONLY => {
                (ErrorKind::Denied, "give this user the right to write the file, its folder and its mount")
            }
            ffi::SQLITE_PERM | ffi::SQLITE_AUTH => {
                (ErrorKind::Denied, "give this user the right to read and write the file")
            }
            ffi::SQLITE_NOTADB => (ErrorKind::Corrupt, "name an SQLite file, or one that does not exist yet"),
            ffi::SQLITE_CORRUPT => (
                ErrorKind::Corrupt,
                "stop, copy the file, and look at it with `millstream check`; then restore a backup",
            ),
            ffi::SQLITE_CANTOPEN => (
                ErrorKind::Io,
                "check that the folder exists, that this user may write in it, and that the process may have more files \
                 open (`ulimit -n`)",
            ),
            ffi::SQLITE_NOMEM => (ErrorKind::Unavailable, "free memory"),
            ffi::SQLITE_TOOBIG => (ErrorKind::TooLarge, "send less"),
            ffi::SQLITE_PROTOCOL => (
                ErrorKind::Unavailable,
                "close other programs on the file: the lock protocol did not come to an end",
            ),
            _ => (ErrorKind::Internal, "this is a defect in Millstream: please report it with this text"),
        },
    }
}
