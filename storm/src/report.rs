//! What a profile came to, as a line for people and as a row for programs.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::Result;
use crate::judge::Judgement;

/// A row of the report.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) target: &'static str,
    pub(crate) faults: u64,
    pub(crate) messages: u64,
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates_explained: u64,
    pub(crate) duplicates_unexplained: u64,
    pub(crate) effects_double: u64,
    pub(crate) effects_missing: u64,
    pub(crate) seed: u64,
    pub(crate) took_s: f64,
    /// What else is to be said.
    pub(crate) detail: String,
    /// All that is wrong, in words; none if nothing is.
    pub(crate) problems: Vec<String>,
    /// Why it was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
}

impl Row {
    /// What workers on a file came to.
    pub(crate) fn of(faults: u64, judged: &Judgement) -> Self {
        let after = &judged.redelivered_after;
        let redelivered = match (after.get(after.len() / 2), after.last()) {
            (Some(half), Some(last)) => {
                format!("; after a kill delivered again within {half} ms (half of them), {last} ms (all)")
            }
            _ => String::new(),
        };
        Self {
            faults,
            messages: judged.messages,
            acknowledged: judged.acknowledged,
            lost: judged.lost,
            duplicates_explained: judged.duplicates_explained,
            duplicates_unexplained: judged.duplicates_unexplained,
            effects_double: judged.effects_double,
            effects_missing: judged.effects_missing,
            detail: format!("{} effects, {} dead letters{redelivered}", judged.effects, judged.dead_letters),
            problems: judged.problems.clone(),
            ..Self::default()
        }
    }

    /// What was not run, and why.
    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::default() }
    }

    pub(crate) fn is_ok(&self) -> bool {
        let Self { lost, duplicates_unexplained, effects_double, effects_missing, .. } = self;
        self.problems.is_empty() && lost + duplicates_unexplained + effects_double + effects_missing == 0
    }

    pub(crate) fn took(mut self, target: &'static str, seed: u64, took: Duration) -> Self {
        (self.target, self.seed, self.took_s) = (target, seed, took.as_secs_f64());
        self
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.skipped {
            return write!(f, "{:<15} SKIPPED  {why}", self.target);
        }
        write!(
            f,
            "{:<15} {}  {} faults, {} messages, {} acknowledged, {} lost, duplicates {} explained and {} not, \
             effects {} double and {} missing; {}; seed {}, {:.1} s",
            self.target,
            if self.is_ok() { "ok    " } else { "FAILED" },
            self.faults,
            self.messages,
            self.acknowledged,
            self.lost,
            self.duplicates_explained,
            self.duplicates_unexplained,
            self.effects_double,
            self.effects_missing,
            self.detail,
            self.seed,
            self.took_s
        )
    }
}

/// Writes the rows as a JSON array.
pub(crate) fn save(rows: &[Row], path: &Path) -> Result {
    let text = serde_json::to_string_pretty(rows)?;
    std::fs::write(path, text + "\n").map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
    Ok(())
}
