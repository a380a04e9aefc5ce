//! I6: each effect happens once, where that is promised.

use super::scan::{Seen, State};
use super::verdict::{Invariant, Report};
use crate::ledger::Record;

pub(super) fn see(seen: &Seen<'_>, state: &State, promised: bool, report: &mut Report<'_>) {
    if !promised || !matches!(seen.record, Record::Effect { .. }) {
        return;
    }
    let Some(fate) = state.fate(seen).filter(|fate| fate.effects > 0) else { return };
    let what = format!("its effect happened {} times", fate.effects + 1);
    report.breach(Invariant::SingleEffect, seen, Some(state), what, &[fate.last_effect, fate.last_delivery]);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{effect, handled, judge, only, published, strict};
    use super::*;

    #[test]
    fn a_second_effect_is_a_breach_only_where_one_was_promised() {
        let records = [published("1", "k", 1), handled("1"), vec![effect("1")]];
        only(&judge(records.clone(), strict()), Invariant::SingleEffect);
        let mut rules = strict();
        rules.single_effect = false;
        assert!(judge(records, rules).is_ok());
    }

    #[test]
    fn an_effect_in_each_of_two_groups_is_none() {
        let other = handled("1").into_iter().map(|mut record| {
            match &mut record {
                Record::Delivered { group, .. }
                | Record::Effect { group, .. }
                | Record::Settled { group, .. } => *group = "h".into(),
                _ => {}
            }
            record
        });
        assert!(judge([published("1", "k", 1), handled("1"), other.collect()], strict()).is_ok());
    }
}
