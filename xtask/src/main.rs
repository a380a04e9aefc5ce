//! Repository tasks, as `cargo xtask …`: the same commands on a laptop and in CI.
//!
//! It needs cargo, a C compiler, `curl` and `tar`; whatever else a task wants, it installs into the cache,
//! which lies outside the checkout (see [`cache`]).

mod bench;
mod cache;
mod command;
mod counts;
mod data;
mod fuzz;
mod services;
mod sim;
mod steps;
mod storm;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Any failure of a task; its text is what the user reads.
type Error = Box<dyn std::error::Error>;
type Result<T = (), E = Error> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Repository tasks of Millstream")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs every check that CI runs; exits with 1 if one fails.
    Test(test::Options),
    /// Installs, starts and stops the servers that drivers are tested against.
    Services(services::Options),
    /// Fetches the data set of the flights example into the cache and prints its path.
    Data,
    /// Breaks processes and files on purpose, and proves that nothing was lost.
    Storm(storm::Options),
    /// Runs the engine on a simulated broker through seeds of faults.
    Sim(sim::Options),
    /// Throws any bytes at every decoder of bytes from outside.
    Fuzz(fuzz::Options),
    /// Measures Millstream beside its peers, as ratios of one run.
    Bench(bench::Options),
    /// Runs a server in a network of its own, and passes on what is said to it: `services` starts it.
    #[command(hide = true)]
    Relay(services::Relay),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Test(options) => test::run(&options),
        Task::Services(options) => services::run(&options),
        Task::Storm(options) => storm::run(&options),
        Task::Sim(options) => sim::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Relay(options) => services::relay(&options),
        Task::Data => data::flights().map(|path| println!("{}", path.display())).map_err(Error::from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
