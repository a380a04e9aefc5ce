//! Publishing in batches of 100, beside `rusqlite` alone.

use std::path::Path;
use std::time::Duration;

use millstream_core::{Message, Writer};
use millstream_sqlite::SqliteStore;

use super::{GROUP, Scale, bare, folder, load, median, spread};
use crate::Result;
use crate::row::{Goal, Row};

const BATCH: usize = 100;
const BYTES: usize = 256;
/// Batches that are not acknowledged yet, and what part of bare inserts is wanted.
const OUTSTANDING: [(usize, f64); 2] = [(1, 0.8), (2, 1.0)];

pub(super) async fn run(scale: Scale) -> Result<Vec<Row>> {
    let folder = folder()?;
    let mut bare = Vec::new();
    let mut ours = OUTSTANDING.map(|_| Vec::new());
    for turn in 0..scale.rounds() {
        let file = |name: &str| folder.path().join(format!("{name}-{turn}.db"));
        let (path, time) = (file("bare"), scale.turn());
        bare.push(tokio::task::spawn_blocking(move || bare::insert(&path, time, BATCH, BYTES)).await??);
        for ((outstanding, _), turns) in OUTSTANDING.iter().zip(&mut ours) {
            turns.push(batches(&file(&outstanding.to_string()), scale.turn(), *outstanding).await?);
        }
    }
    let rows = OUTSTANDING.into_iter().zip(ours).map(|((outstanding, goal), rates)| {
        let detail = format!(
            "256 B; both commit each batch with synchronous=FULL; turns {} beside {}",
            spread(&rates),
            spread(&bare)
        );
        Row::new(
            GROUP,
            format!("batches of {BATCH}, {outstanding} outstanding"),
            median(rates),
            "messages a second",
        )
        .beside("rusqlite 0.39, the same rows and transactions", median(bare.clone()))
        .goal(Goal::AtLeast(goal))
        .detail(detail)
    });
    Ok(rows.collect())
}

async fn batches(file: &Path, time: Duration, outstanding: usize) -> Result<f64> {
    let store = SqliteStore::open(file).await?;
    let writer = store.writer();
    let load = load::during(time, outstanding, move |publisher| {
        let writer = writer.clone();
        async move {
            let batch: Vec<Message> = vec![load::message(publisher, BYTES); BATCH];
            writer.write(batch).await?.into_result()?;
            Ok(())
        }
    });
    Ok(load.await?.rate() * BATCH as f64)
}
