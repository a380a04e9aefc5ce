//! The `millstream` program: its command line, its exit codes, and how it prints errors.

mod demo;
mod failed;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

const EXIT_CODES: &str = "\
Exit codes:
  0  it went well
  1  it failed: an error, or the demo's ledger found something wrong
  2  the command line is wrong, or its URL is none that this program can use

Logs go to stderr; choose them with RUST_LOG, such as RUST_LOG=millstream=debug. There are none by default.";

/// Typed events go in, handlers run, and every message ends in a known place.
#[derive(Parser)]
#[command(name = "millstream", version, after_help = EXIT_CODES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
    /// Prints one JSON document on stdout, and nothing else there.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let line = CommandLine::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let ended = match line.command {
        Command::Demo(options) => demo::run(&options, line.json).await,
    };
    ended.unwrap_or_else(|error| failed::report(&error, line.json))
}
