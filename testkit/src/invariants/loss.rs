//! I1: every message confirmed to its publisher ends in every group that reads its topic.

use super::scan::{Fate, State};
use super::verdict::{Invariant, Report};

pub(super) fn end(state: &mut State, effects_recorded: bool, report: &mut Report<'_>) {
    let untouched = Fate::default();
    let mut visits = 0;
    for subscription in &state.subscriptions {
        for &message in &state.by_topic[subscription.topic as usize] {
            visits += 1;
            let published = &state.published[message as usize];
            let Some(confirmed) = published.acked else { continue };
            if confirmed < subscription.from || published.rolled_back.is_some() {
                continue;
            }
            let fate = state.fates.get(&(subscription.group, message)).unwrap_or(&untouched);
            let Some(what) = lost(fate, effects_recorded) else { continue };
            let evidence =
                [published.intent, published.acked, fate.last_delivery, fate.last_settled, fate.last_effect];
            report.breach_of(
                Invariant::NoLoss,
                state,
                message,
                Some(subscription.group),
                what.to_owned(),
                &evidence,
            );
        }
    }
    state.steps += visits;
}

fn lost(fate: &Fate, effects_recorded: bool) -> Option<&'static str> {
    if fate.dead.is_some() || fate.discarded.is_some() {
        return None;
    }
    if fate.acked.is_none() {
        return Some(match (fate.deliveries, fate.last_settled) {
            (0, _) => "confirmed to its publisher and never delivered",
            (_, None) => "delivered and never settled",
            (_, Some(_)) => "delivered, and its settlements never took effect",
        });
    }
    (effects_recorded && fate.effects == 0).then_some("acknowledged without its effect")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{acked, delivered, handled, judge, only, published, settled, strict};
    use super::*;
    use crate::ledger::{Ending, Outcome, Record};

    fn subscribed(from_now: bool) -> Vec<Record> {
        vec![Record::Subscribed { group: "g".into(), topic: "t".into(), from_now }]
    }

    #[test]
    fn a_confirmed_message_that_never_came_is_lost() {
        let verdict = judge([subscribed(false), published("1", "k", 1)], strict());
        assert_eq!(only(&verdict, Invariant::NoLoss).id.as_deref(), Some("1"));
        assert_eq!(verdict.lost().count(), 1);
    }

    #[test]
    fn one_that_was_never_confirmed_is_not() {
        let mut intent = published("1", "k", 1);
        intent.pop();
        assert!(judge([subscribed(false), intent], strict()).is_ok());
    }

    #[test]
    fn a_group_that_starts_now_is_not_owed_what_was_before() {
        assert!(judge([published("1", "k", 1), subscribed(true)], strict()).is_ok());
        let verdict = judge([subscribed(true), published("1", "k", 1)], strict());
        only(&verdict, Invariant::NoLoss);
    }

    #[test]
    fn a_settlement_of_unknown_outcome_ends_nothing() {
        let unknown = settled("1", Ending::Ack, Outcome::Unknown);
        let mut records = handled("1");
        records.pop();
        let verdict = judge([published("1", "k", 1), records.clone(), vec![unknown.clone()]], strict());
        assert_eq!(only(&verdict, Invariant::NoLoss).evidence.len(), 5);
        // Its neighbour: the same, and then a confirmed one.
        assert!(judge([published("1", "k", 1), records, vec![unknown, acked("1")]], strict()).is_ok());
    }

    #[test]
    fn an_acknowledgement_without_effect_is_a_loss_and_a_dead_letter_is_not() {
        let early = vec![delivered("1"), acked("1")];
        let verdict = judge([published("1", "k", 1), early.clone()], strict());
        assert_eq!(only(&verdict, Invariant::NoLoss).what, "acknowledged without its effect");
        let digest = crate::ledger::digest(&super::super::testing::message("1", "k"));
        let dead = Record::DeadLettered { id: "1".into(), group: "g".into(), digest };
        assert!(judge([published("1", "k", 1), early, vec![dead]], strict()).is_ok());
    }

    #[test]
    fn what_was_redriven_must_end_again() {
        let redriven = Record::Redriven { id: "1".into(), group: "g".into() };
        let start = [published("1", "k", 1), handled("1"), vec![redriven]];
        only(&judge(start.clone(), strict()), Invariant::NoLoss);
        let ended = vec![delivered("1"), acked("1")];
        assert!(judge(start.into_iter().chain([ended]), strict()).is_ok());
    }

    #[test]
    fn every_group_is_owed_every_message() {
        let other = Record::Subscribed { group: "h".into(), topic: "t".into(), from_now: false };
        let verdict = judge([vec![other], published("1", "k", 1), handled("1")], strict());
        assert_eq!(only(&verdict, Invariant::NoLoss).group.as_deref(), Some("h"));
    }
}
