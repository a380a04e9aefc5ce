//! The nine invariants, checked over a ledger in one linear pass.
//!
//! | | says | file |
//! |---|---|---|
//! | I1 | every message confirmed to its publisher ends in every group: handled, dead-lettered or discarded | `loss` |
//! | I2 | only what was meant to be published is delivered, and nothing that was rolled back | `ghosts` |
//! | I3 | the committed position never passes an unfinished message | `commits` |
//! | I4 | a duplicate is explained by a fault; without faults there is none | `duplicates` |
//! | I5 | first effects of a key come in the order of publishing | `order` |
//! | I6 | each effect happens once, where that is promised | `effects` |
//! | I7 | work drains in time, and idle workers are idle | `gauges` |
//! | I8 | payload, key and headers arrive byte for byte, also in the dead letter | `bytes` |
//! | I9 | memory, files, tasks and connections return to where they were | `gauges` |
//!
//! A checker sees each record once, with what was known of its message and group before it. What can only be
//! judged in the end (loss, ghosts) is judged in one walk over messages and groups.

mod bytes;
mod commits;
mod duplicates;
mod effects;
mod gauges;
mod ghosts;
mod loss;
mod order;
mod scan;
mod verdict;

pub use verdict::{Counts, Invariant, Verdict, Violation};

use scan::State;
use verdict::Report;

use crate::ledger::{Entry, Ledger};

/// What was promised, beyond what is always promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Rules {
    /// The order of first effects.
    pub order: Promised,
    /// Whether effects are in the ledger: then an acknowledgement without one is a loss.
    pub effects_recorded: bool,
    /// Whether each effect happens once (I6).
    pub single_effect: bool,
}

/// The order that was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Promised {
    /// None.
    #[default]
    Nothing,
    /// That of each key.
    PerKey,
    /// That of all messages of a topic.
    Total,
}

impl Rules {
    /// Sets the order that was promised.
    #[must_use]
    pub fn order(mut self, order: Promised) -> Self {
        self.order = order;
        self
    }

    /// Says that effects are in the ledger.
    #[must_use]
    pub fn effects_recorded(mut self) -> Self {
        self.effects_recorded = true;
        self
    }

    /// Says that each effect happens once.
    #[must_use]
    pub fn single_effect(mut self) -> Self {
        self.single_effect = true;
        self
    }
}

/// Checks what a ledger in memory holds.
pub fn check(ledger: &Ledger, rules: Rules) -> Verdict {
    check_entries(&ledger.entries(), rules)
}

/// Checks entries, in their order.
pub fn check_entries(entries: &[Entry], rules: Rules) -> Verdict {
    let mut state = State::default();
    let mut report = Report::new(entries);
    let mut duplicates = duplicates::Duplicates::default();
    let mut order = order::Order::new(rules.order);
    for (at, entry) in entries.iter().enumerate() {
        let seen = state.resolve(at, &entry.record);
        commits::see(&seen, &mut report);
        duplicates.see(&seen, &state, &mut report);
        order.see(&seen, &state, &mut report);
        effects::see(&seen, &state, rules.single_effect, &mut report);
        bytes::see(&seen, &state, &mut report);
        gauges::see(&seen, &mut report);
        state.apply(&seen);
    }
    ghosts::end(&mut state, &mut report);
    loss::end(&mut state, rules.effects_recorded, &mut report);
    report.finish(state.steps)
}

#[cfg(test)]
mod testing {
    //! Small ledgers for the checkers' tests.

    use millstream_core::Message;

    use super::*;
    use crate::ledger::{Ending, Outcome, Record};

    pub(super) fn message(id: &str, key: &str) -> Message {
        Message::new("t", id.to_owned()).with_id(id).with_key(key.to_owned())
    }

    pub(super) fn published(id: &str, key: &str, seq: u64) -> Vec<Record> {
        vec![Record::intent(&message(id, key), seq), Record::Acked { id: id.into() }]
    }

    pub(super) fn delivered(id: &str) -> Record {
        let digest = crate::ledger::digest(&message(id, "k"));
        Record::Delivered {
            id: id.into(),
            topic: "t".into(),
            group: "g".into(),
            worker: "w".into(),
            deliveries: 0,
            epoch: 0,
            digest,
        }
    }

    pub(super) fn effect(id: &str) -> Record {
        Record::Effect { id: id.into(), group: "g".into() }
    }

    pub(super) fn settled(id: &str, verdict: Ending, outcome: Outcome) -> Record {
        Record::Settled { id: id.into(), group: "g".into(), verdict, outcome }
    }

    pub(super) fn acked(id: &str) -> Record {
        settled(id, Ending::Ack, Outcome::Done)
    }

    pub(super) fn handled(id: &str) -> Vec<Record> {
        vec![delivered(id), effect(id), acked(id)]
    }

    pub(super) fn judge(records: impl IntoIterator<Item = Vec<Record>>, rules: Rules) -> Verdict {
        let entries: Vec<Entry> = records
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(at, record)| Entry { at: at as u64, record })
            .collect();
        check_entries(&entries, rules)
    }

    pub(super) fn strict() -> Rules {
        Rules::default().order(Promised::PerKey).effects_recorded().single_effect()
    }

    /// That just this invariant is broken, once; gives the violation.
    pub(super) fn only(verdict: &Verdict, invariant: Invariant) -> &Violation {
        assert_eq!(verdict.total(), 1, "{verdict}");
        let violation = &verdict.violations()[0];
        assert_eq!(violation.invariant, invariant, "{verdict}");
        assert!(verdict.to_string().contains(&violation.what), "the report shows it");
        violation
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{handled, judge, published, strict};
    use crate::ledger::Record;

    #[test]
    fn a_ledger_where_all_went_well_is_green() {
        let verdict = judge([published("1", "k", 1), handled("1")], strict());
        assert!(verdict.is_ok(), "{verdict}");
        assert_eq!((verdict.counts().acked, verdict.counts().effects), (1, 1));
    }

    #[test]
    fn a_million_records_take_a_number_of_steps_in_proportion() {
        // Given ledgers of 10,000 and of 1,000,000 records, with duplicates, two groups and faults.
        let run = |messages: u64| {
            let records = (0..messages).flat_map(|n| {
                let (id, key) = (n.to_string(), (n % 97).to_string());
                let mut records = published(&id, &key, n);
                for group in ["g", "h"] {
                    let mut mine = handled(&id);
                    mine.insert(1, Record::fault("kill"));
                    mine.insert(2, mine[0].clone());
                    for record in &mut mine {
                        match record {
                            Record::Delivered { group: g, digest, .. } => {
                                *g = group.into();
                                *digest = crate::ledger::digest(&super::testing::message(&id, &key));
                            }
                            Record::Effect { group: g, .. } | Record::Settled { group: g, .. } => {
                                *g = group.into();
                            }
                            _ => {}
                        }
                    }
                    records.extend(mine);
                }
                records
            });
            judge([records.collect()], strict())
        };
        let (small, large) = (run(834), run(83_400));
        assert!(large.is_ok(), "{large}");
        assert!(large.counts().records > 1_000_000);
        // When they are checked, then the steps grow as the records do.
        let (per_small, per_large) = (small.steps_per_record(), large.steps_per_record());
        assert!(per_large <= per_small * 1.05, "{per_small} steps a record, then {per_large}");
        assert!(per_large < 8.0, "{per_large} steps a record");
    }
}
