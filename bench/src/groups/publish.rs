//! What publishing one typed event costs in process.

use super::NO_VALGRIND;
use super::ruststream::{self, NAME as PEER};
use crate::Result;
use crate::count;
use crate::rounds::interleaved;
use crate::row::{Goal, Row};
use crate::scenario::Scenario;
use crate::subject::Subject::Ours;

const GROUP: &str = "publish";

const COUNTED: usize = 10_000;
const TIMED: usize = 100_000;

pub(crate) fn run() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let name = "one typed event into memory://";
    if count::is_possible() {
        let ours = count::cost(Scenario::Publish, COUNTED)?;
        let peer = count::cost(ruststream::PUBLISH, COUNTED)?;
        rows
            .push(Row::new(GROUP, name, ours.instructions, "instructions").goal(Goal::AtMost(1_500.0)).detail(
            format!(
                "a UUIDv7, the time, JSON, checks, a bounded topic with a group. {PEER}: {:.0}, JSON into an \
                     unbounded queue, neither id nor time nor bound",
                peer.instructions
            ),
        ));
        rows.push(
            Row::new(GROUP, name, ours.allocations, "allocations")
                .goal(Goal::AtMost(2.0))
                .detail(format!("{PEER}: {:.2}", peer.allocations)),
        );
    } else {
        rows.push(Row::left_out(GROUP, "instructions and allocations", NO_VALGRIND));
    }
    let [ours, peer] = interleaved([Ours(Scenario::Publish), ruststream::PUBLISH], TIMED)?;
    rows.push(Row::new(GROUP, name, ours.nanos(), "ns").detail(format!(
        "best/median/worst {}; {PEER}: {}",
        ours.spread(),
        peer.spread()
    )));
    Ok(rows)
}
