//! Parking: what must wait long is set aside with its key, one way or another.

use std::collections::hash_map::Entry;
use std::time::Duration;

use millstream_core::PartitionId;
use tokio::time::Instant;

use super::lanes::{Index, LaneId, NEWEST, NONE};
use super::partitions::Keeps;
use super::{DedupStep, Input, Load, Outgoing, ParkLoad, ParkMode, Stage, Then, Window};
use crate::context::Item;
use crate::engine::park;

impl Window {
    /// Parks the head of a lane until then and all that is behind it.
    pub(super) fn park_lane(&mut self, index: Index, wait: Duration, now: Instant) {
        if !self.may_park(index) {
            // Here it waits in its place.
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
                    // What came out of the park has its place in it, before this one's.
                    if self.entries[other as usize].input == Input::Main {
                        self.park_to_topic(other, None);
                    }
                }
            }
            ParkMode::Native => {
                if let Some(lane) = lane {
                    self.mark_parked(lane, self.entries[index as usize].partition());
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
                self.remembered.put(entry.item.message.id.clone(), entry.attempts);
                let behind = if self.rules.keyed_redelivery { behind } else { Vec::new() };
                self.release_and(index, Then::Retry(after), now);
                for other in behind {
                    self.release_and(other, Then::Retry(after), now);
                }
            }
        }
    }

    /// Whether a message has to queue in the park, behind those of its key.
    pub(super) fn follows_parked(&self, index: Index, lane: LaneId) -> bool {
        let place = park::place_of(self.entries[index as usize].item.origin.position);
        self.lanes.follows_parked(lane, place)
    }

    /// Whether the head of a lane may be parked: not if it is, nor if younger ones of its key are and would come before
    /// it.
    pub(super) fn may_park(&self, index: Index) -> bool {
        let entry = &self.entries[index as usize];
        let Some(lane) = entry.lane else { return entry.input == Input::Main };
        match self.rules.park {
            ParkMode::Topic => {
                let place = park::place_of(entry.item.origin.position);
                entry.input == Input::Main && !self.lanes.precedes_parked(lane, place)
            }
            // The driver gives the next only once this one is settled.
            ParkMode::Native if entry.unparked => true,
            ParkMode::Native => {
                let came_out = |index: &Index| self.entries[*index as usize].unparked;
                !self.lanes.is_parked(lane) && !self.behind(index).iter().any(came_out)
            }
            ParkMode::None | ParkMode::Redeliver(_) => true,
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
        // The driver says when the key is through.
        self.lanes.park(lane, NEWEST, partition);
    }

    pub(super) fn park_to_topic(&mut self, index: Index, wait: Option<Duration>) {
        self.counts.parked(1);
        let due = wait.map(|wait| (self.rules.clock.now() + wait, wait));
        let entry = &mut self.entries[index as usize];
        let reservation = entry.take_reservation();
        let history = entry.take_history();
        let Item { message, origin, .. } = entry.item.clone();
        let load = ParkLoad { message, origin, attempts: entry.attempts, due, history };
        let partition = entry.partition();
        if let Some(lane) = entry.lane {
            self.lanes.park(lane, park::place_of(origin.position), partition);
        }
        let dedup = DedupStep::Release(reservation.into_iter().collect());
        *self.parking.entry(origin.partition).or_default() += 1;
        self.leave(index, Vec::new(), Load::Park(Box::new(load)), dedup, Then::Ack);
    }

    /// Whether something on its way to the park is of an assignment that is over. Written now, it could stand in the
    /// park before an older one that is read again.
    pub(crate) fn is_outdated(&self, out: &Outgoing) -> bool {
        matches!(out.load, Load::Park(_)) && self.keeps(out.index) == Keeps::Nothing
    }

    /// It is not written: whoever has its partition now handles it.
    pub(crate) fn stays(&mut self, out: Outgoing, now: Instant) {
        self.leaving -= 1;
        self.no_longer_parking(&out.load);
        let (DedupStep::Confirm(mut reservations) | DedupStep::Release(mut reservations)) = out.dedup;
        self.outworn.append(&mut reservations);
        self.complete(out.index, Then::Release, now);
    }

    /// Whether anything of a partition is on its way to the park.
    pub(crate) fn is_parking(&self, partition: PartitionId) -> bool {
        self.parking.contains_key(&partition)
    }

    pub(super) fn no_longer_parking(&mut self, load: &Load) {
        let Load::Park(load) = load else { return };
        if let Entry::Occupied(mut count) = self.parking.entry(load.origin.partition) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    pub(super) fn park_natively(&mut self, index: Index, after: Option<Duration>, now: Instant) {
        self.counts.parked(1);
        self.release_and(index, Then::ParkNative { after }, now);
    }
}
