//! `cargo xtask test`: runs the steps one after the other, and says at the end how each went.
//!
//! A failing step does not stop the later ones: one run shows all that is wrong. What could not be checked
//! here (no network) is left out visibly, never silently.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::steps::{Done, Step};
use crate::{Error, Result, tools};

#[derive(Args)]
pub(crate) struct Options {
    /// Runs only these steps.
    #[arg(long, value_enum, value_name = "STEP", value_delimiter = ',', conflicts_with = "skip")]
    only: Vec<Step>,
    /// Runs all but these steps.
    #[arg(long, value_enum, value_name = "STEP", value_delimiter = ',')]
    skip: Vec<Step>,
    /// Names the steps and runs none.
    #[arg(long)]
    list: bool,
}

impl Options {
    fn steps(&self) -> impl Iterator<Item = Step> {
        let only: BTreeSet<Step> = self.only.iter().copied().collect();
        let skip: BTreeSet<Step> = self.skip.iter().copied().collect();
        Step::value_variants()
            .iter()
            .copied()
            .filter(move |step| (only.is_empty() || only.contains(step)) && !skip.contains(step))
    }
}

pub(crate) fn run(options: &Options) -> Result {
    if options.list {
        for step in options.steps() {
            println!("{:<10}{}", step.name(), step.about());
        }
        return Ok(());
    }
    let start = Instant::now();
    if let Err(why) = tools::to_build_c() {
        eprintln!("{why}: the Kafka driver cannot be built");
    }
    let mut rows = Vec::new();
    for step in options.steps() {
        eprintln!("\n==> {}: {}", step.name(), step.about());
        let start = Instant::now();
        let outcome = step.run();
        let row = Row { step, outcome, took: start.elapsed() };
        eprintln!("<== {row}");
        rows.push(row);
    }
    eprintln!("\nall steps, {:.1} s:", start.elapsed().as_secs_f64());
    for row in &rows {
        eprintln!("  {row}");
    }
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count();
    if failed == 0 { Ok(()) } else { Err(format!("{failed} of {} steps failed", rows.len()).into()) }
}

struct Row {
    step: Step,
    outcome: Result<Done, Error>,
    took: Duration,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = match &self.outcome {
            Ok(Done { left_out: Some(_), checked: None }) => "LEFT OUT",
            Ok(_) => "passed",
            Err(_) => "FAILED",
        };
        write!(f, "{:<10}{verdict:<9}{:>7.1} s", self.step.name(), self.took.as_secs_f64())?;
        match &self.outcome {
            Ok(done) => {
                if let Some(checked) = &done.checked {
                    write!(f, "  {checked}")?;
                }
                if let Some(left_out) = &done.left_out {
                    write!(f, "  [left out: {left_out}]")?;
                }
                Ok(())
            }
            Err(error) => write!(f, "  {error}  [again: cargo xtask test --only {}]", self.step.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[Step], skip: &[Step]) -> Options {
        Options { only: only.to_vec(), skip: skip.to_vec(), list: false }
    }

    #[test]
    fn without_a_choice_every_step_runs_in_order() {
        let steps: Vec<_> = options(&[], &[]).steps().collect();
        assert_eq!(steps, Step::value_variants());
    }

    #[test]
    fn only_and_skip_choose() {
        assert_eq!(options(&[Step::Doc, Step::Fmt], &[]).steps().collect::<Vec<_>>(), [Step::Fmt, Step::Doc]);
        assert!(!options(&[], &[Step::Demo]).steps().any(|step| step == Step::Demo));
    }

    #[test]
    fn a_failed_step_says_how_to_run_it_again() {
        let row = Row { step: Step::Clippy, outcome: Err("it broke".into()), took: Duration::ZERO };
        assert!(row.to_string().contains("FAILED"), "{row}");
        assert!(row.to_string().ends_with("it broke  [again: cargo xtask test --only clippy]"), "{row}");
    }

    #[test]
    fn a_step_that_checked_nothing_is_not_called_passed() {
        let done = Done { checked: None, left_out: Some("no network".into()) };
        let row = Row { step: Step::Flights, outcome: Ok(done), took: Duration::ZERO };
        assert!(row.to_string().contains("LEFT OUT") && !row.to_string().contains("passed"), "{row}");
    }
}
