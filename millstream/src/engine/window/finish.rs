//! How a message ends: after its handler, after what it sends has left, after the broker has answered.

use std::time::Duration;

use millstream_core::{
    Effects, Error, ErrorKind, Message, Park, ParkNote, PartitionId, Settled, Settlement, Token, Verdict,
};
use tokio::time::Instant;

use super::lanes::{Index, LaneId, NONE};
use super::{
    DeadLoad, DedupStep, Done, ERROR_LIMIT, Entry, Input, Load, Outgoing, Outward, ParkLoad, ParkMode,
    Report, Stage, Tag, Then, Window,
};
use crate::context::Item;
use crate::policy::{DeadLetterTarget, Next, Ordering};
use crate::{Failure, FailureKind};

/// What rides along with an acknowledgement that waits for its turn in a tracker.
#[derive(Debug)]
pub(super) struct Cargo {
    pub(super) index: Index,
    pub(super) emit: Vec<Message>,
    pub(super) effects: Effects,
}

impl Window {
    // ---- After the handler -------------------------------------------------------------------------------

    pub(super) fn finish_one(&mut self, done: Done, now: Instant) {
        let Done { index, item, rest, outcome, emit, effects } = done;
        let suspect = self.entries.get(index as usize).filter(|e| e.marked).map(|e| (e.input, e.partition));
        if let Some(partition) = suspect.and_then(|key| self.partitions.get_mut(&key)) {
            partition.ran(index);
        }
        match outcome {
            Ok(()) => self.succeeded(index, item, rest, emit, effects, now),
            Err(failure) if !rest.is_empty() => self.split_batch(index, item, rest, &failure, now),
            Err(failure) => self.failed(index, item, failure, now),
        }
        if let Some(key) = suspect {
            self.after_suspect(key, now);
        }
    }

    fn succeeded(
        &mut self,
        index: Index,
        item: Box<Item>,
        rest: Vec<(Index, Box<Item>)>,
        emit: Vec<Message>,
        effects: Effects,
        now: Instant,
    ) {
        if !effects.is_empty() && !self.rules.effects {
            for (index, item) in std::iter::once((index, item)).chain(rest) {
                let failure = Failure::unrecoverable(Error::new(
                    ErrorKind::Unsupported,
                    "the handler queued an effect and the driver cannot commit it with the acknowledgement",
                ));
                self.failed(index, item, failure, now);
            }
            return;
        }
        if self.outage.success() {
            tracing::info!(topic = %item.message.topic, "the outage is over: a message was handled");
        }
        self.counts.handled(1 + rest.len() as u64);
        let mut reservations: Vec<_> = self.entries[index as usize].reservation.take().into_iter().collect();
        for (other, _) in &rest {
            reservations.extend(self.entries[*other as usize].reservation.take());
        }
        let mut effects = effects;
        if self.rules.effects
            && let Some(store) = &self.rules.policy.dedup
        {
            reservations.retain(|reservation| match store.confirm_as_effect(reservation) {
                Some(effect) => {
                    effects.push(effect);
                    false
                }
                None => true,
            });
        }
        let plain = emit.is_empty() && reservations.is_empty() && effects.is_empty();
        if plain {
            // The usual case: nothing has to leave first, and the lane goes on at once.
            self.complete(index, Then::Ack, now);
            self.recycle(item);
            for (other, item) in rest {
                self.complete(other, Then::Ack, now);
                self.recycle(item);
            }
            return;
        }
        let others: Vec<Index> = rest.iter().map(|(i, _)| *i).collect();
        self.put_back(index, item);
        for (other, item) in rest {
            self.put_back(other, item);
            self.entries[other as usize].stage = Stage::Settling;
        }
        if reservations.is_empty() && (self.rules.atomic_emit || emit.is_empty()) {
            self.settle_with(index, others, emit, effects);
            return;
        }
        // Effects without an atomic emit ride with the settlement that follows the write.
        if !effects.is_empty() {
            self.entries[index as usize].extra.get_or_insert_default().effects = effects;
        }
        let load = if emit.is_empty() { Load::Nothing } else { Load::Emit(emit) };
        self.leave(index, others, load, DedupStep::Confirm(reservations), Then::Ack);
    }

