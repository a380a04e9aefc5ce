//! Gauges: what a subscription holds now, and how far it is behind, as often as it is worth asking.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, gauge};
use millstream_core::erased::DynAdmin;
use tokio::time::{Instant, sleep};

use super::clock::Clock;
use super::desk::{Desk, Phase};

/// Brokers are asked for lag this often.
const EVERY: Duration = Duration::from_secs(10);

pub(super) async fn run(desk: Arc<Desk>, admin: Option<Arc<dyn DynAdmin>>, clock: Clock) {
    let named = |name: &'static str| -> Gauge {
        gauge!(
            name,
            "topic" => desk.info.topic.to_string(),
            "group" => desk.info.group.as_deref().unwrap_or_default().to_owned(),
            "handler" => desk.info.handler.to_string(),
        )
    };
    let in_flight = named("millstream_in_flight");
    let running = named("millstream_running");
    let parked_keys = named("millstream_parked_keys");
    let lag = named("millstream_lag");
    let oldest = named("millstream_oldest_age_seconds");
    loop {
        let (held, runs, keys) = desk.with(Instant::now(), |w| (w.in_flight(), w.running(), w.parked_keys()));
        // Gauges are floats; counts this small are exact in them.
        in_flight.set(held as f64);
        running.set(runs as f64);
        parked_keys.set(keys as f64);
        if let (Some(admin), Some(group)) = (&admin, &desk.info.group)
            && let Ok(Some(info)) = admin.group(&desk.info.topic, group).await
        {
            lag.set(info.lag as f64);
            let age = info.oldest.and_then(|at| clock.now().duration_since(at).ok()).unwrap_or_default();
            oldest.set(age.as_secs_f64());
        }
        tokio::select! {
            biased;
            () = sleep(EVERY) => {}
            () = desk.reached(Phase::Aborted) => return,
        }
    }
}
