//! Reserving: what runs was asked for at the deduplication store before.

use std::time::Duration;

use millstream_core::{ByteString, DedupKey, Message, Reservation, Reserve, names};
use tokio::time::Instant;

use super::lanes::Index;
use super::{Stage, Then, Window};

impl Window {
    /// What wants a reservation: its index and its key; and those to be released and confirmed before.
    pub(crate) fn take_reserving(
        &mut self,
        into: &mut Vec<(Index, DedupKey)>,
        outworn: &mut Vec<Reservation>,
        to_confirm: &mut Vec<Reservation>,
    ) {
        outworn.append(&mut self.outworn);
        to_confirm.append(&mut self.to_confirm);
        self.confirming = !to_confirm.is_empty();
        let group = self.rules.group.clone().unwrap_or_default();
        for index in self.reserving.drain(..) {
            let Some(entry) = self.entries.get(index as usize).filter(|e| e.stage == Stage::Reserving) else {
                continue;
            };
            into.push((index, dedup_key(group.clone(), &entry.item.message)));
        }
    }

    /// These could not be released now.
    pub(crate) fn release_later(&mut self, mut reservations: Vec<Reservation>) {
        self.outworn.append(&mut reservations);
    }

    /// What was to be confirmed is.
    pub(crate) fn confirmed(&mut self) {
        self.confirming = false;
        self.wake_pump |= self.pump_waits_for_less();
    }

    /// The store's answers, in order. `None`: it could not be asked; ask again after a while.
    pub(crate) fn reserved(&mut self, index: Index, answer: Option<Reserve>, now: Instant) {
        let stale = self.entries.get(index as usize).is_none_or(|e| e.stage != Stage::Reserving);
        match answer {
            Some(Reserve::Reserved(reservation)) => {
                if stale {
                    // Purged in the meantime.
                    self.outworn.push(reservation);
                    return;
                }
                let entry = &mut self.entries[index as usize];
                let rare = entry.rare();
                (rare.reservation, rare.reserved_at) = (Some(reservation), Some(now));
                self.make_ready(index, now);
            }
            _ if stale => {}
            Some(Reserve::Duplicate) => {
                self.counts.duplicate(1);
                self.complete(index, Then::Ack, now);
            }
            Some(Reserve::Busy(wait)) => {
                // Not for the whole lease: the first copy may end at any time.
                let wait = wait.clamp(Duration::from_millis(5), Duration::from_millis(250));
                self.wait_until(index, now + wait);
            }
            None => self.wait_until(index, now + Duration::from_millis(500)),
        }
    }
}

/// What a message is remembered by: a redriven one passes once more.
fn dedup_key(group: ByteString, message: &Message) -> DedupKey {
    let id = match message.headers.get_str(names::DL_REDRIVE_COUNT) {
        Some(count) if message.headers.contains(names::REDRIVE_GROUP) => {
            format!("{}#redrive-{count}", message.id).into()
        }
        _ => message.id.clone(),
    };
    DedupKey { group, id }
}
