//! After the handler: success, failure, and what that means for the message and its lane.

use std::time::Duration;

use millstream_core::{Effects, Error, ErrorKind, Message};
use tokio::time::Instant;

use super::lanes::{Index, LaneId, NONE};
use super::partitions::{Keeps, SOON};
use super::{DedupStep, Done, ERROR_LIMIT, Load, ParkMode, Report, Stage, Then, Window};
use crate::context::Item;
use crate::policy::{DeadLetterTarget, Next, Ordering};
use crate::{Failure, FailureKind};

impl Window {
    pub(super) fn finish_one(&mut self, done: Done, now: Instant) {
        if done.is_plain() && self.is_plain(done.index) {
            // The usual case: nothing has to leave first, and the lane goes on at once.
            self.note_success();
            self.counts.handled(1);
            self.complete(done.index, Then::Ack, now);
            return;
        }
        let Done { index, rest, outcome, held } = done;
        let rest = rest.map(Vec::from).unwrap_or_default();
        let suspects = self.suspects_ran(index, &rest);
        match outcome {
            Ok(()) => self.succeeded(index, rest, held.map(|h| h.close()).unwrap_or_default(), now),
            Err(failure) => {
                // A failed attempt publishes nothing, and nothing more is held for it.
                drop(held.map(|h| h.close()));
                if rest.is_empty() {
                    self.failed(index, failure, now);
                } else {
                    self.split_batch(index, rest, &failure, now);
                }
            }
        }
        for key in suspects {
            self.after_suspect(key, now);
        }
    }

    /// Whether a message's success is all there is to it: no reservation to be confirmed, no suspicion to be lifted.
    fn is_plain(&self, index: Index) -> bool {
        self.entries.get(index as usize).is_some_and(|e| !e.has_reservation() && !e.marked)
    }

    /// A handler succeeded: whatever was down is up.
    fn note_success(&mut self) {
        if self.outage.success() {
            tracing::info!(topic = %self.rules.topic, "the outage is over: a message was handled");
        }
    }

    pub(super) fn succeeded(
        &mut self,
        index: Index,
        rest: Vec<Index>,
        (emit, mut effects): (Vec<Message>, Effects),
        now: Instant,
    ) {
        if !effects.is_empty() && !self.rules.effects {
            for index in std::iter::once(index).chain(rest) {
                let failure = Failure::unrecoverable(Error::new(
                    ErrorKind::Unsupported,
                    "the handler queued an effect and the driver cannot commit it with the acknowledgement",
                ));
                self.failed(index, failure, now);
            }
            return;
        }
        self.note_success();
        self.counts.handled(1 + rest.len() as u64);
        let mut reservations = Vec::new();
        let store = self.rules.policy.dedup.as_ref().filter(|_| self.rules.effects);
        for one in std::iter::once(index).chain(rest.iter().copied()) {
            let entry = &mut self.entries[one as usize];
            let Some(reservation) = entry.take_reservation() else { continue };
            match store.and_then(|store| store.confirm_as_effect(&reservation)) {
                Some(effect) => {
                    effects.push(effect);
                    // Kept: if the transaction comes to nothing, it is to be released.
                    entry.rare().reservation = Some(reservation);
                }
                // Effects may still be undone, and then the next attempt must not pass for a copy.
                None if !effects.is_empty() => {
                    entry.rare().reservation = Some(reservation);
                    self.entries[index as usize].rare().confirms = true;
                }
                None => reservations.push(reservation),
            }
        }
        let plain = emit.is_empty() && reservations.is_empty() && effects.is_empty();
        if plain {
            self.complete(index, Then::Ack, now);
            for other in rest {
                self.complete(other, Then::Ack, now);
            }
            return;
        }
        for other in &rest {
            self.entries[*other as usize].stage = Stage::Settling;
        }
        if reservations.is_empty() && emit.is_empty() {
            self.settle_with(index, rest, emit, effects, now);
            return;
        }
        if reservations.is_empty() && self.rules.atomic_emit {
            if !self.rules.cumulative {
                self.settle_with(index, rest, emit, effects, now);
                return;
            }
            // A batch may lie in several partitions, whose positions do not move together.
            if rest.is_empty() {
                self.leave(index, rest, Load::Ride(emit), DedupStep::Confirm(reservations), Then::Ack);
                return;
            }
        }
        // Effects without an atomic emit ride with the settlement that follows the write.
        if !effects.is_empty() {
            self.entries[index as usize].rare().effects = effects;
        }
        let load = if emit.is_empty() { Load::Nothing } else { Load::Emit(emit) };
        self.leave(index, rest, load, DedupStep::Confirm(reservations), Then::Ack);
    }

