//! Asking the deduplication store, in batches, before anything runs.

use std::sync::Arc;

use millstream_core::erased::DynDedupStore;
use tokio::time::Instant;

use super::desk::{Desk, Phase};
use super::faults::Place;

pub(super) async fn run(desk: Arc<Desk>, store: Arc<dyn DynDedupStore>) {
    let mut wanted = Vec::new();
    let mut outworn = Vec::new();
    loop {
        let now = Instant::now();
        desk.with(now, |window| window.take_reserving(&mut wanted, &mut outworn));
        if wanted.is_empty() && outworn.is_empty() {
            tokio::select! {
                () = desk.reserver_bell.notified() => {}
                () = desk.reached(Phase::Aborted) => return,
            }
            continue;
        }
        if !outworn.is_empty()
            && let Err(error) = store.release(std::mem::take(&mut outworn)).await
        {
            // Their leases free them: until then their own messages find them busy.
            tracing::warn!(topic = %desk.info.topic, %error, "reservations could not be released");
        }
        if wanted.is_empty() {
            continue;
        }
        let (places, keys): (Vec<_>, Vec<_>) = wanted.drain(..).unzip();
        match store.reserve(keys, desk.policy.dedup_lease).await {
            Ok(answers) => {
                desk.faults.clear(Place::Dedup);
                let now = Instant::now();
                desk.with(now, |window| {
                    let mut answers = answers.into_iter();
                    for index in places {
                        window.reserved(index, answers.next(), now);
                    }
                });
            }
            Err(error) => {
                if desk.faults.set(Place::Dedup, &error) {
                    tracing::error!(topic = %desk.info.topic, %error,
                        "the deduplication store cannot be asked: messages wait");
                }
                let now = Instant::now();
                desk.with(now, |window| {
                    for index in places {
                        window.reserved(index, None, now);
                    }
                });
            }
        }
    }
}
