//! Several profiles, each in a process of its own: what one breaks, or how it dies, is no matter of the next.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::Result;
use crate::profiles::{Profile, Scale};

/// How a profile went.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) is_ok: bool,
    /// Its row of the report.
    pub(crate) row: Value,
}

/// Runs profiles, some at the same time; gives the rounds in the profiles' order.
pub(crate) fn run(profiles: &[Profile], scale: Scale, seed: u64, at_once: usize) -> Result<Vec<Round>> {
    let waiting: Mutex<VecDeque<(usize, Profile)>> =
        Mutex::new(profiles.iter().copied().enumerate().collect());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once.max(1) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((place, profile)) = next else { return };
                    let round = apart(profile, scale, seed);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((place, round));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, round)| round).collect()
}

/// Runs a profile in a process of its own, and prints what it says when it is over.
fn apart(profile: Profile, scale: Scale, seed: u64) -> Result<Round> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("row.json");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", profile.name(), "--scale", scale.name(), "--seed", &seed.to_string(), "--json"]);
    let output = command.arg(&json).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    std::io::stdout().write_all(&output.stdout)?;
    let row = std::fs::read(&json).ok().and_then(|text| serde_json::from_slice::<Vec<Value>>(&text).ok());
    let row = row.and_then(|mut rows| rows.pop()).unwrap_or_else(|| {
        let problem = format!("it ended with {} and left no row", output.status);
        println!("{:<15} FAILED  {problem}; seed {seed}", profile.name());
        json!({ "target": profile.name(), "seed": seed, "problems": [problem] })
    });
    Ok(Round { is_ok: output.status.success(), row })
}

/// Writes the rows as a JSON array.
pub(crate) fn save(rounds: Vec<Round>, path: &Path) -> Result {
    let rows: Vec<Value> = rounds.into_iter().map(|round| round.row).collect();
    let text = serde_json::to_string_pretty(&rows)?;
    std::fs::write(path, text + "\n").map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
    Ok(())
}
