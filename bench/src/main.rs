//! Millstream measured beside its peers, as ratios of one run; `cargo xtask bench` runs it.

mod count;
mod groups;
mod rounds;
mod row;
mod scenario;
mod subject;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench_harness::Result;
use clap::{Args, Parser, Subcommand};

use crate::groups::{Group, Step, sqlite};
use crate::row::Row;
use crate::scenario::Scenario;

#[derive(Parser)]
#[command(name = "millstream-bench", about = "Measures Millstream beside its peers")]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    child: Option<Child>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Child {
    /// Runs one scenario once, to be counted and timed from outside.
    Child {
        /// What runs.
        #[arg(value_enum)]
        scenario: Scenario,
        /// How many messages.
        messages: usize,
    },
    /// Another process on the same file.
    #[command(subcommand)]
    SqliteChild(sqlite::Child),
}

#[derive(Args)]
struct Options {
    /// Which groups; all of them but `kafka` and `aws` by default.
    #[arg(value_enum)]
    groups: Vec<Group>,
    /// How much of `sqlite`, `kafka` and `aws`.
    #[arg(long, value_enum, default_value = "quick")]
    scale: sqlite::Scale,
    /// Which parts of `sqlite`, `kafka` and `aws`; all of them by default.
    #[arg(long = "step", value_parser = Step::parse, value_name = "STEP")]
    steps: Vec<Step>,
    /// Writes a row for each figure to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.child {
        Some(Child::Child { scenario, messages }) => scenario.print(messages),
        Some(Child::SqliteChild(child)) => child.run(),
        None => measure(&cli.options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the groups; a goal that is missed is said, and is no failure of the program.
fn measure(options: &Options) -> Result {
    let groups = if options.groups.is_empty() { &Group::usual() } else { &options.groups };
    let mut rows = Vec::new();
    for group in groups {
        eprintln!("==> {}", group.name());
        let new = group.run(options.scale, &options.steps).map_err(|e| format!("{}: {e}", group.name()))?;
        table::print(&new);
        rows.extend(new);
    }
    println!("\n{}", table::summary(&rows));
    if let Some(path) = &options.json {
        write(&rows, path)?;
    }
    Ok(())
}

fn write(rows: &[Row], path: &Path) -> Result {
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()).into())
}
