//! I7 and I9: figures that have limits: time to drain, CPU when idle, memory, files, tasks, connections.

use super::scan::Seen;
use super::verdict::{Invariant, Report};
use crate::ledger::{Concern, Record};

pub(super) fn see(seen: &Seen<'_>, report: &mut Report<'_>) {
    let Record::Gauge { concern, name, value, baseline, slack } = seen.record else { return };
    if *value > baseline.saturating_add(*slack) {
        let invariant = match concern {
            Concern::Liveness => Invariant::Liveness,
            Concern::Bounds => Invariant::Bounded,
        };
        let what = format!("{name} is {value}, at most {baseline} + {slack} is allowed");
        report.breach(invariant, seen, None, what, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, only, strict};
    use super::*;

    #[test]
    fn a_figure_may_reach_its_limit_and_not_pass_it() {
        for (concern, invariant) in
            [(Concern::Liveness, Invariant::Liveness), (Concern::Bounds, Invariant::Bounded)]
        {
            let gauge =
                |value| Record::Gauge { concern, name: "tasks".into(), value, baseline: 10, slack: 2 };
            assert!(judge([vec![gauge(12)]], strict()).is_ok());
            assert!(only(&judge([vec![gauge(13)]], strict()), invariant).what.contains("tasks is 13"));
        }
    }
}
