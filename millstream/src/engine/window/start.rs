//! Starting: how many handlers may run, which are next, and their results coming back.

use tokio::time::Instant;

use super::lanes::Index;
use super::{Done, Job, Stage, Window};
use crate::context::Item;
use crate::policy::Ordering;

impl Window {
    /// How many handlers may start.
    pub(super) fn may_start(&self, now: Instant) -> usize {
        if self.paused || self.closing {
            return 0;
        }
        let free = self.concurrency().saturating_sub(self.running);
        if self.outage.is_down() {
            return free.min(self.outage.allowed(now));
        }
        free
    }

    pub(super) fn concurrency(&self) -> usize {
        match self.rules.policy.ordering {
            Ordering::Sequential => 1,
            Ordering::PerKey => self.rules.policy.concurrency,
        }
    }

    /// Hands out jobs, at most `max`, leaving some of a short queue to other runners.
    pub(crate) fn take(&mut self, max: usize, runners: usize, now: Instant, jobs: &mut Vec<Job>) {
        let mut allowed = self.may_start(now).min(max);
        if allowed == 0 || self.ready.is_empty() {
            return;
        }
        if let Some(batching) = self.rules.policy.batch {
            self.take_batches(allowed, batching, now, jobs);
            return;
        }
        if runners > 1 {
            allowed = allowed.min(self.ready.len().div_ceil(runners * 2));
        }
        while allowed > 0 {
            let Some(index) = self.ready.pop_front() else { break };
            if let Some(item) = self.start(index, now) {
                allowed -= 1;
                jobs.push(Job { index, item, rest: Vec::new() });
            }
        }
    }

    /// Starts an entry, unless it was taken away since it became ready.
    pub(super) fn start(&mut self, index: Index, now: Instant) -> Option<Box<Item>> {
        let half = self.rules.policy.dedup_lease / 2;
        let entry = self.entries.get_mut(index as usize).filter(|e| e.stage == Stage::Ready)?;
        if entry.reserved_at.is_some_and(|at| now.duration_since(at) > half) {
            // It waited too long, for an outage or a pause: its lease might end while the handler runs.
            entry.reserved_at = None;
            self.outworn.extend(entry.reservation.take());
            self.make_ready(index, now);
            return None;
        }
        let mut item = entry.item.take()?;
        item.attempt = entry.attempts + 1;
        entry.stage = Stage::Running;
        self.running += 1;
        self.outage.started();
        Some(item)
    }

    /// Takes results in.
    pub(crate) fn finished(&mut self, done: &mut Vec<Done>, now: Instant) {
        for one in done.drain(..) {
            self.running -= 1;
            self.finish_one(one, now);
        }
    }
}
