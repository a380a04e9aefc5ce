//! `cargo xtask storm`: builds the program that breaks processes and files on purpose, and runs it, with the tools of the
//! system that it uses where they can be had. A profile that lacks its tool says so and is skipped.
//!
//! `cargo xtask storm kafka` is all profiles whose names begin like that.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::command::Run;
use crate::{Result, services, tools};

#[derive(Args)]
pub(crate) struct Options {
    /// Which profiles, such as sqlite-kill, or a driver's, such as kafka; all of them by default.
    profiles: Vec<String>,
    /// How much of it: full, or ci for a tenth or less.
    #[arg(long, default_value = "full")]
    scale: String,
    /// Decides what happens and when; by default the time does, and it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many profiles run at the same time.
    #[arg(long, default_value_t = 1, value_name = "N")]
    at_once: usize,
    /// Writes a row for each profile to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result {
    install();
    let mut run = program("kafka,aws", &options.scale).arg("--at-once").arg(options.at_once.to_string());
    for (variable, jars) in [(KAFKA, services::kafka_jars()), (ELASTICMQ, services::elasticmq_jars())] {
        match jars {
            Ok(jars) => run = run.env(variable, jars.to_string_lossy()),
            Err(why) => eprintln!("{why}"),
        }
    }
    if let Some(seed) = options.seed {
        run = run.arg("--seed").arg(seed.to_string());
    }
    if let Some(json) = &options.json {
        // It runs in the root, and the file is named from where we are.
        run = run.arg("--json").arg(std::path::absolute(json)?.to_string_lossy());
    }
    for profile in &options.profiles {
        run = run.arg(profile.as_str());
    }
    run.run()
}

/// The program with the profiles of these servers, beside those of the embedded drivers.
fn program(servers: &str, scale: &str) -> Run {
    Run::cargo("run --release --package millstream-storm --features")
        .args([servers, "--", "run", "--scale", scale])
}

/// The variables by which the program finds the jars of its servers.
const KAFKA: &str = "MILLSTREAM_KAFKA_JARS";
const ELASTICMQ: &str = "MILLSTREAM_ELASTICMQ_JARS";

/// Installs what some profiles need. Without it they are skipped, and say why.
fn install() {
    let has_program = |name: &str| Run::new(name).arg("--version").succeeds();
    let has_library = |name: &str| Run::new("dpkg").args(["--status", name]).succeeds();
    let tools = [
        tools::system("strace", || has_program("strace")),
        tools::system("libfaketime", || has_library("libfaketime")),
    ];
    for why in tools.into_iter().filter_map(Result::err) {
        eprintln!("{why}");
    }
}

/// What the CI's storm came to.
pub(crate) struct Outcome {
    pub(crate) checked: String,
    pub(crate) left_out: Option<String>,
}

/// Runs the profiles of the embedded drivers at the CI's scale. The commit decides the seed: each gets another storm, and
/// the same one gets the same again.
pub(crate) fn ci() -> Result<Outcome> {
    let json = std::env::temp_dir().join(format!("millstream-storm-{}.json", std::process::id()));
    install();
    // They mostly wait.
    let mut run = program("", "ci").args(["--at-once", "3", "--json"]).arg(json.to_string_lossy());
    // Those of servers take too long to be among the checks: `cargo xtask storm kafka aws`.
    run = run.args(["sqlite", "memory"]);
    if let Some(seed) = seed_of_commit() {
        run = run.arg("--seed").arg(seed.to_string());
    }
    let ran = run.run();
    let rows = match read(&json) {
        Ok(rows) => rows,
        // It did not get so far.
        Err(unread) => return Err(ran.err().unwrap_or(unread)),
    };
    std::fs::remove_file(&json)?;
    if let Err(error) = ran {
        return Err(format!("{error}\n{}", problems(&rows)).into());
    }
    outcome(&rows)
}

pub(crate) fn seed_of_commit() -> Option<u64> {
    let run = Run::new("git").args(["rev-parse", "--short=8", "HEAD"]);
    u64::from_str_radix(run.output().ok()?.trim(), 16).ok()
}

fn read(path: &Path) -> Result<Value> {
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("the storm left no {}: {e}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// What is wrong, at the end of everything else that was printed: each profile's problems, the first lines of them.
fn problems(rows: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let failed = rows.as_array().into_iter().flatten().filter_map(|row| {
        let problems = row["problems"].as_array().filter(|problems| !problems.is_empty())?;
        let lines: Vec<String> =
            problems.iter().flat_map(|p| text(p).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        let more = lines.len().saturating_sub(TOLD);
        let mut told = format!("{} (seed {}):", text(&row["target"]), row["seed"]);
        lines.iter().take(TOLD).for_each(|line| told += &format!("\n    {line}"));
        if more > 0 {
            told += &format!("\n    … and {more} lines more");
        }
        Some(told)
    });
    failed.collect::<Vec<_>>().join("\n")
}

/// The most lines that are told of a profile's problems.
const TOLD: usize = 20;

fn outcome(rows: &Value) -> Result<Outcome> {
    let rows = rows.as_array().filter(|rows| !rows.is_empty()).ok_or("the storm's report has no rows")?;
    let (ran, skipped): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["skipped"].is_null());
    let sum = |name: &str| ran.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    let checked = format!(
        "{} profiles, {} faults, {} acknowledged, {} lost",
        ran.len(),
        sum("faults"),
        sum("acknowledged"),
        sum("lost")
    );
    let left_out: Vec<_> = skipped
        .iter()
        .map(|row| {
            format!("{}: {}", row["target"].as_str().unwrap_or("?"), row["skipped"].as_str().unwrap_or("?"))
        })
        .collect();
    Ok(Outcome { checked, left_out: (!left_out.is_empty()).then(|| left_out.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_added_up_and_what_was_skipped_is_named() {
        let rows = serde_json::json!([
            { "target": "a", "faults": 2, "acknowledged": 10, "lost": 0 },
            { "target": "b", "faults": 3, "acknowledged": 5, "lost": 0 },
            { "target": "c", "faults": 0, "acknowledged": 0, "lost": 0, "skipped": "no root" },
        ]);
        let outcome = outcome(&rows).unwrap();
        assert_eq!(outcome.checked, "2 profiles, 5 faults, 15 acknowledged, 0 lost");
        assert_eq!(outcome.left_out.as_deref(), Some("c: no root"));
    }

    #[test]
    fn what_failed_is_told_with_its_seed_and_the_rest_is_not() {
        let long = (1..=30).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        let rows = serde_json::json!([
            { "target": "a", "seed": 7, "problems": [] },
            { "target": "b", "seed": 7, "problems": ["I1 no loss: broken 35 times", long] },
        ]);
        let told = problems(&rows);
        assert!(told.starts_with("b (seed 7):\n    I1 no loss: broken 35 times\n    1\n"), "{told}");
        assert!(told.ends_with("\n    19\n    … and 11 lines more"), "{told}");
    }

    #[test]
    fn a_report_without_rows_is_an_error() {
        assert!(outcome(&serde_json::json!([])).is_err());
    }
}
