//! A running scheduler: control, health, and the phased shutdown with its report.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::erased::DynSource;
use millstream_core::{BoxFuture, Error, ErrorKind, Result};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::desk::{Desk, Phase};
use super::faults::Place;
use super::health::SubscriptionHealth;
use super::open::{self, Parts};
use super::outbound;
use super::pump::Pump;
use super::settings::LeaseRenewal;
use super::{Engine, Health, Spec, gauges, leases, reserving, settling};

/// After the drain: how long settling and closing may take.
const CLOSING: Duration = Duration::from_secs(5);

/// The tasks of a scheduler. Dropping it stops them at once, as a crash would.
#[derive(Debug)]
pub(crate) struct Running {
    control: Control,
    subscriptions: Vec<JoinHandle<Vec<String>>>,
    drain: Duration,
}

/// Controls a running scheduler from anywhere; cloning shares it.
#[derive(Debug, Clone)]
pub struct Control {
    desks: Arc<[Arc<Desk>]>,
}

/// How a shutdown went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// A report for each subscription.
    pub subscriptions: Vec<SubscriptionReport>,
    /// How long it took.
    pub took: Duration,
}

/// How one subscription ended, and what it did in its life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionReport {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: Option<String>,
    /// The handler's name.
    pub handler: String,
    /// Messages read, redeliveries included.
    pub read: u64,
    /// Messages handled.
    pub handled: u64,
    /// Messages that handlers published with their success.
    pub emitted: u64,
    /// Runs of the handler that failed.
    pub failed: u64,
    /// Runs that failed and were retried.
    pub retried: u64,
    /// Messages suppressed as duplicates.
    pub duplicates: u64,
    /// Messages dead-lettered.
    pub dead_lettered: u64,
    /// Messages discarded because the handler or a policy said so.
    pub discarded: u64,
    /// Messages skipped because they were redriven for another group.
    pub skipped: u64,
    /// Messages parked.
    pub parked: u64,
    /// Settlements and completions that came too late: the lease or assignment was gone.
    pub leases_lost: u64,
    /// Deliveries dropped because their assignment was over.
    pub stale: u64,
    /// Settlements of which nobody knows.
    pub unknown: u64,
    /// Handlers that were still running at the deadline; their messages come again.
    pub abandoned: u64,
    /// Messages read and not started, given back.
    pub given_back: u64,
    /// What went wrong while it closed.
    pub errors: Vec<String>,
}

impl Report {
    /// Whether everything that was started ended, was settled and closed without an error.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.subscriptions.iter().all(|s| s.abandoned == 0 && s.errors.is_empty())
    }
}

impl Running {
    /// Ends in order: stops reading, lets running handlers end (up to the drain time), gives back what was
    /// not started, settles, closes. Runs to its end even if this future is dropped.
    pub(crate) async fn shutdown(mut self) -> Report {
        let subscriptions = std::mem::take(&mut self.subscriptions);
        let (control, drain) = (self.control.clone(), self.drain);
        // A task of its own: dropping the caller's future must not cut the end short.
        let ending = tokio::spawn(end(control.clone(), subscriptions, drain));
        ending.await.unwrap_or_else(|error| {
            let mut subscriptions = control.counts();
            for report in &mut subscriptions {
                report.errors.push(format!("the shutdown did not come to its end: {error}"));
            }
            Report { subscriptions, took: Duration::ZERO }
        })
    }

    /// Resolves when every subscription has come to the end it was given and everything before it is settled;
    /// never for subscriptions without one. Cancel safe.
    pub(crate) async fn ended(&self) {
        for desk in &*self.control.desks {
            desk.reached(Phase::Closing).await;
        }
    }

    /// Control from elsewhere.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.subscriptions {
            task.abort();
        }
        if !self.subscriptions.is_empty() {
            // The lease thread must let go as well.
            self.control.abort();
        }
    }
}

impl Control {
    /// Stops starting handlers, for one topic or (`None`) for all. What runs goes on; leases are kept.
    pub fn pause(&self, topic: Option<&str>) {
        self.set_paused(topic, Activity::Paused);
    }

    /// Starts handlers again.
    pub fn resume(&self, topic: Option<&str>) {
        self.set_paused(topic, Activity::Active);
    }

