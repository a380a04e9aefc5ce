//! A running scheduler: control, health, and the phased shutdown with its report.

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};

use super::{Engine, Health, Spec};

/// A running scheduler. Dropping it stops everything at once, as a crash would: nothing is lost, but what ran
/// is delivered again. Call [`shutdown`](Running::shutdown) to end in order.
#[derive(Debug)]
pub struct Running {
    control: Control,
}

/// Controls a running scheduler from anywhere; cloning shares it.
#[derive(Debug, Clone)]
pub struct Control {}

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
    /// Messages handled.
    pub handled: u64,
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
    /// Settlements that came too late: the lease or assignment was gone.
    pub leases_lost: u64,
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
    pub async fn shutdown(self) -> Report {
        Report::default()
    }

    /// Resolves when all subscriptions have ended by themselves, as those with an end do, or failed for good.
    pub async fn ended(&self) {}

    /// Control from elsewhere.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

impl Control {
    /// Stops starting handlers, for one topic or (`None`) for all. What runs goes on; leases are kept.
    pub fn pause(&self, topic: Option<&str>) {
        let _ = topic;
    }

    /// Starts handlers again.
    pub fn resume(&self, topic: Option<&str>) {
        let _ = topic;
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        Health { subscriptions: Vec::new() }
    }

    /// The counts so far, as in the report at the end.
    #[must_use]
    pub fn counts(&self) -> Vec<SubscriptionReport> {
        Vec::new()
    }

    /// Cuts a shutdown that drains: what runs is abandoned now.
    pub fn abort(&self) {}
}

pub(super) async fn start(_: Engine, _: Vec<Spec>) -> Result<Running> {
    Err(Error::new(ErrorKind::Unsupported, "the engine is not connected yet"))
}
