//! What of finished messages is kept, and deleting the rest in small steps.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_core::Result;
use rusqlite::{Connection, OptionalExtension, params};

pub(crate) use crate::dedup::expire as expire_dedup;
use crate::{admin, clock, errors, schema, topics};

/// How long messages are kept that every group has finished. The default is 7 days, whatever their size.
///
/// Nothing else is ever deleted: a message that a group has not read, has in work or has parked stays, and so does a
/// topic without any group, whose messages nobody has finished. The last message of a topic stays too.
///
/// Messages go from the front of the topic on. Their age is told by their own times, and by a clock that starts with the
/// process and does not jump: if the wall clock does, nothing that is younger is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// They go when they are older. `None`: never for their age. Default 7 days.
    pub age: Option<Duration>,
    /// They go, the oldest first, while a topic has more bytes. `None`: never for its size, which is the default.
    ///
    /// The size is estimated from a few of the topic's messages; what SQLite keeps beside them is not counted, and the
    /// room is used again rather than given back to the disk.
    pub size: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Some(Duration::from_secs(7 * 24 * 3600)), size: None }
    }
}

/// Deletes what a topic need not keep, at most so many messages; says how many.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn step(
    connection: &Connection,
    topic: i64,
    retention: &Retention,
    limit: usize,
) -> Result<usize> {
    step_at(connection, topic, retention, limit, now())
}

fn step_at(
    connection: &Connection,
    topic: i64,
    retention: &Retention,
    limit: usize,
    now: i64,
) -> Result<usize> {
    if retention.age.is_none() && retention.size.is_none() {
        return Ok(0);
    }
    let failed = |e| errors::sqlite("old messages cannot be deleted", e);
    let (first, last) = (topics::first(connection, topic)?, topics::last(connection, topic)?);
    let Some(low) = finished_before(connection, topic)?.map(|low| low.min(last)) else { return Ok(0) };
    if low <= first {
        return Ok(0);
    }
    let mut end = first;
    if let Some(age) = retention.age {
        end = end.max(old_before(connection, topic, (first, low), age, now, limit)?);
    }
    if let Some(size) = retention.size {
        let most = too_many(connection, topic, (first, last), size)?;
        end = end.max(first.saturating_add(most.min(limit as u64)).min(low));
    }
    if end <= first {
        return Ok(0);
    }
    let sql = format!("DELETE FROM {} WHERE seq < ?1", schema::log_table(topic));
    connection.prepare_cached(&sql).and_then(|mut s| s.execute([end])).map_err(failed)
}

/// The first number that some group still needs; none if there is no group, or one whose progress cannot be told.
fn finished_before(connection: &Connection, topic: i64) -> Result<Option<u64>> {
    let failed = |e| errors::sqlite("the groups' progress cannot be read", e);
    let mut statement = connection
        .prepare_cached(
            "SELECT g.id, g.name, s.slot, s.front, s.holes, s.parked, s.crc FROM millstream_group g \
             LEFT JOIN millstream_slot s ON s.grp = g.id WHERE g.topic = ?1",
        )
        .map_err(failed)?;
    let mut rows = statement.query([topic]).map_err(failed)?;
    let (mut low, mut groups, mut slots) = (None::<u64>, Vec::new(), 0);
    while let Some(row) = rows.next().map_err(failed)? {
        let group: i64 = row.get(0).map_err(failed)?;
        if !groups.contains(&group) {
            groups.push(group);
        }
        match admin::read_progress(group, row, 2) {
            Ok((_, progress)) => {
                low = Some(low.map_or(progress.lowest(), |low| low.min(progress.lowest())));
                slots += 1;
            }
            Err(what) => {
                let name: Option<String> = row.get(1).ok();
                tracing::error!(
                    topic,
                    group = name,
                    what,
                    "nothing of the topic is deleted, since a group's progress is not what was written; look at the \
                     file with `millstream check`"
                );
                return Ok(None);
            }
        }
    }
    if slots != groups.len() * schema::SLOTS {
        return Ok(None);
    }
    drop(rows);
    let mut parked =
        connection.prepare_cached("SELECT min(seq) FROM millstream_parked WHERE grp = ?1").map_err(failed)?;
    for group in groups {
        let first: Option<u64> = parked.query_row([group], |row| row.get(0)).map_err(failed)?;
        low = low.map(|low| first.map_or(low, |first| first.min(low)));
    }
    Ok(low)
}

