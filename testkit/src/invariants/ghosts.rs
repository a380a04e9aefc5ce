//! I2: only what was meant to be published is delivered, and nothing that was rolled back.
//!
//! Judged in the end: the ledgers of several processes may be merged by clocks that differ a little.

use super::scan::State;
use super::verdict::{Invariant, Report};

pub(super) fn end(state: &mut State, report: &mut Report<'_>) {
    state.steps += state.fates.len() as u64;
    let mut ghosts: Vec<_> = state
        .fates
        .iter()
        .filter(|(_, fate)| fate.deliveries > 0 || fate.dead.is_some())
        .filter_map(|(&(group, message), fate)| {
            let published = &state.published[message as usize];
            let what = match (published.intent, published.rolled_back) {
                (None, _) => "delivered, but nobody meant to publish it",
                (_, Some(_)) => "delivered, but its transaction was rolled back",
                _ => return None,
            };
            let evidence = [published.intent, published.rolled_back, fate.last_delivery, fate.dead];
            Some((group, message, what, evidence))
        })
        .collect();
    // A hash map has no order of its own, and reports should not differ from run to run.
    ghosts.sort_unstable_by_key(|&(group, message, ..)| (message, group));
    for (group, message, what, evidence) in ghosts {
        report.breach_of(Invariant::NoGhost, state, message, Some(group), what.to_owned(), &evidence);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{handled, judge, only, published, strict};
    use super::*;
    use crate::ledger::Record;

    #[test]
    fn a_message_that_nobody_published_is_a_ghost() {
        only(&judge([handled("1")], strict()), Invariant::NoGhost);
        assert!(judge([published("1", "k", 1), handled("1")], strict()).is_ok());
    }

    #[test]
    fn a_message_that_was_rolled_back_is_a_ghost_if_it_comes() {
        let rolled_back = vec![Record::RolledBack { id: "1".into() }];
        let mut intent = published("1", "k", 1);
        intent.pop();
        assert!(judge([intent.clone(), rolled_back.clone()], strict()).is_ok());
        only(&judge([intent, rolled_back, handled("1")], strict()), Invariant::NoGhost);
    }

    #[test]
    fn an_intent_whose_record_comes_late_makes_no_ghost() {
        assert!(judge([handled("1"), published("1", "k", 1)], strict()).is_ok());
    }
}
