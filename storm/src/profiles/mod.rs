//! What is broken, and how: a file each.

mod alone;
mod clock;
mod flip;
mod four;
mod fsync;
mod full;
pub(crate) mod ioerror;
#[cfg(feature = "kafka")]
mod kafka;
mod kill;
mod memory;
mod mixed;
pub(crate) mod power;
mod replaced;
mod sigterm;
mod soak;
#[cfg(feature = "aws")]
mod sqs;
mod stop;
mod timens;

use std::path::Path;

use clap::ValueEnum;
use millstream_testkit::ledger::Ledger;

use crate::arena::{Arena, Kind};
#[cfg(feature = "kafka")]
use crate::kafka::worker::Sharing;
use crate::report::Row;
#[cfg(feature = "aws")]
use crate::sqs::worker::Sort;
use crate::{Result, judge, scratch};

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// What the figures in the docs come from: minutes.
    Full,
    /// A tenth of it or less: all profiles within three minutes, some at the same time.
    Ci,
}

impl Scale {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ci => "ci",
        }
    }

    /// How much longer than promised something may take, in ms: a machine of CI is busy with other things, and no measure.
    fn slack(self) -> u64 {
        self.of(0, 10_000)
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
    #[value(name = "sqlite-sigterm")]
    Sigterm,
    #[value(name = "sqlite-clock")]
    Clock,
    #[value(name = "sqlite-timens")]
    Timens,
    #[value(name = "sqlite-fsync")]
    Fsync,
    #[value(name = "sqlite-full")]
    Full,
    #[value(name = "sqlite-mixed")]
    Mixed,
    #[value(name = "sqlite-flip")]
    Flip,
    #[value(name = "sqlite-replaced")]
    Replaced,
    #[value(name = "sqlite-ioerror")]
    IoError,
    #[value(name = "sqlite-power")]
    Power,
    #[value(name = "sqlite-memory")]
    SqliteMemory,
    #[value(name = "memory-memory")]
    MemoryMemory,
    #[value(name = "sqlite-soak")]
    SqliteSoak,
    #[value(name = "memory-soak")]
    MemorySoak,
    #[value(name = "kafka-cluster")]
    KafkaCluster,
    #[value(name = "kafka-cooperative")]
    KafkaCooperative,
    #[value(name = "aws-standard")]
    AwsStandard,
    #[value(name = "aws-fifo")]
    AwsFifo,
}

/// The profiles that a word means.
#[derive(Debug, Clone)]
pub(crate) struct Like(pub(crate) Vec<Profile>);

