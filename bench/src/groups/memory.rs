//! From published to handled through `memory://`, beside the least that such a way takes.

use crate::Result;
use crate::rounds::interleaved;
use crate::row::{Goal, Row};
use crate::scenario::Scenario;
use crate::subject::Subject::Ours;

const GROUP: &str = "memory";

const MESSAGES: usize = 1_000_000;
/// Three seconds' worth.
const PACED: usize = 60_000;

pub(crate) fn run() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let [ours, bare, singly] =
        interleaved([Ours(Scenario::Flow), Ours(Scenario::FlowBare), Ours(Scenario::FlowSingly)], MESSAGES)?;
    rows.push(
        Row::new(GROUP, "published in batches of 64, handled in order", ours.rate(), "messages a second")
            .beside("bare loop", bare.rate())
            .goal(Goal::AtLeast(0.5))
            .detail(format!(
                "typed, one producer, bounded at 100,000 messages, acknowledged after the handler, retried and \
                 dead-lettered if it failed; best/median/worst {}; at this load {}; {}. Bare loop (UUIDv7, serde_json, \
                 tokio's channel of batches, serde_json; none of that): {}; {}; {}",
                ours.spread(),
                ours.latency(),
                ours.memory(),
                bare.spread(),
                bare.latency(),
                bare.memory()
            )),
    );
    rows.push(
        Row::new(GROUP, "published one by one, handled in order", singly.rate(), "messages a second")
            .detail(format!("{}; at this load {}; {}", singly.spread(), singly.latency(), singly.memory())),
    );
    let [paced, paced_bare] = interleaved([Ours(Scenario::FlowPaced), Ours(Scenario::FlowPacedBare)], PACED)?;
    if let (Some(ours), Some(bare)) = (paced.median().latency, paced_bare.median().latency) {
        rows.push(
            Row::new(GROUP, "latency at 20,000 a second, median", ours.p50 as f64 / 1e3, "µs")
                .beside("bare loop", bare.p50 as f64 / 1e3)
                .detail(format!(
                    "published one by one, 20 at each millisecond; ours {}; bare loop {}",
                    paced.latency(),
                    paced_bare.latency()
                )),
        );
    }
    let [one, four] = interleaved([Ours(Scenario::OneGroup), Ours(Scenario::FourGroups)], MESSAGES / 2)?;
    rows.push(
        Row::new(GROUP, "fan-out to four groups", four.rate() * 4.0, "handlings a second")
            .beside("one group", one.rate())
            .goal(Goal::AtLeast(1.0))
            .detail(format!(
                "default settings, published in batches of 64; a message: four groups {}, {}; one group {}, {}",
                four.spread(),
                four.memory(),
                one.spread(),
                one.memory()
            )),
    );
    Ok(rows)
}
