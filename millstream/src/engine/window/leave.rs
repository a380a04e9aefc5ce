//! Leaving: what must be written, confirmed, before a message may be settled.

use std::sync::Arc;

use millstream_core::{Error, Message, Reservation, Settlement, Verdict};
use tokio::time::Instant;

use super::lanes::{Index, NONE};
use super::{DeadLoad, DedupStep, ERROR_LIMIT, Load, Outgoing, Stage, Tag, Then, Window};
use crate::Failure;
use crate::policy::DeadLetterTarget;

impl Window {
    // ---- Dead letters ------------------------------------------------------------------------------------

    pub(super) fn crash_loop(&mut self, index: Index, now: Instant) {
        let limit = self.rules.policy.delivery_limit();
        let wall = self.rules.clock.now();
        let entry = &mut self.entries[index as usize];
        let history = entry.history();
        history.first_failure.get_or_insert(wall);
        history.last_failure = Some(wall);
        history.error = format!(
            "delivered more than {limit} times without an end: it seems to kill the process that runs it"
        );
        history.error_type = "crash-loop".to_owned();
        self.dead_letter(index, "crash-loop", now);
    }

    pub(super) fn dead_letter(&mut self, index: Index, class: &'static str, now: Instant) {
        if matches!(self.rules.policy.dead_letters, DeadLetterTarget::Discard) {
            self.counts.discarded(1);
            self.release_and(index, Then::Ack, now);
            return;
        }
        let entry = &mut self.entries[index as usize];
        let history = entry.take_history();
        let reservation = entry.take_reservation();
        let attempts = match class {
            // Its last run is counted here, since it did not come through the counting of retries.
            "unrecoverable" | "decode" => entry.attempts.saturating_add(1),
            _ => entry.attempts,
        };
        let item = &entry.item;
        let load = DeadLoad {
            message: Arc::clone(&item.message),
            origin: item.origin,
            class,
            attempts,
            deliveries: item.deliveries,
            history,
        };
        let dedup = DedupStep::Release(reservation.into_iter().collect());
        self.leave(index, Vec::new(), Load::Dead(Box::new(load)), dedup, Then::Ack);
    }

    // ---- Everything that leaves --------------------------------------------------------------------------

    pub(super) fn leave(&mut self, index: Index, rest: Vec<Index>, load: Load, dedup: DedupStep, then: Then) {
        let entry = &mut self.entries[index as usize];
        entry.stage = Stage::Leaving;
        let lane = entry.lane;
        self.leaving += 1;
        self.outgoing[load.way() as usize].push(Outgoing { index, rest, lane, load, dedup, then });
    }

    /// Frees the reservation, if there is one, and then ends the message: in its turn, if others of its lane
    /// are still on their way out before it.
    pub(super) fn release_and(&mut self, index: Index, then: Then, now: Instant) {
        let entry = &mut self.entries[index as usize];
        let reservation = entry.take_reservation();
        if reservation.is_none() && (entry.previous == NONE || self.closing) {
            self.complete(index, then, now);
            return;
        }
        let dedup = DedupStep::Release(reservation.into_iter().collect());
        self.leave(index, Vec::new(), Load::Nothing, dedup, then);
    }

    /// What had to leave has left, confirmed.
    pub(crate) fn left(&mut self, out: Outgoing, now: Instant) {
        self.leaving -= 1;
        self.no_longer_parking(&out.load);
        let Some(entry) = self.entries.get_mut(out.index as usize) else { return };
        let effects = entry.take_effects();
        if let Load::Ride(emit) = out.load {
            self.settle_with(out.index, out.rest, emit, effects, now);
        } else if effects.is_empty() {
            self.complete(out.index, out.then, now);
            for other in &out.rest {
                self.complete(*other, out.then, now);
            }
        } else {
            self.settle_with(out.index, out.rest, Vec::new(), effects, now);
        }
    }

    /// A dead letter was built that the driver stores itself, with the acknowledgement.
    pub(crate) fn left_as_dead(
        &mut self,
        index: Index,
        letter: Box<Message>,
        reservation: Option<Reservation>,
    ) {
        self.leaving -= 1;
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        // Released once the letter is stored, or the message is somebody else's.
        if reservation.is_some() {
            entry.rare().reservation = reservation;
        }
        let Some(token) = entry.take_token() else { return };
        entry.stage = Stage::Settling;
        let (input, lease_until) = (entry.input, entry.lease_until);
        let tag = Tag { dead: true, ..Tag::of(token.id(), lease_until).awaited_by(index) };
        self.send(input, Settlement::new(token, Verdict::Dead(letter)), tag);
    }

    /// What a handler sent can never be written: its message is a dead letter, since running the handler
    /// again would send the same.
    pub(crate) fn unsendable(&mut self, index: Index, rest: &[Index], error: &Error, now: Instant) {
        self.leaving -= 1;
        let wall = self.rules.clock.now();
        for one in std::iter::once(index).chain(rest.iter().copied()) {
            let entry = &mut self.entries[one as usize];
            let history = entry.history();
            history.first_failure.get_or_insert(wall);
            history.last_failure = Some(wall);
            history.error = Failure::unrecoverable(error.to_string()).chain(ERROR_LIMIT);
            history.error_type = "millstream_core::Error".to_owned();
            self.dead_letter(one, "unrecoverable", now);
        }
    }
}
