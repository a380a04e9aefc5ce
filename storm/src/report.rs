//! What a profile came to, as a line for people and as a row for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

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
    /// What else was measured.
    pub(crate) figures: BTreeMap<&'static str, u64>,
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
        Self {
            faults,
            messages: judged.messages,
            acknowledged: judged.acknowledged,
            lost: judged.lost,
            duplicates_explained: judged.duplicates_explained,
            duplicates_unexplained: judged.duplicates_unexplained,
            effects_double: judged.effects_double,
            effects_missing: judged.effects_missing,
            figures: judged.figures.clone(),
            detail: format!("{} effects, {} dead letters", judged.effects, judged.dead_letters),
            problems: judged.problems.clone(),
            ..Self::default()
        }
    }

    /// What was not run, and why.
    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::default() }
    }

    /// Takes in what another storm of the same profile came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.faults += other.faults;
        self.messages += other.messages;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.duplicates_explained += other.duplicates_explained;
        self.duplicates_unexplained += other.duplicates_unexplained;
        self.effects_double += other.effects_double;
        self.effects_missing += other.effects_missing;
        for (name, figure) in other.figures {
            let mine = self.figures.entry(name).or_default();
            *mine = figure.max(*mine);
        }
        self.problems.extend(other.problems);
    }

    /// Adds a figure.
    pub(crate) fn measured(&mut self, name: &'static str, figure: u64) {
        self.figures.insert(name, figure);
    }

    /// That a figure, if it was measured, is so high at most; else it is a problem.
    pub(crate) fn at_most(&mut self, name: &'static str, limit: u64) {
        if let Some(figure) = self.figures.get(name).filter(|figure| **figure > limit) {
            self.problems.push(format!("{name} is {figure}, at most {limit} is allowed"));
        }
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
        let figures: String = self
            .figures
            .iter()
            .map(|(name, figure)| format!("; {} {figure}", name.replace('_', " ")))
            .collect();
        write!(
            f,
            "{:<15} {}  {} faults, {} messages, {} acknowledged, {} lost, duplicates {} explained and {} not, \
             effects {} double and {} missing; {}{}; seed {}, {:.1} s",
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
            figures,
            self.seed,
            self.took_s
        )
    }
}
