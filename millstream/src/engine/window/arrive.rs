//! Arriving: a delivery becomes an entry, enters its lane, and gets its turn.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use millstream_core::{ByteString, Delivery, Message, PartitionId, Position, Token, names};
use tokio::time::Instant;

use super::entry::{Entry, Fate, History, Stage};
use super::lanes::{Index, NEWEST, NONE, Pushed, TOTAL};
use super::{Input, ParkMode, Then, Window};
use crate::context::Item;
use crate::engine::park;
use crate::policy::Ordering;

impl Window {
    /// Takes deliveries in. The vector is emptied.
    pub(crate) fn arrive(&mut self, input: Input, deliveries: &mut Vec<Delivery>, now: Instant) {
        for delivery in deliveries.drain(..) {
            self.arrive_one(input, delivery, now);
        }
    }

    pub(super) fn arrive_one(&mut self, input: Input, delivery: Delivery, now: Instant) {
        let origin = delivery.origin();
        let Some(number) = self.admit(input, &origin, now) else {
            // Of an assignment that is over: whoever has the partition now reads it.
            self.counts.stale += 1;
            drop(delivery.token);
            return;
        };
        self.counts.read(1);
        if input == Input::Main && self.lies_in_park(&origin) {
            // Parked and not committed: it is handled from there.
            self.track(input, origin.partition, number, delivery.token, None, now);
            return;
        }
        let Delivery { mut message, token, position, deliveries, parked, .. } = delivery;
        if message.id.is_empty() {
            let id = foreign_id(&message, origin.partition, position, &token);
            Arc::make_mut(&mut message).id = id;
        }
        let park = (input == Input::Park)
            .then(|| park::unpark(Arc::make_mut(&mut message), &self.rules.topic, self.rules.clock));
        let size = message.size();
        self.bytes += size;
        let lane = match self.rules.policy.ordering {
            Ordering::Sequential => Some(TOTAL),
            Ordering::PerKey => message.lane_key().map(|key| self.lanes.id(key)),
        };
        let fate = self.fate(&message, deliveries);
        let lease_until = self.rules.lease.map(|l| now + l);
        self.stamp = self.stamp.wrapping_add(1);
        let place = self.entries.vacant_entry();
        // A window holds at most `max_in_flight` and what the park adds: far below four thousand million.
        let index = Index::try_from(place.key()).unwrap_or(NONE);
        // Made where it stays.
        let item = Item { message, origin, attempt: 0, deliveries };
        let entry = place.insert(Entry::new(item, token.id(), input, number, size));
        (entry.lane, entry.fate) = (lane, fate);
        (entry.lease_until, entry.stamp) = (lease_until, self.stamp);
        if let Some(note) = &parked {
            entry.unparked = true;
            entry.attempts = note.attempts;
            *entry.history() = History {
                first_failure: note.first_failure,
                last_failure: note.first_failure,
                error: note.error.clone(),
                error_type: String::new(),
            };
        } else if let Some(attempts) = self.remembered.take(&entry.item.message.id) {
            entry.attempts = attempts;
        }
        if let Some(note) = park {
            // Where it lies in the topic, not in its park.
            entry.item.origin.position = note.position;
            entry.attempts = note.attempts;
            entry.set_due(note.due.filter(|at| *at > now));
            if let Some(history) = note.history {
                *entry.history() = history;
            }
            self.park_entries += 1;
        }
        let Some(lane) = lane else {
            self.become_head(index, now);
            return;
        };
        let Pushed { before, parked: in_park } = self.lanes.push(lane, index);
        if let Some(before) = before {
            self.entries[before as usize].next = index;
            self.entries[index as usize].previous = before;
        }
        let is_head = before.is_none();
        match self.rules.park {
            ParkMode::Topic if input == Input::Main && in_park && self.follows_parked(index, lane) => {
                self.park_to_topic(index, None);
            }
            ParkMode::Native if in_park && parked.is_none() => self.park_natively(index, None, now),
            ParkMode::Native if parked.is_some() => {
                // The park gave its head back: from here on the driver keeps the key's order.
                self.lanes.unpark(lane, NEWEST);
                if is_head {
                    self.become_head(index, now);
                }
            }
            _ if is_head => self.become_head(index, now),
            _ => {}
        }
    }

    fn fate(&self, message: &Message, deliveries: u32) -> Fate {
        let for_another = |group: &str| Some(group) != self.rules.group.as_deref();
        if message.headers.get_str(names::REDRIVE_GROUP).is_some_and(for_another) {
            Fate::Skip
        } else if deliveries > self.rules.policy.delivery_limit() {
            Fate::CrashLoop
        } else {
            Fate::Run
        }
    }

