//! What is in the file when a storm is over: the truth that the journals are held against.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytestring::ByteString;
use millstream::sqlite::{SqliteStore, check, rusqlite};
use millstream::{Bus, End, Message};
use millstream_core::{OpenRequest, Read, ReadLimits, Reader, Source as _};

use crate::Result;
use crate::events::{FOLLOWED, TOPIC};

/// What is in the file.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Each effect that was committed: its group and the message's id.
    pub(crate) effects: Vec<(ByteString, ByteString)>,
    /// Effects that came before those of earlier messages of their key.
    pub(crate) inversions: Vec<String>,
    /// How often each id lies in the logs.
    pub(crate) copies: HashMap<ByteString, u32>,
    /// Each dead letter as it was before it died, and the group that it died in.
    pub(crate) dead: Vec<(ByteString, Message)>,
    /// Damage that a check of the whole file found.
    pub(crate) damage: Vec<String>,
}

/// How many dead letters are asked for at once.
const PAGE: usize = 500;

/// Reads a file that nobody works on.
pub(crate) async fn read(file: &Path) -> Result<Tables> {
    let mut tables = Tables::default();
    let store = SqliteStore::builder(file).open().await?;
    for topic in [TOPIC, FOLLOWED] {
        for message in browse(&store.reader(), topic).await? {
            *tables.copies.entry(message.id).or_default() += 1;
        }
        let letters = Bus::from_connection(store.connection()).dead_letters(topic);
        let mut after = None;
        loop {
            let page = letters.list(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            tables.dead.extend(page.iter().map(|l| (l.group.clone().unwrap_or_default(), l.original())));
        }
    }
    drop(store);
    let connection = rusqlite::Connection::open(file)?;
    tables.effects = rows(&connection, "SELECT grp, id FROM effect", |row| {
        Ok((text(row, 0)?.into(), text(row, 1)?.into()))
    })?;
    tables.inversions = rows(&connection, "SELECT grp, key, id, seq, latest FROM inversion", |row| {
        let (group, key, id) = (text(row, 0)?, text(row, 1)?, text(row, 2)?);
        let (seq, latest): (i64, i64) = (row.get(3)?, row.get(4)?);
        Ok(format!("{id} of key {key} in group {group}: number {seq} committed after {latest}"))
    })?;
    drop(connection);
    let path = file.to_owned();
    let checked = tokio::task::spawn_blocking(move || check(&path)).await??;
    tables.damage.extend(checked.problems.iter().map(ToString::to_string));
    Ok(tables)
}

/// All messages of a topic, in their order.
pub(crate) async fn browse(reader: &impl Reader, topic: &str) -> Result<Vec<Message>> {
    let mut source = reader.open(OpenRequest::new(topic).end(End::Latest)).await?.source;
    let mut all = Vec::new();
    loop {
        let mut some = Vec::new();
        let read = source.read(&mut some, ReadLimits::new(1_000, 8 << 20)).await?;
        all.extend(some.into_iter().map(|delivery| Arc::unwrap_or_clone(delivery.message)));
        if matches!(read, Read::End) {
            source.close().await?;
            return Ok(all);
        }
    }
}

fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    row.get(column)
}

fn rows<T>(
    connection: &rusqlite::Connection,
    sql: &str,
    row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], row)?.collect::<Result<_, _>>()?;
    Ok(rows)
}