impl Profile {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// The profile of this name, or all whose names begin with this word, such as a driver's.
    pub(crate) fn like(name: &str) -> Result<Like, String> {
        let all = Self::all();
        if let Some(one) = all.iter().find(|profile| profile.name() == name) {
            return Ok(Like(vec![*one]));
        }
        let begins = |profile: &Self| profile.name().split_once('-').is_some_and(|(word, _)| word == name);
        let some: Vec<Self> = all.iter().copied().filter(begins).collect();
        if some.is_empty() {
            let names: Vec<&str> = all.iter().map(|profile| profile.name()).collect();
            return Err(format!("there is no such profile; there are: {}", names.join(", ")));
        }
        Ok(Like(some))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "sqlite-kill",
            Self::Four => "sqlite-four",
            Self::Stop => "sqlite-stop",
            Self::Alone => "sqlite-alone",
            Self::Sigterm => "sqlite-sigterm",
            Self::Clock => "sqlite-clock",
            Self::Timens => "sqlite-timens",
            Self::Fsync => "sqlite-fsync",
            Self::Full => "sqlite-full",
            Self::Mixed => "sqlite-mixed",
            Self::Flip => "sqlite-flip",
            Self::Replaced => "sqlite-replaced",
            Self::IoError => "sqlite-ioerror",
            Self::Power => "sqlite-power",
            Self::SqliteMemory => "sqlite-memory",
            Self::MemoryMemory => "memory-memory",
            Self::SqliteSoak => "sqlite-soak",
            Self::MemorySoak => "memory-soak",
            Self::KafkaCluster => "kafka-cluster",
            Self::KafkaCooperative => "kafka-cooperative",
            Self::AwsStandard => "aws-standard",
            Self::AwsFifo => "aws-fifo",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Kill => "one process, killed with signal 9 at random moments",
            Self::Four => "four processes on one file, one killed after the other, some ended in order",
            Self::Stop => "four processes on one file, some made to stand still, beyond their leases too",
            Self::Alone => "one process alone, made to stand still for longer than its lease",
            Self::Sigterm => "processes asked to end at random moments, some with handlers that hang",
            Self::Clock => "the wall clock of one of three processes jumps by an hour or a year",
            Self::Timens => "processes whose clocks since the boot differ",
            Self::Fsync => "syncs of the log fail in one of two processes: some, some in a row, all",
            Self::Full => "the disk fills up and is freed, again and again",
            Self::Mixed => "all of that at once, on four processes",
            Self::Flip => "bits flip in the file, it is cut off, pages are zeroed or swapped",
            Self::Replaced => "the file is deleted or replaced while it is open",
            Self::IoError => "the disk fails at each operation of a script in turn",
            Self::Power => "the power is cut: what may be left of the disk is opened",
            Self::SqliteMemory | Self::MemoryMemory => {
                "much is published in little memory while handlers stall"
            }
            Self::SqliteSoak | Self::MemorySoak => "a million messages: memory, files, threads and tasks",
            Self::KafkaCluster => {
                "three brokers and four members, killed and stopped, and the network between them"
            }
            Self::KafkaCooperative => "the same with cooperative rebalancing",
            Self::AwsStandard => {
                "four workers on standard queues of SQS, killed and stopped, the server and the network"
            }
            Self::AwsFifo => "the same on FIFO queues, with order per key",
        }
    }

    pub(crate) fn run(self, scale: Scale, seed: u64) -> Result<Row> {
        match self {
            Self::Kill => kill::run(scale, seed),
            Self::Four => four::run(scale, seed),
            Self::Stop => stop::run(scale, seed),
            Self::Alone => alone::run(scale, seed),
            Self::Sigterm => sigterm::run(scale, seed),
            Self::Clock => clock::run(scale, seed),
            Self::Timens => timens::run(scale, seed),
            Self::Fsync => fsync::run(scale, seed),
            Self::Full => full::run(scale, seed),
            Self::Mixed => mixed::run(scale, seed),
            Self::Flip => flip::run(scale, seed),
            Self::Replaced => replaced::run(scale, seed),
            Self::IoError => ioerror::run(scale, seed),
            Self::Power => power::run(scale, seed),
            Self::SqliteMemory => memory::sqlite(scale),
            Self::MemoryMemory => memory::memory(scale),
            Self::SqliteSoak => soak::sqlite(scale),
            Self::MemorySoak => soak::memory(scale),
            #[cfg(feature = "kafka")]
            Self::KafkaCluster => kafka::cluster(scale, Sharing::Range, seed),
            #[cfg(feature = "kafka")]
            Self::KafkaCooperative => kafka::cluster(scale, Sharing::Cooperative, seed),
            #[cfg(not(feature = "kafka"))]
            Self::KafkaCluster | Self::KafkaCooperative => Ok(Row::skipped(without("kafka"))),
            #[cfg(feature = "aws")]
            Self::AwsStandard => sqs::queues(scale, Sort::Standard, seed),
            #[cfg(feature = "aws")]
            Self::AwsFifo => sqs::queues(scale, Sort::Fifo, seed),
            #[cfg(not(feature = "aws"))]
            Self::AwsStandard | Self::AwsFifo => Ok(Row::skipped(without("aws"))),
        }
    }
}

/// Why a profile is not run whose driver is not built in.
#[cfg(not(all(feature = "kafka", feature = "aws")))]
fn without(feature: &str) -> String {
    format!("this program was built without the feature {feature}; `cargo xtask storm` has it")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_the_profile_of_that_name_or_those_that_begin_with_it() {
        let names =
            |word| Profile::like(word).map(|like| like.0.iter().map(|p| p.name()).collect::<Vec<_>>());
        assert_eq!(names("sqlite-four").unwrap(), ["sqlite-four"]);
        assert_eq!(names("kafka").unwrap(), ["kafka-cluster", "kafka-cooperative"]);
        assert!(names("kaf").unwrap_err().contains("kafka-cluster"));
    }
}