    fn set_paused(&self, topic: Option<&str>, activity: Activity) {
        for desk in self.desks.iter().filter(|d| topic.is_none_or(|t| *d.info.topic == *t)) {
            desk.with(Instant::now(), |window| window.set_paused(activity == Activity::Paused));
        }
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        let now = Instant::now();
        let subscriptions = self
            .desks
            .iter()
            .map(|desk| {
                let (ready, mut why) = desk.faults.read();
                let live = !desk.faults.has(Place::Task);
                let phase = desk.phase();
                if phase > Phase::Running && !desk.has_ended() {
                    why.push("it is shutting down".to_owned());
                }
                desk.with(now, |window| {
                    if let Some(since) = window.outage_for(now) {
                        why.push(format!(
                            "failures across keys for {since:.0?}: paused as an outage, probing with single messages"
                        ));
                    }
                    if window.is_paused() {
                        why.push("paused by hand".to_owned());
                    }
                    if window.stopped_partitions() > 0 {
                        why.push(format!(
                            "{} partitions are not read: too much is finished behind an unfinished message",
                            window.stopped_partitions()
                        ));
                    }
                });
                SubscriptionHealth {
                    topic: desk.info.topic.to_string(),
                    group: desk.info.group.as_deref().map(str::to_owned),
                    handler: desk.info.handler.to_string(),
                    live,
                    ready: ready && live && (phase == Phase::Running || desk.has_ended()),
                    why,
                }
            })
            .collect();
        Health { subscriptions }
    }

    /// The counts so far, as in the report at the end.
    #[must_use]
    pub fn counts(&self) -> Vec<SubscriptionReport> {
        self.desks.iter().map(|desk| counts(desk)).collect()
    }

