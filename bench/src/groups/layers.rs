//! What layers around a handler cost.

use super::NO_VALGRIND;
use super::ruststream::{self, NAME as PEER};
use crate::Result;
use crate::count;
use crate::row::{Goal, Row};
use crate::scenario::Scenario;

const GROUP: &str = "layers";

const COUNTED: usize = 10_000;

pub(crate) fn run() -> Result<Vec<Row>> {
    if !count::is_possible() {
        return Ok(vec![Row::left_out(GROUP, "instructions", NO_VALGRIND)]);
    }
    let none = count::cost(Scenario::SequentialReady, COUNTED)?;
    let four = count::cost(Scenario::LayersReady, COUNTED)?;
    let peer_none = count::cost(ruststream::SEQUENTIAL, COUNTED)?;
    let peer_four = count::cost(ruststream::LAYERS, COUNTED)?;
    Ok(vec![
        Row::new(GROUP, "four layers around a handler", four.instructions, "instructions a message")
            .beside("without layers", none.instructions)
            .goal(Goal::AtMost(1.10))
            .detail(format!(
                "the layers pass on and do nothing else; {PEER}: {:.0} with four, {:.0} without",
                peer_four.instructions, peer_none.instructions
            )),
    ])
}
