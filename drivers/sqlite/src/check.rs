//! Reading a whole file, to see whether it holds what was written.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use millstream_core::{ByteString, Error, ErrorKind, Result};
use rusqlite::{Connection, Row};

use crate::progress::ParkedRow;
use crate::row::{self, Slab, Table};
use crate::{admin, errors, open, schema, topics};

/// What [`check`] found in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Topics.
    pub topics: u64,
    /// Messages in their logs.
    pub messages: u64,
    /// Groups.
    pub groups: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Messages parked for a group.
    pub parked: u64,
    /// Messages that are not yet due.
    pub delayed: u64,
    /// What is not as it was written, or was found so earlier. The first 1,000; `unlisted` counts the others.
    pub problems: Vec<Problem>,
    /// Problems beyond those that are listed.
    pub unlisted: u64,
}

impl CheckReport {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, topic: Option<&str>, position: Option<u64>, what: impl Into<String>) {
        if self.problems.len() == LISTED {
            self.unlisted += 1;
            return;
        }
        self.problems.push(Problem { what: what.into(), topic: topic.map(str::to_owned), position });
    }
}

/// Something in a file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// The topic concerned.
    pub topic: Option<String>,
    /// The position of the message concerned.
    pub position: Option<u64>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(topic) = &self.topic {
            write!(f, "topic {topic:?}")?;
            if let Some(position) = self.position {
                write!(f, ", position {position}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)
    }
}

/// Problems that are listed one by one.
const LISTED: usize = 1_000;
/// Rows of a read transaction, and the pause behind it: the write-ahead log can be reset in between.
const BLOCK: usize = 2_000;
const PAUSE: Duration = Duration::from_millis(1);
/// How long to wait for the file's lock, which readers hardly ever need.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the whole file and says what is not as it was written: every row's checksum, gaps in a topic's numbers, each
/// group's progress, and SQLite's own structures.
///
/// A service may have the file open meanwhile: it reads in short transactions and changes nothing. SQLite's own checks
/// (`quick_check`, and `integrity_check` for Millstream's indexes) come last; they are one long read, during which the
/// write-ahead log grows. It takes as long as reading the file twice, and blocks: run it on a thread that may.
///
/// # Errors
/// [`InvalidConfig`](ErrorKind::InvalidConfig) if there is no such file, or it has none of Millstream's tables;
/// [`Corrupt`](ErrorKind::Corrupt) if it is no database; [`Unsupported`](ErrorKind::Unsupported) for a format that this
/// version does not know; as SQLite has them.
pub fn check(path: &Path) -> Result<CheckReport> {
    let connection = open::inspect(path, PATIENCE)?;
    let not_ours = || {
        Error::new(ErrorKind::InvalidConfig, format!("{} has none of Millstream's tables", path.display()))
            .fix("name the file that a sqlite:// URL names")
    };
    if !schema::is_there(&connection).map_err(failed)? {
        return Err(not_ours());
    }
    let format = schema::format(&connection)?;
    if format != schema::FORMAT {
        return Err(schema::unknown(format));
    }
    let mut check = Check { connection, report: CheckReport::default(), names: HashMap::new() };
    check.run()?;
    Ok(check.report)
}

fn failed(error: rusqlite::Error) -> Error {
    errors::sqlite("the file cannot be read to its end", error)
}

/// The topics' names.
type Names = HashMap<i64, String>;

struct Check {
    connection: Connection,
    report: CheckReport,
    names: Names,
}

impl Check {
    fn run(&mut self) -> Result<()> {
        self.names = self
            .connection
            .prepare("SELECT id, name FROM millstream_topic")
            .and_then(|mut s| s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(failed)?;
        self.report.topics = self.names.len() as u64;
        let mut topics: Vec<_> = self.names.iter().map(|(id, name)| (*id, name.clone())).collect();
        topics.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        for (id, name) in &topics {
            let mut at = 0;
            let read = self.log(*id, name, &mut at);
            self.go_on(Some(name), Some(at + 1), read)?;
            let read = self.groups(*id, name);
            self.go_on(Some(name), None, read)?;
        }
        for part in [Self::nameless, Self::letters, Self::delayed, Self::quarantine, Self::sqlite] {
            let read = part(self);
            self.go_on(None, None, read)?;
        }
        Ok(())
    }

    /// What cannot be read because it is damaged is a problem too, and does not hide others.
    fn go_on(&mut self, topic: Option<&str>, position: Option<u64>, read: Result<()>) -> Result<()> {
        match read {
            // `Internal`: a column holds something that was never written there.
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Internal) => {
                let cause = std::error::Error::source(&error).map_or_else(String::new, |e| format!(": {e}"));
                self.report.problem(topic, position, format!("{}{cause}", error.context().message));
                Ok(())
            }
            other => other,
        }
    }

    /// A topic's messages, a block at a time; all up to `at` were looked at.
    fn log(&mut self, topic: i64, name: &str, at: &mut u64) -> Result<()> {
        let sql = format!(
            "SELECT seq, time, id, key, ct, headers, data, crc FROM {} WHERE seq > ?1 ORDER BY seq LIMIT {BLOCK}",
            schema::log_table(topic)
        );
        let (shared, mut slab) = (ByteString::from(name), Slab::default());
        let below = format!("SELECT count(*) FROM {} WHERE seq < 1", schema::log_table(topic));
        let below: u64 = self.connection.query_row(&below, [], |row| row.get(0)).map_err(failed)?;
        if below > 0 {
            self.report.problem(
                Some(name),
                None,
                format!("messages under numbers below 1, which are never given: {below}"),
            );
        }
        // What is published from now on is not looked at.
        let end = topics::last(&self.connection, topic)?;
        loop {
            let block = self.connection.unchecked_transaction().map_err(failed)?;
            // What retention or a purge deleted meanwhile is no gap.
            *at = (*at).max(topics::first(&block, topic)? - 1);
            if *at >= end {
                return Ok(());
            }
            let mut statement = block.prepare_cached(&sql).map_err(failed)?;
            let mut rows = statement.query([*at]).map_err(failed)?;
            let mut seen = 0;
            while let Some(row) = rows.next().map_err(failed)? {
                seen += 1;
                let number: i64 = row.get(0).map_err(failed)?;
                let seq = number.unsigned_abs();
                if seq <= *at {
                    // Its pages lead round: the same rows would come again and again.
                    self.report.problem(
                        Some(name),
                        Some(seq),
                        format!("it comes behind the message {at} in the table"),
                    );
                    return Ok(());
                }
                if seq > *at + 1 {
                    self.report.problem(Some(name), Some(*at + 1), missing(*at + 1, seq - 1));
                }
                *at = seq;
                self.report.messages += 1;
                if let Err(damage) = row::message(row, 1, Table::Log, topic, number, &shared, &mut slab) {
                    self.report.problem(Some(name), Some(seq), format!("the message: {}", damage.0));
                }
            }
            if seen == 0 {
                self.report.problem(Some(name), Some(*at + 1), missing(*at + 1, end));
                return Ok(());
            }
            drop(rows);
            drop(statement);
            drop(block);
            std::thread::sleep(PAUSE);
        }
    }

    /// A topic's groups, each with what it has parked in one read transaction, so that all of it belongs together.
    fn groups(&mut self, topic: i64, name: &str) -> Result<()> {
        let groups: Vec<(i64, String)> = self
            .connection
            .prepare_cached(
                "SELECT id, name FROM millstream_group NOT INDEXED WHERE topic = ?1 ORDER BY name",
            )
            .and_then(|mut s| s.query_map([topic], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(failed)?;
        for group in groups {
            self.report.groups += 1;
            let block = self.connection.unchecked_transaction().map_err(failed)?;
            check_group(&block, &mut self.report, (topic, name), (group.0, &group.1))?;
            drop(block);
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Messages of a topic that is not in the list of topics.
    fn nameless(&mut self) -> Result<()> {
        let tables: Vec<String> = self
            .connection
            .prepare(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'millstream_log_*' AND name NOT IN \
                 (SELECT 'millstream_log_' || id FROM millstream_topic)",
            )
            .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
            .map_err(failed)?;
        for table in tables {
            self.report.problem(None, None, format!("{table} holds messages of a topic whose name is lost"));
        }
        for (table, what) in [("millstream_slot", "progress"), ("millstream_parked", "parked messages")] {
            let sql = format!(
                "SELECT DISTINCT grp FROM {table} WHERE grp NOT IN (SELECT id FROM millstream_group NOT INDEXED)"
            );
            let groups: Vec<i64> = self
                .connection
                .prepare(&sql)
                .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
                .map_err(failed)?;
            for group in groups {
                self.report.problem(
                    None,
                    None,
                    format!("{table} holds {what} of the group {group}, whose name is lost"),
                );
            }
        }
        Ok(())
    }

    fn letters(&mut self) -> Result<()> {
        let sql = format!(
            "SELECT {}, topic, seq FROM millstream_dead WHERE id > ?1 ORDER BY id LIMIT {BLOCK}",
            admin::LETTER
        );
        self.in_blocks(&sql, |names, report, row, id| {
            report.dead_letters += 1;
            let topic = row.get(9)?;
            if let Err(what) = admin::letter(row, topic, id) {
                let name = names.get(&topic).map(String::as_str);
                report.problem(name, row.get(10).ok(), format!("the dead letter {id}: {what}"));
            }
            Ok(())
        })
    }

    fn delayed(&mut self) -> Result<()> {
        let sql = format!(
            "SELECT id, topic, time, mid, key, ct, headers, data, crc FROM millstream_delayed WHERE id > ?1 \
             ORDER BY id LIMIT {BLOCK}"
        );
        self.in_blocks(&sql, |names, report, row, id| {
            report.delayed += 1;
            let topic = row.get(1)?;
            if let Err(damage) =
                row::message(row, 2, Table::Delayed, topic, id, &ByteString::new(), &mut Slab::default())
            {
                let name = names.get(&topic).map(String::as_str);
                report.problem(name, None, format!("the delayed message {id}: {}", damage.0));
            }
            Ok(())
        })
    }

    /// Rows by an id in their first column, in short read transactions.
    fn in_blocks(
        &mut self,
        sql: &str,
        mut each: impl FnMut(&Names, &mut CheckReport, &Row<'_>, i64) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let mut at = i64::MIN;
        loop {
            let mut statement = self.connection.prepare_cached(sql).map_err(failed)?;
            let mut rows = statement.query([at]).map_err(failed)?;
            let mut seen = 0;
            while let Some(row) = rows.next().map_err(failed)? {
                seen += 1;
                let id = row.get(0).map_err(failed)?;
                if id <= at {
                    self.report.problem(
                        None,
                        None,
                        format!("a row {id} comes behind the row {at} in its table"),
                    );
                    return Ok(());
                }
                at = id;
                each(&self.names, &mut self.report, row, at).map_err(failed)?;
            }
            if seen < BLOCK {
                return Ok(());
            }
            drop(rows);
            std::thread::sleep(PAUSE);
        }
    }

    /// What was found earlier, when somebody read it.
    fn quarantine(&mut self) -> Result<()> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT topic, seq, what FROM millstream_quarantine ORDER BY topic, seq")
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let (topic, what): (i64, String) = (row.get(0).map_err(failed)?, row.get(2).map_err(failed)?);
            let name = self.names.get(&topic).map(String::as_str);
            self.report.problem(name, row.get(1).ok(), format!("in quarantine since it was read: {what}"));
        }
        Ok(())
    }

    /// SQLite's own structures: what holds the rows, and whether the indexes lead to them.
    fn sqlite(&mut self) -> Result<()> {
        let with_index: Vec<String> = self
            .connection
            .prepare(
                "SELECT DISTINCT tbl_name FROM sqlite_schema WHERE type = 'index' AND tbl_name GLOB 'millstream_*'",
            )
            .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
            .map_err(failed)?;
        let mut checks = vec!["quick_check".to_owned()];
        checks.extend(with_index.iter().map(|table| format!("integrity_check({table})")));
        for check in checks {
            if let Err(error) = self.ask_sqlite(&check) {
                let ended = Err(errors::sqlite(&format!("SQLite's {check} came to no end"), error));
                self.go_on(None, None, ended)?;
            }
        }
        Ok(())
    }

    fn ask_sqlite(&mut self, check: &str) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(&format!("PRAGMA {check}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let what: String = row.get(0)?;
            if what != "ok" {
                self.report.problem(None, None, format!("SQLite's {check}: {what}"));
            }
        }
        Ok(())
    }
}

fn check_group(
    connection: &Connection,
    report: &mut CheckReport,
    (topic, name): (i64, &str),
    (group, group_name): (i64, &str),
) -> Result<()> {
    let (first, last) = (topics::first(connection, topic)?, topics::last(connection, topic)?);
    let problem = |report: &mut CheckReport, position: Option<u64>, what: &str| {
        report.problem(Some(name), position, format!("group {group_name:?}: {what}"));
    };
    let sql = format!("SELECT {} FROM millstream_parked WHERE grp = ?1 ORDER BY seq", ParkedRow::COLUMNS);
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query([group]).map_err(failed)?;
    let mut parked = [0_u32; schema::SLOTS];
    while let Some(row) = rows.next().map_err(failed)? {
        report.parked += 1;
        match ParkedRow::read(group, row) {
            Ok(row) => {
                if row.seq < first || row.seq > last {
                    problem(report, Some(row.seq), "it is parked, and the message is missing");
                }
                if let Some(count) = parked.get_mut(row.slot) {
                    *count += 1;
                }
            }
            Err(damage) => problem(report, row.get(0).ok(), &damage.0),
        }
    }
    drop(rows);
    let mut statement = connection
        .prepare_cached(
            "SELECT slot, front, holes, parked, crc FROM millstream_slot WHERE grp = ?1 ORDER BY slot",
        )
        .map_err(failed)?;
    let mut rows = statement.query([group]).map_err(failed)?;
    let mut there = [false; schema::SLOTS];
    while let Some(row) = rows.next().map_err(failed)? {
        // Which one it is may itself be damaged.
        if let Some(there) = row.get::<_, usize>(0).ok().and_then(|slot| there.get_mut(slot)) {
            *there = true;
        }
        let (slot, progress) = match admin::read_progress(group, row, 0) {
            Ok(read) => read,
            Err(what) => {
                problem(report, None, &what);
                continue;
            }
        };
        let counted = parked.get(slot).copied().unwrap_or_default();
        if progress.parked != counted {
            let what = format!("slot {slot} counts {} parked messages, and has {counted}", progress.parked);
            problem(report, None, &what);
        }
        if progress.front > last {
            problem(report, Some(last + 1), &missing(last + 1, progress.front));
        }
        for (seq, _) in progress.holes.iter().filter(|(seq, _)| *seq < first) {
            problem(report, Some(*seq), "it is not done, and the message is missing");
        }
    }
    for (slot, _) in there.iter().enumerate().filter(|(_, there)| !**there) {
        problem(report, None, &format!("its slot {slot} is missing"));
    }
    Ok(())
}

fn missing(first: u64, last: u64) -> String {
    if first == last {
        return "the message is missing".to_owned();
    }
    format!("the messages {first} to {last} are missing")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use millstream_core::Message;
    use rusqlite::params;
    use tempfile::TempDir;

    use super::*;
    use crate::open::{Create, Role};
    use crate::publish::{self, Known};

    /// A file with a topic `t` of 5,000 messages and its group `g`, one parked, one delayed, one dead letter.
    struct File {
        path: PathBuf,
        connection: Connection,
        folder: TempDir,
    }

    fn file() -> File {
        let folder = TempDir::new().unwrap();
        let path = open::prepare(&folder.path().join("app.db"), Create::Missing, PATIENCE).unwrap();
        let connection = open::connect(&path, Role::Writer, PATIENCE).unwrap();
        let block = connection.unchecked_transaction().unwrap();
        let (topic, _) = topics::ensure(&block, "t").unwrap();
        let group = topics::ensure_group(&block, topic, &"g".into(), || Ok(101)).unwrap();
        let mut messages: Vec<_> =
            (0..5_001).map(|n| Message::new("t", "{}").with_id(n.to_string())).collect();
        messages[5_000].deliver_at = Some(SystemTime::now() + Duration::from_secs(3_600));
        publish::write(&block, &mut Known::default(), &messages, 1 << 20).unwrap();
        admin::bury(&block, topic, Some("g"), Some(7), &Message::new("t.dlq", "x")).unwrap();
        let row = ParkedRow {
            seq: 70,
            slot: 6,
            key: None,
            due: None,
            attempts: 1,
            deliveries: 0,
            first_failure: None,
            error: String::new(),
        };
        let sql = "INSERT INTO millstream_parked VALUES(?1, 70, 6, NULL, NULL, NULL, 1, 0, NULL, '', ?2)";
        block.execute(sql, params![group, row.crc(group)]).unwrap();
        let progress = crate::progress::Progress { front: 100, holes: Vec::new(), parked: 1 };
        let sql = "UPDATE millstream_slot SET parked = 1, crc = ?1 WHERE slot = 6";
        block.execute(sql, [progress.crc(group, 6, &[])]).unwrap();
        block.commit().unwrap();
        File { path, connection, folder }
    }

    impl File {
        fn change(&self, sql: &str) {
            self.connection.execute_batch(sql).unwrap();
        }

        fn problems(&self) -> Vec<String> {
            check(&self.path).unwrap().problems.iter().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn a_sound_file_that_is_open_is_clean_and_its_content_is_counted() {
        let file = file();
        let report = check(&file.path).unwrap();
        assert!(report.is_clean(), "{:?}", report.problems);
        let counts = (
            report.topics,
            report.messages,
            report.groups,
            report.dead_letters,
            report.parked,
            report.delayed,
        );
        assert_eq!(counts, (1, 5_000, 1, 1, 1, 1));
    }

    #[test]
    fn what_a_crash_left_in_the_log_is_read_and_left_there() {
        // Given a copy of a file and its log as a crash would leave them
        let file = file();
        let copy = file.folder.path().join("copy.db");
        let ends = ["", "-wal"];
        let name = |path: &PathBuf, end: &str| PathBuf::from(format!("{}{end}", path.display()));
        let left = ends.map(|end| fs::read(name(&file.path, end)).unwrap());
        for (end, bytes) in ends.iter().zip(&left) {
            fs::write(name(&copy, end), bytes).unwrap();
        }
        // (reading them through the file system has dropped the locks of the connection, which is not used any more)

        let report = check(&copy).unwrap();

        assert!(report.is_clean(), "{:?}", report.problems);
        assert_eq!(report.messages, 5_000);
        assert_eq!(ends.map(|end| fs::read(name(&copy, end)).unwrap()), left);
    }

    #[test]
    fn a_damaged_message_is_named_and_so_are_those_that_are_missing() {
        let file = file();
        file.change(
            "UPDATE millstream_log_1 SET data = x'7b7c' WHERE seq = 3; DELETE FROM millstream_log_1 WHERE seq = 10; \
             DELETE FROM millstream_log_1 WHERE seq BETWEEN 2990 AND 3010",
        );
        let problems = file.problems();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].starts_with("topic \"t\", position 3: the message: its checksum is"),
            "{problems:?}"
        );
        assert_eq!(problems[1], "topic \"t\", position 10: the message is missing");
        assert_eq!(problems[2], "topic \"t\", position 2990: the messages 2990 to 3010 are missing");
    }

    #[test]
    fn damage_to_progress_and_to_what_is_kept_beside_the_log_is_named() {
        for (sql, what) in [
            (
                "UPDATE millstream_slot SET front = 101 WHERE slot = 3",
                "group \"g\": slot 3 of group 1 does not fit",
            ),
            ("UPDATE millstream_slot SET holes = x'00' WHERE slot = 3", "holes that end early"),
            ("DELETE FROM millstream_slot WHERE slot = 3", "its slot 3 is missing"),
            ("UPDATE millstream_parked SET attempts = 3", "position 70: group \"g\": the parked message 70"),
            ("DELETE FROM millstream_parked", "slot 6 counts 1 parked messages, and has 0"),
            ("DELETE FROM millstream_log_1 WHERE seq < 200", "position 70: group \"g\": it is parked"),
            (
                "UPDATE millstream_log_1 SET seq = 0 WHERE seq = 1",
                "under numbers below 1, which are never given: 1",
            ),
            ("UPDATE millstream_log_1 SET seq = -seq WHERE seq < 9", "never given: 8"),
            ("DELETE FROM millstream_log_1 WHERE seq > 50", "the messages 51 to 100 are missing"),
            ("DROP TABLE millstream_log_1", "no such table"),
            ("DELETE FROM millstream_topic", "millstream_log_1 holds messages of a topic whose name is lost"),
            (
                "UPDATE millstream_dead SET key = x''",
                "topic \"t\", position 7: the dead letter 1: its checksum",
            ),
            (
                "UPDATE millstream_delayed SET mid = 'other'",
                "topic \"t\": the delayed message 1: its checksum",
            ),
            (
                "INSERT INTO millstream_quarantine(topic, seq, found, what) VALUES(1, 9, 0, 'odd')",
                "topic \"t\", position 9: in quarantine since it was read: odd",
            ),
        ] {
            let file = file();
            file.change(sql);
            let problems = file.problems();
            assert!(problems.iter().any(|problem| problem.contains(what)), "{sql}: {problems:?}");
        }
    }

    #[test]
    fn progress_of_a_group_whose_name_is_lost_is_named() {
        let file = file();
        file.change("DELETE FROM millstream_group");
        let problems = file.problems();
        assert!(problems.iter().any(|p| p.contains("whose name is lost")), "{problems:?}");
    }

    #[test]
    fn a_broken_page_is_a_problem_and_hides_nothing_else() {
        let file = file();
        file.change("UPDATE millstream_dead SET data = x'00'");
        let root: u64 = file
            .connection
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'millstream_log_1'", [], |row| {
                row.get(0)
            })
            .unwrap();
        let File { path, connection, folder } = file;
        drop(connection);
        let mut bytes = fs::read(&path).unwrap();
        let start = (root as usize - 1) * 4096;
        bytes[start..start + 4096].fill(0xAB);
        fs::write(&path, bytes).unwrap();

        let report = check(&path).unwrap();

        let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.iter().any(|p| p.contains("topic \"t\"") && p.contains("cannot be read")),
            "{problems:?}"
        );
        assert!(problems.iter().any(|p| p.contains("the dead letter 1")), "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("quick_check")), "{problems:?}");
        drop(folder);
    }

    #[test]
    fn only_so_many_problems_are_listed_and_the_others_are_counted() {
        let file = file();
        file.change("UPDATE millstream_log_1 SET time = time + 1");
        let report = check(&file.path).unwrap();
        assert_eq!((report.problems.len() as u64, report.unlisted), (1_000, 4_000));
    }

    #[test]
    fn a_file_that_is_none_of_millstreams_is_refused_and_stays_as_it_is() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("text"), "no database\n".repeat(100)).unwrap();
        fs::write(at("empty"), "").unwrap();
        Connection::open(at("theirs")).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        let theirs = fs::read(at("theirs")).unwrap();
        for (name, kind) in [
            ("none", ErrorKind::InvalidConfig),
            ("", ErrorKind::InvalidConfig),
            ("text", ErrorKind::Corrupt),
            ("empty", ErrorKind::Corrupt),
            ("theirs", ErrorKind::InvalidConfig),
        ] {
            let error = check(&at(name)).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.context().fix.is_some(), "{name}: {error}");
        }
        assert_eq!(fs::read(at("theirs")).unwrap(), theirs);
        assert!(!at("none").exists());
    }
}
