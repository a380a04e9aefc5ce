//! Extending leases on a thread and runtime of their own: handlers that block every other thread lose none.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::erased::DynLeases;
use millstream_core::{BoxFuture, LeasePlan, TokenId};
use tokio::time::{Instant, sleep, timeout};

use super::desk::{Desk, Phase};
use super::faults::Place;
use super::window::Input;

/// Runs lease loops on a thread that ends when they all have.
pub(super) fn on_own_thread(loops: Vec<BoxFuture<'static, ()>>) -> std::io::Result<()> {
    if loops.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("millstream-leases".into()).spawn(move || {
        runtime.block_on(async move {
            let tasks: Vec<_> = loops.into_iter().map(tokio::spawn).collect();
            for task in tasks {
                // A panic in a driver's code ends its own loop only.
                let _ = task.await;
            }
        });
    })?;
    Ok(())
}

/// Extends at every third of the lease, until the subscription closes.
pub(super) async fn run(desk: Arc<Desk>, input: Input, plan: LeasePlan<Box<dyn DynLeases>>) {
    let LeasePlan { duration, mut leases } = plan;
    let every = duration / 3;
    let mut connected = false;
    let mut held: Vec<TokenId> = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = sleep(every) => {}
            () = desk.reached(Phase::Aborted) => return,
        }
        match extend(&desk, input, &mut *leases, &mut connected, every, &mut held).await {
            Ok(()) => {
                if desk.faults.clear(Place::Leases) {
                    tracing::info!(topic = %desk.info.topic, "leases are extended again");
                }
            }
            Err(why) => {
                connected = false;
                if desk.faults.set(Place::Leases, &why) {
                    tracing::warn!(topic = %desk.info.topic, why, "leases could not be extended; trying again");
                }
            }
        }
    }
}

async fn extend(
    desk: &Desk,
    input: Input,
    leases: &mut dyn DynLeases,
    connected: &mut bool,
    within: Duration,
    held: &mut Vec<TokenId>,
) -> Result<(), String> {
    let late = |_| format!("no answer within {within:?}");
    if !*connected {
        timeout(within, leases.connect()).await.map_err(late)?.map_err(|e| e.to_string())?;
        *connected = true;
    }
    held.clear();
    let asked = Instant::now();
    desk.with(asked, |window| window.held_tokens(input, held));
    let kept = timeout(within, leases.extend(held)).await.map_err(late)?.map_err(|e| e.to_string())?;
    desk.with(Instant::now(), |window| window.extended(held, &kept, asked));
    Ok(())
}
