//! The file, or its log, is deleted, moved away or replaced while it is open. SQLite would go on writing into what
//! nobody can open any more: it must be noticed before anything is confirmed again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use millstream::sqlite::SqliteStore;
use millstream::{Message, WriteOutcome, WriteReport};
use millstream_core::{
    Delivery, OpenRequest, Opened, Read, ReadLimits, Reader as _, Settled, Settlement, Settler as _,
    Source as _, Writer as _,
};

use super::Scale;
use crate::report::Row;
use crate::{Result, scratch};

/// What is done to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Delete,
    DeleteAll,
    MoveAway,
    ReplaceByOther,
    ReplaceByCopy,
    DeleteLog,
    ReplaceLog,
}

const DEEDS: [Deed; 7] = [
    Deed::Delete,
    Deed::DeleteAll,
    Deed::MoveAway,
    Deed::ReplaceByOther,
    Deed::ReplaceByCopy,
    Deed::DeleteLog,
    Deed::ReplaceLog,
];

/// What a round came to.
#[derive(Debug, Default)]
struct Round {
    written: u64,
    /// What was confirmed afterwards, though it is lost.
    false_writes: Vec<String>,
    false_settlements: Vec<String>,
}

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut random = Rng::with_seed(seed);
    let folder = scratch::folder("replaced")?;
    let mut row = Row::default();
    for number in 0..scale.of(350, 35) {
        let deed = DEEDS[number % DEEDS.len()];
        let folder = folder.path().join(number.to_string());
        fs::create_dir(&folder)?;
        let round = runtime.block_on(round(&folder, deed, &mut random))?;
        row.faults += 1;
        row.messages += round.written;
        row.acknowledged += round.written;
        row.lost += round.false_writes.len() as u64;
        for what in round.false_writes.iter().chain(&round.false_settlements) {
            row.problems.push(format!("round {number}, {deed:?}: {what}"));
        }
        fs::remove_dir_all(&folder)?;
    }
    row.detail = "each noticed before the next acknowledgement".into();
    if !row.problems.is_empty() {
        row.detail = format!("{} acknowledged though they are lost", row.problems.len());
    }
    Ok(row)
}

async fn round(folder: &Path, deed: Deed, random: &mut Rng) -> Result<Round> {
    let file = folder.join("storm.db");
    let store = SqliteStore::builder(&file).private().open().await?;
    let (reader, writer) = (store.reader(), store.writer());
    let mut round = Round::default();
    for number in 0..random.usize(1..30) {
        let message = Message::new("t", number.to_string()).with_id(number.to_string());
        writer.write(vec![message]).await?.into_result()?;
        round.written += 1;
    }
    let Opened { mut source, mut settler, .. } = reader.open(OpenRequest::new("t").group("g")).await?;
    let mut held: Vec<Delivery> = Vec::new();
    while held.is_empty() {
        let read = source.read(&mut held, ReadLimits::new(1, 1 << 20)).await?;
        if matches!(read, Read::End) {
            return Err("the group's end came before its messages".into());
        }
    }
    do_it(&file, deed).await?;
    // Now, and also a little later: what runs beside must not make it look well again.
    for later in 0..3 {
        let message = Message::new("t", "late").with_id(format!("late {later}"));
        let outcomes = writer.write(vec![message]).await.map(WriteReport::into_outcomes);
        if let Ok(outcomes) = outcomes
            && outcomes.iter().any(WriteOutcome::is_written)
        {
            round.false_writes.push(format!("write {later} was confirmed"));
        }
        if let Some(delivery) = held.pop() {
            let settled = settler.settle(vec![Settlement::ack(delivery.token)]).await;
            if settled.iter().any(Settled::is_done) {
                round.false_settlements.push("an acknowledgement was confirmed".into());
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..20))).await;
    }
    Ok(round)
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

async fn do_it(file: &Path, deed: Deed) -> Result {
    let (log, shared, other) = (beside(file, "-wal"), beside(file, "-shm"), beside(file, ".other"));
    match deed {
        Deed::Delete => fs::remove_file(file)?,
        Deed::DeleteAll => {
            fs::remove_file(file)?;
            fs::remove_file(log)?;
            fs::remove_file(shared)?;
        }
        Deed::MoveAway => fs::rename(file, other)?,
        Deed::ReplaceByOther => {
            let store = SqliteStore::builder(&other).private().open().await?;
            store
                .writer()
                .write(vec![Message::new("t", "another").with_id("another")])
                .await?
                .into_result()?;
            store.writer().close().await?;
            drop(store);
            fs::rename(other, file)?;
        }
        // Read by another program: this one must not open and close the file beside SQLite, or its locks are gone.
        Deed::ReplaceByCopy => {
            let copied = std::process::Command::new("cp").arg(file).arg(&other).status()?;
            if !copied.success() {
                return Err("`cp` failed".into());
            }
            fs::rename(other, file)?;
        }
        Deed::DeleteLog => fs::remove_file(log)?,
        Deed::ReplaceLog => {
            fs::write(&other, [])?;
            fs::rename(other, log)?;
        }
    }
    Ok(())
}
