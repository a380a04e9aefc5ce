//! The `millstream` program: its command line, its exit codes, and how it prints errors.

mod broker;
mod check;
mod dead_letters;
mod demo;
mod doctor;
mod failed;
mod moment;
mod output;
mod publish;
mod signals;
mod tail;
mod text;
mod topics;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::failed::Form;

const EXIT_CODES: &str = "\
Exit codes:
  0  it went well
  1  it failed: an error, an interruption before the work was done, or demo, check or doctor found something wrong
  2  the command line is wrong, or its URL or file is none that this program can use

Logs go to stderr; choose them with RUST_LOG, such as RUST_LOG=millstream=debug. There are none by default.";

/// Typed events go in, handlers run, and every message ends in a known place.
#[derive(Parser)]
#[command(name = "millstream", version, after_help = EXIT_CODES)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
    /// Prints JSON on stdout, and nothing else there: one document, or one a line where a command lists
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Publish(publish::Options),
    Tail(tail::Options),
    Topics(topics::Options),
    DeadLetters(dead_letters::Options),
    Check(check::Options),
    Doctor(doctor::Options),
    Demo(demo::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let line = CommandLine::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let form = if line.json { Form::Json } else { Form::Text };
    let ended = match line.command {
        Command::Publish(options) => publish::run(options, form).await,
        Command::Tail(options) => tail::run(&options, form).await,
        Command::Topics(options) => topics::run(&options, form).await,
        Command::DeadLetters(options) => dead_letters::run(&options, form).await,
        Command::Check(options) => check::run(&options, form).await,
        Command::Doctor(options) => doctor::run(&options, form).await,
        Command::Demo(options) => demo::run(&options, form).await,
    };
    ended.unwrap_or_else(|failed| failed::report(&failed, form))
}
