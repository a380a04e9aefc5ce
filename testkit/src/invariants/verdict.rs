//! What a check found, for people and for programs.

use std::fmt;

use bytestring::ByteString;

use super::scan::{Seen, State};
use crate::ledger::{Entry, Record};

/// One of the nine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// I1.
    NoLoss,
    /// I2.
    NoGhost,
    /// I3.
    CommitSafety,
    /// I4.
    DuplicateBudget,
    /// I5.
    Order,
    /// I6.
    SingleEffect,
    /// I7.
    Liveness,
    /// I8.
    Bytes,
    /// I9.
    Bounded,
}

impl Invariant {
    /// All nine.
    pub const ALL: [Self; 9] = [
        Self::NoLoss,
        Self::NoGhost,
        Self::CommitSafety,
        Self::DuplicateBudget,
        Self::Order,
        Self::SingleEffect,
        Self::Liveness,
        Self::Bytes,
        Self::Bounded,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::NoLoss => "I1 no loss",
            Self::NoGhost => "I2 no ghost",
            Self::CommitSafety => "I3 commit safety",
            Self::DuplicateBudget => "I4 duplicates explained",
            Self::Order => "I5 order",
            Self::SingleEffect => "I6 single effect",
            Self::Liveness => "I7 liveness",
            Self::Bytes => "I8 bytes",
            Self::Bounded => "I9 bounded",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// One breach of an invariant, with the records that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The message, if it concerns one.
    pub id: Option<ByteString>,
    /// Its key, as [`key_text`](crate::ledger::key_text) writes it.
    pub key: Option<ByteString>,
    /// The group, if it concerns one.
    pub group: Option<ByteString>,
    /// What is wrong, in a sentence.
    pub what: String,
    /// The records that show it, with their place in the ledger.
    pub evidence: Vec<(usize, Record)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)?;
        for (name, value) in [("id", &self.id), ("key", &self.key), ("group", &self.group)] {
            if let Some(value) = value {
                write!(f, ", {name} {value:?}")?;
            }
        }
        for (at, record) in &self.evidence {
            write!(f, "\n    record {at}: {record:?}")?;
        }
        Ok(())
    }
}

/// How many of each there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Records.
    pub records: u64,
    /// Intents to publish.
    pub intents: u64,
    /// Confirmed writes.
    pub acked: u64,
    /// Deliveries, to all groups.
    pub delivered: u64,
    /// Effects.
    pub effects: u64,
    /// Settlements, of any outcome.
    pub settled: u64,
    /// Dead letters.
    pub dead_lettered: u64,
    /// Duplicates that were recognised and not handled.
    pub suppressed: u64,
    /// Messages discarded or expired as the user wished.
    pub discarded: u64,
    /// Dead letters sent back.
    pub redriven: u64,
    /// Faults.
    pub faults: u64,
    /// Deliveries beyond those that were owed.
    pub duplicates: u64,
    /// Those of them that a fault explains.
    pub explained: u64,
}

/// Violations of one invariant that are kept; more are only counted.
const KEPT: u64 = 1_000;
/// Violations of one invariant that are printed.
const SHOWN: usize = 5;

/// What a check found.
#[derive(Debug, Clone)]
#[must_use = "a verdict that nobody reads proves nothing"]
pub struct Verdict {
    counts: Counts,
    violations: Vec<Violation>,
    totals: [u64; 9],
    steps: u64,
}

