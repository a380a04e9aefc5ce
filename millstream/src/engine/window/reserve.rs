//! Reserving: what runs was asked for at the deduplication store before.

use std::time::Duration;

use millstream_core::{ByteString, DedupKey, Message, Reservation, Reserve, names};
use tokio::time::Instant;

use super::{Seat, Stage, Then, Window};

impl Window {
    /// What wants a reservation: its place and its key; and those to be released and confirmed before.
    pub(crate) fn take_reserving(
        &mut self,
        into: &mut Vec<(Seat, DedupKey)>,
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
            let seat = entry.seat(index);
            into.push((seat, dedup_key(group.clone(), &entry.item.message)));
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
    pub(crate) fn reserved(&mut self, seat: Seat, answer: Option<Reserve>, now: Instant) {
        let index = seat.index;
        let entry = self.entries.get(index as usize);
        let stale = entry.is_none_or(|e| e.stamp != seat.stamp || e.stage != Stage::Reserving);
        match answer {
            Some(Reserve::Reserved(reservation)) => {
                if stale {
                    // Given back in the meantime.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use millstream_core::{
        Assigned, Delivery, Epoch, Message, PartitionId, Position, Reservation, Reserve, Token,
    };
    use tokio::time::Instant;

    use super::super::model::{rules, window_of};
    use super::super::{Input, Seat, Window};
    use super::DedupKey;
    use crate::EmbeddedDedupStore;

    fn arrive(window: &mut Window, partition: u32, id: &str) {
        let token = Token::new(PartitionId(partition), Epoch(0), 7);
        let delivery = Delivery::new(Message::new("t", "x").with_id(id.to_owned()), token).at(Position(7));
        window.arrive(Input::Main, &mut vec![delivery], Instant::now());
    }

    fn wanted(window: &mut Window) -> (Seat, DedupKey) {
        let mut wanted = Vec::new();
        window.take_reserving(&mut wanted, &mut Vec::new(), &mut Vec::new());
        wanted.remove(0)
    }

    #[tokio::test]
    async fn a_reservation_for_a_message_given_back_is_not_taken_for_that_of_the_next_in_its_place() {
        // Given a message that asks for its reservation, whose partition goes meanwhile.
        let mut rules = rules(true, false);
        rules.policy.dedup = Some(Arc::new(EmbeddedDedupStore::new(10)));
        let mut window = window_of(rules);
        let assigned = [0, 1].map(|partition| Assigned::new(PartitionId(partition), Epoch(0)));
        window.assigned(Input::Main, &assigned, false, Instant::now());
        arrive(&mut window, 0, "gone");
        let (seat, key) = wanted(&mut window);
        window.lost(Input::Main, &[(PartitionId(0), Epoch(0))], Instant::now());
        // When another took its place before the store answers.
        arrive(&mut window, 1, "here");
        let (other, _) = wanted(&mut window);
        window.reserved(seat, Some(Reserve::Reserved(Reservation { key, owner: 1 })), Instant::now());
        // Then what was reserved is released, and the other still waits for its own.
        let mut outworn = Vec::new();
        window.take_reserving(&mut Vec::new(), &mut outworn, &mut Vec::new());
        assert_eq!(outworn.len(), 1);
        assert_eq!(outworn[0].key.id, "gone");
        assert!(window.ready.is_empty());
        window.reserved(other, Some(Reserve::Busy(Duration::from_secs(1))), Instant::now());
        assert!(window.next_timer(Instant::now()).is_some());
    }
}
