//! Batches: how long the first message waits for company, and which messages go together.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::lanes::{Index, NONE};
use super::{Fate, Job, Stage, Window};
use crate::context::Item;
use crate::policy::Batching;

/// When the batch that is being collected is full enough by time.
#[derive(Debug, Default)]
pub(crate) struct BatchGate {
    due: Option<Instant>,
}

impl BatchGate {
    /// A message is ready: the first one starts the clock. Says whether it did.
    pub(crate) fn opened(&mut self, now: Instant, within: Duration) -> bool {
        let first = self.due.is_none();
        self.due.get_or_insert(now + within);
        first
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }
}

impl Window {
    /// Whether a batch may start: it is full, its time has come, or nothing more can join it.
    pub(super) fn batch_is_due(&self, now: Instant) -> bool {
        let Some(batching) = self.rules.policy.batch else { return true };
        // One that runs on its own waits for nobody.
        let alone = self.ready.front().and_then(|i| self.entries.get(*i as usize)).is_some_and(|e| e.single);
        alone
            || self.ready.len() >= batching.max
            || self.batch.due.is_none_or(|due| due <= now)
            || self.room() == 0
    }

    pub(super) fn take_batches(
        &mut self,
        allowed: usize,
        batching: Batching,
        now: Instant,
        jobs: &mut VecDeque<Job>,
    ) {
        for _ in 0..allowed {
            if self.ready.is_empty() || !self.batch_is_due(now) {
                return;
            }
            let Some(job) = self.take_batch(batching.max, now) else { return };
            jobs.push_back(job);
            self.batch.due = (!self.ready.is_empty()).then(|| now + batching.within);
        }
    }

    /// The messages that are ready, each followed by those behind it in its lane: order is kept inside the
    /// batch, and the lane is in no other batch.
    fn take_batch(&mut self, max: usize, now: Instant) -> Option<Job> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(index) = self.ready.pop_front() else { break };
            let alone = self.entries.get(index as usize).is_some_and(|e| e.single);
            if alone && !taken.is_empty() {
                self.ready.push_front(index);
                break;
            }
            let Some(item) = self.start(index, now) else { continue };
            let mut next = self.entries[index as usize].next;
            taken.push((index, item));
            if alone {
                break;
            }
            while next != NONE && taken.len() < max {
                let Some((item, after)) = self.start_behind(next, now) else { break };
                taken.push((next, item));
                next = after;
            }
        }
        let mut taken = taken.into_iter();
        let (index, item) = taken.next()?;
        let rest: Box<[_]> = taken.collect();
        let rest = (!rest.is_empty()).then_some(rest);
        Some(Job { index, item, rest, follows: false })
    }

    /// Starts the next one of a lane together with the one before it, or to follow it.
    pub(super) fn start_behind(&mut self, index: Index, now: Instant) -> Option<(Item, Index)> {
        let dedup = self.rules.policy.dedup.is_some();
        let entry = self.entries.get(index as usize)?;
        // One that still has to ask the store, to wait or to run alone ends the lane's part.
        if dedup
            || entry.single
            || entry.due().is_some()
            || entry.stage != Stage::Queued
            || entry.fate != Fate::Run
            || self.is_suspect(index)
        {
            return None;
        }
        let entry = self.entries.get_mut(index as usize)?;
        entry.stage = Stage::Ready;
        let next = entry.next;
        self.start(index, now).map(|item| (item, next))
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::{Delivery, Epoch, Message, PartitionId, Token};

    use super::*;
    use crate::engine::window::Input;
    use crate::engine::window::model::{rules, window_of};

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_due_and_must_wait_for_a_handler_sets_no_timer_that_has_passed() {
        // Given one handler at a time, which runs.
        let mut rules = rules(false, false);
        rules.policy.batch = Some(Batching::new(4, Duration::from_millis(10)));
        rules.policy.concurrency = 1;
        let mut window = window_of(rules);
        let arrive = |window: &mut Window, id: u64| {
            let message = Message::new("t", "x").with_id(id.to_string());
            let token = Token::new(PartitionId(0), Epoch(0), id);
            window.arrive(Input::Main, &mut vec![Delivery::new(message, token)], Instant::now());
        };
        arrive(&mut window, 0);
        tokio::time::advance(Duration::from_millis(10)).await;
        let mut jobs = VecDeque::new();
        window.take((10, 0), Instant::now(), &mut jobs);
        assert_eq!(jobs.len(), 1);
        // When the next batch is due, then nobody is to be woken for it: the end of the handler does that.
        arrive(&mut window, 1);
        assert!(window.next_timer(Instant::now()).is_some());
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(window.next_timer(Instant::now()), None);
    }
}
