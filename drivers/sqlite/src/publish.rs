//! Messages into their topics' logs, or aside until they are due.

use std::time::SystemTime;

use foldhash::HashMap;
use millstream_core::{ByteString, Error, ErrorKind, Limits, Message, Position, Result, WriteOutcome};
use rusqlite::{Connection, OptionalExtension, Statement, ToSql, params};

use crate::row::{Columns, Slab, Table, nanos};
use crate::{errors, row, schema, topics};

/// What is known of the topics in a transaction. Kept from one to the next as long as nobody else wrote.
#[derive(Debug, Default)]
pub(crate) struct Known {
    topics: HashMap<ByteString, KnownTopic>,
}

#[derive(Debug)]
struct KnownTopic {
    id: i64,
    /// The statement for one row, and the one for [`ROWS`], once it was needed.
    insert: String,
    insert_many: Option<String>,
    /// The last number, if it is known.
    last: Option<u64>,
    /// Whether it grew since the last commit.
    grew: bool,
}

impl Known {
    /// Nothing is known any more: somebody else wrote, or what was done is undone.
    pub(crate) fn forget(&mut self) {
        self.topics.clear();
    }

    /// The topics that grew, with their last numbers.
    pub(crate) fn take_grown(&mut self) -> Vec<(ByteString, u64)> {
        let grown = self.topics.iter_mut().filter(|(_, topic)| topic.grew);
        grown
            .filter_map(|(name, topic)| {
                topic.grew = false;
                Some((name.clone(), topic.last?))
            })
            .collect()
    }

    fn topic(&mut self, connection: &Connection, name: &ByteString) -> Result<&mut KnownTopic> {
        if !self.topics.contains_key(name) {
            let (id, _) = topics::ensure(connection, name)?;
            let topic = KnownTopic { id, insert: insert(id, 1), insert_many: None, last: None, grew: false };
            self.topics.insert(name.clone(), topic);
        }
        self.topics
            .get_mut(name)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a topic that was just found is not there"))
    }
}

/// Writes messages in the caller's transaction; gives an outcome for each, which counts once that commits.
///
/// # Errors
/// Of SQLite: then the caller's transaction is to be undone.
pub(crate) fn write(
    connection: &Connection,
    known: &mut Known,
    messages: &[Message],
    max_message: usize,
) -> Result<Vec<WriteOutcome>> {
    let mut outcomes = Vec::with_capacity(messages.len());
    let now = SystemTime::now();
    let mut appended = Vec::with_capacity(messages.len());
    for messages in messages.chunk_by(|one, next| one.topic == next.topic) {
        let refused = |message: &Message| acceptable(message, max_message).err();
        // A topic is made by a message that can be written.
        let first = messages.iter().position(|message| refused(message).is_none());
        let (unfit, messages) = messages.split_at(first.unwrap_or(messages.len()));
        outcomes.extend(unfit.iter().filter_map(|m| Some(WriteOutcome::Failed(m.locate(refused(m)?)))));
        let [first, ..] = messages else { continue };
        let topic = known.topic(connection, &first.topic)?;
        for message in messages {
            if let Some(refused) = refused(message) {
                outcomes.push(WriteOutcome::Failed(message.locate(refused)));
                continue;
            }
            if message.deliver_at.is_some_and(|at| at > now) {
                delay(connection, topic.id, message).map_err(|e| failed(e, message))?;
                outcomes.push(WriteOutcome::Written(None));
                continue;
            }
            let last = match topic.last {
                Some(last) => last,
                None => topics::last(connection, topic.id)?,
            };
            let seq = last + 1;
            (topic.last, topic.grew) = (Some(seq), true);
            appended.push((seq, message));
            outcomes.push(WriteOutcome::Written(Some(Position(seq))));
        }
        append(connection, topic, &appended).map_err(|e| failed(e, first))?;
        appended.clear();
    }
    Ok(outcomes)
}

fn failed(error: rusqlite::Error, message: &Message) -> Error {
    errors::sqlite("the message cannot be written", error).topic(&*message.topic)
}

fn acceptable(message: &Message, max_message: usize) -> Result<()> {
    let mut limits = Limits::default();
    limits.topic = usize::MAX;
    limits.check_topic(&message.topic)?;
    let size = message.size();
    if size > max_message {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the message has {size} bytes, the file takes {max_message}"),
        )
        .fix("send less, or raise max_message where the file is opened"));
    }
    if message.id.contains('\0') || message.content_type.contains('\0') {
        return Err(Error::new(ErrorKind::InvalidMessage, "the id or content type has a NUL byte")
            .fix("use visible characters"));
    }
    Ok(())
}

/// Rows of one statement: to begin and end one costs as much as a row. More of them gain little.
const ROWS: usize = 16;