    /// The head of a lane gets its turn.
    #[inline]
    pub(super) fn become_head(&mut self, index: Index, now: Instant) {
        let entry = &self.entries[index as usize];
        match (entry.fate, entry.due()) {
            (Fate::Skip, _) => {
                self.counts.skipped(1);
                self.complete(index, Then::Ack, now);
            }
            (Fate::CrashLoop, _) => self.crash_loop(index, now),
            (Fate::Run, Some(due)) if due > now => self.wait_until(index, due),
            (Fate::Run, _) => self.make_ready(index, now),
        }
    }

    pub(super) fn wait_until(&mut self, index: Index, due: Instant) {
        let earliest = self.timers.peek().is_none_or(|Reverse((at, _, _))| due < *at);
        let entry = &mut self.entries[index as usize];
        entry.stage = Stage::Waiting;
        entry.set_due(Some(due));
        self.timers.push(Reverse((due, index, entry.stamp)));
        self.wake_pump |= earliest;
    }

    #[inline]
    pub(super) fn make_ready(&mut self, index: Index, now: Instant) {
        if self.is_suspect(index) {
            self.suspect(index, now);
            return;
        }
        let dedup = self.rules.policy.dedup.is_some();
        let entry = &mut self.entries[index as usize];
        if dedup && !entry.has_reservation() {
            entry.stage = Stage::Reserving;
            self.reserving.push(index);
            return;
        }
        entry.stage = Stage::Ready;
        self.ready.push_back(index);
        if let Some(batching) = &self.rules.policy.batch {
            self.wake_pump |= self.batch.opened(now, batching.within);
        }
        // While an outage lasts, a probe may be due that only the pump's timer starts.
        self.wake_pump |= self.outage.is_down();
    }

    /// The window is full and does not move: lanes that hold more than their share of it go to the park, all
    /// but their first few, so that a slow or failing key does not keep the others out.
    pub(crate) fn relieve(&mut self, now: Instant) {
        const KEPT: usize = 8;
        if self.rules.policy.ordering == Ordering::Sequential || self.room() > 0 || self.closing {
            return;
        }
        for (lane, ends) in self.lanes.crowded(self.share()) {
            // One that waits for its next attempt can go itself, and all others behind it.
            let head = self.entries.get(ends.head as usize).filter(|head| head.stage == Stage::Waiting);
            if let Some(due) = head.and_then(Entry::due)
                && self.may_park(ends.head)
            {
                self.park_lane(ends.head, due.saturating_duration_since(now), now);
                continue;
            }
            let excess: Vec<Index> = self.behind(ends.head).into_iter().skip(KEPT).collect();
            match self.rules.park {
                ParkMode::Topic => {
                    for index in excess {
                        let entry = &self.entries[index as usize];
                        let place = park::place_of(entry.item.origin.position);
                        if entry.input == Input::Main && !self.lanes.precedes_parked(lane, place) {
                            self.park_to_topic(index, None);
                        }
                    }
                }
                ParkMode::Native => {
                    let Some(head) = self.entries.get(ends.head as usize) else { continue };
                    self.mark_parked(lane, head.partition());
                    for (i, index) in excess.into_iter().enumerate() {
                        self.park_natively(index, (i == 0).then_some(Duration::from_secs(1)), now);
                    }
                }
                ParkMode::None | ParkMode::Redeliver(_) => {}
            }
        }
    }

    /// Whether a window that does not move can be relieved.
    pub(crate) fn can_park(&self) -> bool {
        matches!(self.rules.park, ParkMode::Topic | ParkMode::Native)
    }

    /// The most messages of one key that may wait here while others find no room.
    pub(super) fn share(&self) -> u32 {
        u32::try_from(self.rules.policy.max_in_flight / 4).unwrap_or(u32::MAX).max(8)
    }
}

/// The id of a message that came without one: from its place, so that it is the same at each delivery.
fn foreign_id(
    message: &Message,
    partition: PartitionId,
    position: Option<Position>,
    token: &Token,
) -> ByteString {
    let place = position.map_or(token.id().id, |p| p.0);
    format!("{}-{partition}-{place}", message.topic).into()
}

/// Attempts of messages given back to a broker that remembers none: bounded, the oldest forgotten first. One
/// that is forgotten starts from zero, and the delivery limit ends it.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    attempts: HashMap<ByteString, u32>,
    order: VecDeque<ByteString>,
}

impl Remembered {
    const LIMIT: usize = 10_000;

    pub(super) fn put(&mut self, id: ByteString, attempts: u32) {
        if self.attempts.insert(id.clone(), attempts).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > Self::LIMIT {
            if let Some(oldest) = self.order.pop_front() {
                self.attempts.remove(&oldest);
            }
        }
    }

    pub(super) fn take(&mut self, id: &ByteString) -> Option<u32> {
        if self.attempts.is_empty() { None } else { self.attempts.get(id).copied() }
    }
}
