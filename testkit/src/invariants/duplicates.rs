//! I4: a duplicate is explained by a fault; without faults there is none.
//!
//! A delivery is owed for each write of the message, for each time it was given back, and for each redrive.
//! One more is a duplicate. It is explained if the message was unsettled when a fault struck after its last
//! delivery: each fault explains each such message once. A fault may bring a budget for the rest: messages
//! whose confirmed acknowledgement the broker may forget.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::scan::{Index, Seen, State};
use super::verdict::{Invariant, Report};
use crate::ledger::Record;

#[derive(Debug, Default)]
pub(super) struct Duplicates {
    budgets: HashMap<Option<Index>, u64, FixedState>,
}

impl Duplicates {
    pub(super) fn see(&mut self, seen: &Seen<'_>, state: &State, report: &mut Report<'_>) {
        match seen.record {
            Record::Fault { budget, .. } if *budget > 0 => {
                *self.budgets.entry(seen.group).or_default() += budget;
            }
            Record::Delivered { .. } => self.delivered(seen, state, report),
            _ => {}
        }
    }

    fn delivered(&mut self, seen: &Seen<'_>, state: &State, report: &mut Report<'_>) {
        let (Some(fate), Some(message)) = (state.fate(seen), state.message(seen)) else { return };
        if fate.is_owed(message.copies()) {
            return;
        }
        report.counts.duplicates += 1;
        if fate.was_struck(state.faults(seen.group)) || self.spend(seen.group) || self.spend(None) {
            report.counts.explained += 1;
            return;
        }
        let what = if fate.acked.is_some() {
            "delivered again after its acknowledgement was confirmed"
        } else {
            "delivered again, and no fault explains it"
        };
        let evidence = [message.intent, fate.last_delivery, fate.last_settled];
        report.breach(Invariant::DuplicateBudget, seen, Some(state), what.to_owned(), &evidence);
    }

    fn spend(&mut self, group: Option<Index>) -> bool {
        match self.budgets.get_mut(&group) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{acked, delivered, effect, handled, judge, only, published, settled};
    use super::super::{Rules, Verdict};
    use super::*;
    use crate::ledger::{Ending, Outcome};

    fn run(middle: Vec<Record>) -> Verdict {
        let end = vec![delivered("1"), effect("1"), acked("1")];
        judge([published("1", "k", 1), vec![delivered("1")], middle, end], Rules::default())
    }

    #[test]
    fn a_second_delivery_without_a_fault_is_a_duplicate_nobody_explains() {
        only(&run(vec![]), Invariant::DuplicateBudget);
    }

    #[test]
    fn a_message_given_back_is_owed_again() {
        assert!(run(vec![settled("1", Ending::Retry, Outcome::Done)]).is_ok());
        only(&run(vec![settled("1", Ending::Retry, Outcome::Unknown)]), Invariant::DuplicateBudget);
    }

    #[test]
    fn a_fault_explains_what_was_unsettled_once() {
        let verdict = run(vec![Record::fault("kill")]);
        assert!(verdict.is_ok(), "{verdict}");
        assert_eq!((verdict.counts().duplicates, verdict.counts().explained), (1, 1));
        only(&run(vec![Record::fault("kill"), delivered("1")]), Invariant::DuplicateBudget);
    }

    #[test]
    fn what_is_given_back_after_an_explained_duplicate_is_owed_again() {
        // Given a message that came again for a fault, and was then parked, or given back.
        for ending in [Ending::Park, Ending::Release, Ending::Retry] {
            let again = vec![Record::fault("kill"), delivered("1"), settled("1", ending, Outcome::Done)];
            // When it comes once more, then that is no duplicate.
            let verdict = run(again);
            assert!(verdict.is_ok(), "{verdict}");
            assert_eq!((verdict.counts().duplicates, verdict.counts().explained), (1, 1));
        }
    }

    #[test]
    fn a_duplicate_nobody_explains_does_not_excuse_the_next() {
        let verdict = run(vec![delivered("1")]);
        assert_eq!(verdict.of(Invariant::DuplicateBudget), 2, "{verdict}");
    }

    #[test]
    fn a_fault_does_not_explain_what_was_acknowledged_unless_it_brings_a_budget() {
        let after = |fault| {
            judge([published("1", "k", 1), handled("1"), vec![fault], handled("1")], Rules::default())
        };
        only(&after(Record::fault("kill")), Invariant::DuplicateBudget);
        let budget =
            Record::Fault { what: "broker lost its disk".into(), group: Some("g".into()), budget: 1 };
        assert!(after(budget).is_ok());
        let elsewhere = Record::Fault { what: "other group".into(), group: Some("h".into()), budget: 1 };
        only(&after(elsewhere), Invariant::DuplicateBudget);
    }

    #[test]
    fn a_message_written_twice_on_purpose_comes_twice() {
        let twice = [published("1", "k", 1), published("1", "k", 1), handled("1"), vec![delivered("1")]];
        assert!(judge(twice, Rules::default()).is_ok());
    }
}
