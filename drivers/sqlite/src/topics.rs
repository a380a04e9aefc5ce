//! Topics and groups by name: their rows, and the first and last number of a topic's log.

use millstream_core::{ByteString, Error, ErrorKind, Limits, Result};
use rusqlite::{Connection, OptionalExtension, params};

use crate::progress::Progress;
use crate::{clock, errors, schema};

fn failed(e: rusqlite::Error) -> Error {
    errors::sqlite("the topics cannot be read", e)
}

/// The topic of this name.
pub(crate) fn find(connection: &Connection, name: &str) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM millstream_topic NOT INDEXED WHERE name = ?1")
        .and_then(|mut s| s.query_row([name], |row| row.get(0)).optional())
        .map_err(|e| failed(e).topic(name))
}

/// The topic of this name, or an error that says there is none.
pub(crate) fn get(connection: &Connection, name: &str) -> Result<i64> {
    find(connection, name)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such topic")
            .topic(name)
            .fix("write to it, subscribe to it or make it with `ensure_topic`")
    })
}

/// The topic of this name, made if need be; says whether it was. Within a transaction that writes.
///
/// # Errors
/// Of a name that is none; as SQLite has them.
pub(crate) fn ensure(connection: &Connection, name: &str) -> Result<(i64, bool)> {
    if let Some(id) = find(connection, name)? {
        return Ok((id, false));
    }
    // How long a name may be is the publisher's to say; here only what is no name is refused.
    let mut limits = Limits::default();
    limits.topic = usize::MAX;
    limits.check_topic(name)?;
    let failed = |e| errors::sqlite("the topic cannot be made", e).topic(name);
    connection
        .execute(
            "INSERT INTO millstream_topic(name, created, floor) VALUES(?1, ?2, 0)",
            params![name, clock::wall()],
        )
        .map_err(failed)?;
    let id = connection.last_insert_rowid();
    connection.execute_batch(&schema::create_log(id)).map_err(failed)?;
    Ok((id, true))
}

/// The number of the last message there is or was.
pub(crate) fn last(connection: &Connection, topic: i64) -> Result<u64> {
    let failed = |e| errors::sqlite("the end of the topic's log cannot be read", e);
    let sql = format!(
        "SELECT max(coalesce((SELECT max(seq) FROM {}), 0), floor) FROM millstream_topic WHERE id = ?1",
        schema::log_table(topic)
    );
    connection.prepare_cached(&sql).and_then(|mut s| s.query_row([topic], |row| row.get(0))).map_err(failed)
}

/// The number of the first message there is; one behind the last if there is none. Numbers start with 1: what damage put
/// below is nobody's message.
pub(crate) fn first(connection: &Connection, topic: i64) -> Result<u64> {
    let failed = |e| errors::sqlite("the start of the topic's log cannot be read", e);
    let sql = format!("SELECT min(seq) FROM {} WHERE seq > 0", schema::log_table(topic));
    let first: Option<u64> = connection
        .prepare_cached(&sql)
        .and_then(|mut s| s.query_row([], |row| row.get(0)))
        .map_err(failed)?;
    match first {
        Some(first) => Ok(first),
        None => Ok(last(connection, topic)? + 1),
    }
}

/// The number of the first message of this time or later, by bisection; one behind the last if there is none.
///
/// Times are the publishers': where they do not ascend, it is one of the places where they pass this time.
pub(crate) fn at_time(connection: &Connection, topic: i64, time: i64) -> Result<u64> {
    let failed = |e| errors::sqlite("the topic's times cannot be read", e);
    let sql =
        format!("SELECT seq, time FROM {} WHERE seq >= ?1 ORDER BY seq LIMIT 1", schema::log_table(topic));
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let (mut low, mut high) = (first(connection, topic)?, last(connection, topic)? + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(u64, i64)> =
            statement.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(failed)?;
        match found {
            Some((_, at)) if at >= time => high = middle,
            Some((seq, _)) => low = seq + 1,
            None => high = middle,
        }
    }
    Ok(low)
}

/// The group of this name.
pub(crate) fn find_group(connection: &Connection, topic: i64, name: &str) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM millstream_group NOT INDEXED WHERE topic = ?1 AND name = ?2")
        .and_then(|mut s| s.query_row(params![topic, name], |row| row.get(0)).optional())
        .map_err(|e| failed(e).group(name))
}

/// The group of this name; made, with its progress before `start`, if it is not there. Within a transaction that
/// writes.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn ensure_group(
    connection: &Connection,
    topic: i64,
    name: &ByteString,
    start: impl FnOnce() -> Result<u64>,
) -> Result<i64> {
    if let Some(id) = find_group(connection, topic, name)? {
        return Ok(id);
    }
    let failed = |e| errors::sqlite("the group cannot be made", e).group(name);
    let front = start()?.saturating_sub(1);
    connection
        .execute(
            "INSERT INTO millstream_group(topic, name, created) VALUES(?1, ?2, ?3)",
            params![topic, &**name, clock::wall()],
        )
        .map_err(failed)?;
    let group = connection.last_insert_rowid();
    let progress = Progress { front, ..Progress::default() };
    let mut insert = connection
        .prepare_cached("INSERT INTO millstream_slot VALUES(?1, ?2, NULL, 0, ?3, x'', 0, ?4)")
        .map_err(failed)?;
    for slot in 0..schema::SLOTS {
        insert.execute(params![group, slot, front, progress.crc(group, slot, &[])]).map_err(failed)?;
    }
    Ok(group)
}