    fn put_back(&mut self, index: Index, item: Box<Item>) {
        self.entries[index as usize].item = Some(item);
    }

    /// A batch failed: its messages run on their own, so that the one to blame is found. No attempt is used.
    fn split_batch(
        &mut self,
        index: Index,
        item: Box<Item>,
        rest: Vec<(Index, Box<Item>)>,
        failure: &Failure,
        now: Instant,
    ) {
        tracing::warn!(topic = %item.message.topic, messages = rest.len() + 1, error = %failure,
            "a batch failed: its messages run one by one");
        self.outage.inconclusive();
        for (index, item) in std::iter::once((index, item)).chain(rest) {
            self.put_back(index, item);
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

    pub(super) fn failed(&mut self, index: Index, item: Box<Item>, failure: Failure, now: Instant) {
        self.counts.failed(1);
        let attempt = item.attempt;
        let wall = self.rules.clock.now();
        {
            let entry = &mut self.entries[index as usize];
            let history = entry.history.get_or_insert_default();
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
                let key = lane.unwrap_or_else(|| self.lanes.id(item.message.id.as_bytes()));
                let was_down = self.outage.is_down();
                let down = self.outage.failure(key, now);
                if down && !was_down {
                    tracing::warn!(topic = %item.message.topic, error = %failure,
                        "failures in a row across keys: taken for an outage, the subscription pauses and probes");
                }
                let entry = &mut self.entries[index as usize];
                if down {
                    Next::WaitForOutage
                } else if kind == FailureKind::Unavailable {
                    entry.excused = entry.excused.saturating_add(1);
                    let wait = self.rules.policy.retry.wait(entry.excused, &mut self.rng);
                    self.retry_or_park(lane, wait)
                } else {
                    entry.attempts += 1;
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
        self.reports.push(Report { message: item.message.clone(), attempt, failure, next });
        self.put_back(index, item);
        if self.closing && matches!(next, Next::Retry(_) | Next::Park(_) | Next::WaitForOutage) {
            self.give_back(index, now);
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
                let entry = &mut self.entries[index as usize];
                entry.excused = entry.excused.saturating_add(1);
                self.make_ready(index, now);
            }
            Next::DeadLetter => self.dead_letter(index, class(kind), now),
            Next::Discard => {
                self.counts.discarded(1);
                self.release_and(index, Then::Ack, now);
            }
        }
    }

    fn retry_or_park(&self, lane: Option<LaneId>, wait: Duration) -> Next {
        let crowded = lane.and_then(|l| self.lanes.get(l)).is_some_and(|l| l.len > self.share());
        let long = wait > self.rules.policy.park_after;
        // In total order nothing may overtake: what fails holds up all.
        let parks = self.rules.park != ParkMode::None && self.rules.policy.ordering != Ordering::Sequential;
        if parks && (long || crowded) { Next::Park(wait) } else { Next::Retry(wait) }
    }

    // ---- Parking -----------------------------------------------------------------------------------------

    /// Parks the head of a lane until then and all that is behind it.
    fn park_lane(&mut self, index: Index, wait: Duration, now: Instant) {
        if self.entries[index as usize].input == Input::Park {
            // It is parked already; here it waits in its place.
            self.wait_until(index, now + wait);
            return;
        }
        let lane = self.entries[index as usize].lane;
        let behind = self.behind(index);
        match self.rules.park {
            ParkMode::None => self.wait_until(index, now + wait),
            ParkMode::Topic => {
                self.park_to_topic(index, Some(wait));
                for other in behind {
                    self.park_to_topic(other, None);
                }
            }
            ParkMode::Native => {
                if let Some(lane) = lane {
                    self.mark_parked(lane, self.entries[index as usize].partition);
                }
                self.park_natively(index, Some(wait), now);
                for other in behind {
                    self.park_natively(other, None, now);
                }
            }
            ParkMode::Redeliver(longest) => {
                self.counts.parked(1);
                let after = wait.min(longest);
                let entry = &self.entries[index as usize];
                if let Some(item) = &entry.item {
                    self.remembered.put(item.message.id.clone(), entry.attempts);
                }
                let behind = if self.rules.keyed_redelivery { behind } else { Vec::new() };
                self.release_and(index, Then::Retry(after), now);
                for other in behind {
                    self.release_and(other, Then::Retry(after), now);
                }
            }
        }
    }

    /// What is queued behind an entry in its lane.
    pub(super) fn behind(&self, index: Index) -> Vec<Index> {
        let mut behind = Vec::new();
        let mut next = self.entries.get(index as usize).map_or(NONE, |e| e.next);
        while next != NONE {
            let entry = &self.entries[next as usize];
            if entry.stage == Stage::Queued {
                behind.push(next);
            }
            next = entry.next;
        }
        behind
    }

    pub(super) fn mark_parked(&mut self, lane: LaneId, partition: PartitionId) {
        if self.lanes.parked(lane) == 0 {
            self.lanes.park(lane, 1, partition);
        }
    }

    pub(super) fn park_to_topic(&mut self, index: Index, wait: Option<Duration>) {
        self.counts.parked(1);
        let due = wait.map(|w| self.rules.clock.now() + w);
        let entry = &mut self.entries[index as usize];
        let reservation = entry.reservation.take();
        let history = entry.history.take().map(|h| *h).unwrap_or_default();
        let Some(item) = entry.item.take() else { return };
        let load =
            ParkLoad { message: item.message, origin: item.origin, attempts: entry.attempts, due, history };
        let partition = entry.partition;
        if let Some(lane) = entry.lane {
            self.lanes.park(lane, 1, partition);
        }
        let dedup = DedupStep::Release(reservation.into_iter().collect());
        self.leave(index, Vec::new(), Load::Park(Box::new(load)), dedup, Then::Ack);
    }

    pub(super) fn park_natively(&mut self, index: Index, after: Option<Duration>, now: Instant) {
        self.counts.parked(1);
        self.release_and(index, Then::ParkNative { after }, now);
    }

    // ---- Dead letters ------------------------------------------------------------------------------------

    pub(super) fn crash_loop(&mut self, index: Index, now: Instant) {
        let limit = self.rules.policy.delivery_limit();
        let wall = self.rules.clock.now();
        let entry = &mut self.entries[index as usize];
        let history = entry.history.get_or_insert_default();
        history.first_failure.get_or_insert(wall);
        history.last_failure = Some(wall);
        history.error = format!(
            "delivered more than {limit} times without an end: it seems to kill the process that runs it"
        );
        history.error_type = "crash-loop".to_owned();
        self.dead_letter(index, "crash-loop", now);
    }

    fn dead_letter(&mut self, index: Index, class: &'static str, now: Instant) {
        if matches!(self.rules.policy.dead_letters, DeadLetterTarget::Discard) {
            self.counts.discarded(1);
            self.release_and(index, Then::Ack, now);
            return;
        }
        let entry = &mut self.entries[index as usize];
        let history = entry.history.take().map(|h| *h).unwrap_or_default();
        let reservation = entry.reservation.take();
        let attempts = match class {
            // Its last run is counted here, since it did not come through the counting of retries.
            "unrecoverable" | "decode" => entry.attempts + 1,
            _ => entry.attempts,
        };
        let Some(item) = entry.item.take() else { return };
        let load = DeadLoad {
            message: item.message,
            origin: item.origin,
            class,
            attempts,
            deliveries: item.deliveries,
            history,
        };
        let dedup = DedupStep::Release(reservation.into_iter().collect());
        self.leave(index, Vec::new(), Load::Dead(Box::new(load)), dedup, Then::Ack);
    }

    // ---- Leaving -----------------------------------------------------------------------------------------

    fn leave(&mut self, index: Index, rest: Vec<Index>, load: Load, dedup: DedupStep, then: Then) {
        let entry = &mut self.entries[index as usize];
        entry.stage = Stage::Leaving;
        let lane = entry.lane;
        self.leaving += 1;
        self.outgoing[load.way() as usize].push(Outgoing { index, rest, lane, load, dedup, then });
    }

    /// Frees the reservation, if there is one, and then ends the message: in its turn, if others of its lane
    /// are still on their way out before it.
    fn release_and(&mut self, index: Index, then: Then, now: Instant) {
        let entry = &mut self.entries[index as usize];
        let reservation = entry.reservation.take();
        if reservation.is_none() && (entry.previous == NONE || self.closing) {
            self.complete(index, then, now);
            return;
        }
        let dedup = DedupStep::Release(reservation.into_iter().collect());
        self.leave(index, Vec::new(), Load::Nothing, dedup, then);
    }

    /// What had to leave has left, confirmed.
    pub(crate) fn left(&mut self, out: &Outgoing, now: Instant) {
        self.leaving -= 1;
        let Some(entry) = self.entries.get_mut(out.index as usize) else { return };
        let effects = entry.extra.as_mut().map(|e| std::mem::take(&mut e.effects)).unwrap_or_default();
        if effects.is_empty() {
            self.complete(out.index, out.then, now);
            for other in &out.rest {
                self.complete(*other, out.then, now);
            }
        } else {
            self.settle_with(out.index, out.rest.clone(), Vec::new(), effects);
        }
    }

    /// A dead letter was built that the driver stores itself, with the acknowledgement.
    pub(crate) fn left_as_dead(&mut self, index: Index, letter: Box<Message>) {
        self.leaving -= 1;
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        let Some(token) = entry.token.take() else { return };
        entry.stage = Stage::Settling;
        let (input, partition, lease_until) = (entry.input, entry.partition, entry.lease_until);
        let tag = Tag { waits: Some(index), partition, count: 1, lease_until };
        self.send(input, Settlement::new(token, Verdict::Dead(letter)), tag);
    }

    /// What a handler sent can never be written: its message is a dead letter, since running the handler
    /// again would send the same.
    pub(crate) fn unsendable(&mut self, index: Index, rest: &[Index], error: &Error, now: Instant) {
        self.leaving -= 1;
        let wall = self.rules.clock.now();
        for one in std::iter::once(index).chain(rest.iter().copied()) {
            let entry = &mut self.entries[one as usize];
            let history = entry.history.get_or_insert_default();
            history.first_failure.get_or_insert(wall);
            history.last_failure = Some(wall);
            history.error = Failure::unrecoverable(error.to_string()).chain(ERROR_LIMIT);
            history.error_type = "millstream_core::Error".to_owned();
            self.dead_letter(one, "unrecoverable", now);
        }
    }

    // ---- Settling ----------------------------------------------------------------------------------------

    /// Settles with what must commit in the same transaction; the lane waits for the answer, and so do the
    /// others of its batch.
    fn settle_with(&mut self, index: Index, followers: Vec<Index>, emit: Vec<Message>, effects: Effects) {
        let entry = &mut self.entries[index as usize];
        let Some(token) = entry.token.take() else { return };
        entry.stage = Stage::Settling;
        if !followers.is_empty() {
            entry.extra.get_or_insert_default().followers = followers;
        }
        let (input, partition, number) = (entry.input, entry.partition, entry.number);
        let lease_until = entry.lease_until;
        if self.rules.cumulative {
            let cargo = Cargo { index, emit, effects };
            self.track(input, partition, number, token, Some(Box::new(cargo)));
            return;
        }
        let mut settlement = Settlement::ack(token);
        settlement.emit = emit;
        settlement.effects = effects;
        self.send(input, settlement, Tag { waits: Some(index), partition, count: 1, lease_until });
    }

    pub(super) fn send(&mut self, input: Input, settlement: Settlement, tag: Tag) {
        self.unsettled += 1;
        self.sent(input, tag.partition);
        self.settlements[input as usize].push(Outward { settlement, tag });
    }

    /// Ends a message that nothing holds any more: settles it and lets its lane go on.
    pub(super) fn complete(&mut self, index: Index, then: Then, now: Instant) {
        let Some(mut entry) = self.remove(index, now) else { return };
        let Some(token) = entry.token.take() else { return };
        let (input, partition) = (entry.input, entry.partition);
        if self.rules.cumulative {
            match then {
                Then::Ack => self.track(input, partition, entry.number, token, None),
                // What is given back is just not settled.
                Then::Release | Then::Retry(_) | Then::ParkNative { .. } => drop(token),
            }
            return;
        }
        let verdict = match then {
            Then::Ack => Verdict::Ack,
            Then::Release => Verdict::Release,
            Then::Retry(after) => Verdict::Retry { after },
            Then::ParkNative { after } => {
                let history = entry.history.take().unwrap_or_default();
                let note = ParkNote {
                    attempts: entry.attempts,
                    first_failure: history.first_failure,
                    error: history.error,
                };
                Verdict::Park(Box::new(Park { after, note }))
            }
        };
        let tag = Tag { waits: None, partition, count: 1, lease_until: entry.lease_until };
        self.send(input, Settlement::new(token, verdict), tag);
    }

    /// Takes an entry out of the window and out of its lane, and lets the lane go on.
    pub(super) fn remove(&mut self, index: Index, now: Instant) -> Option<Entry> {
        let entry = self.entries.try_remove(index as usize)?;
        self.bytes -= entry.size;
        if entry.input == Input::Park {
            self.park_entries -= 1;
        }
        if let Some(lane) = entry.lane {
            if entry.previous != NONE {
                self.entries[entry.previous as usize].next = entry.next;
            }
            if entry.next != NONE {
                self.entries[entry.next as usize].previous = entry.previous;
            }
            let head = self.lanes.unlink(lane, entry.previous, entry.next);
            if entry.input == Input::Park {
                self.lanes.unpark(lane, 1);
            }
            // Others than queued ones are of the same batch, or leaving for the park in their order.
            if let Some(head) = head
                && self.entries[head as usize].stage == Stage::Queued
                && !self.closing
            {
                self.become_head(head, now);
            }
        }
        self.wake_pump |= self.closing || self.has_revocations();
        Some(entry)
    }

    /// What the broker said to a settlement. One that must be sent again is given back.
    pub(crate) fn settled(
        &mut self,
        input: Input,
        tag: Tag,
        outcome: Settled,
        now: Instant,
    ) -> Option<Outward> {
        match outcome {
            Settled::Failed { settlement, error } => {
                tracing::debug!(error = %error, "a settlement failed and is sent again");
                return Some(Outward { settlement: *settlement, tag });
            }
            Settled::EffectsFailed(error) => {
                self.confirm(input, &tag);
                if let Some(index) = tag.waits {
                    self.undone(index, error, now);
                }
                return None;
            }
            Settled::Done => {}
            Settled::Unknown(error) => {
                tracing::warn!(error = %error,
                    "whether a settlement happened is not known: the message may come again");
                self.counts.unknown(tag.count as u64);
            }
            // What a later version of the contract adds is not success.
            Settled::Lost | _ => self.counts.lease_lost(tag.count as u64),
        }
        self.confirm(input, &tag);
        if let Some(index) = tag.waits
            && let Some(mut entry) = self.remove(index, now)
        {
            for other in entry.extra.take().map(|e| e.followers).unwrap_or_default() {
                self.complete(other, Then::Ack, now);
            }
        }
        self.wake_pump |= self.closing || self.has_revocations();
        None
    }

    /// The driver undid a message's effects: its handler's success did not last, and counts as a failure.
    fn undone(&mut self, index: Index, error: Error, now: Instant) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        let Some(item) = entry.item.take() else { return };
        entry.token = Some(Token::new(entry.id.partition, entry.id.epoch, entry.id.id));
        let followers = entry.extra.take().map(|e| e.followers).unwrap_or_default();
        self.counts.handled_total = self.counts.handled_total.saturating_sub(1 + followers.len() as u64);
        if followers.is_empty() {
            self.failed(index, item, Failure::from(error), now);
            return;
        }
        let rest = followers
            .into_iter()
            .filter_map(|i| self.entries[i as usize].item.take().map(|item| (i, item)))
            .collect();
        self.split_batch(index, item, rest, &Failure::from(error), now);
    }

    /// Gives a message back that was not started, or failed while everything closes.
    pub(super) fn give_back(&mut self, index: Index, now: Instant) {
        self.release_and(index, Then::Release, now);
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
