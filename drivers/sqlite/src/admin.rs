//! Looking into a file and putting it in order.

use std::collections::HashSet;
use std::sync::Arc;

use millstream_core::admin::{GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream_core::{
    Admin, ByteString, Error, ErrorKind, Message, PartitionId, Position, Result, Start, names,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::hub::Hub;
use crate::progress::Progress;
use crate::row::{self, Columns, Slab, Table, nanos, slot_of, system_time};
use crate::{clock, errors, schema, topics};

/// Looks into a [`SqliteStore`](crate::SqliteStore) and puts it in order. Cloning shares it.
///
/// All processes' groups and members are seen, as the file knows them. A group's figures are exact, unless one of its
/// parts is more than 200,000 messages behind another: then the lag beyond is estimated. `in_flight` counts what
/// members have read, also what still waits in them.
#[derive(Debug, Clone)]
pub struct SqliteAdmin {
    hub: Arc<Hub>,
}

impl SqliteAdmin {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

impl Admin for SqliteAdmin {
    async fn ensure_topic(&self, topic: &str, settings: TopicSettings) -> Result<bool> {
        if settings.partitions.is_some_and(|partitions| partitions != 1) {
            return Err(Error::new(ErrorKind::Unsupported, "the sqlite driver has no partitions")
                .topic(topic)
                .fix("leave their number out"));
        }
        let topic = topic.to_owned();
        self.hub.write(move |connection| topics::ensure(connection, &topic).map(|(_, made)| made)).await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.hub.read(all_topics).await
    }

    async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        let topic = topic.to_owned();
        self.hub.read(move |connection| groups(connection, &topic)).await
    }

    async fn group(&self, topic: &str, group: &str) -> Result<Option<GroupInfo>> {
        let (topic, group) = (topic.to_owned(), group.to_owned());
        self.hub.read(move |connection| one_group(connection, &topic, &group)).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        let (topic, group) = (topic.to_owned(), group.to_owned());
        self.hub.write(move |connection| seek(connection, &topic, &group, to)).await
    }

    async fn purge(&self, topic: &str) -> Result<u64> {
        let topic = topic.to_owned();
        self.hub.write(move |connection| purge(connection, &topic)).await
    }

    async fn dead_letters(
        &self,
        topic: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDeadLetter>> {
        let topic = topic.to_owned();
        self.hub.read(move |connection| dead_letters(connection, &topic, after, limit)).await
    }

    async fn remove_dead_letter(&self, topic: &str, id: u64) -> Result<bool> {
        let topic = topic.to_owned();
        self.hub.write(move |connection| remove_dead_letter(connection, &topic, id)).await
    }
}

fn all_topics(connection: &Connection) -> Result<Vec<TopicInfo>> {
    let failed = |e| errors::sqlite("the topics cannot be read", e);
    let mut statement = connection
        .prepare_cached(
            "SELECT id, name, (SELECT count(*) FROM millstream_dead WHERE topic = millstream_topic.id) \
             FROM millstream_topic ORDER BY name",
        )
        .map_err(failed)?;
    let rows: Vec<(i64, String, u64)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .and_then(Iterator::collect)
        .map_err(failed)?;
    rows.into_iter()
        .map(|(id, name, dead_letters)| {
            let mut info = TopicInfo::new(name);
            info.messages = topics::last(connection, id)? + 1 - topics::first(connection, id)?;
            info.dead_letters = dead_letters;
            Ok(info)
        })
        .collect()
}

// ---- Groups --------------------------------------------------------------------------------------------------

/// Rows between the first and the last slot's front that are counted one by one.
const COUNTED: u64 = 200_000;

fn groups(connection: &Connection, topic: &str) -> Result<Vec<GroupInfo>> {
    let id = topics::get(connection, topic)?;
    let failed = |e| errors::sqlite("the groups cannot be read", e).topic(topic);
    let mut statement = connection
        .prepare_cached("SELECT id, name FROM millstream_group NOT INDEXED WHERE topic = ?1 ORDER BY name")
        .map_err(failed)?;
    let rows: Vec<(i64, String)> = statement
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .map_err(failed)?;
    rows.into_iter()
        .map(|(group, name)| info(connection, id, group, &name).map_err(|e| e.topic(topic).group(&name)))
        .collect()
}

fn one_group(connection: &Connection, topic: &str, name: &str) -> Result<Option<GroupInfo>> {
    let id = topics::get(connection, topic)?;
    let group: Option<i64> = connection
        .prepare_cached("SELECT id FROM millstream_group WHERE topic = ?1 AND name = ?2")
        .and_then(|mut s| s.query_row(params![id, name], |row| row.get(0)).optional())
        .map_err(|e| errors::sqlite("the group cannot be read", e).topic(topic).group(name))?;
    let located = |e: Error| e.topic(topic).group(name);
    group.map(|group| info(connection, id, group, name)).transpose().map_err(located)
}

fn info(connection: &Connection, topic: i64, group: i64, name: &str) -> Result<GroupInfo> {
    let failed = |e| errors::sqlite("the group cannot be read", e);
    let alive = alive(connection, group).map_err(failed)?;
    let slots = slots(connection, group)?;
    let (parked, first_parked): (u64, Option<u64>) = connection
        .prepare_cached("SELECT count(*), min(seq) FROM millstream_parked WHERE grp = ?1")
        .and_then(|mut s| s.query_row([group], |row| Ok((row.get(0)?, row.get(1)?))))
        .map_err(failed)?;
    let behind = behind(connection, topic, &slots)?;
    let holes = |slot: &Slot| slot.progress.holes.len() as u64;
    let first_hole = slots.iter().filter_map(|slot| slot.progress.holes.first()).map(|(seq, _)| *seq).min();
    let lowest = [first_hole, first_parked, behind.first].into_iter().flatten().min();

    let mut info = GroupInfo::new(name);
    info.members = alive.len().try_into().unwrap_or(u32::MAX);
    info.lag = behind.count + slots.iter().map(holes).sum::<u64>() + parked;
    info.in_flight =
        slots.iter().filter(|slot| slot.owner.is_some_and(|o| alive.contains(&o))).map(holes).sum();
    info.parked = parked;
    if let Some(lowest) = lowest {
        let sql =
            format!("SELECT time FROM {} WHERE seq >= ?1 ORDER BY seq LIMIT 1", schema::log_table(topic));
        let time: Option<i64> = connection
            .prepare_cached(&sql)
            .and_then(|mut s| s.query_row([lowest], |row| row.get(0)).optional())
            .map_err(failed)?;
        info.oldest = time.map(system_time);
    }
    // As everywhere, the first that would be read again.
    let committed = lowest.map_or_else(|| topics::last(connection, topic).map(|last| last + 1), Ok)?;
    info.committed = vec![(PartitionId(0), Position(committed))];
    Ok(info)
}

/// The owners that are alive.
fn alive(connection: &Connection, group: i64) -> rusqlite::Result<HashSet<i64>> {
    let mut statement = connection
        .prepare_cached("SELECT owner, process FROM millstream_member WHERE grp = ?1 AND until >= ?2")?;
    let mut rows = statement.query([group, clock::since_boot()])?;
    let mut alive = HashSet::new();
    while let Some(row) = rows.next()? {
        if !clock::is_gone(row.get_ref(1)?.as_str()?) {
            alive.insert(row.get(0)?);
        }
    }
    Ok(alive)
}

struct Slot {
    owner: Option<i64>,
    progress: Progress,
}

/// A group's slots, in order.
fn slots(connection: &Connection, group: i64) -> Result<Vec<Slot>> {
    let failed = |e| errors::sqlite("the group's progress cannot be read", e);
    let mut statement = connection
        .prepare_cached(
            "SELECT owner, slot, front, holes, parked, crc FROM millstream_slot WHERE grp = ?1 ORDER BY slot",
        )
        .map_err(failed)?;
    let mut rows = statement.query([group]).map_err(failed)?;
    let mut slots = Vec::with_capacity(schema::SLOTS);
    while let Some(row) = rows.next().map_err(failed)? {
        let (slot, progress) = read_progress(group, row, 1).map_err(|damage| damaged(&damage))?;
        if slot != slots.len() {
            return Err(damaged("one of its parts is missing"));
        }
        slots.push(Slot { owner: row.get(0).map_err(failed)?, progress });
    }
    if slots.len() != schema::SLOTS {
        return Err(damaged("one of its parts is missing"));
    }
    Ok(slots)
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the group's progress is not what was written: {what}"))
        .fix("stop, look at the file with `millstream check`, and restore a backup or seek the group")
}

/// Reads the columns `slot, front, holes, parked, crc` that start at `first`; the error says what is damaged.
pub(crate) fn read_progress(
    group: i64,
    row: &rusqlite::Row<'_>,
    first: usize,
) -> Result<(usize, Progress), String> {
    // A column of another kind than it was written is damage too.
    let odd = |e: rusqlite::Error| format!("a part of group {group} cannot be read: {e}");
    let (slot, front): (usize, i64) = (row.get(first).map_err(odd)?, row.get(first + 1).map_err(odd)?);
    let holes = row.get_ref(first + 2).map_err(odd)?.as_blob().map_err(|e| odd(e.into()))?;
    let (parked, crc) = (row.get(first + 3).map_err(odd)?, row.get(first + 4).map_err(odd)?);
    match Progress::read(group, slot, front, holes, parked, crc) {
        Ok(progress) => Ok((slot, progress)),
        Err(damage) => Err(damage.0),
    }
}

/// What no slot has looked at yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Behind {
    count: u64,
    first: Option<u64>,
}

/// Counts the messages above their slots' fronts. Above all of the fronts that is a subtraction; in between each row's
/// key says which slot it is of.
fn behind(connection: &Connection, topic: i64, slots: &[Slot]) -> Result<Behind> {
    let failed = |e| errors::sqlite("the group's lag cannot be counted", e);
    let fronts: Vec<u64> = slots.iter().map(|slot| slot.progress.front).collect();
    let (Some(&lowest), Some(&highest)) = (fronts.iter().min(), fronts.iter().max()) else {
        return Ok(Behind::default());
    };
    let (before, last) = (topics::first(connection, topic)? - 1, topics::last(connection, topic)?);
    let mut behind = Behind::default();
    let mut at = lowest.max(before);
    let counted = highest.min(last).min(at + COUNTED);
    if at < counted {
        let sql = format!(
            "SELECT seq, key FROM {} WHERE seq > ?1 AND seq <= ?2 ORDER BY seq",
            schema::log_table(topic)
        );
        let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query([at, counted]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let seq: u64 = row.get(0).map_err(failed)?;
            let key = row.get_ref(1).map_err(failed)?.as_bytes_or_null().ok().flatten();
            if fronts.get(slot_of(key, seq)).is_some_and(|front| *front < seq) {
                behind.count += 1;
                behind.first.get_or_insert(seq);
            }
        }
        at = counted;
    }
    if at < highest.min(last) {
        // Too many to look at each: as if all keys were as frequent.
        let rest = fronts.iter().map(|front| highest.min(last).saturating_sub(at.max(*front))).sum::<u64>();
        behind.count += rest / fronts.len() as u64;
        behind.first.get_or_insert(at + 1);
    }
    let above = highest.max(before);
    if above < last {
        behind.count += last - above;
        behind.first.get_or_insert(above + 1);
    }
    Ok(behind)
}

fn seek(connection: &Connection, topic: &str, group: &str, to: Start) -> Result<()> {
    let id = topics::get(connection, topic)?;
    let failed = |e| errors::sqlite("the group cannot be moved", e).topic(topic).group(group);
    let Some(group_id) = topics::find_group(connection, id, group)? else {
        return Err(Error::new(ErrorKind::NotFound, "there is no such group")
            .topic(topic)
            .group(group)
            .fix("subscribe with it once"));
    };
    if !alive(connection, group_id).map_err(failed)?.is_empty() {
        return Err(Error::new(ErrorKind::Conflict, "the group has members")
            .topic(topic)
            .group(group)
            .fix("stop its subscribers first"));
    }
    let (first, end) = (topics::first(connection, id)?, topics::last(connection, id)? + 1);
    let next = match to {
        Start::Earliest => first,
        Start::Latest => end,
        Start::Position(Position(position)) => position.clamp(first, end),
        Start::Time(time) => topics::at_time(connection, id, nanos(time))?,
        _ => {
            return Err(
                Error::new(ErrorKind::Unsupported, "the sqlite driver does not know this start").topic(topic)
            );
        }
    };
    move_to(connection, group_id, next.saturating_sub(1)).map_err(failed)
}

/// Sets a group's progress: everything up to `front` is done, and nothing behind it. Who had slots loses them.
fn move_to(connection: &Connection, group: i64, front: u64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM millstream_parked WHERE grp = ?1", [group])?;
    let progress = Progress { front, ..Progress::default() };
    let mut statement = connection.prepare_cached(
        "INSERT INTO millstream_slot VALUES(?1, ?2, NULL, 1, ?3, x'', 0, ?4) ON CONFLICT DO UPDATE SET \
         owner = NULL, epoch = epoch + 1, front = excluded.front, holes = excluded.holes, parked = 0, crc = excluded.crc",
    )?;
    for slot in 0..schema::SLOTS {
        statement.execute(params![group, slot, front, progress.crc(group, slot, &[])])?;
    }
    Ok(())
}

// ---- Topics --------------------------------------------------------------------------------------------------

fn purge(connection: &Connection, topic: &str) -> Result<u64> {
    let id = topics::get(connection, topic)?;
    let last = topics::last(connection, id)?;
    let work = || -> rusqlite::Result<usize> {
        // The numbers of what is gone are never used again.
        connection.execute("UPDATE millstream_topic SET floor = ?2 WHERE id = ?1", params![id, last])?;
        let deleted = connection.execute(&format!("DELETE FROM {}", schema::log_table(id)), [])?;
        let delayed = connection.execute("DELETE FROM millstream_delayed WHERE topic = ?1", [id])?;
        let groups: Vec<i64> = connection
            .prepare_cached("SELECT id FROM millstream_group NOT INDEXED WHERE topic = ?1")?
            .query_map([id], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for group in groups {
            move_to(connection, group, last)?;
        }
        Ok(deleted + delayed)
    };
    work().map(|count| count as u64).map_err(|e| errors::sqlite("the topic cannot be purged", e).topic(topic))
}

// ---- Dead letters --------------------------------------------------------------------------------------------

/// Stores a dead letter of a topic; gives its id. Within a transaction that writes.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn bury(
    connection: &Connection,
    topic: i64,
    group: Option<&str>,
    seq: Option<u64>,
    letter: &Message,
) -> Result<i64> {
    let work = || -> rusqlite::Result<i64> {
        // Its number is part of its checksum; one that was removed is never given again.
        let id = connection
            .prepare_cached("SELECT seq + 1 FROM sqlite_sequence WHERE name = 'millstream_dead'")?
            .query_row([], |row| row.get(0))
            .optional()?
            .unwrap_or(1);
        let columns = Columns::of(letter);
        let header = |name: &str| letter.headers.get_str(name);
        let attempts: Option<i64> = header(names::DL_ATTEMPTS).and_then(|text| text.parse().ok());
        connection
            .prepare_cached(
                "INSERT INTO millstream_dead VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
                 ?15, ?16)",
            )?
            .execute(params![
                id,
                topic,
                group,
                seq,
                clock::wall(),
                header(names::DL_CLASS),
                header(names::DL_ERROR),
                attempts,
                &*letter.topic,
                columns.time,
                columns.id,
                columns.key,
                columns.content_type,
                columns.headers,
                columns.data,
                columns.crc(Table::Dead, topic, id),
            ])?;
        Ok(id)
    };
    work().map_err(|e| errors::sqlite("the dead letter cannot be stored", e).topic(&*letter.topic))
}

/// What [`row::message`] reads, behind the id and the letter's own topic.
pub(crate) const LETTER: &str = "id, letter_topic, time, mid, key, ct, headers, data, crc";

fn dead_letters(
    connection: &Connection,
    topic: &str,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<StoredDeadLetter>> {
    let Some(topic_id) = topics::find(connection, topic)? else { return Ok(Vec::new()) };
    let failed = |e| errors::sqlite("the dead letters cannot be read", e).topic(topic);
    let after = after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX));
    let sql =
        format!("SELECT {LETTER} FROM millstream_dead NOT INDEXED WHERE topic = ?1 AND id > ?2 ORDER BY id");
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query([topic_id, after]).map_err(failed)?;
    let (mut letters, mut last) = (Vec::new(), after);
    while letters.len() < limit
        && let Some(row) = rows.next().map_err(failed)?
    {
        let id: i64 = row.get(0).map_err(failed)?;
        if id <= last {
            // Whoever asks for page after page would never come to an end.
            let what = format!("the dead letter {id} comes behind {last} in their table");
            return Err(Error::new(ErrorKind::Corrupt, what)
                .topic(topic)
                .fix("look at the file with `millstream check`, and restore a backup"));
        }
        last = id;
        // One that is damaged must not hide those behind it.
        match letter(row, topic_id, id) {
            Ok(message) => letters.push(StoredDeadLetter::new(id.unsigned_abs(), message)),
            Err(what) => tracing::error!(
                topic,
                id,
                what,
                "a dead letter is not what was written and is not shown; look at the file with `millstream check`"
            ),
        }
    }
    Ok(letters)
}