// ---- By age --------------------------------------------------------------------------------------------------

/// One behind the last of those that are older than `age`, of the first `limit`.
///
/// Numbers have no gaps, so it stops at the first that is young. One whose time is still to come was published under a
/// wrong clock: it must not hold up the others for years, and goes when one behind it is old.
fn old_before(
    connection: &Connection,
    topic: i64,
    (first, low): (u64, u64),
    age: Duration,
    now: i64,
    limit: usize,
) -> Result<u64> {
    let failed = |e| errors::sqlite("the topic's times cannot be read", e);
    let cut = now.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
    let sql =
        format!("SELECT seq, time FROM {} WHERE seq >= ?1 ORDER BY seq LIMIT ?2", schema::log_table(topic));
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query(params![first, limit]).map_err(failed)?;
    let (mut end, mut looked) = (first, first);
    let mut young = false;
    while let Some(row) = rows.next().map_err(failed)? {
        let (seq, time): (u64, i64) = (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
        if seq >= low {
            break;
        }
        looked = seq + 1;
        if time < cut {
            end = looked;
        } else if time <= now {
            young = true;
            break;
        }
    }
    drop(rows);
    if young || end == looked {
        return Ok(end);
    }
    // The last ones looked at are all of the future: is the first behind them that is not, by bisection, old?
    let (mut future, mut other) = (looked - 1, low);
    let mut old = false;
    while future + 1 < other {
        let middle = future + (other - future) / 2;
        let time: Option<i64> =
            statement.query_row(params![middle, 1], |row| row.get(1)).optional().map_err(failed)?;
        if time.is_some_and(|time| time > now) {
            future = middle;
        } else {
            (other, old) = (middle, time.is_some_and(|time| time < cut));
        }
    }
    Ok(if old { looked } else { end })
}

// ---- By size -------------------------------------------------------------------------------------------------

/// Messages that are looked at to estimate a topic's size, and what each takes beside its own bytes.
const SAMPLE: u64 = 64;
const ROW: u64 = 24;

/// How many messages a topic has above this size, estimated.
fn too_many(connection: &Connection, topic: i64, (first, last): (u64, u64), size: u64) -> Result<u64> {
    let count = last + 1 - first;
    let sql = format!(
        "SELECT octet_length(id) + coalesce(octet_length(key), 0) + octet_length(ct) + \
         coalesce(octet_length(headers), 0) + coalesce(octet_length(data), 0) FROM {} WHERE seq >= ?1 \
         ORDER BY seq LIMIT 1",
        schema::log_table(topic)
    );
    let failed = |e| errors::sqlite("the topic's size cannot be estimated", e);
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let samples = count.min(SAMPLE);
    let mut bytes = 0;
    for n in 0..samples {
        // Spread evenly: what is published changes with time.
        let at = first + u64::try_from(u128::from(count) * u128::from(n) / u128::from(samples)).unwrap_or(0);
        let one: u64 = statement.query_row([at], |row| row.get(0)).optional().map_err(failed)?.unwrap_or(0);
        bytes += one + ROW;
    }
    let average = (bytes / samples.max(1)).max(1);
    Ok(count.saturating_sub(size / average))
}

// ---- The clock -----------------------------------------------------------------------------------------------

/// Nanoseconds since 1970 by the wall clock of when this process first asked, and milliseconds since boot at that time.
static START: LazyLock<(i64, i64)> = LazyLock::new(|| (clock::wall(), clock::since_boot()));

/// Begins to count: whoever opens a file does, or a jump before the first look would be taken for the right time.
pub(crate) fn begin() {
    LazyLock::force(&START);
}

/// A jump that is worth a word.
const JUMP: i64 = 3_600_000_000_000;

/// Wall-clock nanoseconds that never jump ahead: what is old by them is old. If the wall clock was wrong when the
/// process began, they go on from there, until it begins again.
pub(crate) fn now() -> i64 {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let wall = clock::wall();
    let now = steady(wall, clock::since_boot(), *START);
    if wall - now > JUMP && !TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            seconds = (wall - now) / 1_000_000_000,
            "the wall clock jumped ahead: what is old is told by the time before; if it is right now, start again"
        );
    }
    now
}

