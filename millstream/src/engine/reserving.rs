//! Asking the deduplication store, in batches, before anything runs; and telling it what came of messages whose
//! effects were settled with them.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::Reservation;
use millstream_core::erased::DynDedupStore;
use tokio::time::Instant;

use super::desk::{Desk, Phase};
use super::faults::Place;
use super::window::Window;

/// The same reservations once more, to be released once more.
pub(super) fn copies(reservations: &[Reservation]) -> Vec<Reservation> {
    reservations.iter().map(|one| Reservation { key: one.key.clone(), owner: one.owner }).collect()
}

/// How soon a store that could not be told is told again.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(desk: Arc<Desk>, store: Arc<dyn DynDedupStore>) {
    let mut wanted = Vec::new();
    let mut outworn = Vec::new();
    let mut to_confirm = Vec::new();
    loop {
        let now = Instant::now();
        desk.with(now, |window| window.take_reserving(&mut wanted, &mut outworn, &mut to_confirm));
        if wanted.is_empty() && outworn.is_empty() && to_confirm.is_empty() {
            tokio::select! {
                biased;
                () = desk.reserver_bell.notified() => {}
                () = desk.reached(Phase::Aborted) => return,
            }
            continue;
        }
        if !outworn.is_empty() {
            let again = copies(&outworn);
            if let Err(error) = store.release(std::mem::take(&mut outworn)).await {
                // Until they are, or their leases end, their own messages find them busy.
                tracing::debug!(topic = %desk.info.topic, %error, "reservations could not be released; trying again");
                outworn = again;
                if wanted.is_empty() {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(AGAIN) => {}
                        () = desk.reached(Phase::Aborted) => return,
                    }
                }
            }
        }
        if !to_confirm.is_empty() {
            match store.confirm(&to_confirm).await {
                Ok(_) => {
                    desk.faults.clear(Place::Dedup);
                    to_confirm.clear();
                    desk.with(Instant::now(), Window::confirmed);
                }
                Err(error) => {
                    // A copy must not pass because of this: nothing new is reserved before.
                    if desk.faults.set(Place::Dedup, &error) {
                        tracing::error!(topic = %desk.info.topic, %error,
                            "the deduplication store cannot be told what was handled: messages wait");
                    }
                    let now = Instant::now();
                    desk.with(now, |window| {
                        for (seat, _) in wanted.drain(..) {
                            window.reserved(seat, None, now);
                        }
                    });
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep(AGAIN) => {}
                        () = desk.reached(Phase::Aborted) => return,
                    }
                    continue;
                }
            }
        }
        if wanted.is_empty() {
            continue;
        }
        let (seats, keys): (Vec<_>, Vec<_>) = wanted.drain(..).unzip();
        match store.reserve(keys, desk.policy.dedup_lease).await {
            Ok(answers) => {
                desk.faults.clear(Place::Dedup);
                let now = Instant::now();
                desk.with(now, |window| {
                    let mut answers = answers.into_iter();
                    for seat in seats {
                        window.reserved(seat, answers.next(), now);
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
                    for seat in seats {
                        window.reserved(seat, None, now);
                    }
                });
            }
        }
    }
}
