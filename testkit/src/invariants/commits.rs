//! I3: the committed position never passes an unfinished message.

use super::scan::Seen;
use super::verdict::{Invariant, Report};
use crate::ledger::Record;

pub(super) fn see(seen: &Seen<'_>, report: &mut Report<'_>) {
    let Record::Committed { group, topic, partition, committed, lowest_unfinished } = seen.record else {
        return;
    };
    if committed > lowest_unfinished {
        let what = format!(
            "group {group:?} committed position {committed} of partition {partition} of topic {topic:?}, \
             but {lowest_unfinished} is not finished"
        );
        report.breach(Invariant::CommitSafety, seen, None, what, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, only, strict};
    use super::*;

    #[test]
    fn a_commit_may_reach_the_lowest_unfinished_position_but_not_pass_it() {
        let sample = |committed| Record::Committed {
            group: "g".into(),
            topic: "t".into(),
            partition: 3,
            committed,
            lowest_unfinished: 10,
        };
        assert!(judge([vec![sample(10)]], strict()).is_ok());
        let verdict = judge([vec![sample(11)]], strict());
        assert!(only(&verdict, Invariant::CommitSafety).what.contains("partition 3"));
    }
}