/// Reads the columns of [`LETTER`]; the error says what is damaged.
pub(crate) fn letter(row: &rusqlite::Row<'_>, topic: i64, id: i64) -> Result<Message, String> {
    let name: String = row.get(1).map_err(|_| "its topic is no text".to_owned())?;
    row::message(row, 2, Table::Dead, topic, id, &ByteString::from(name), &mut Slab::default())
        .map_err(|damage| damage.0)
}

fn remove_dead_letter(connection: &Connection, topic: &str, id: u64) -> Result<bool> {
    let Some(topic_id) = topics::find(connection, topic)? else { return Ok(false) };
    let Ok(id) = i64::try_from(id) else { return Ok(false) };
    connection
        .prepare_cached("DELETE FROM millstream_dead WHERE topic = ?1 AND id = ?2")
        .and_then(|mut s| s.execute([topic_id, id]))
        .map(|removed| removed > 0)
        .map_err(|e| errors::sqlite("the dead letter cannot be removed", e).topic(topic))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tempfile::TempDir;

    use super::*;
    use crate::open::{self, Create, Role};
    use crate::progress::ParkedRow;
    use crate::publish::{self, Known};

    /// A file with one topic `t` and its group `g` from the start on.
    struct File {
        connection: Connection,
        topic: i64,
        group: i64,
        _folder: TempDir,
    }

    fn file() -> File {
        let folder = TempDir::new().unwrap();
        let path =
            open::prepare(&folder.path().join("app.db"), Create::Missing, Duration::from_secs(1)).unwrap();
        let connection = open::connect(&path, Role::Writer, Duration::from_secs(1)).unwrap();
        let (topic, _) = topics::ensure(&connection, "t").unwrap();
        let group = topics::ensure_group(&connection, topic, &"g".into(), || Ok(1)).unwrap();
        File { connection, topic, group, _folder: folder }
    }

    impl File {
        /// Publishes as many messages, one for each slot in turn, at the seconds 1, 2, 3 …
        fn publish(&self, count: u64) {
            let last = topics::last(&self.connection, self.topic).unwrap();
            let messages: Vec<_> = (last + 1..=last + count)
                .map(|n| {
                    let mut message = Message::new("t", "{}").with_id(n.to_string());
                    message.time = SystemTime::UNIX_EPOCH + Duration::from_secs(n);
                    message
                })
                .collect();
            let outcomes =
                publish::write(&self.connection, &mut Known::default(), &messages, 1 << 20).unwrap();
            assert_eq!(outcomes.len(), messages.len());
        }

        fn progress(&self, slot: usize, progress: &Progress) {
            let holes = progress.encode_holes();
            let sql = "UPDATE millstream_slot SET front = ?3, holes = ?4, parked = ?5, crc = ?6 \
                       WHERE grp = ?1 AND slot = ?2";
            let crc = progress.crc(self.group, slot, &holes);
            let parameters = params![self.group, slot, progress.front, holes, progress.parked, crc];
            assert_eq!(self.connection.execute(sql, parameters).unwrap(), 1);
        }

        fn all_at(&self, front: u64) {
            for slot in 0..schema::SLOTS {
                self.progress(slot, &Progress { front, ..Progress::default() });
            }
        }

        fn park(&self, seq: u64) {
            let row = ParkedRow {
                seq,
                slot: slot_of(None, seq),
                key: None,
                due: None,
                attempts: 1,
                deliveries: 0,
                first_failure: None,
                error: String::new(),
            };
            let sql =
                "INSERT INTO millstream_parked VALUES(?1, ?2, ?3, NULL, NULL, NULL, 1, 0, NULL, '', ?4)";
            self.connection.execute(sql, params![self.group, seq, row.slot, row.crc(self.group)]).unwrap();
        }

        fn join(&self, owner: i64, until: i64) {
            let sql = "INSERT INTO millstream_member VALUES(?1, ?2, 0, ?3, 0, '')";
            self.connection.execute(sql, [self.group, owner, until]).unwrap();
        }

        fn info(&self) -> GroupInfo {
            groups(&self.connection, "t").unwrap().remove(0)
        }

        fn seek(&self, to: Start) -> Result<()> {
            seek(&self.connection, "t", "g", to)
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    // ---- Topics and groups

    #[test]
    fn topics_are_listed_by_name_with_their_counts() {
        let file = file();
        file.publish(3);
        topics::ensure(&file.connection, "a").unwrap();
        bury(&file.connection, file.topic, None, None, &Message::new("t.dlq", "x")).unwrap();
        let all = all_topics(&file.connection).unwrap();
        let all: Vec<_> = all.iter().map(|t| (&*t.name, t.messages, t.dead_letters)).collect();
        assert_eq!(all, [("a", 0, 0), ("t", 3, 1)]);
    }

    #[test]
    fn a_group_without_progress_is_behind_by_all() {
        let file = file();
        file.publish(10);
        let info = file.info();
        assert_eq!((info.lag, info.in_flight, info.parked, info.members), (10, 0, 0, 0));
        assert_eq!(info.oldest, Some(at(1)));
        assert_eq!(info.committed, [(PartitionId(0), Position(1))]);
    }

    #[test]
    fn a_group_that_is_done_is_committed_behind_the_last() {
        let file = file();
        file.publish(10);
        file.all_at(10);
        let info = file.info();
        assert_eq!((info.lag, info.oldest), (0, None));
        assert_eq!(info.committed, [(PartitionId(0), Position(11))]);
    }

    #[test]
    fn lag_counts_each_message_above_its_own_slots_front_and_holes_and_parked_ones() {
        // Given 200 messages, of which all were looked at up to 150, but slot 5 only up to 5
        let file = file();
        file.publish(200);
        file.all_at(150);
        file.progress(5, &Progress { front: 5, ..Progress::default() });
        // and slot 6 has two holes, one of its messages parked
        file.progress(6, &Progress { front: 150, holes: vec![(6, 1), (134, 2)], parked: 1 });
        file.park(70);
        file.join(1, i64::MAX);
        file.join(2, 0);
        file.connection.execute("UPDATE millstream_slot SET owner = 1 WHERE slot = 6", []).unwrap();
        file.connection.execute("UPDATE millstream_slot SET owner = 2 WHERE slot <> 6", []).unwrap();

        let info = file.info();

        // Then 50 are above all; 69 and 133 are slot 5's
        assert_eq!(info.lag, 50 + 2 + 2 + 1);
        assert_eq!((info.in_flight, info.parked, info.members), (2, 1, 1));
        assert_eq!(info.oldest, Some(at(6)));
        assert_eq!(info.committed, [(PartitionId(0), Position(6))]);
    }

    #[test]
    fn a_lag_that_was_not_counted_one_by_one_is_estimated() {
        // Given rows that are said to be far more than are there
        let file = file();
        file.publish(1);
        let sql = format!(
            "INSERT INTO {} SELECT 1000000, time, id, key, ct, headers, data, crc FROM {0} WHERE seq = 1",
            schema::log_table(file.topic)
        );
        file.connection.execute(&sql, []).unwrap();
        file.all_at(1_000_000);
        for slot in 0..32 {
            file.progress(slot, &Progress::default());
        }
        let lag = file.info().lag;
        assert!((399_000..=401_000).contains(&lag), "half of the 800,000 that were not counted: {lag}");
    }

    #[test]
    fn the_groups_of_a_topic_that_is_not_there_are_not_found() {
        let error = groups(&file().connection, "none").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn damaged_progress_is_said_with_topic_and_group() {
        let file = file();
        file.connection.execute("UPDATE millstream_slot SET front = 7 WHERE slot = 3", []).unwrap();
        let error = groups(&file.connection, "t").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("(topic \"t\", group \"g\")"), "{error}");
        // and seeking mends it
        file.seek(Start::Earliest).unwrap();
        assert_eq!(file.info().lag, 0);
    }

    // ---- Seek and purge

    #[test]
    fn a_group_is_moved_to_each_kind_of_start() {
        let file = file();
        file.publish(10);
        file.all_at(7);
        for (to, next) in [
            (Start::Earliest, 1),
            (Start::Latest, 11),
            (Start::Position(Position(4)), 4),
            (Start::Position(Position(0)), 1),
            (Start::Position(Position(99)), 11),
            (Start::Time(at(6)), 6),
            (Start::Time(at(99)), 11),
        ] {
            file.seek(to).unwrap();
            let info = file.info();
            assert_eq!(info.committed, [(PartitionId(0), Position(next))], "{to:?}");
            assert_eq!(info.lag, 11 - next, "{to:?}");
        }
    }

    #[test]
    fn seeking_forgets_holes_and_parked_messages_and_takes_the_slots_away() {
        let file = file();
        file.publish(10);
        file.progress(1, &Progress { front: 10, holes: vec![(1, 1)], parked: 1 });
        file.park(2);
        file.connection.execute("UPDATE millstream_slot SET owner = 5, epoch = 8", []).unwrap();
        file.seek(Start::Latest).unwrap();
        assert_eq!((file.info().lag, file.info().parked), (0, 0));
        let sql = "SELECT count(*) FROM millstream_slot WHERE owner IS NULL AND epoch = 9";
        assert_eq!(file.connection.query_row(sql, [], |row| row.get::<_, usize>(0)).unwrap(), schema::SLOTS);
    }

    #[test]
    fn a_group_with_members_or_without_a_name_that_is_known_is_not_moved() {
        let file = file();
        file.join(1, 0);
        file.seek(Start::Latest).unwrap();
        file.join(2, i64::MAX);
        assert_eq!(file.seek(Start::Latest).unwrap_err().kind(), ErrorKind::Conflict);
        let error = seek(&file.connection, "t", "other", Start::Latest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.context().fix.is_some());
    }

    #[test]
    fn a_purge_deletes_everything_and_no_number_is_used_again() {
        let file = file();
        file.publish(10);
        file.park(3);
        let mut later = Message::new("t", "later");
        later.deliver_at = Some(SystemTime::now() + Duration::from_secs(3600));
        publish::write(&file.connection, &mut Known::default(), &[later], 1 << 20).unwrap();

        assert_eq!(purge(&file.connection, "t").unwrap(), 11);

        let info = file.info();
        assert_eq!((info.lag, info.parked, info.oldest), (0, 0, None));
        assert_eq!(all_topics(&file.connection).unwrap()[0].messages, 0);
        file.publish(1);
        assert_eq!(topics::first(&file.connection, file.topic).unwrap(), 11);
        assert_eq!(file.info().lag, 1);
        assert_eq!(purge(&file.connection, "none").unwrap_err().kind(), ErrorKind::NotFound);
    }

    // ---- Dead letters

    fn letter(id: &str) -> Message {
        let mut letter = Message::new("t.dlq", "payload").with_id(id).with_key("k");
        letter.headers.append(names::DL_CLASS, "handler");
        letter.headers.append(names::DL_ERROR, "it failed");
        letter.headers.append(names::DL_ATTEMPTS, "10");
        letter.headers.append_null("nothing");
        letter
    }

    #[test]
    fn a_dead_letter_comes_back_as_it_was_and_its_reasons_can_be_asked_for() {
        let file = file();
        let id = bury(&file.connection, file.topic, Some("g"), Some(7), &letter("a")).unwrap();
        let stored = dead_letters(&file.connection, "t", None, 10).unwrap();
        let mut expected = letter("a");
        expected.time = system_time(nanos(stored[0].message.time));
        assert_eq!(stored, [StoredDeadLetter::new(id.unsigned_abs(), expected)]);
        let sql = "SELECT grp, seq, class, error, attempts FROM millstream_dead";
        let row = file
            .connection
            .query_row(sql, [], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, u64>(1)?,
                    row.get::<_, String>(2)?,
                    row.get::<_, String>(3)?,
                    row.get::<_, u32>(4)?,
                ))
            })
            .unwrap();
        assert_eq!(row, ("g".into(), 7, "handler".into(), "it failed".into(), 10));
    }

    #[test]
    fn dead_letters_come_in_pages_and_are_removed_by_number() {
        let file = file();
        let ids: Vec<u64> = ["a", "b", "c"]
            .map(|id| bury(&file.connection, file.topic, None, None, &letter(id)).unwrap().unsigned_abs())
            .into();
        let page = |after, limit| -> Vec<u64> {
            dead_letters(&file.connection, "t", after, limit)
                .unwrap()
                .iter()
                .map(|letter| letter.id)
                .collect()
        };
        assert_eq!(page(None, 2), ids[..2]);
        assert_eq!(page(Some(ids[1]), 2), ids[2..]);
        assert!(remove_dead_letter(&file.connection, "t", ids[2]).unwrap());
        assert!(!remove_dead_letter(&file.connection, "t", ids[2]).unwrap());
        assert!(!remove_dead_letter(&file.connection, "other", ids[0]).unwrap());
        assert!(dead_letters(&file.connection, "other", None, 2).unwrap().is_empty());
        let next = bury(&file.connection, file.topic, None, None, &letter("d")).unwrap().unsigned_abs();
        assert!(next > ids[2], "a number was given twice");
    }

    #[test]
    fn a_damaged_dead_letter_does_not_hide_the_others() {
        let file = file();
        for id in ["a", "b", "c"] {
            bury(&file.connection, file.topic, None, None, &letter(id)).unwrap();
        }
        file.connection.execute("UPDATE millstream_dead SET data = x'00' WHERE mid = 'a'", []).unwrap();
        let page = dead_letters(&file.connection, "t", None, 2).unwrap();
        let page: Vec<_> = page.iter().map(|letter| &*letter.message.id).collect();
        assert_eq!(page, ["b", "c"]);
    }
}
