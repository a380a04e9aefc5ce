//! `cargo xtask sim`: builds the simulation and runs it.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::Result;
use crate::command::Run;

#[derive(Args)]
pub(crate) struct Options {
    /// For how long new seeds are begun. Default: 10, unless seeds are named.
    #[arg(long)]
    minutes: Option<f64>,
    /// The first seed; with nothing else, the only one. By default the time decides, and it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// So many seeds, however long they take.
    #[arg(long, conflicts_with = "minutes")]
    seeds: Option<u64>,
    /// Prints all that happens in one seed.
    #[arg(long, requires = "seed", conflicts_with_all = ["seeds", "minutes"])]
    trace: bool,
    /// Writes the figures to this file, as a JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result {
    let mut run = program();
    if let Some(seed) = options.seed {
        run = run.arg("--seed").arg(seed.to_string());
    }
    if options.trace {
        return run.arg("--trace").run();
    }
    let alone = options.seed.is_some() && options.minutes.is_none();
    match options.seeds.or(alone.then_some(1)) {
        Some(seeds) => run = run.arg("--seeds").arg(seeds.to_string()).arg("--partial"),
        None => run = run.arg("--minutes").arg(options.minutes.unwrap_or(10.0).to_string()),
    }
    if let Some(json) = &options.json {
        // It runs in the root, and the file is named from where we are.
        run = run.arg("--json").arg(std::path::absolute(json)?.to_string_lossy());
    }
    run.run()
}

fn program() -> Run {
    Run::cargo("run --release --package millstream-sim --")
}

/// The first thousand seeds, each as it always is: what fails here fails everywhere. Says what it came to.
pub(crate) fn ci() -> Result<String> {
    let json = std::env::temp_dir().join(format!("millstream-sim-{}.json", std::process::id()));
    let run = program().args(["--seed", "1", "--seeds", "1000", "--twice", "10", "--partial"]);
    run.arg("--json").arg(json.to_string_lossy()).run()?;
    let figures: Value = serde_json::from_slice(&std::fs::read(&json)?)?;
    std::fs::remove_file(&json)?;
    Ok(said(&figures))
}

fn said(figures: &Value) -> String {
    format!(
        "{} seeds, {} simulated hours, {} acknowledged, {} faults, none failed",
        figures["seeds"], figures["simulated_hours"], figures["acknowledged"], figures["faults"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_in_a_line() {
        let figures = serde_json::json!({
            "seeds": 200, "simulated_hours": 30.5, "acknowledged": 150_000, "faults": 4_000
        });
        let expected = "200 seeds, 30.5 simulated hours, 150000 acknowledged, 4000 faults, none failed";
        assert_eq!(said(&figures), expected);
    }
}
