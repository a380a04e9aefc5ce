//! The disk fills up while a process publishes and handles, stays full for a while, and is freed: nothing may be
//! confirmed that is not there, and the process must go on by itself.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millstream_testkit::ledger::Record;

use super::{Scale, workers_on};
use crate::arena::{Arena, Kind};
use crate::disk::Disk;
use crate::report::Row;
use crate::{Result, scratch};

const KIND: Kind = Kind { publishers: 8, pause: Duration::from_millis(4), ..Kind::USUAL };

/// How long a full disk may stay unnoticed: what SQLite has in its log it can use again.
const NOTICED: Duration = Duration::from_secs(30);
/// How long the process may take to go on once there is room.
const RECOVERED: Duration = Duration::from_secs(15);
/// What it has to do between two faults, in messages.
const WORK: u64 = 20;

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let folder = scratch::folder("full")?;
    let point = folder.path().join("disk");
    let disk = match Disk::mount(&point, scale.of("1g", "96m"))? {
        Ok(disk) => disk,
        Err(why) => return Ok(Row::skipped(format!("a small disk cannot be mounted here: {why}"))),
    };
    let file = point.join("storm.db");
    let mut recovered = Vec::new();
    let row = workers_on(folder.path(), &file, KIND, seed, |arena| {
        arena.wait_ready(0)?;
        for _ in 0..scale.of(300, 4) {
            recovered.push(fill_and_free(arena, &disk)?);
        }
        Ok(())
    });
    drop(disk);
    if !row.as_ref().is_ok_and(Row::is_ok) {
        println!("  what was written down is kept in {}", folder.keep().display());
    }
    let mut row = row?;
    let longest = recovered.iter().max().copied().unwrap_or_default().as_millis();
    row.measured("went_on_with_room_ms", u64::try_from(longest).unwrap_or(u64::MAX));
    Ok(row)
}

/// Fills the disk, waits until the process feels it, frees it; says how long the process took to go on.
fn fill_and_free(arena: &mut Arena, disk: &Disk) -> Result<Duration> {
    went_on(arena, WORK, RECOVERED)?;
    std::thread::sleep(Duration::from_millis(arena.random.u64(0..100)));
    let refused = arena.progress(0).refused.load(Ordering::Acquire);
    arena.deeds.faults += 1;
    arena.note(Record::fault("the disk is full"));
    disk.fill()?;
    let full = Instant::now();
    while arena.progress(0).refused.load(Ordering::Acquire) == refused {
        arena.check(0)?;
        if full.elapsed() > NOTICED {
            disk.free()?;
            return Err(format!("the disk was full for {NOTICED:?} and nobody noticed").into());
        }
        // What other files give back is taken as well.
        disk.fill()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(arena.random.u64(0..300)));
    disk.free()?;
    arena.note(Record::Healed { what: "the disk has room".into() });
    went_on(arena, 1, RECOVERED)
}

/// Waits until so many more messages were confirmed and handled.
fn went_on(arena: &mut Arena, messages: u64, limit: Duration) -> Result<Duration> {
    let figures = |arena: &Arena| {
        let progress = arena.progress(0);
        (progress.acknowledged.load(Ordering::Acquire), progress.handled.load(Ordering::Acquire))
    };
    let (begun, start) = (Instant::now(), figures(arena));
    loop {
        let now = figures(arena);
        if now.0 >= start.0 + messages && now.1 >= start.1 + messages {
            return Ok(begun.elapsed());
        }
        arena.check(0)?;
        if begun.elapsed() > limit {
            arena.problem(format!(
                "with room on the disk it did not go on within {limit:?}: {start:?}, {now:?}"
            ));
            return Ok(limit);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
