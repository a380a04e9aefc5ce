//! Reserving an id and confirming it in a table of DynamoDB, beside the two requests alone.

use super::{GROUP, bench};
use crate::Result;
use crate::groups::program::{interleaved, told};
use crate::groups::sqlite::Scale;
use crate::row::Row;

const RAW: &str = "aws-sdk-dynamodb 1.136 alone";

/// Ids under way, and ids of a run.
const SHAPES: [(usize, usize); 3] = [(1, 1_000), (16, 2_000), (64, 3_000)];

const GUARANTEES: &str = "Both take the same two conditional updates of one item each, in one task, with no retries by the \
    SDK. The raw loop ends at the first failure; the store asks again, tells whether an id is a duplicate or busy, and gives \
    back what nobody waits for any more.";

pub(super) fn run(scale: Scale) -> Result<Vec<Row>> {
    let table = format!("bench-{}", uuid::Uuid::now_v7());
    bench(["table", &table]).quiet()?;
    let mut rows = Vec::new();
    for (in_flight, ids) in SHAPES {
        let run = |subject: &str| bench(["reserve", subject, &table]).arg(ids).arg(in_flight).outcome();
        run("raw")?;
        let [raw, store] = interleaved([ids; 2], scale.rounds(), || Ok([run("raw")?, run("driver")?]))?;
        let detail = format!("{}; {}. {GUARANTEES}", told("store", &store), told("raw", &raw));
        let name = format!("reserved and confirmed, {in_flight} at a time");
        rows.push(
            Row::new(GROUP, name.clone(), store.rate(), "ids a second")
                .beside(RAW, raw.rate())
                .detail(detail),
        );
        rows.push(Row::new(GROUP, name, store.cpu_nanos(), "ns of CPU an id").beside(RAW, raw.cpu_nanos()));
    }
    Ok(rows)
}
