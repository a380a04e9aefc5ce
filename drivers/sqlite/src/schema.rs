//! The file's format: its tables, its version, and how a file is brought to it.
//!
//! | table | a row is |
//! |---|---|
//! | `millstream_meta` | a fact about the file: its format, the boot it was last used in |
//! | `millstream_topic` | a topic; its messages are in `millstream_log_<id>` |
//! | `millstream_log_<id>` | a message, under a number without gaps |
//! | `millstream_group` | a group of a topic |
//! | `millstream_member` | a member of a group that is alive, or was when it last said so |
//! | `millstream_slot` | one of the 64 parts of a group's progress: who has it, its front and its holes |
//! | `millstream_parked` | a message that waits for its key's turn in a group |
//! | `millstream_delayed` | a message that is not yet due |
//! | `millstream_dead` | a dead letter |
//! | `millstream_dedup` | an id that a group handles or has handled |
//! | `millstream_quarantine` | a message whose bytes are not what was written |
//!
//! In a slot everything up to `front` is done, except `holes`. A user's own tables live beside these.

use millstream_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::errors;

/// The format that this version reads and writes. A file says its own in `millstream_meta`.
pub(crate) const FORMAT: i64 = 1;

/// The parts that a group's progress is divided into, by the hash of the key.
pub(crate) const SLOTS: usize = 64;

const TABLES: &str = "
CREATE TABLE millstream_meta(
  name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE millstream_topic(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL,
  floor INTEGER NOT NULL) STRICT;
CREATE TABLE millstream_group(
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, name TEXT NOT NULL, created INTEGER NOT NULL,
  UNIQUE(topic, name)) STRICT;
CREATE TABLE millstream_member(
  grp INTEGER NOT NULL, owner INTEGER NOT NULL, joined INTEGER NOT NULL, until INTEGER NOT NULL,
  exclusive INTEGER NOT NULL, process TEXT NOT NULL, PRIMARY KEY(grp, owner)) STRICT, WITHOUT ROWID;
CREATE TABLE millstream_slot(
  grp INTEGER NOT NULL, slot INTEGER NOT NULL, owner INTEGER, epoch INTEGER NOT NULL, front INTEGER NOT NULL,
  holes BLOB NOT NULL, parked INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY(grp, slot)) STRICT, WITHOUT ROWID;
CREATE TABLE millstream_parked(
  grp INTEGER NOT NULL, seq INTEGER NOT NULL, slot INTEGER NOT NULL, key BLOB, due INTEGER,
  wait INTEGER, attempts INTEGER NOT NULL, deliveries INTEGER NOT NULL, first_failure INTEGER, error TEXT NOT NULL,
  crc INTEGER NOT NULL, PRIMARY KEY(grp, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE millstream_delayed(
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, due INTEGER NOT NULL, time INTEGER NOT NULL,
  mid TEXT NOT NULL, key BLOB, ct TEXT NOT NULL, headers BLOB, data BLOB, crc INTEGER NOT NULL) STRICT;
CREATE INDEX millstream_delayed_due ON millstream_delayed(due);
CREATE TABLE millstream_dead(
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, grp TEXT, seq INTEGER, at INTEGER NOT NULL,
  class TEXT, error TEXT, attempts INTEGER, letter_topic TEXT NOT NULL, time INTEGER NOT NULL, mid TEXT NOT NULL,
  key BLOB, ct TEXT NOT NULL, headers BLOB, data BLOB, crc INTEGER NOT NULL) STRICT;
CREATE INDEX millstream_dead_topic ON millstream_dead(topic, id);
CREATE TABLE millstream_dedup(
  grp TEXT NOT NULL, id TEXT NOT NULL, owner INTEGER NOT NULL, until INTEGER NOT NULL, at INTEGER NOT NULL,
  process TEXT, PRIMARY KEY(grp, id)) STRICT, WITHOUT ROWID;
CREATE INDEX millstream_dedup_until ON millstream_dedup(until) WHERE process IS NULL;
CREATE TABLE millstream_quarantine(
  topic INTEGER NOT NULL, seq INTEGER NOT NULL, found INTEGER NOT NULL, what TEXT NOT NULL, time ANY, mid ANY,
  key ANY, ct ANY, headers ANY, data ANY, PRIMARY KEY(topic, seq)) STRICT, WITHOUT ROWID;
";

/// The table of a topic's messages.
pub(crate) fn log_table(topic: i64) -> String {
    format!("millstream_log_{topic}")
}

/// What makes it.
pub(crate) fn create_log(topic: i64) -> String {
    format!(
        "CREATE TABLE {}(
           seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, id TEXT NOT NULL, key BLOB, ct TEXT NOT NULL,
           headers BLOB, data BLOB, crc INTEGER NOT NULL) STRICT",
        log_table(topic)
    )
}

/// Whether the tables are there.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn is_there(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS(SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'millstream_meta')",
        [],
        |row| row.get(0),
    )
}

/// Makes the tables, or brings an older file to this version, or refuses a newer one.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) for a format that this version does not know.
pub(crate) fn bring_up(transaction: &Transaction<'_>) -> Result<()> {
    let failed = |e| errors::sqlite("the tables cannot be made", e);
    if !is_there(transaction).map_err(failed)? {
        transaction.execute_batch(TABLES).map_err(failed)?;
        transaction.execute("INSERT INTO millstream_meta VALUES('format', ?1)", [FORMAT]).map_err(failed)?;
        return Ok(());
    }
    match format(transaction)? {
        FORMAT => Ok(()),
        // There was no format before 1: a lower number is nothing that was ever written.
        other => Err(unknown(other)),
    }
}

/// The format that the file says.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) if it says none.
pub(crate) fn format(connection: &Connection) -> Result<i64> {
    connection
        .query_row("SELECT value FROM millstream_meta WHERE name = 'format'", [], |row| row.get(0))
        .optional()
        .map_err(|e| errors::sqlite("the file's format cannot be read", e))?
        .ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the file has Millstream's tables and does not say its format")
                .fix("restore the file from a backup")
        })
}

/// Refuses a format that this version does not know.
pub(crate) fn unknown(format: i64) -> Error {
    let (what, fix) = if format > FORMAT {
        (
            "was written by a newer version",
            "upgrade this program, or open the file with the one that wrote it",
        )
    } else {
        ("is none that was ever released", "restore the file from a backup")
    };
    Error::new(
        ErrorKind::Unsupported,
        format!("the file's format is {format}, this version knows {FORMAT}: it {what}"),
    )
    .fix(fix)
}

/// Reads a fact about the file.
pub(crate) fn fact(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT CAST(value AS TEXT) FROM millstream_meta WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .optional()
}

/// Writes a fact about the file.
pub(crate) fn set_fact(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO millstream_meta VALUES(?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
            params![name, value],
        )
        .map(drop)
}
