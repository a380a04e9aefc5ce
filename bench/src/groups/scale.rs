//! What a message costs when there are many subscriptions, or many keys.

use crate::Result;
use crate::rounds::interleaved;
use crate::row::{Goal, Row};
use crate::scenario::Scenario;
use crate::subject::Subject;

const GROUP: &str = "scale";

/// So that each of 1,000 subscriptions has a thousand: to begin with one costs as much as some dozens of messages.
const BACKLOG: usize = 1_000_000;
const LIVE: usize = 100_000;
/// So that each of them has its batch, ten times.
const BATCHES: usize = 640_000;
/// Each key at least once.
const KEYED: usize = 1_000_000;

pub(crate) fn run() -> Result<Vec<Row>> {
    Ok(vec![
        row(
            "1,000 subscriptions, a backlog each",
            [Scenario::ThousandSubscriptions, Scenario::OneSubscription],
            BACKLOG,
        )?,
        row(
            "1,000 subscriptions, a batch of 64 in turn",
            [Scenario::ThousandSubscriptionsByBatch, Scenario::OneSubscriptionLive],
            BATCHES,
        )?,
        row(
            "1,000 subscriptions, a message in turn",
            [Scenario::ThousandSubscriptionsLive, Scenario::OneSubscriptionLive],
            LIVE,
        )?,
        row("1,000,000 keys", [Scenario::MillionKeys, Scenario::OneKey], KEYED)?,
    ])
}

fn row(name: &str, scenarios: [Scenario; 2], messages: usize) -> Result<Row> {
    let [many, one] = interleaved(scenarios.map(Subject::Ours), messages)?;
    Ok(Row::new(GROUP, name, many.nanos(), "ns a message")
        .beside("one", one.nanos())
        .goal(Goal::AtMost(1.5))
        .detail(format!(
            "default settings; best/median/worst: many {}, {}; one {}, {}",
            many.spread(),
            many.memory(),
            one.spread(),
            one.memory()
        )))
}
