//! All at once, on four processes: kills, pauses, orderly ends, a full disk, failing syncs, a wall clock that jumps, other
//! clocks since the boot. One schedule, decided by the seed, in which what lasts overlaps with what follows.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream_testkit::ledger::Record;

use super::clock::Clock;
use super::{Scale, fsync, workers_on};
use crate::arena::{Arena, Kind};
use crate::disk::Disk;
use crate::launch::{Launch, Which};
use crate::report::Row;
use crate::{Result, scratch, tools};

const KIND: Kind = Kind { workers: 4, lease: Duration::from_secs(2), ..Kind::USUAL };

/// Whose wall clock jumps.
const ASTRAY: usize = 0;

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let folder = scratch::folder("mixed")?;
    let point = folder.path().join("disk");
    let mut left_out = Vec::new();
    let mut has = |what: &str, there: Result<(), String>| {
        there.map_err(|why| left_out.push(format!("{what}, since {why}"))).is_ok()
    };
    let strace = has("failing syncs", tools::strace());
    let namespaces = has("other clocks since the boot", tools::time_namespace());
    let library = tools::faketime();
    has("jumps of the wall clock", library.as_ref().map(|_| ()).map_err(Clone::clone));
    // While somebody stands still in a read transaction the write-ahead log only grows: where it fills the disk by itself,
    // nothing that this storm mends makes room again.
    let (file, disk) = match Disk::mount(&point, scale.of("2g", "256m"))? {
        Ok(disk) => (point.join("storm.db"), Some(disk)),
        Err(why) => {
            has("a full disk", Err(why));
            (folder.path().join("storm.db"), None)
        }
    };
    let row = workers_on(folder.path(), &file, KIND, seed, |arena| {
        let mut storm =
            Storm { arena, disk: disk.as_ref(), clock: None, strace, namespaces, ends: Vec::new() };
        storm.hold(scale.of(500, 25), library.as_deref().ok())
    });
    drop(disk);
    if !row.as_ref().is_ok_and(Row::is_ok) {
        println!("  what was written down is kept in {}", folder.keep().display());
    }
    let mut row = row?;
    if !left_out.is_empty() {
        row.detail += &format!("; left out: {}", left_out.join(", "));
    }
    Ok(row)
}

/// What ends later than it begins.
#[derive(Debug, Clone, Copy)]
enum End {
    GoesOn(usize),
    HasRoom,
    ClockIsRight,
}

struct Storm<'a> {
    arena: &'a mut Arena,
    disk: Option<&'a Disk>,
    clock: Option<Clock>,
    strace: bool,
    namespaces: bool,
    ends: Vec<(Instant, End)>,
}

impl Storm<'_> {
    fn hold(&mut self, deeds: u32, library: Option<&Path>) -> Result {
        self.arena.wait_all_ready()?;
        if let Some(library) = library {
            self.clock = Some(Clock::of(self.arena, ASTRAY, library)?);
            self.arena.replace(ASTRAY)?;
            self.arena.wait_ready(ASTRAY)?;
        }
        for _ in 0..deeds {
            let pause = Duration::from_millis(self.arena.random.u64(30..400));
            self.pass(pause)?;
            self.deed()?;
        }
        while !self.ends.is_empty() {
            self.pass(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Lets time pass, and ends what ends meanwhile.
    fn pass(&mut self, time: Duration) -> Result {
        let until = Instant::now() + time;
        loop {
            let now = Instant::now();
            let (due, later) = self.ends.iter().partition(|(at, _)| *at <= now);
            self.ends = later;
            let due: Vec<(Instant, End)> = due;
            due.into_iter().try_for_each(|(_, end)| self.end(end))?;
            let next = self.ends.iter().map(|(at, _)| *at).min().unwrap_or(until).min(until);
            if until <= now {
                return Ok(());
            }
            std::thread::sleep(next.saturating_duration_since(now).max(Duration::from_millis(1)));
        }
    }

    fn end(&mut self, end: End) -> Result {
        match end {
            End::GoesOn(place) => self.arena.go_on(place),
            End::ClockIsRight => self.clock.as_ref().map_or(Ok(()), |clock| clock.set(self.arena, 0)),
            End::HasRoom => {
                self.disk.map_or(Ok(()), Disk::free)?;
                self.arena.note(Record::Healed { what: "the disk has room".into() });
                self.arena.is_troubled = false;
                (0..KIND.workers)
                    .filter(|place| self.arena.is_down(*place))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .try_for_each(|place| self.arena.revive(place))
            }
        }
    }

    fn later(&mut self, between: std::ops::Range<u64>, end: End) {
        let after = Duration::from_millis(self.arena.random.u64(between));
        self.ends.push((Instant::now() + after, end));
    }

    /// One deed, if it can be done now.
    fn deed(&mut self) -> Result {
        let place = self.arena.random.usize(0..KIND.workers);
        let what = self.arena.random.u8(..16);
        if !self.arena.is_up(place) {
            return Ok(());
        }
        let is_full = self.arena.is_troubled;
        match what {
            0..=3 => self.kill(place, Launch::default()),
            4..=5 if !is_full && !self.stands_still() => self.arena.replace(place).map(drop),
            6..=8 => {
                self.later(100..1_800, End::GoesOn(place));
                self.arena.halt(place)
            }
            9 if self.disk.is_some() && !is_full => self.fill(),
            10..=11 if self.strace && place != ASTRAY => {
                let which = Which::any(&mut self.arena.random);
                fsync::live_with(self.arena, place, which);
                self.kill_as_it_is(place)
            }
            12..=13 if self.namespaces && place != ASTRAY => {
                let ahead = self.arena.random.i64(1..3_600);
                self.kill(place, Launch::with_boot_offset(ahead))
            }
            _ => self.jump(),
        }
    }

    /// Whether somebody does: he may hold the file's lock, and nobody ends in order until he goes on.
    fn stands_still(&self) -> bool {
        self.ends.iter().any(|(_, end)| matches!(end, End::GoesOn(_)))
    }

    fn kill(&mut self, place: usize, next: Launch) -> Result {
        // The one whose clock jumps keeps it, and begins by the right time: that it believes.
        match &self.clock {
            Some(clock) if place == ASTRAY => clock.set(self.arena, 0)?,
            _ => self.arena.next_lives(place, next),
        }
        self.kill_as_it_is(place)
    }

    fn kill_as_it_is(&mut self, place: usize) -> Result {
        // On a full disk nobody can begin.
        if self.arena.is_troubled { self.arena.kill_for_good(place) } else { self.arena.kill(place) }
    }

    fn fill(&mut self) -> Result {
        self.arena.deeds.faults += 1;
        self.arena.note(Record::fault("the disk is full"));
        self.arena.is_troubled = true;
        self.later(100..800, End::HasRoom);
        self.disk.map_or(Ok(()), Disk::fill)
    }

    fn jump(&mut self) -> Result {
        const HOUR: i64 = 3_600;
        let Some(clock) = &self.clock else { return Ok(()) };
        let size = if self.arena.random.bool() { HOUR } else { 365 * 24 * HOUR };
        let offset = if self.arena.random.bool() { size } else { -size };
        clock.jump(self.arena, offset)?;
        self.later(200..2_000, End::ClockIsRight);
        Ok(())
    }
}
