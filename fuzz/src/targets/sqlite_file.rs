//! A whole file whose bytes or values were changed anywhere: it is refused, or what is damaged in it is reported and
//! the rest is given; nothing breaks and nothing hangs.

use std::path::Path;
use std::sync::OnceLock;

use millstream::core::{Admin as _, OpenRequest, Park, ParkNote, Verdict, Writer as _};
use millstream::core::{ReadLimits, Reader as _, Settlement, Settler as _, Source as _};
use millstream::names;
use millstream_sqlite::rusqlite::types::Value;
use millstream_sqlite::rusqlite::{self, Connection};
use millstream_sqlite::{SqliteStore, check};
use tempfile::TempDir;

use super::sqlite::{self, folder, message, promptly, take_all};
use super::{Target, wait_for_real};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("sqlite_file", run, seeds);

fn run(data: &[u8]) {
    thread_local!(static FOLDER: TempDir = folder());
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = FOLDER.with(|folder| folder.path().join(format!("{number}.db")));
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) {
        std::fs::write(&path, patched(&mut input)).expect("written");
    } else {
        std::fs::write(&path, template()).expect("written");
        let connection = Connection::open(&path).expect("opened");
        while !input.is_empty() {
            // What the tables themselves refuse is none.
            let _ = change(&connection, &mut input);
        }
    }
    use_it(&path);
    sqlite::remove(&path);
}

/// What every program would do with it. Any of it may fail; all of it must come back.
fn use_it(path: &Path) {
    if let Ok(report) = check(path) {
        for problem in &report.problems {
            assert!(!problem.to_string().is_empty());
        }
    }
    wait_for_real(async {
        let Ok(store) = promptly(SqliteStore::builder(path).private().open()).await else { return };
        let admin = store.admin();
        let _ = promptly(admin.topics()).await;
        let _ = promptly(admin.groups("t")).await;
        if let Ok(letters) = promptly(admin.dead_letters("t", None, 10)).await {
            assert!(letters.is_sorted_by_key(|letter| letter.id));
        }
        let _ = take_all(&store, OpenRequest::new("t").group("g")).await;
        let _ = promptly(store.writer().write(vec![message(9)])).await;
        let _ = take_all(&store, OpenRequest::new("t").group("another")).await;
    });
}

/// Bytes set to others, and perhaps an end that is cut off.
fn patched(input: &mut Input<'_>) -> Vec<u8> {
    let mut file = template().to_vec();
    while !input.is_empty() {
        let at = input.number() as usize % file.len().max(1);
        match input.byte() {
            0xff => file.truncate(at),
            _ => {
                let bytes = input.bytes();
                let end = (at + bytes.len()).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
    }
    file
}

/// Each with one value to be chosen.
const CHANGES: &[&str] = &[
    "UPDATE millstream_meta SET value = ?1",
    "UPDATE millstream_meta SET name = ?1 WHERE name = 'format'",
    "UPDATE millstream_topic SET name = ?1",
    "UPDATE millstream_topic SET floor = ?1",
    "UPDATE millstream_topic SET created = ?1",
    "UPDATE sqlite_sequence SET seq = ?1",
    "UPDATE millstream_log_1 SET seq = ?1 WHERE seq = 4",
    "UPDATE millstream_log_1 SET id = ?1",
    "UPDATE millstream_log_1 SET time = ?1",
    "UPDATE millstream_log_1 SET headers = ?1",
    "UPDATE millstream_log_1 SET crc = ?1",
    "DELETE FROM millstream_log_1 WHERE seq >= ?1",
    "UPDATE millstream_group SET name = ?1",
    "UPDATE millstream_group SET topic = ?1",
    "UPDATE millstream_slot SET owner = ?1",
    "UPDATE millstream_slot SET epoch = ?1",
    "UPDATE millstream_slot SET front = ?1",
    "UPDATE millstream_slot SET holes = ?1",
    "UPDATE millstream_slot SET parked = ?1",
    "UPDATE millstream_slot SET slot = ?1 WHERE slot = 63",
    "INSERT INTO millstream_member VALUES(1, ?1, 0, 9223372036854775807, 1, 'x')",
    "INSERT INTO millstream_member VALUES(1, 1, 0, ?1, 0, '')",
    "INSERT INTO millstream_member VALUES(1, 2, 0, 9223372036854775807, 0, ?1)",
    "UPDATE millstream_parked SET seq = ?1",
    "UPDATE millstream_parked SET due = ?1",
    "UPDATE millstream_parked SET key = ?1",
    "DELETE FROM millstream_parked WHERE slot <> ?1",
    "UPDATE millstream_delayed SET due = ?1",
    "UPDATE millstream_delayed SET topic = ?1",
    "UPDATE millstream_delayed SET data = ?1",
    "UPDATE millstream_dead SET id = ?1",
    "UPDATE millstream_dead SET letter_topic = ?1",
    "UPDATE millstream_dead SET headers = ?1",
    "UPDATE millstream_dedup SET until = ?1",
    "UPDATE millstream_dedup SET process = ?1",
    "INSERT INTO millstream_quarantine VALUES(1, ?1, 0, 'x', NULL, NULL, NULL, NULL, NULL, NULL)",
];

/// Whole tables that are gone or something else.
const STRUCTURES: &[&str] = &[
    "DROP TABLE millstream_meta",
    "DROP TABLE millstream_log_1",
    "DROP TABLE millstream_slot",
    "DROP TABLE millstream_member",
    "DROP TABLE millstream_dead; CREATE VIEW millstream_dead AS SELECT * FROM millstream_log_1",
    "DROP TABLE millstream_quarantine",
    "DROP TABLE millstream_delayed; CREATE TABLE millstream_delayed(a)",
    "CREATE TRIGGER x AFTER INSERT ON millstream_log_1 BEGIN DELETE FROM millstream_log_1; END",
    "ALTER TABLE millstream_parked ADD COLUMN more INTEGER",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA user_version = 7",
];

fn change(connection: &Connection, input: &mut Input<'_>) -> rusqlite::Result<()> {
    let which = usize::from(input.byte());
    if which >= 0xf0 {
        return connection.execute_batch(STRUCTURES[which % STRUCTURES.len()]);
    }
    let value = match input.byte() % 4 {
        0 => Value::Null,
        1 => Value::Integer(input.number().cast_signed()),
        2 => Value::Text(input.text()),
        _ => Value::Blob(input.bytes().to_vec()),
    };
    connection.execute(CHANGES[which % CHANGES.len()], [value]).map(drop)
}

/// A file with something in every table.
fn template() -> &'static [u8] {
    static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = folder();
        let path = folder.path().join("app.db");
        wait_for_real(fill(&path)).expect("filled");
        // Back into one file, whoever still has it open.
        let connection = Connection::open(&path).expect("opened");
        connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
            .expect("written back");
        std::fs::read(&path).expect("read")
    })
}

