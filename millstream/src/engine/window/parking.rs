//! Parking: what must wait long is set aside with its key, one way or another.

use std::time::Duration;

use millstream_core::PartitionId;
use tokio::time::Instant;

use super::lanes::{Index, LaneId, NONE};
use super::{DedupStep, Input, Load, ParkLoad, ParkMode, Stage, Then, Window};
use crate::context::Item;

impl Window {
    /// Parks the head of a lane until then and all that is behind it.
    pub(super) fn park_lane(&mut self, index: Index, wait: Duration, now: Instant) {
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
        let reservation = entry.take_reservation();
        let history = entry.take_history();
        let Item { message, origin, .. } = entry.item.clone();
        let load = ParkLoad { message, origin, attempts: entry.attempts, due, history };
        let partition = entry.partition();
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
}
