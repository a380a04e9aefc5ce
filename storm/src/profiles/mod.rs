//! What is broken, and how: a file each.

mod flip;
mod four;
mod full;
mod kill;
mod replaced;
mod stop;

use std::path::Path;

use clap::ValueEnum;
use millstream_testkit::ledger::Ledger;

use crate::arena::{Arena, Kind};
use crate::report::Row;
use crate::{Result, judge, scratch};

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// What the figures in the docs come from: minutes.
    Full,
    /// A tenth of it or less: all profiles within two minutes.
    Ci,
}

impl Scale {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ci => "ci",
        }
    }

    /// The figure of this scale.
    fn of<T>(self, full: T, ci: T) -> T {
        match self {
            Self::Full => full,
            Self::Ci => ci,
        }
    }
}

/// A way to break things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    SqliteKill,
    SqliteFour,
    SqliteStop,
    SqliteFull,
    SqliteFlip,
    SqliteReplaced,
}

impl Profile {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SqliteKill => "sqlite-kill",
            Self::SqliteFour => "sqlite-four",
            Self::SqliteStop => "sqlite-stop",
            Self::SqliteFull => "sqlite-full",
            Self::SqliteFlip => "sqlite-flip",
            Self::SqliteReplaced => "sqlite-replaced",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::SqliteKill => "one process, killed with signal 9 at random moments",
            Self::SqliteFour => "four processes on one file, one killed every second, some ended in order",
            Self::SqliteStop => "four processes on one file, some made to stand still, beyond their leases too",
            Self::SqliteFull => "the disk fills up and is freed, again and again",
            Self::SqliteFlip => "single bits flip in the file",
            Self::SqliteReplaced => "the file is deleted or replaced while it is open",
        }
    }

    pub(crate) fn run(self, scale: Scale, seed: u64) -> Result<Row> {
        match self {
            Self::SqliteKill => kill::run(scale, seed),
            Self::SqliteFour => four::run(scale, seed),
            Self::SqliteStop => stop::run(scale, seed),
            Self::SqliteFull => full::run(scale, seed),
            Self::SqliteFlip => flip::run(scale, seed),
            Self::SqliteReplaced => replaced::run(scale, seed),
        }
    }
}

/// Holds a storm of workers on a file in a new folder.
fn workers(name: &str, kind: Kind, seed: u64, storm: impl FnOnce(&mut Arena) -> Result) -> Result<Row> {
    let folder = scratch::folder(name)?;
    let file = folder.path().join("storm.db");
    let row = workers_on(folder.path(), &file, kind, seed, storm);
    if !row.as_ref().is_ok_and(Row::is_ok) {
        println!("  what was written down is kept in {}", folder.keep().display());
    }
    row
}

/// The same with journals and file where they are wanted.
fn workers_on(
    folder: &Path,
    file: &Path,
    kind: Kind,
    seed: u64,
    storm: impl FnOnce(&mut Arena) -> Result,
) -> Result<Row> {
    let mut arena = Arena::open(folder, file, kind, seed)?;
    storm(&mut arena)?;
    let (deeds, tables) = arena.finish()?;
    let faults = deeds.faults;
    let judged = judge::judge(deeds, &tables, kind.lease)?;
    let row = Row::of(faults, &judged);
    if !row.is_ok() {
        Ledger::save(&judged.entries, &folder.join("merged.journal"))?;
    }
    Ok(row)
}
