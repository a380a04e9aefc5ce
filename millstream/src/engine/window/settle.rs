//! Settling: the end of a message, and what the broker says to it.

use millstream_core::{
    Effects, Error, Message, Park, ParkNote, PartitionId, Position, Settled, Settlement, Token, Verdict,
};
use tokio::time::Instant;

use super::entry::{Place, Removed};
use super::lanes::{Index, LaneId, NONE};
use super::partitions::{Answer, Keeps};
use super::{Entry, History, Input, Outward, Seat, Stage, Tag, Then, Window};
use crate::Failure;
use crate::engine::park;

/// What rides along with an acknowledgement that waits for its turn in a tracker.
#[derive(Debug)]
pub(super) struct Cargo {
    pub(super) index: Index,
    pub(super) emit: Vec<Message>,
    pub(super) effects: Effects,
}

/// How a message leaves the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    ForGood,
    ToComeAgain,
}

/// What is still to be known of an entry that came out of the park, or that was a suspect, once it is gone.
struct Departed {
    seat: Seat,
    input: Input,
    partition: PartitionId,
    lane: Option<LaneId>,
    /// Where it lies in the topic.
    place: Position,
    marked: bool,
}

impl Departed {
    #[inline]
    fn of(index: Index, entry: &Entry) -> Option<Self> {
        (entry.marked || entry.input == Input::Park).then(|| Self {
            seat: entry.seat(index),
            input: entry.input,
            partition: entry.partition(),
            lane: entry.lane,
            place: park::place_of(entry.item.origin.position),
            marked: entry.marked,
        })
    }
}

impl Window {
    /// Settles with what must commit in the same transaction; the lane waits for the answer, and so do the
    /// others of its batch.
    pub(super) fn settle_with(
        &mut self,
        index: Index,
        followers: Vec<Index>,
        emit: Vec<Message>,
        effects: Effects,
        now: Instant,
    ) {
        // Where the driver has transactions, a batch ends in one.
        let together = !self.rules.cumulative && (self.rules.effects || self.rules.atomic_emit);
        let others: Vec<Token> = match together {
            true => followers.iter().filter_map(|i| self.entries[*i as usize].take_token()).collect(),
            false => Vec::new(),
        };
        let entry = &mut self.entries[index as usize];
        let Some(token) = entry.take_token() else { return };
        entry.stage = Stage::Settling;
        if !followers.is_empty() {
            entry.rare().followers = followers;
        }
        if !emit.is_empty() {
            entry.rare().emits = emit.len() as u64;
        }
        let (input, partition, number) = (entry.input, entry.partition(), entry.number);
        let lease_until = entry.lease_until;
        if self.rules.cumulative {
            let cargo = Cargo { index, emit, effects };
            self.track(input, partition, number, token, Some(Box::new(cargo)), now);
            return;
        }
        let tag = Tag::of(token.id(), lease_until).awaited_by(index);
        let tag = Tag { count: 1 + others.len(), ..tag };
        let mut settlement = Settlement::ack(token);
        let along = settlement.along_mut();
        (along.others, along.emit, along.effects) = (others, emit, effects);
        self.send(input, settlement, tag);
    }

    pub(super) fn send(&mut self, input: Input, settlement: Settlement, tag: Tag) {
        self.unsettled += 1;
        self.loose += usize::from(tag.waits.is_none());
        if self.rules.cumulative {
            self.unconfirmed += tag.count;
        }
        self.sent(input, &tag);
        self.settlements[input as usize].push(settlement, tag);
    }

    /// Ends a message that nothing holds any more: settles it and lets its lane go on.
    pub(super) fn complete(&mut self, index: Index, then: Then, now: Instant) {
        let Some(entry) = self.entries.try_remove(index as usize) else { return };
        let departed = Departed::of(index, &entry);
        let Removed { place, token, number, attempts, lease_until, rare } = entry.removed();
        self.unlink(place, now);
        if let Some(departed) = departed {
            let leaves = if then == Then::Ack { Leaves::ForGood } else { Leaves::ToComeAgain };
            self.departed(&departed, leaves, now);
        }
        let history = match rare {
            Some(rare) => rare.history,
            None => None,
        };
        let Some(token) = token else { return };
        if self.rules.cumulative {
            match then {
                Then::Ack => self.track(place.input, token.id().partition, number, token, None, now),
                // What is given back is just not settled.
                Then::Release | Then::Retry(_) | Then::ParkNative { .. } => {
                    self.not_tracked(place.input, token.id(), number, now);
                }
            }
            return;
        }
        let verdict = match then {
            Then::Ack => Verdict::Ack,
            Then::Release => Verdict::Release,
            Then::Retry(after) => Verdict::Retry { after },
            Then::ParkNative { after } => {
                let History { first_failure, error, .. } = history.unwrap_or_default();
                Verdict::Park(Box::new(Park { after, note: ParkNote { attempts, first_failure, error } }))
            }
        };
        let tag = Tag::of(token.id(), lease_until);
        self.send(place.input, Settlement::new(token, verdict), tag);
    }