impl Verdict {
    /// Whether every invariant holds.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.total() == 0
    }

    /// Violations in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.totals.iter().sum()
    }

    /// Violations of one invariant.
    #[must_use]
    pub fn of(&self, invariant: Invariant) -> u64 {
        self.totals[invariant as usize]
    }

    /// The violations, those of one invariant together; of each at most the first 1,000.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The ids of lost messages; at most the first 1,000.
    pub fn lost(&self) -> impl Iterator<Item = &ByteString> {
        self.violations.iter().filter(|v| v.invariant == Invariant::NoLoss).filter_map(|v| v.id.as_ref())
    }

    /// How many of each there were.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Look-ups and visits a record, which does not grow with the ledger.
    #[must_use]
    pub fn steps_per_record(&self) -> f64 {
        self.steps as f64 / self.counts.records.max(1) as f64
    }

    /// The verdict as a result, for `?`.
    ///
    /// # Errors
    /// The whole report, if an invariant is broken.
    pub fn into_result(self) -> Result<(), String> {
        if self.is_ok() { Ok(()) } else { Err(self.to_string()) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(
            f,
            "{} records: {} intended, {} confirmed, {} delivered, {} effects, {} settled, {} dead-lettered, \
             {} suppressed, {} discarded, {} redriven, {} faults, {} duplicates of which {} explained",
            c.records,
            c.intents,
            c.acked,
            c.delivered,
            c.effects,
            c.settled,
            c.dead_lettered,
            c.suppressed,
            c.discarded,
            c.redriven,
            c.faults,
            c.duplicates,
            c.explained
        )?;
        if self.is_ok() {
            return f.write_str("all invariants hold");
        }
        for invariant in Invariant::ALL {
            let total = self.of(invariant);
            if total == 0 {
                continue;
            }
            writeln!(f, "{invariant}: broken {total} times")?;
            for violation in self.violations.iter().filter(|v| v.invariant == invariant).take(SHOWN) {
                writeln!(f, "  {violation}")?;
            }
        }
        Ok(())
    }
}

/// Collects findings during the pass.
#[derive(Debug)]
pub(super) struct Report<'a> {
    entries: &'a [Entry],
    pub(super) counts: Counts,
    violations: Vec<Violation>,
    totals: [u64; 9],
}

impl<'a> Report<'a> {
    pub(super) fn new(entries: &'a [Entry]) -> Self {
        let mut counts = Counts { records: entries.len() as u64, ..Counts::default() };
        for entry in entries {
            *match &entry.record {
                Record::Intent { .. } => &mut counts.intents,
                Record::Acked { .. } => &mut counts.acked,
                Record::Delivered { .. } => &mut counts.delivered,
                Record::Effect { .. } => &mut counts.effects,
                Record::Settled { .. } => &mut counts.settled,
                Record::DeadLettered { .. } => &mut counts.dead_lettered,
                Record::Suppressed { .. } => &mut counts.suppressed,
                Record::Discarded { .. } => &mut counts.discarded,
                Record::Redriven { .. } => &mut counts.redriven,
                Record::Fault { .. } => &mut counts.faults,
                _ => continue,
            } += 1;
        }
        Self { entries, counts, violations: Vec::new(), totals: [0; 9] }
    }

    /// A breach by the record that is seen.
    pub(super) fn breach(
        &mut self,
        invariant: Invariant,
        seen: &Seen<'_>,
        state: Option<&State>,
        what: String,
        evidence: &[Option<usize>],
    ) {
        let (id, key) = state.map_or((None, None), |s| names_of(s, seen.message));
        let group = state.and_then(|s| Some(s.groups.names[seen.group? as usize].clone()));
        let mut evidence = evidence.to_vec();
        evidence.push(Some(seen.at));
        self.add(Violation { invariant, id, key, group, what, evidence: self.records(&evidence) });
    }

    /// A breach that shows in the end.
    pub(super) fn breach_of(
        &mut self,
        invariant: Invariant,
        state: &State,
        message: u32,
        group: Option<u32>,
        what: String,
        evidence: &[Option<usize>],
    ) {
        let (id, key) = names_of(state, Some(message));
        let group = group.map(|g| state.groups.names[g as usize].clone());
        self.add(Violation { invariant, id, key, group, what, evidence: self.records(evidence) });
    }

    fn add(&mut self, violation: Violation) {
        let total = &mut self.totals[violation.invariant as usize];
        *total += 1;
        if *total <= KEPT {
            self.violations.push(violation);
        }
    }

    fn records(&self, places: &[Option<usize>]) -> Vec<(usize, Record)> {
        let mut places: Vec<usize> = places.iter().copied().flatten().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|at| (at, self.entries[at].record.clone())).collect()
    }

    pub(super) fn finish(mut self, steps: u64) -> Verdict {
        self.violations.sort_by_key(|v| v.invariant);
        Verdict { counts: self.counts, violations: self.violations, totals: self.totals, steps }
    }
}

fn names_of(state: &State, message: Option<u32>) -> (Option<ByteString>, Option<ByteString>) {
    let Some(message) = message.map(|m| m as usize) else { return (None, None) };
    let key = state.published[message].key.map(|k| state.keys.names[k as usize].clone());
    (Some(state.ids.names[message].clone()), key)
}