fn steady(wall: i64, since_boot: i64, (start_wall, start_boot): (i64, i64)) -> i64 {
    wall.min(start_wall.saturating_add((since_boot - start_boot).saturating_mul(1_000_000)))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use millstream_core::Message;
    use tempfile::TempDir;

    use super::*;
    use crate::open::{self, Create, Role};
    use crate::progress::Progress;
    use crate::publish::{self, Known};
    use crate::row::nanos;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const WEEK: Retention = Retention { age: Some(Duration::from_secs(7 * 24 * 3600)), size: None };

    struct File {
        connection: Connection,
        topic: i64,
        now: SystemTime,
        _folder: TempDir,
    }

    fn file() -> File {
        let folder = TempDir::new().unwrap();
        let path = open::prepare(&folder.path().join("app.db"), Create::Missing, DAY).unwrap();
        let connection = open::connect(&path, Role::Writer, DAY).unwrap();
        let (topic, _) = topics::ensure(&connection, "t").unwrap();
        File { connection, topic, now: SystemTime::now(), _folder: folder }
    }

    impl File {
        /// Publishes messages that are so many days old; below zero, of the future.
        fn publish(&self, days: impl IntoIterator<Item = i32>) {
            let messages: Vec<_> = days
                .into_iter()
                .map(|days| {
                    let mut message = Message::new("t", vec![b'x'; 1000]);
                    let distance = DAY * days.unsigned_abs();
                    message.time = if days >= 0 { self.now - distance } else { self.now + distance };
                    message
                })
                .collect();
            publish::write(&self.connection, &mut Known::default(), &messages, 1 << 20).unwrap();
        }

        fn group(&self, name: &'static str, front: u64) -> i64 {
            topics::ensure_group(&self.connection, self.topic, &name.into(), || Ok(front + 1)).unwrap()
        }

        fn step(&self, retention: &Retention, limit: usize) -> usize {
            step_at(&self.connection, self.topic, retention, limit, nanos(self.now)).unwrap()
        }

        fn all_steps(&self, retention: &Retention) -> usize {
            std::iter::from_fn(|| Some(self.step(retention, 10)).filter(|deleted| *deleted > 0)).sum()
        }

        fn first(&self) -> u64 {
            topics::first(&self.connection, self.topic).unwrap()
        }
    }

    #[test]
    fn old_messages_that_every_group_finished_go_in_small_steps() {
        let file = file();
        file.publish([9; 25]);
        file.publish([1; 5]);
        file.group("g", 30);
        assert_eq!(file.step(&WEEK, 10), 10);
        assert_eq!(file.step(&WEEK, 10), 10);
        assert_eq!(file.step(&WEEK, 10), 5);
        assert_eq!(file.step(&WEEK, 10), 0);
        assert_eq!(file.first(), 26);
    }

    #[test]
    fn what_the_slowest_group_has_not_finished_stays() {
        let file = file();
        file.publish([9; 30]);
        file.group("fast", 30);
        file.group("slow", 12);
        assert_eq!(file.all_steps(&WEEK), 12);
        assert_eq!(file.first(), 13);
    }

    #[test]
    fn holes_and_parked_messages_and_all_behind_them_stay() {
        let file = file();
        file.publish([9; 30]);
        let group = file.group("g", 30);
        let progress = Progress { front: 30, holes: vec![(20, 1)], parked: 0 };
        let holes = progress.encode_holes();
        file.connection
            .execute(
                "UPDATE millstream_slot SET holes = ?2, crc = ?3 WHERE grp = ?1 AND slot = 7",
                params![group, holes, progress.crc(group, 7, &holes)],
            )
            .unwrap();
        assert_eq!(file.all_steps(&WEEK), 19);
        let park = "INSERT INTO millstream_parked VALUES(?1, 5, 5, NULL, NULL, NULL, 0, 0, NULL, '', 0)";
        let other = file.group("other", 30);
        file.connection.execute(park, [other]).unwrap();
        file.connection.execute("UPDATE millstream_parked SET seq = 21", []).unwrap();
        file.connection.execute("DELETE FROM millstream_slot WHERE grp = ?1", [group]).unwrap();
        file.connection.execute("DELETE FROM millstream_group WHERE id = ?1", [group]).unwrap();
        assert_eq!(file.all_steps(&WEEK), 1);
        assert_eq!(file.first(), 21);
    }

    #[test]
    fn a_topic_without_a_group_is_kept_and_so_is_the_last_message() {
        let file = file();
        file.publish([9; 30]);
        assert_eq!(file.step(&WEEK, 100), 0);
        file.group("g", 30);
        assert_eq!(file.step(&WEEK, 100), 29);
        assert_eq!(file.first(), 30);
    }

    #[test]
    fn damaged_progress_keeps_everything() {
        let file = file();
        file.publish([9; 30]);
        file.group("g", 0);
        file.connection.execute("UPDATE millstream_slot SET front = 30", []).unwrap();
        assert_eq!(file.step(&WEEK, 100), 0);
        let other = file.group("other", 30);
        file.connection.execute("DELETE FROM millstream_group WHERE id <> ?1", [other]).unwrap();
        file.connection.execute("DELETE FROM millstream_slot WHERE slot = 9", []).unwrap();
        assert_eq!(file.step(&WEEK, 100), 0);
    }

    #[test]
    fn messages_go_from_the_front_so_that_numbers_have_no_gaps() {
        // Given an old message behind a young one
        let file = file();
        file.publish([9, 9, 1, 9, 9, 0]);
        file.group("g", 6);
        assert_eq!(file.all_steps(&WEEK), 2);
        assert_eq!(file.first(), 3);
    }

    #[test]
    fn messages_of_the_future_hold_up_others_only_until_those_are_old() {
        let file = file();
        file.publish([9, -400, 9, 0]);
        file.publish([-400; 95]);
        file.group("g", 99);
        assert_eq!(file.all_steps(&WEEK), 3);

        let file = self::file();
        file.publish([-400; 95]);
        file.publish([9; 40]);
        file.publish([0; 5]);
        file.group("g", 140);
        assert_eq!(file.all_steps(&WEEK), 135);

        let file = self::file();
        file.publish([-400; 95]);
        file.publish([0; 40]);
        file.group("g", 135);
        assert_eq!(file.all_steps(&WEEK), 0);
    }

    #[test]
    fn a_topic_that_is_too_large_loses_its_oldest_finished_messages() {
        let file = file();
        file.publish([0; 100]);
        file.group("g", 90);
        let kept = Retention { age: None, size: Some(30_000) };
        assert_eq!(file.step(&kept, 10), 10);
        let all = 10 + file.all_steps(&kept);
        assert!((70..=75).contains(&all), "about 30 of 1,000 bytes each are kept: {all}");
        assert_eq!(file.all_steps(&Retention { age: None, size: Some(0) }), 90 - all);
        assert_eq!(file.all_steps(&Retention { age: None, size: None }), 0);
    }

    #[test]
    fn a_wall_clock_that_jumps_ahead_makes_nothing_old() {
        let hour = 3_600_000_000_000;
        let (wall, boot) = (1_000 * hour, 5_000);
        let later = |by: i64| boot + by / 1_000_000;
        assert_eq!(steady(wall + hour, later(hour), (wall, boot)), wall + hour);
        assert_eq!(steady(wall + 9_000 * hour, later(hour), (wall, boot)), wall + hour);
        assert_eq!(steady(wall - hour, later(hour), (wall, boot)), wall - hour);
    }
}