    /// An entry whose settlement will never be sent: it comes again, here or elsewhere.
    pub(super) fn unsettled(&mut self, index: Index, now: Instant) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        self.outworn.extend(entry.take_reservation());
        self.remove(index, Leaves::ToComeAgain, now);
    }

    /// Takes an entry out of the window and out of its lane, and lets the lane go on.
    fn remove(&mut self, index: Index, leaves: Leaves, now: Instant) {
        let Some(entry) = self.entries.try_remove(index as usize) else { return };
        self.unlink(entry.place(), now);
        if let Some(departed) = Departed::of(index, &entry) {
            self.departed(&departed, leaves, now);
        }
    }

    /// An entry that was taken out of the window leaves its lane, too, which goes on.
    #[inline]
    fn unlink(&mut self, place: Place, now: Instant) {
        self.bytes -= place.size;
        if place.input == Input::Park {
            self.park_entries -= 1;
        }
        if let Some(lane) = place.lane {
            self.leave_lane(lane, place, now);
        }
        self.wake_pump |= self.pump_waits_for_less();
    }

    /// What hangs on one that came out of the park, or on a suspect.
    #[cold]
    fn departed(&mut self, departed: &Departed, leaves: Leaves, now: Instant) {
        let Departed { seat, input, partition, lane, place, marked } = *departed;
        if let Some(lane) = lane.filter(|_| input == Input::Park && leaves == Leaves::ForGood) {
            self.lanes.unpark(lane, place);
        }
        if marked {
            self.suspect_left((input, partition), seat, now);
        }
    }

    fn leave_lane(&mut self, lane: LaneId, place: Place, now: Instant) {
        let Place { previous, next, .. } = place;
        if previous != NONE {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        let head = self.lanes.unlink(lane, previous, next);
        // Others than queued ones are of the same batch, or leaving for the park in their order, or follow in a run loop.
        if let Some(head) = head
            && self.entries[head as usize].stage == Stage::Queued
            && (!self.closing || self.keeps(head) == Keeps::Owed)
        {
            self.become_head(head, now);
        }
    }

    /// What the broker said to a batch of settlements, in order. Those that must be sent again are put to `again`.
    pub(crate) fn all_settled(
        &mut self,
        input: Input,
        tags: &mut Vec<Tag>,
        outcomes: Vec<Settled>,
        again: &mut Outward,
        now: Instant,
    ) {
        let counted = self.rules.partitions || self.rules.cumulative;
        if !counted && outcomes.iter().all(Settled::is_done) && tags.iter().all(Tag::is_plain) {
            // The usual case: nothing waited for any of them.
            self.unsettled -= tags.len();
            self.loose -= tags.len();
            self.wake_pump |= self.pump_waits_for_less();
            tags.clear();
            return;
        }
        for (tag, outcome) in tags.drain(..).zip(outcomes) {
            if let Some(settlement) = self.settled(input, tag, outcome, now) {
                again.push(settlement, tag);
            }
        }
    }

    /// What the broker said to a settlement. One that must be sent again is given back.
    pub(crate) fn settled(
        &mut self,
        input: Input,
        tag: Tag,
        outcome: Settled,
        now: Instant,
    ) -> Option<Settlement> {
        let done = outcome.is_done();
        match outcome {
            Settled::Failed { settlement, error } => {
                tracing::debug!(error = %error, "a settlement failed and is sent again");
                return Some(*settlement);
            }
            Settled::EffectsFailed(error) => {
                self.confirm(input, &tag, Answer::Not);
                if let Some(index) = tag.waits {
                    self.undone(index, error, now);
                }
                return None;
            }
            Settled::Done => self.counts.dead(u64::from(tag.dead)),
            Settled::Unknown(error) => {
                tracing::warn!(error = %error,
                    "whether a settlement happened is not known: the message may come again");
                self.counts.unknown(tag.count as u64);
            }
            // What a later version of the contract adds is not success.
            Settled::Lost | _ => self.counts.lease_lost(tag.count as u64),
        }
        self.confirm(input, &tag, if done { Answer::Done } else { Answer::Not });
        if let Some(index) = tag.waits
            && let Some(entry) = self.entries.get_mut(index as usize)
        {
            let rare = entry.take_rare();
            if done && rare.emits > 0 {
                self.counts.emit(rare.emits);
            }
            let mut reservations: Vec<_> = rare.reservation.into_iter().collect();
            self.remove(index, if done { Leaves::ForGood } else { Leaves::ToComeAgain }, now);
            for other in rare.followers {
                reservations.extend(self.entries.get_mut(other as usize).and_then(Entry::take_reservation));
                self.complete(other, Then::Ack, now);
            }
            if !done || tag.dead {
                // Whoever gets it next must not wait for their leases.
                self.outworn.append(&mut reservations);
            } else if rare.confirms {
                self.to_confirm.append(&mut reservations);
            }
        }
        self.wake_pump |= self.pump_waits_for_less();
        None
    }

    /// The driver undid a message's effects: its handler's success did not last, and counts as a failure.
    pub(super) fn undone(&mut self, index: Index, error: Error, now: Instant) {
        let Some(entry) = self.entries.get_mut(index as usize) else { return };
        entry.put_token_back();
        self.outworn.extend(entry.take_reservation());
        let followers = entry.take_followers();
        for other in &followers {
            let other = &mut self.entries[*other as usize];
            other.put_token_back();
            self.outworn.extend(other.take_reservation());
        }
        self.counts.handled_total = self.counts.handled_total.saturating_sub(1 + followers.len() as u64);
        if followers.is_empty() {
            self.failed(index, Failure::from(error), now);
            return;
        }
        self.split_batch(index, followers, &Failure::from(error), now);
    }

    /// Gives a message back that was not started, or failed while everything closes.
    pub(super) fn give_back(&mut self, index: Index, now: Instant) {
        self.release_and(index, Then::Release, now);
    }
}
