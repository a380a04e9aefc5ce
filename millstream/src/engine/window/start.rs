//! Starting: how many handlers may run, which are next, and their results coming back.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::lanes::{Index, NONE};
use super::{Done, Job, Stage, Window};
use crate::context::Item;
use crate::policy::Ordering;

impl Window {
    /// How many handlers may start.
    pub(super) fn may_start(&self, now: Instant) -> usize {
        // What is ready at the end is owed, where there is anything like that.
        if self.paused || (self.closing && !self.rules.cumulative) {
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

    /// Hands out jobs; says how many of them may run at once, at most `room`. Up to `ahead` more come along, to be
    /// started as those end, or [put back](Self::put_back): handlers that never wait are served by the dozen.
    /// Some of a short queue are left to other runners, unless one alone keeps up.
    pub(crate) fn take(
        &mut self,
        (room, ahead): (usize, usize),
        now: Instant,
        jobs: &mut VecDeque<Job>,
    ) -> usize {
        let permits = self.may_start(now).min(room);
        if permits == 0 || self.ready.is_empty() {
            return 0;
        }
        let before = jobs.len();
        let mut lanes = 0;
        if let Some(batching) = self.rules.policy.batch {
            self.take_batches(permits, batching, now, jobs);
            lanes = jobs.len() - before;
        } else {
            // A probe goes alone.
            let most = if self.outage.is_down() { permits } else { permits + ahead };
            let mut heads = most.min(self.ready.len());
            let sharers = self.crew.sharers(self.ready.len());
            if sharers > 1 {
                heads = heads.min(self.ready.len().div_ceil(sharers * 2));
            }
            // Few lanes have something to run: then more of each come along.
            let behind = (most - heads).min(ahead) / heads;
            while heads > 0 {
                let Some(index) = self.ready.pop_front() else { break };
                if let Some(item) = self.start(index, now) {
                    heads -= 1;
                    lanes += 1;
                    jobs.push_back(Job { index, item, rest: None, follows: false });
                    if behind > 0 {
                        self.take_behind(index, behind, now, jobs);
                    }
                }
            }
        }
        let taken = jobs.len() - before;
        self.out += taken;
        let granted = permits.min(lanes);
        self.running += granted;
        granted
    }

    /// Hands out up to so many of those behind the head of a lane, each to be begun once the one before it has
    /// succeeded and nothing of that has to leave first: as it would be if the window were asked in between.
    fn take_behind(&mut self, head: Index, most: usize, now: Instant, jobs: &mut VecDeque<Job>) {
        let head = &self.entries[head as usize];
        // One that is under suspicion runs alone.
        if head.marked {
            return;
        }
        let (input, mut next) = (head.input, head.next);
        for _ in 0..most {
            if self.entries.get(next as usize).is_none_or(|e| e.input != input) {
                return;
            }
            let Some((item, after)) = self.start_behind(next, now) else { return };
            jobs.push_back(Job { index: next, item, rest: None, follows: true });
            next = after;
        }
    }

    /// Takes jobs back that were not begun, as if they had not been handed out. Before the results of others are
    /// [taken in](Self::finished): what becomes of a lane's head concerns all that is behind it.
    pub(crate) fn put_back(&mut self, jobs: &mut VecDeque<Job>, now: Instant) {
        while let Some(job) = jobs.pop_back() {
            self.out -= 1;
            // Its partition was asked back meanwhile, or everything ends: nothing more of it is begun.
            if !self.may_begin(job.index) {
                self.counts.given_back += u64::from(self.closing);
                self.give_back(job.index, now);
                continue;
            }
            let Some(entry) = self.entries.get_mut(job.index as usize) else { continue };
            if entry.previous == NONE {
                entry.stage = Stage::Ready;
                self.ready.push_front(job.index);
            } else {
                entry.stage = Stage::Queued;
            }
        }
    }

    /// So many handlers fewer run.
    pub(crate) fn free(&mut self, permits: usize) {
        self.running -= permits;
    }

    /// Starts an entry, unless it was taken away since it became ready.
    #[inline]
    pub(super) fn start(&mut self, index: Index, now: Instant) -> Option<Item> {
        let entry = self.entries.get_mut(index as usize).filter(|e| e.stage == Stage::Ready)?;
        if entry.reserved_at().is_some_and(|at| now.duration_since(at) > self.rules.policy.dedup_lease / 2) {
            // It waited too long, for an outage or a pause: its lease might end while the handler runs.
            entry.rare().reserved_at = None;
            let outworn = entry.take_reservation();
            self.outworn.extend(outworn);
            self.make_ready(index, now);
            return None;
        }
        entry.item.attempt = entry.attempts.saturating_add(1);
        entry.stage = Stage::Running;
        let item = entry.item.clone();
        self.outage.started();
        Some(item)
    }

    /// Takes results in.
    pub(crate) fn finished(&mut self, done: &mut Vec<Done>, now: Instant) {
        for one in done.drain(..) {
            self.out -= 1;
            self.finish_one(one, now);
        }
    }
}
