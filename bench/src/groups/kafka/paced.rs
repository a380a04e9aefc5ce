//! From just before a message is written until its handler has it, at a steady pace that nobody finds hard.

use super::{GROUP, RAW, Topic, bench};
use crate::Result;
use crate::groups::program::interleaved;
use crate::groups::sqlite::Scale;
use crate::row::Row;

/// Five seconds' worth.
const MESSAGES: usize = 10_000;

pub(super) fn run(scale: Scale) -> Result<Vec<Row>> {
    let run = |subject: &str| {
        let topic = Topic::new(12)?;
        bench(["paced", subject, &topic.0]).arg(MESSAGES).outcome()
    };
    let [raw, toolkit] =
        interleaved([MESSAGES; 2], scale.rounds(), || Ok([run("raw-typed")?, run("toolkit")?]))?;
    let (Some(ours), Some(beside)) = (toolkit.median().latency, raw.median().latency) else {
        return Err("no latency was told".into());
    };
    let detail = format!(
        "published one by one at 2,000 a second, 12 partitions, one process; toolkit {}, {}; raw {}, {}",
        toolkit.latency(),
        toolkit.memory(),
        raw.latency(),
        raw.memory()
    );
    let row = |name: &str, ours: u64, beside: u64| {
        Row::new(GROUP, format!("published to handled, 100 B, {name}"), ours as f64 / 1e3, "µs")
            .beside(format!("{RAW} and serde_json"), beside as f64 / 1e3)
            .detail(detail.clone())
    };
    Ok(vec![row("p50", ours.p50, beside.p50), row("p99", ours.p99, beside.p99)])
}
