//! The disk fills up while a process publishes and handles, stays full for a while, and is freed: nothing may be
//! confirmed that is not there, and the process must go on by itself.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use millstream_testkit::ledger::Record;

use super::{Scale, workers_on};
use crate::arena::{Arena, Kind};
use crate::report::Row;
use crate::{Result, scratch};

const KIND: Kind =
    Kind { workers: 1, lease: Duration::from_secs(2), publishers: 8, pause: Duration::from_millis(4) };

/// How long a full disk may stay unnoticed: what SQLite has in its log it can use again.
const NOTICED: Duration = Duration::from_secs(30);
/// How long the process may take to go on once there is room.
const RECOVERED: Duration = Duration::from_secs(15);
/// What it has to do between two faults, in messages.
const WORK: u64 = 100;

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let folder = scratch::folder("full")?;
    let point = folder.path().join("disk");
    let disk = match Disk::mount(&point, "96m")? {
        Ok(disk) => disk,
        Err(why) => return Ok(Row::skipped(format!("a small disk cannot be mounted here: {why}"))),
    };
    let file = point.join("storm.db");
    let mut recovered = Vec::new();
    let row = workers_on(folder.path(), &file, KIND, seed, |arena| {
        arena.wait_ready(0)?;
        for _ in 0..scale.of(20, 3) {
            recovered.push(fill_and_free(arena, &point)?);
        }
        Ok(())
    });
    drop(disk);
    if !row.as_ref().is_ok_and(Row::is_ok) {
        println!("  what was written down is kept in {}", folder.keep().display());
    }
    let mut row = row?;
    let longest = recovered.iter().max().copied().unwrap_or_default().as_millis();
    row.detail += &format!("; went on within {longest} ms of there being room");
    Ok(row)
}

/// Fills the disk, waits until the process feels it, frees it; says how long the process took to go on.
fn fill_and_free(arena: &mut Arena, point: &Path) -> Result<Duration> {
    went_on(arena, WORK, RECOVERED)?;
    std::thread::sleep(Duration::from_millis(arena.random.u64(0..100)));
    let refused = arena.progress(0).refused.load(Ordering::Acquire);
    arena.deeds.faults += 1;
    arena.note(Record::fault("the disk is full"));
    let ballast = point.join("ballast");
    fill(&ballast)?;
    let full = Instant::now();
    while arena.progress(0).refused.load(Ordering::Acquire) == refused {
        arena.check(0)?;
        if full.elapsed() > NOTICED {
            fs::remove_file(&ballast)?;
            return Err(format!("the disk was full for {NOTICED:?} and nobody noticed").into());
        }
        // What other files give back is taken as well.
        fill(&ballast)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(arena.random.u64(0..500)));
    fs::remove_file(&ballast)?;
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

/// Takes all the room there is.
fn fill(ballast: &Path) -> Result {
    let mut file = File::options().create(true).append(true).open(ballast)?;
    let mut size = 1 << 20;
    let block = vec![0; size];
    while size > 0 {
        match file.write(&block[..size]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A small file system in memory, gone when it is dropped.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    /// Mounts one; says why if that is not allowed.
    fn mount(point: &Path, size: &str) -> Result<Result<Self, String>> {
        fs::create_dir(point)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "millstream-storm"]).arg(point);
        let output = match mount.output() {
            Ok(output) => output,
            Err(error) => return Ok(Err(format!("`mount` did not start: {error}"))),
        };
        if output.status.success() {
            return Ok(Ok(Self(point.to_owned())));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Ok(Err(said.lines().next().unwrap_or("`mount` does not say why").to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: it is gone from its place at once, whoever still has a file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
