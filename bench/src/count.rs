//! Instructions and allocations of a message, counted by valgrind.
//!
//! A subject is counted over N messages and over twice as many: what happens once is in both and falls out of the
//! difference. Only the frame of [`bench_harness::measured`] and what it calls count.

use std::path::Path;
use std::process::Command;

use bench_harness::FRAME;
use serde::Deserialize;

use crate::Result;
use crate::subject::Subject;

/// What a message costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
}

/// Whether valgrind is there; without it the rows that need it are left out.
pub(crate) fn is_possible() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Counts a subject over `messages` and over twice as many.
pub(crate) fn cost(subject: impl Into<Subject>, messages: usize) -> Result<Cost> {
    let subject = subject.into();
    let steady = |count: fn(Subject, usize) -> Result<u64>| -> Result<f64> {
        let (once, twice) = (count(subject, messages)?, count(subject, 2 * messages)?);
        Ok((twice as f64 - once as f64) / messages as f64)
    };
    Ok(Cost { instructions: steady(instructions)?, allocations: steady(allocations)? })
}

fn instructions(subject: Subject, messages: usize) -> Result<u64> {
    let toggle = format!("--toggle-collect={FRAME}");
    let valgrind =
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no", &toggle];
    let output = subject.run_under(&valgrind, messages)?;
    let text = String::from_utf8_lossy(&output.stderr);
    match collected(&text) {
        Some(0) | None => Err(format!("callgrind counted nothing: {text}").into()),
        Some(count) => Ok(count),
    }
}

/// Out of `==123== Collected : 4567`.
fn collected(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once("Collected : ")?.1.split_whitespace().next()?.parse().ok())
}

/// Counted by DHAT wherever the measured frame is on the stack, so also in tasks that it polls.
fn allocations(subject: Subject, messages: usize) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dhat.json");
    let out = format!("--dhat-out-file={}", file.display());
    // Deeper than any stack here: an allocation whose stack is cut below the frame would not count.
    subject.run_under(&["valgrind", "--tool=dhat", "--num-callers=200", &out], messages)?;
    blocks(&file)
}

fn blocks(file: &Path) -> Result<u64> {
    let profile: Profile = serde_json::from_slice(&std::fs::read(file)?)?;
    Ok(profile.blocks_within(|frame| frame.contains("bench_harness") && frame.contains("measured")))
}

/// What DHAT writes, as far as it matters here.
#[derive(Deserialize)]
struct Profile {
    #[serde(rename = "pps")]
    points: Vec<Point>,
    #[serde(rename = "ftbl")]
    frames: Vec<String>,
}

/// All allocations with one stack.
#[derive(Deserialize)]
struct Point {
    #[serde(rename = "tbk")]
    blocks: u64,
    #[serde(rename = "fs")]
    stack: Vec<usize>,
}

impl Profile {
    fn blocks_within(&self, is_frame: impl Fn(&str) -> bool) -> u64 {
        let wanted: Vec<bool> = self.frames.iter().map(|frame| is_frame(frame)).collect();
        let within = |point: &&Point| point.stack.iter().any(|frame| wanted.get(*frame) == Some(&true));
        self.points.iter().filter(within).map(|point| point.blocks).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_total_is_found_in_what_it_says() {
        let text = "==7== Callgrind\n==7== \n==7== Events    : Ir\n==7== Collected : 1673000\n==7== \n";
        assert_eq!(collected(text), Some(1_673_000));
        assert_eq!(collected("==7== nothing"), None);
    }

    #[test]
    fn only_allocations_below_the_measured_frame_count() {
        let profile: Profile = serde_json::from_str(
            r#"{
                "pps": [{ "tbk": 3, "fs": [1, 2] }, { "tbk": 5, "fs": [1, 3] }, { "tbk": 7, "fs": [2] }],
                "ftbl": ["[root]", "0x1: malloc", "0x2: bench_harness::measured (lib.rs:1)", "0x3: main"]
            }"#,
        )
        .unwrap();
        assert_eq!(profile.blocks_within(|frame| frame.contains("measured")), 10);
    }
}