    /// A batch failed: its messages run on their own, so that the one to blame is found. No attempt is used.
    pub(super) fn split_batch(&mut self, index: Index, rest: Vec<Index>, failure: &Failure, now: Instant) {
        tracing::warn!(topic = %self.rules.topic, messages = rest.len() + 1, error = %failure,
            "a batch failed: its messages run one by one");
        self.outage.inconclusive();
        if !self.may_begin(index) {
            for index in std::iter::once(index).chain(rest) {
                self.give_back(index, now);
            }
            return;
        }
        for index in std::iter::once(index).chain(rest) {
            let lane = self.entries[index as usize].lane;
            let entry = &mut self.entries[index as usize];
            entry.single = true;
            if lane.is_none() || self.entries[index as usize].previous == NONE {
                self.make_ready(index, now);
            } else {
                self.entries[index as usize].stage = Stage::Queued;
            }
        }
    }

    pub(super) fn failed(&mut self, index: Index, failure: Failure, now: Instant) {
        self.counts.failed(1);
        let Item { message, attempt, .. } = self.entries[index as usize].item.clone();
        let wall = self.rules.clock.now();
        {
            let entry = &mut self.entries[index as usize];
            let history = entry.history();
            history.first_failure.get_or_insert(wall);
            history.last_failure = Some(wall);
            history.error = failure.chain(ERROR_LIMIT);
            failure.error_type().clone_into(&mut history.error_type);
        }
        let lane = self.entries[index as usize].lane;
        let next = match failure.kind() {
            FailureKind::Discard => {
                self.outage.inconclusive();
                Next::Discard
            }
            FailureKind::Unrecoverable | FailureKind::Decode => {
                self.outage.inconclusive();
                Next::DeadLetter
            }
            kind => {
                // An unkeyed message counts as a key of its own.
                // In total order all are of one lane, but not of one key.
                let own = self.lanes.id(message.lane_key().map_or(message.id.as_bytes(), |k| k));
                let key = lane.filter(|_| self.rules.policy.ordering == Ordering::PerKey).unwrap_or(own);
                let was_down = self.outage.is_down();
                let down = self.outage.failure(key, now);
                if down && !was_down {
                    tracing::warn!(topic = %message.topic, error = %failure,
                        "failures in a row across keys: taken for an outage, the subscription pauses and probes");
                }
                let entry = &mut self.entries[index as usize];
                if down {
                    Next::WaitForOutage
                } else if kind == FailureKind::Unavailable {
                    let excused = &mut entry.rare().excused;
                    *excused = excused.saturating_add(1);
                    let wait = self.rules.policy.retry.wait(*excused, &mut self.rng);
                    match self.rules.park {
                        // Each redelivery would count towards the crash loop: it waits here, its lease kept.
                        ParkMode::Redeliver(_) => Next::Retry(wait),
                        _ => self.retry_or_park(lane, wait),
                    }
                } else {
                    entry.attempts = entry.attempts.saturating_add(1);
                    if entry.attempts >= self.rules.policy.retry.max_attempts() {
                        Next::DeadLetter
                    } else {
                        let wait = self.rules.policy.retry.wait(entry.attempts, &mut self.rng);
                        self.retry_or_park(lane, wait)
                    }
                }
            }
        };
        let next = match next {
            Next::DeadLetter if matches!(self.rules.policy.dead_letters, DeadLetterTarget::Discard) => {
                Next::Discard
            }
            next => next,
        };
        let kind = failure.kind();
        self.reports.push(Report { message, attempt, failure, next });
        let again = matches!(next, Next::Retry(_) | Next::Park(_) | Next::WaitForOutage);
        let keeps = self.keeps(index);
        // Whoever has its partition next runs it for himself: nothing is made of it here any more.
        // What is owed is waited for if it is soon.
        let is_soon = keeps != Keeps::Owed || matches!(next, Next::Retry(wait) if wait <= SOON);
        if keeps == Keeps::Nothing || (again && !(is_soon && self.may_begin(index))) {
            self.give_back_lane(index, now);
            return;
        }
        match next {
            Next::Retry(wait) => {
                self.counts.retried(1);
                self.wait_until(index, now + wait);
            }
            Next::Park(wait) => {
                self.counts.retried(1);
                self.park_lane(index, wait, now);
            }
            Next::WaitForOutage => {
                self.counts.retried(1);
                let excused = &mut self.entries[index as usize].rare().excused;
                *excused = excused.saturating_add(1);
                self.make_ready(index, now);
            }
            Next::DeadLetter => self.dead_letter(index, class(kind), now),
            Next::Discard => {
                self.counts.discarded(1);
                self.release_and(index, Then::Ack, now);
            }
        }
    }

    pub(super) fn retry_or_park(&self, lane: Option<LaneId>, wait: Duration) -> Next {
        let crowded = lane.and_then(|l| self.lanes.get(l)).is_some_and(|l| l.len > self.share());
        let long = wait > self.rules.policy.park_after;
        // In total order nothing may overtake: what fails holds up all.
        let parks = self.rules.park != ParkMode::None && self.rules.policy.ordering != Ordering::Sequential;
        if parks && (long || crowded) { Next::Park(wait) } else { Next::Retry(wait) }
    }
}

fn class(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Unrecoverable => "unrecoverable",
        FailureKind::Decode => "decode",
        FailureKind::Panic => "panic",
        FailureKind::Timeout => "timeout",
        FailureKind::Retry | FailureKind::Unavailable | FailureKind::Discard => "exhausted",
    }
}
