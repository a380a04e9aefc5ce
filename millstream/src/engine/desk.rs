//! The desk: the one place where a subscription's tasks meet. A lock around the window, and a bell for each
//! of those who wait for something in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::{Faults, Place};
use super::window::{Input, Report, Window};
use crate::context::SubscriptionInfo;
use crate::policy::{FailureReport, Next, Policy};

/// How far a subscription has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running = 0,
    /// Nothing new is started; what runs may end.
    Draining = 1,
    /// Whatever still runs is abandoned.
    Aborted = 2,
    /// All is settled: the helpers close.
    Closing = 3,
}

pub(crate) struct Desk {
    pub(super) info: Arc<SubscriptionInfo>,
    pub(super) policy: Policy,
    pub(super) faults: Faults,
    /// Blocking handlers past their timeout, of all runners.
    stuck: Mutex<usize>,
    window: Mutex<Window>,
    phase: AtomicU8,
    /// Rings at each new phase. Who waits for one is woken in the order of waiting, the same in each run.
    phase_bell: Notify,
    /// One for each run loop.
    pub(super) runner_bells: Box<[Notify]>,
    pub(super) reserver_bell: Notify,
    pub(super) outbound_bells: [Notify; 3],
    pub(super) settler_bells: [Notify; 2],
    pub(super) pump_bells: [Notify; 2],
    /// The source has come to its end and everything before it is settled.
    pub(super) ended: AtomicBool,
}

impl Desk {
    pub(super) fn new(info: Arc<SubscriptionInfo>, policy: Policy, runners: usize, window: Window) -> Self {
        Self {
            info,
            policy,
            faults: Faults::default(),
            stuck: Mutex::default(),
            window: Mutex::new(window),
            phase: AtomicU8::new(Phase::Running as u8),
            phase_bell: Notify::new(),
            runner_bells: std::iter::repeat_with(Notify::new).take(runners).collect(),
            reserver_bell: Notify::new(),
            outbound_bells: Default::default(),
            settler_bells: [Notify::new(), Notify::new()],
            pump_bells: [Notify::new(), Notify::new()],
            ended: AtomicBool::new(false),
        }
    }

    /// Uses the window, then rings for everybody who has something to do. Never held across an await.
    pub(super) fn with<R>(&self, now: Instant, use_it: impl FnOnce(&mut Window) -> R) -> R {
        let (result, wants, reports) = {
            // A panic in here would be a defect; the window stays as it is, and others go on.
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            let result = use_it(&mut window);
            let wants = window.wants(now);
            let reports = if wants.reports { window.take_reports() } else { Vec::new() };
            (result, wants, reports)
        };
        // Before the bells: a task that this thread wakes waits for it, and a log or a hook may be slow.
        for report in &reports {
            self.report(report);
        }
        if let Some(runner) = wants.runner {
            self.runner_bells[runner].notify_one();
        }
        if wants.reserver {
            self.reserver_bell.notify_one();
        }
        for (bell, _) in self.outbound_bells.iter().zip(wants.outbound).filter(|(_, wants)| *wants) {
            bell.notify_one();
        }
        for input in Input::ALL {
            if wants.settlers[input as usize] {
                self.settler_bells[input as usize].notify_one();
            }
            if wants.pumps[input as usize] {
                self.pump_bells[input as usize].notify_one();
            }
        }
        result
    }

    /// A runner had so many blocking handlers past their timeout, and has so many now. Says whether these are the
    /// first.
    pub(super) fn stuck(&self, before: usize, now: usize, limit: Duration) -> bool {
        if before == now {
            return false;
        }
        // Held, so that what health says is what was counted last.
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        *stuck = stuck.saturating_sub(before) + now;
        if *stuck == 0 {
            self.faults.clear(Place::Stuck);
            return false;
        }
        self.faults.set(Place::Stuck, format_args!("over {limit:?}"))
    }

    /// Logs a failure and tells the user's own hook.
    fn report(&self, report: &Report) {
        let Report { message, attempt, failure, next } = report;
        let group = self.info.group.as_deref().unwrap_or_default();
        match next {
            Next::DeadLetter => tracing::error!(
                topic = %self.info.topic, group, handler = %self.info.handler, id = %message.id,
                key = ?message.key, attempt, kind = failure.kind().name(), error = %failure,
                "a message is dead-lettered"
            ),
            _ => tracing::warn!(
                topic = %self.info.topic, group, handler = %self.info.handler, id = %message.id,
                key = ?message.key, attempt, kind = failure.kind().name(), error = %failure, ?next,
                "a handler failed"
            ),
        }
        if let Some(hook) = &self.policy.on_error {
            let report = FailureReport {
                message,
                group: self.info.group.as_deref(),
                handler: &self.info.handler,
                attempt: *attempt,
                failure,
                next: *next,
            };
            // The user's code, on a task of ours: a panic in it must not end the subscription.
            if catch_unwind(AssertUnwindSafe(|| hook(&report))).is_err() {
                tracing::error!(topic = %self.info.topic, handler = %self.info.handler, "the `on_error` hook panicked");
            }
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            2 => Phase::Aborted,
            _ => Phase::Closing,
        }
    }

    /// Goes on to a later phase; never back.
    pub(super) fn enter(&self, phase: Phase) {
        if self.phase.fetch_max(phase as u8, Ordering::AcqRel) < phase as u8 {
            self.phase_bell.notify_waiters();
        }
    }

    /// Resolves once a later phase than this one is reached.
    pub(super) async fn left(&self, phase: Phase) {
        loop {
            // Made before looking: a bell that rings in between is heard.
            let rung = self.phase_bell.notified();
            if self.phase() > phase {
                return;
            }
            rung.await;
        }
    }

    /// Resolves once this phase or a later one is reached.
    pub(super) async fn reached(&self, phase: Phase) {
        loop {
            let rung = self.phase_bell.notified();
            if self.phase() >= phase {
                return;
            }
            rung.await;
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("info", &self.info).field("phase", &self.phase()).finish_non_exhaustive()
    }
}