async fn fill(path: &Path) -> millstream::Result<()> {
    let store = SqliteStore::builder(path).private().open().await?;
    let mut messages: Vec<_> = (0..8).map(message).collect();
    messages[1].headers.append("tenant", "acme");
    messages.push(
        message(8).with_deliver_at(std::time::SystemTime::now() + std::time::Duration::from_secs(3_600)),
    );
    store.writer().write(messages).await?.into_result()?;
    let mut opened = store.reader().open(OpenRequest::new("t").group("g")).await?;
    let mut deliveries = Vec::new();
    while deliveries.len() < 8 {
        opened.source.read(&mut deliveries, ReadLimits::new(8, 1 << 20)).await?;
    }
    let mut settlements = Vec::new();
    for (delivery, n) in deliveries.into_iter().zip(0..4) {
        let verdict = match n {
            0 => Verdict::Ack,
            1 => Verdict::Dead(Box::new(message(1).with_header(names::DL_CLASS, "exhausted"))),
            2 => {
                let note = ParkNote { attempts: 2, first_failure: None, error: "down".into() };
                Verdict::Park(Box::new(Park { after: Some(std::time::Duration::from_secs(60)), note }))
            }
            _ => Verdict::Release,
        };
        settlements.push(Settlement::new(delivery.token, verdict));
    }
    opened.settler.settle(settlements).await;
    opened.source.close().await?;
    opened.settler.close().await
}

fn seeds() -> Vec<Vec<u8>> {
    let patch = |at: u64, bytes: &[u8]| Seed::new().byte(0).number(at).byte(0).bytes(bytes).done();
    let mut all = vec![
        Vec::new(),
        patch(16, &[2, 0]),
        patch(18, &[9, 9]),
        patch(100, &[0x0d; 8]),
        patch(4_096, &[0xff; 16]),
        patch(9_000, &[0; 64]),
        Seed::new().byte(0).number(8_192).byte(0xff).done(),
        Seed::new().byte(0).number(5_000).byte(0xff).done(),
    ];
    for which in 0..CHANGES.len() as u8 {
        let value = Seed::new().byte(1).byte(which);
        all.push(match which % 3 {
            0 => value.byte(1).number(u64::MAX >> 1).done(),
            1 => value.byte(2).bytes("text").done(),
            _ => value.byte(1).number(3).done(),
        });
    }
    all.extend((0xf0..0xf0 + STRUCTURES.len() as u8).map(|which| Seed::new().byte(1).byte(which).done()));
    all
}
