//! What a durable acknowledgement costs: 64 publishers, each awaiting its own.

use millstream_sqlite::SqliteStore;

use super::load::{self, Load, PUBLISHERS};
use super::{GROUP, Scale, bare, folder, median, spread};
use crate::Result;
use crate::row::{Goal, Row};

/// Payload bytes, and what part of the bare append is wanted.
const SIZES: [(usize, f64); 2] = [(256, 0.85), (1_024, 0.7)];

pub(super) async fn run(scale: Scale) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (bytes, goal) in SIZES {
        let folder = folder()?;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for turn in 0..scale.rounds() {
            bare.push(bare::append(&folder.path().join("raw"), scale.turn(), bytes).await?);
            let store = SqliteStore::open(folder.path().join(format!("{turn}.db"))).await?;
            let writer = store.writer();
            let load = load::during(scale.turn(), PUBLISHERS, move |publisher| {
                load::write(writer.clone(), load::message(publisher, bytes))
            });
            ours.push(load.await?);
        }
        let rates = |loads: &[Load]| loads.iter().map(Load::rate).collect::<Vec<_>>();
        let (our_rates, bare_rates) = (rates(&ours), rates(&bare));
        let detail = format!(
            "one sync for all that waits, on both sides; turns {} beside {}; ours {}; bare {}",
            spread(&our_rates),
            spread(&bare_rates),
            middle(&ours),
            middle(&bare)
        );
        let name = format!("64 publishers, each awaiting its own acknowledgement, {bytes} B");
        rows.push(
            Row::new(GROUP, name, median(our_rates), "acknowledged a second")
                .beside("append and fdatasync on a growing file", median(bare_rates))
                .goal(Goal::AtLeast(goal))
                .detail(detail),
        );
    }
    Ok(rows)
}

/// The waits of the turn in the middle, in words.
fn middle(loads: &[Load]) -> String {
    let mut by_rate: Vec<&Load> = loads.iter().collect();
    by_rate.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    by_rate.get(by_rate.len() / 2).map_or_else(String::new, |load| load.waits())
}
