//! What is broken, and how: a file each.

mod alone;
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
    #[value(name = "sqlite-kill")]
    Kill,
    #[value(name = "sqlite-four")]
    Four,
    #[value(name = "sqlite-stop")]
    Stop,
    #[value(name = "sqlite-alone")]
    Alone,
    #[value(name = "sqlite-full")]
    Full,
    #[value(name = "sqlite-flip")]
    Flip,
    #[value(name = "sqlite-replaced")]
    Replaced,
}

impl Profile {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "sqlite-kill",
            Self::Four => "sqlite-four",
            Self::Stop => "sqlite-stop",
            Self::Alone => "sqlite-alone",
            Self::Full => "sqlite-full",
            Self::Flip => "sqlite-flip",
            Self::Replaced => "sqlite-replaced",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Kill => "one process, killed with signal 9 at random moments",
            Self::Four => "four processes on one file, one killed every second, some ended in order",
            Self::Stop => "four processes on one file, some made to stand still, beyond their leases too",
            Self::Alone => "one process alone, made to stand still for longer than its lease",
            Self::Full => "the disk fills up and is freed, again and again",
            Self::Flip => "single bits flip in the file",
            Self::Replaced => "the file is deleted or replaced while it is open",
        }
    }

    pub(crate) fn run(self, scale: Scale, seed: u64) -> Result<Row> {
        match self {
            Self::Kill => kill::run(scale, seed),
            Self::Four => four::run(scale, seed),
            Self::Stop => stop::run(scale, seed),
            Self::Alone => alone::run(scale, seed),
            Self::Full => full::run(scale, seed),
            Self::Flip => flip::run(scale, seed),
            Self::Replaced => replaced::run(scale, seed),
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
