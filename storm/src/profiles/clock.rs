//! The wall clock of one of three processes jumps, by an hour or by a year, ahead and back. Nobody loses what it has for
//! that, nothing that is kept is deleted, and delayed messages come when they are due by somebody's clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_testkit::ledger::Record;

use super::{Scale, workers};
use crate::arena::{Arena, Kind};
use crate::launch::Launch;
use crate::report::Row;
use crate::{Result, journal, tools};

/// The usual one: none is to run out.
const LEASE: Duration = Duration::from_secs(10);
const KIND: Kind = Kind { workers: 3, lease: LEASE, delay: Duration::from_millis(1_500), ..Kind::USUAL };

/// Whose clock jumps.
const ASTRAY: usize = 0;

const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;
/// Where it jumps to.
const OFFSETS: [i64; 4] = [HOUR, -HOUR, YEAR, -YEAR];
/// Jumps in one life, which are over before retention first looks.
const JUMPS: u32 = 14;
/// When it has looked: ten seconds after the start.
const LOOKED: Duration = Duration::from_secs(11);

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let library = match tools::faketime() {
        Ok(library) => library,
        Err(why) => return Ok(Row::skipped(why)),
    };
    let mut row = workers("clock", KIND, seed, |arena| {
        arena.wait_all_ready()?;
        let clock = Clock::of(arena, ASTRAY, &library)?;
        for _ in 0..scale.of(24, 1) {
            // It begins by the right time: what it then believes is not a jump.
            clock.set(arena, 0)?;
            arena.replace(ASTRAY)?;
            arena.wait_ready(ASTRAY)?;
            let ready = Instant::now();
            for jump in 1..=JUMPS {
                std::thread::sleep(Duration::from_millis(arena.random.u64(200..900)));
                // The last one is there when retention looks.
                let offset = if jump == JUMPS { YEAR } else { OFFSETS[arena.random.usize(0..OFFSETS.len())] };
                clock.jump(arena, offset)?;
            }
            std::thread::sleep(LOOKED.saturating_sub(ready.elapsed()));
        }
        // Everything else has looked at its clock long ago; and it begins once more in order.
        clock.set(arena, 0)
    })?;
    row.at_most("lost_leases", 0);
    if row.duplicates_explained > 0 {
        row.problems.push(format!("{} messages came twice, for a clock", row.duplicates_explained));
    }
    Ok(row)
}

/// A process's wall clock, which is wrong by what a file says.
#[derive(Debug)]
pub(super) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Gives the next lives of a place such a clock, which is right for now.
    pub(super) fn of(arena: &mut Arena, place: usize, library: &Path) -> Result<Self> {
        let clock = Self { file: arena.beside(&format!("clock.{place}")) };
        fs::write(&clock.file, "+0")?;
        arena.next_lives(place, Launch::with_wall_clock(library, &clock.file));
        Ok(clock)
    }

    /// Lets it jump, which is a fault.
    pub(super) fn jump(&self, arena: &mut Arena, offset: i64) -> Result {
        arena.deeds.faults += 1;
        self.set(arena, offset)
    }

    /// Sets how many seconds it is ahead, or behind.
    pub(super) fn set(&self, arena: &mut Arena, offset: i64) -> Result {
        let now = journal::now();
        if offset > 0 {
            arena.deeds.ahead.push((now, u64::MAX));
        }
        let what = format!("a wall clock is {offset:+} s off");
        arena.note(if offset == 0 { Record::Healed { what: what.into() } } else { Record::fault(what) });
        // Read as a whole or not at all.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset:+}"))?;
        fs::rename(&new, &self.file)?;
        let until = journal::now();
        let before = arena.deeds.ahead.iter_mut().filter(|(from, to)| *to == u64::MAX && *from < now);
        before.for_each(|(_, to)| *to = until);
        Ok(())
    }
}
