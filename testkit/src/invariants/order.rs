//! I5: first effects come in the order of publishing, per key or in all.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::Promised;
use super::scan::{Fate, Index, Seen, State};
use super::verdict::{Invariant, Report};
use crate::ledger::Record;

/// The effect that came last in a lane.
#[derive(Debug)]
struct Last {
    seq: u64,
    effect: usize,
    intent: Option<usize>,
}

/// A group, a topic and, where order is per key, a key.
type Lane = (Index, Index, Option<Index>);

#[derive(Debug)]
pub(super) struct Order {
    promised: Promised,
    last: HashMap<Lane, Last, FixedState>,
}

impl Order {
    pub(super) fn new(promised: Promised) -> Self {
        Self { promised, last: HashMap::default() }
    }

    pub(super) fn see(&mut self, seen: &Seen<'_>, state: &State, report: &mut Report<'_>) {
        if !matches!(seen.record, Record::Effect { .. }) {
            return;
        }
        let (Some(group), Some(message)) = (seen.group, state.message(seen)) else { return };
        let Some(topic) = message.topic else { return };
        // A repeated effect has its own invariant; a redrive is out of order by its nature. What was dead-lettered or
        // discarded had its end in its turn: a delivery that comes after it is a repetition, too.
        let had_its_turn = |fate: &Fate| fate.effects > 0 || fate.dead.is_some() || fate.discarded.is_some();
        if state.fate(seen).is_some_and(|fate| had_its_turn(fate) || fate.redriven) {
            return;
        }
        let lane = match (self.promised, message.key) {
            (Promised::Nothing, _) | (Promised::PerKey, None) => return,
            (Promised::PerKey, key) => (group, topic, key),
            (Promised::Total, _) => (group, topic, None),
        };
        let now = Last { seq: message.seq, effect: seen.at, intent: message.intent };
        let Some(last) = self.last.get_mut(&lane) else {
            self.last.insert(lane, now);
            return;
        };
        if now.seq < last.seq {
            let what = format!("the effect of number {} came after that of number {}", now.seq, last.seq);
            let evidence = [last.intent, Some(last.effect), now.intent];
            report.breach(Invariant::Order, seen, Some(state), what, &evidence);
        } else {
            *last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{handled, judge, only, published, strict};
    use super::*;

    #[test]
    fn an_effect_before_that_of_an_earlier_message_of_its_key_is_an_inversion() {
        let sent = [published("1", "k", 1), published("2", "k", 2)].concat();
        let verdict = judge([sent.clone(), handled("2"), handled("1")], strict());
        let violation = only(&verdict, Invariant::Order);
        assert_eq!((violation.id.as_deref(), violation.key.as_deref()), (Some("1"), Some("k")));
        assert_eq!(violation.evidence.len(), 4, "both intents and both effects");
        assert!(judge([sent, handled("1"), handled("2")], strict()).is_ok());
    }

    #[test]
    fn a_dead_letter_that_comes_again_since_its_acknowledgement_was_lost_is_no_inversion() {
        let sent = [published("1", "k", 1), published("2", "k", 2)].concat();
        let digest = crate::ledger::digest(&super::super::testing::message("1", "k"));
        let dead = vec![Record::DeadLettered { id: "1".into(), group: "g".into(), digest }];
        let verdict = judge([sent, dead, handled("2"), handled("1")], strict());
        assert!(verdict.violations().iter().all(|v| v.invariant != Invariant::Order), "{verdict:?}");
    }

    #[test]
    fn messages_of_two_keys_may_overtake_each_other_unless_total_order_was_promised() {
        let run = |rules| {
            let mut second = handled("2");
            if let Record::Delivered { digest, .. } = &mut second[0] {
                *digest = crate::ledger::digest(&super::super::testing::message("2", "j"));
            }
            judge([published("1", "k", 1), published("2", "j", 2), second, handled("1")], rules)
        };
        assert!(run(strict()).is_ok());
        only(&run(strict().order(Promised::Total)), Invariant::Order);
    }
}
