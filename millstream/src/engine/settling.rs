//! Settling: verdicts go to the broker in batches, in one task that owns the settler.

use std::sync::Arc;

use millstream_core::erased::DynSettler;
use millstream_core::{Error, ErrorKind, Settled};
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::desk::{Desk, Phase};
use super::faults::Place;
use super::window::{Input, Outward};

/// Settles until the subscription closes, then closes the settler.
pub(super) async fn run(
    desk: Arc<Desk>,
    input: Input,
    mut settler: Box<dyn DynSettler>,
) -> Result<(), Error> {
    let mut outward = Outward::default();
    let mut backoff = Backoff::default();
    loop {
        let now = Instant::now();
        let marks = desk.with(now, |window| {
            window.take_settlements(input, now, &mut outward);
            if input == Input::Main { window.take_marks() } else { Vec::new() }
        });
        if outward.is_empty() && marks.is_empty() {
            if desk.phase() >= Phase::Closing {
                return settler.close().await;
            }
            tokio::select! {
                biased;
                () = desk.settler_bells[input as usize].notified() => {}
                () = desk.reached(Phase::Closing) => {}
            }
            continue;
        }
        for request in marks {
            match settler.mark(request.partition, request.epoch, request.note).await {
                Ok(()) => {
                    desk.faults.clear(Place::Marks);
                }
                Err(error) => {
                    // Only a message that kills processes needs it: the others go on.
                    desk.faults.set(Place::Marks, &error);
                }
            }
            let now = Instant::now();
            desk.with(now, |window| window.marked(request.then, now));
        }
        if outward.is_empty() {
            continue;
        }
        let size = outward.tags.len();
        let batch = std::mem::replace(&mut outward.settlements, Vec::with_capacity(size));
        let mut outcomes = settler.settle(batch).await;
        outcomes.resize_with(size, || {
            Settled::Unknown(Error::new(
                ErrorKind::Internal,
                "the driver gave fewer outcomes than it was given settlements",
            ))
        });
        let failure = outcomes.iter().find_map(|outcome| match outcome {
            Settled::Failed { error, .. } => Some(error.to_string()),
            _ => None,
        });
        let now = Instant::now();
        desk.with(now, |window| {
            let mut tags = std::mem::take(&mut outward.tags);
            window.all_settled(input, &mut tags, outcomes, &mut outward, now);
            if outward.is_empty() {
                // Its memory serves the next batch.
                outward.tags = tags;
            }
        });
        match failure {
            None => {
                backoff.reset();
                desk.faults.clear(Place::Settling);
            }
            Some(error) => {
                if desk.faults.set(Place::Settling, &error) {
                    tracing::error!(topic = %desk.info.topic, error, "settlements fail and are sent again");
                }
                tokio::select! {
                    biased;
                    () = sleep(backoff.next()) => {}
                    () = desk.reached(Phase::Aborted) => {
                        // No time is left: they come again.
                        drop(outward);
                        return settler.close().await;
                    }
                }
            }
        }
    }
}
