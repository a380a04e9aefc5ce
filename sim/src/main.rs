//! `millstream-sim`: runs the simulation. `cargo xtask sim` builds and calls it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use millstream_sim::{Keep, Plan, Runs, Totals, run};

#[derive(Parser)]
#[command(name = "millstream-sim", about = "Runs the engine through seeds of faults on a simulated broker")]
struct Cli {
    /// For how long new seeds are begun.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The first seed; without `--seeds` or `--minutes`, the only one. By default the time decides, and it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// So many seeds, however long they take.
    #[arg(long)]
    seeds: Option<u64>,
    /// Prints all that happens in one seed.
    #[arg(long, requires = "seed", conflicts_with = "seeds")]
    trace: bool,
    /// How many of the first seeds run twice, to see that they repeat.
    #[arg(long, default_value_t = 100)]
    twice: u64,
    /// Worlds at the same time. Default: the cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Cells of the table may be zero: for runs too short to fill it.
    #[arg(long)]
    partial: bool,
    /// Writes the figures to this file, as a JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match if cli.trace { trace(cli.seed.unwrap_or_default()) } else { many(&cli) } {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One seed, with all that happens in it.
fn trace(seed: u64) -> std::io::Result<bool> {
    let plan = Plan::of(seed);
    println!("{plan:#?}");
    let outcome = run(plan, Keep::Print);
    println!("hash {:016x}, {} violations", outcome.hash, outcome.violations.len());
    outcome.violations.iter().for_each(|violation| println!("{violation}"));
    Ok(outcome.violations.is_empty())
}

fn many(cli: &Cli) -> std::io::Result<bool> {
    let first = cli.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("from seed {first} on");
    let mut runs = match cli.seeds {
        Some(seeds) => Runs::seeds(first, seeds),
        None => Runs::within(first, Duration::from_secs_f64(cli.minutes * 60.0)),
    }
    .twice(cli.twice);
    if let Some(threads) = cli.threads {
        runs.threads = threads;
    }
    let totals = runs.run();
    print!("{totals}");
    if let Some(path) = &cli.json {
        std::fs::write(path, format!("{:#}\n", figures(&totals)))?;
    }
    Ok(totals.is_ok() && (cli.partial || totals.zero().is_empty()))
}

fn figures(totals: &Totals) -> serde_json::Value {
    serde_json::json!({
        "seed": totals.first,
        "seeds": totals.seeds,
        "calm": totals.calm,
        "seconds": totals.took.as_secs_f64().round(),
        "simulated_hours": (totals.simulated.as_secs_f64() / 36.0).round() / 100.0,
        "acknowledged": totals.acked,
        "runs": totals.runs,
        "faults": totals.faults,
        "duplicates_explained": totals.explained,
        "traces_repeated": totals.twice.0,
        "traces_same": totals.twice.1,
        "cells_zero": totals.zero().iter().map(|(f, p)| format!("{f} while {p}")).collect::<Vec<_>>(),
        "failed": totals.failed.iter().map(|(seed, what)| format!("{seed}: {what}")).collect::<Vec<_>>(),
    })
}
