//! Storms: real processes and real files are broken on purpose, again and again, and then it is proved that nothing
//! was lost.
//!
//! `cargo xtask storm` runs it. A storm of workers goes so: the [`arena`] starts [`worker`]s on one file, which
//! publish to it and handle what is in it, and write down what they see in a [`journal`] each; a [profile](profiles)
//! breaks them by a schedule that a seed decides; in the end nothing is broken any more, all is handled, and the
//! [`judge`] holds the journals against what is in the file. Other profiles break the file itself.

mod arena;
mod bulk;
mod cgroup;
mod children;
#[cfg(any(feature = "kafka", feature = "aws"))]
mod crew;
mod disk;
mod events;
#[cfg(any(feature = "kafka", feature = "aws"))]
mod java;
mod journal;
mod judge;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(any(feature = "kafka", feature = "aws"))]
mod labour;
mod launch;
mod profiles;
mod progress;
#[cfg(any(feature = "kafka", feature = "aws"))]
mod proxy;
mod report;
mod rounds;
mod scratch;
#[cfg(feature = "aws")]
mod sqs;
#[cfg(any(feature = "kafka", feature = "aws"))]
mod stories;
mod tables;
mod tools;
mod watched;
#[cfg(any(feature = "kafka", feature = "aws"))]
mod watched_writer;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::profiles::{Like, Profile, Scale};
use crate::report::Row;

/// Any failure; its text is what the user reads.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T = (), E = Error> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "millstream-storm", about = "Breaks processes and files, and proves that nothing was lost")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs profiles, all without a name; exits with 1 if one fails.
    Run(Run),
    /// One of the processes that are broken; started by `run`.
    #[command(hide = true)]
    Worker(worker::Options),
    /// One of the members of a group on Kafka that are broken; started by `run`.
    #[cfg(feature = "kafka")]
    #[command(hide = true)]
    KafkaWorker(kafka::worker::Options),
    /// One of those that share queues of SQS and are broken; started by `run`.
    #[cfg(feature = "aws")]
    #[command(hide = true)]
    SqsWorker(sqs::worker::Options),
    /// One that is measured; started by `run`.
    #[command(hide = true)]
    Bulk(bulk::Options),
    /// One whose disk is recorded; started by `run`.
    #[command(hide = true)]
    Recorded(profiles::power::Options),
    /// One whose disk fails; started by `run`.
    #[command(hide = true)]
    Scripted(profiles::ioerror::Options),
}

#[derive(Args)]
struct Run {
    /// Which profiles, by their names or what these begin with, such as kafka; all of them by default.
    #[arg(value_parser = Profile::like)]
    profiles: Vec<Like>,
    /// How much of it.
    #[arg(long, value_enum, default_value = "full")]
    scale: Scale,
    /// Decides what happens and when; by default the time does, and it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many profiles run at the same time. They mostly wait; but what they measure is the machine's only with one.
    #[arg(long, default_value_t = 1, value_name = "N")]
    at_once: usize,
    /// Writes a row for each profile to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let outcome = match command {
        Command::Run(run) => storm(&run),
        Command::Worker(options) => in_runtime(worker::run(options)).map(|()| true),
        #[cfg(feature = "kafka")]
        Command::KafkaWorker(options) => in_runtime(kafka::worker::run(options)).map(|()| true),
        #[cfg(feature = "aws")]
        Command::SqsWorker(options) => in_runtime(sqs::worker::run(options)).map(|()| true),
        Command::Bulk(options) => in_runtime(bulk::run(options)).map(|()| true),
        Command::Recorded(options) => in_runtime(profiles::power::run_recorded(options)).map(|()| true),
        Command::Scripted(options) => in_runtime(profiles::ioerror::run_scripted(options)).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn in_runtime(work: impl Future<Output = Result>) -> Result {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(work)
}

/// Runs the profiles; says whether all went well.
fn storm(run: &Run) -> Result<bool> {
    let seed = run.seed.unwrap_or_else(|| journal::now() / 1_000_000 % 1_000_000_000);
    let named: Vec<Profile> = run.profiles.iter().flat_map(|Like(profiles)| profiles).copied().collect();
    let profiles = if named.is_empty() { Profile::all() } else { named };
    let rounds = match profiles.as_slice() {
        [profile] => {
            let row = hold(*profile, run.scale, seed);
            vec![rounds::Round { is_ok: row.is_ok(), row: serde_json::to_value(row)? }]
        }
        _ => rounds::run(&profiles, run.scale, seed, run.at_once)?,
    };
    let is_ok = rounds.iter().all(|round| round.is_ok);
    if let Some(path) = &run.json {
        rounds::save(rounds, path)?;
    }
    Ok(is_ok)
}

/// Holds one storm, and says how it went.
fn hold(profile: Profile, scale: Scale, seed: u64) -> Row {
    eprintln!("{}: {} (seed {seed})", profile.name(), profile.about());
    let begun = Instant::now();
    // A storm that could not be held proves nothing: a problem like any other.
    let row = profile
        .run(scale, seed)
        .unwrap_or_else(|error| Row { problems: vec![error.to_string()], ..Row::default() })
        .took(profile.name(), seed, begun.elapsed());
    println!("{row}");
    for problem in &row.problems {
        println!("  {problem}");
    }
    if !row.is_ok() {
        println!("  again: cargo xtask storm {} --scale {} --seed {seed}", profile.name(), scale.name());
    }
    row
}