/// Adds messages to their topic's log.
fn append(
    connection: &Connection,
    topic: &mut KnownTopic,
    messages: &[(u64, &Message)],
) -> rusqlite::Result<()> {
    let (many, rest) = messages.as_chunks::<ROWS>();
    if !many.is_empty() {
        let sql = topic.insert_many.get_or_insert_with(|| insert(topic.id, ROWS));
        let mut statement = connection.prepare_cached(sql)?;
        many.iter().try_for_each(|rows| insert_rows(&mut statement, topic.id, rows))?;
    }
    if !rest.is_empty() {
        let mut statement = connection.prepare_cached(&topic.insert)?;
        rest.chunks(1).try_for_each(|row| insert_rows(&mut statement, topic.id, row))?;
    }
    Ok(())
}

fn insert(topic: i64, rows: usize) -> String {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?)";
    format!("INSERT INTO {} VALUES{}", schema::log_table(topic), vec![row; rows].join(", "))
}

fn insert_rows(statement: &mut Statement<'_>, topic: i64, rows: &[(u64, &Message)]) -> rusqlite::Result<()> {
    let mut place = 0;
    for (seq, message) in rows {
        let columns = Columns::of(message);
        let number = i64::try_from(*seq).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        let crc = columns.crc(Table::Log, topic, number);
        let mut bind = |value: &dyn ToSql| {
            place += 1;
            statement.raw_bind_parameter(place, value)
        };
        bind(&number)?;
        bind(&columns.time)?;
        bind(&columns.id)?;
        bind(&columns.key)?;
        bind(&columns.content_type)?;
        bind(&columns.headers)?;
        bind(&columns.data)?;
        bind(&crc)?;
    }
    statement.raw_execute().map(drop)
}

/// Keeps a message until it is due.
fn delay(connection: &Connection, topic: i64, message: &Message) -> rusqlite::Result<()> {
    let id: i64 = connection
        .prepare_cached("SELECT seq + 1 FROM sqlite_sequence WHERE name = 'millstream_delayed'")?
        .query_row([], |row| row.get(0))
        .optional()?
        .unwrap_or(1);
    let columns = Columns::of(message);
    let crc = columns.crc(Table::Delayed, topic, id);
    let due = message.deliver_at.map_or(columns.time, nanos);
    connection
        .prepare_cached("INSERT INTO millstream_delayed VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
        .execute(params![
            id,
            topic,
            due,
            columns.time,
            columns.id,
            columns.key,
            columns.content_type,
            columns.headers,
            columns.data,
            crc
        ])?;
    Ok(())
}

/// When the next delayed message is due, in wall-clock nanoseconds.
pub(crate) fn next_due(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT min(due) FROM millstream_delayed")?.query_row([], |row| row.get(0))
}

/// Moves up to `limit` delayed messages that are due into their logs; says how many.
pub(crate) fn move_due(connection: &Connection, known: &mut Known, now: i64, limit: usize) -> Result<usize> {
    let failed = |e| errors::sqlite("delayed messages cannot be moved into their topics", e);
    let due: Vec<(i64, i64, ByteString)> = connection
        .prepare_cached(
            "SELECT d.id, d.topic, t.name FROM millstream_delayed d JOIN millstream_topic t ON t.id = d.topic \
             WHERE due <= ?1 ORDER BY due, d.id LIMIT ?2",
        )
        .and_then(|mut s| {
            let rows = s.query_map(params![now, limit], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?.into()))
            })?;
            rows.collect()
        })
        .map_err(failed)?;
    let mut slab = Slab::default();
    for (id, topic, name) in &due {
        let read = connection
            .prepare_cached(
                "SELECT time, mid, key, ct, headers, data, crc FROM millstream_delayed WHERE id = ?1",
            )
            .and_then(|mut s| {
                s.query_row([id], |r| Ok(row::message(r, 0, Table::Delayed, *topic, *id, name, &mut slab)))
            })
            .map_err(failed)?;
        match read {
            Ok(message) => {
                write(connection, known, &[message], usize::MAX)?;
            }
            Err(damage) => {
                tracing::error!(topic = %name, id, what = damage.0,
                    "a delayed message is not what was written: it is kept in millstream_quarantine, not delivered");
                connection
                    .execute(
                        "INSERT OR IGNORE INTO millstream_quarantine \
                         SELECT topic, -id, ?2, ?3, time, mid, key, ct, headers, data \
                         FROM millstream_delayed WHERE id = ?1",
                        params![id, crate::clock::wall(), damage.0],
                    )
                    .map_err(failed)?;
            }
        }
        connection
            .prepare_cached("DELETE FROM millstream_delayed WHERE id = ?1")
            .and_then(|mut s| s.execute([id]))
            .map_err(failed)?;
    }
    Ok(due.len())
}