    /// Messages read and not yet settled, of all subscriptions; where a position settles all before it, not yet finished.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.desks.iter().map(|d| d.with(Instant::now(), |w| w.in_flight())).sum()
    }

    /// Cuts a shutdown that drains: what runs is abandoned now.
    pub fn abort(&self) {
        for desk in &*self.desks {
            if desk.phase() < Phase::Closing {
                desk.enter(Phase::Aborted);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Active,
    Paused,
}

fn counts(desk: &Desk) -> SubscriptionReport {
    desk.with(Instant::now(), |window| {
        let counts = &window.counts;
        SubscriptionReport {
            topic: desk.info.topic.to_string(),
            group: desk.info.group.as_deref().map(str::to_owned),
            handler: desk.info.handler.to_string(),
            read: counts.reads,
            handled: counts.handled_total,
            emitted: counts.emitted,
            failed: counts.failed_total,
            retried: counts.retried_total,
            duplicates: counts.duplicates,
            dead_lettered: counts.dead_total,
            discarded: counts.discarded_total,
            skipped: counts.skipped_total,
            parked: counts.parked_total,
            leases_lost: counts.leases_lost,
            stale: counts.stale,
            unknown: counts.unknown_total,
            abandoned: counts.abandoned,
            given_back: counts.given_back,
            errors: Vec::new(),
        }
    })
}

async fn end(control: Control, subscriptions: Vec<JoinHandle<Vec<String>>>, drain: Duration) -> Report {
    let begun = Instant::now();
    for desk in &*control.desks {
        desk.enter(Phase::Draining);
    }
    let aborter = {
        let control = control.clone();
        tokio::spawn(async move {
            tokio::time::sleep(drain).await;
            control.abort();
        })
    };
    let mut errors: Vec<Vec<String>> = Vec::new();
    for task in subscriptions {
        let told = match task.await {
            Ok(told) => told,
            Err(error) => vec![format!("a task of the scheduler was lost: {error}")],
        };
        errors.push(told);
    }
    aborter.abort();
    let mut subscriptions = control.counts();
    for (report, told) in subscriptions.iter_mut().zip(errors) {
        report.errors = told;
    }
    Report { subscriptions, took: begun.elapsed() }
}

pub(super) async fn start(engine: Engine, specs: Vec<Spec>) -> Result<Running> {
    let drain = engine.settings.drain;
    let engine = Arc::new(engine);
    let mut parts = Vec::new();
    for spec in specs {
        // Dropping what was opened before gives it back.
        parts.push(open::open(&engine, spec).await?);
    }
    let mut desks = Vec::new();
    let mut subscriptions = Vec::new();
    let mut lease_loops = Vec::new();
    for mut part in parts {
        for (input, plan) in part.leases.drain(..) {
            let run = leases::run(Arc::clone(&part.desk), input, plan);
            match engine.settings.leases {
                LeaseRenewal::OwnThread => {
                    lease_loops.push(Box::pin(run) as BoxFuture<'static, ()>);
                }
                LeaseRenewal::Task => drop(tokio::spawn(run)),
            }
        }
        desks.push(Arc::clone(&part.desk));
        subscriptions.push(tokio::spawn(supervise(part)));
    }
    let control = Control { desks: desks.into() };
    if let Err(error) = leases::on_own_thread(lease_loops) {
        for task in &subscriptions {
            task.abort();
        }
        return Err(
            Error::new(ErrorKind::Io, "the thread that extends leases cannot be started").source(error)
        );
    }
    Ok(Running { control, subscriptions, drain })
}

/// Runs a subscription's tasks to their end; what went wrong at the end.
async fn supervise(parts: Parts) -> Vec<String> {
    let Parts { desk, work, pumps, settlers, routes, dedup, admin, clock, leases: _ } = parts;
    let mut helpers: JoinSet<()> = JoinSet::new();
    for number in 0..desk.runner_bells.len() {
        helpers.spawn(Arc::clone(&work).run(Arc::clone(&desk), number));
    }
    for route in routes {
        helpers.spawn(outbound::run(Arc::clone(&desk), route));
    }
    helpers.spawn(gauges::run(Arc::clone(&desk), admin, clock));
    if let Some(store) = dedup {
        helpers.spawn(reserving::run(Arc::clone(&desk), store));
    }
    let mut settling_tasks: JoinSet<Result<()>> = JoinSet::new();
    for (input, settler) in settlers {
        settling_tasks.spawn(settling::run(Arc::clone(&desk), input, settler));
    }
    let mut sources: JoinSet<Box<dyn DynSource>> = JoinSet::new();
    for pump in pumps {
        sources.spawn(Pump::run(pump));
    }
    let mut told = Vec::new();
    let mut open_sources = Vec::new();
    // Until the topic's pump ends, nothing else may.
    loop {
        tokio::select! {
            biased;
            ended = sources.join_next() => match ended {
                Some(Ok(source)) => {
                    open_sources.push(source);
                    break;
                }
                Some(Err(error)) => { broken(&desk, &mut told, "reading", &error); break; }
                None => break,
            },
            Some(ended) = helpers.join_next() => if let Err(error) = ended {
                broken(&desk, &mut told, "running handlers", &error);
            },
            Some(ended) = settling_tasks.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => told.push(error.to_string()),
                Err(error) => broken(&desk, &mut told, "settling", &error),
            },
        }
    }
    let abandoned = desk.with(Instant::now(), |window| {
        window.counts.abandoned = window.running() as u64;
        window.counts.abandoned
    });
    if abandoned > 0 {
        tracing::warn!(topic = %desk.info.topic, handler = %desk.info.handler, abandoned,
            "handlers did not end within the drain time; their messages come again");
    }
    desk.enter(Phase::Closing);
    let close = async {
        while let Some(ended) = sources.join_next().await {
            match ended {
                Ok(source) => open_sources.push(source),
                Err(error) => told.push(format!("reading broke: {error}")),
            }
        }
        while let Some(ended) = settling_tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => told.push(error.to_string()),
                Err(error) => told.push(format!("settling broke: {error}")),
            }
        }
        for source in open_sources {
            if let Err(error) = source.close().await {
                told.push(error.to_string());
            }
        }
    };
    if timeout(CLOSING, close).await.is_err() {
        told.push(format!(
            "settling and closing took longer than {CLOSING:?}; what was not settled comes again"
        ));
    }
    helpers.abort_all();
    told
}

/// A task ended that must not: the subscription cannot go on, and health says so.
fn broken(desk: &Desk, told: &mut Vec<String>, what: &str, error: &tokio::task::JoinError) {
    if error.is_cancelled() {
        return;
    }
    tracing::error!(topic = %desk.info.topic, handler = %desk.info.handler, what, %error, "a task of the scheduler broke");
    desk.faults.set(Place::Task, format_args!("{what}: {error}"));
    told.push(format!("{what} broke: {error}"));
    desk.enter(Phase::Aborted);
}
