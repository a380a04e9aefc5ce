//! An entry of the window: a message read and not yet settled, and where it stands.

use std::time::SystemTime;

use millstream_core::{Effects, Epoch, Origin, PartitionId, Reservation, Token, TokenId};
use tokio::time::Instant;

use super::lanes::{Index, LaneId, NONE};
use super::{Input, Seat};
use crate::context::Item;

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Behind others of its lane.
    Queued,
    /// Asking the deduplication store.
    Reserving,
    /// May run.
    Ready,
    /// Runs.
    Running,
    /// Until a time.
    Waiting,
    /// Being written elsewhere before it is settled.
    Leaving,
    /// Being settled with something that its lane must wait for.
    Settling,
}

impl Stage {
    /// Nothing was begun with it.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, Self::Queued | Self::Reserving | Self::Ready | Self::Waiting)
    }
}

/// What happens to an entry when it becomes the head of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Run,
    /// Redriven for another group.
    Skip,
    /// Delivered too often.
    CrashLoop,
}

/// What is remembered of a message that failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) first_failure: Option<SystemTime>,
    pub(crate) last_failure: Option<SystemTime>,
    /// The chain of the last error, cut at 8 KiB.
    pub(crate) error: String,
    pub(crate) error_type: String,
}

/// The longest chain of errors that is kept.
pub(super) const ERROR_LIMIT: usize = 8 << 10;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    /// The driver's own number of the delivery.
    pub(super) delivery: u64,
    /// In its partition's tracker.
    pub(super) number: u64,
    pub(super) size: usize,
    pub(super) lane: Option<LaneId>,
    /// Before and behind it in its lane.
    pub(super) previous: Index,
    pub(super) next: Index,
    /// Ours until then; `None`: for good.
    pub(super) lease_until: Option<Instant>,
    /// Runs of the handler that count.
    pub(super) attempts: u32,
    /// Tells its timers from those of an earlier entry in this place.
    pub(super) stamp: u32,
    pub(super) input: Input,
    pub(super) stage: Stage,
    pub(super) fate: Fate,
    /// Its token is with its settlement.
    token_is_out: bool,
    /// Runs on its own: the batch it was in failed.
    pub(super) single: bool,
    /// The suspicion that it kills processes is noted durably: it may run.
    pub(super) marked: bool,
    /// It came out of the driver's own park: younger ones of its key are still there.
    pub(super) unparked: bool,
    rare: Option<Box<Rare>>,
}

/// What the window and a lane count of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) size: usize,
    pub(super) input: Input,
    pub(super) lane: Option<LaneId>,
    pub(super) previous: Index,
    pub(super) next: Index,
}

/// What is left of an entry that was taken out of the window.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) place: Place,
    pub(super) token: Option<Token>,
    pub(super) number: u64,
    pub(super) attempts: u32,
    pub(super) lease_until: Option<Instant>,
    pub(super) rare: Option<Box<Rare>>,
}

/// What few entries have, so that the others are small and quickly moved.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Not before.
    pub(super) due: Option<Instant>,
    /// Runs that did not count, since something was unavailable.
    pub(super) excused: u32,
    pub(super) history: Option<History>,
    pub(super) reservation: Option<Reservation>,
    /// When that was made.
    pub(super) reserved_at: Option<Instant>,
    /// Effects that wait for a write.
    pub(super) effects: Effects,
    /// Others of a batch that end with it.
    pub(super) followers: Vec<Index>,
    /// Messages that commit with its settlement.
    pub(super) emits: u64,
    /// Its reservation, and those of the others, are confirmed once it is settled.
    pub(super) confirms: bool,
}

impl Entry {
    /// An entry that stands on its own, for now.
    #[inline]
    pub(super) fn new(item: Item, token: TokenId, input: Input, number: u64, size: usize) -> Self {
        Self {
            item,
            delivery: token.id,
            number,
            size,
            lane: None,
            previous: NONE,
            next: NONE,
            lease_until: None,
            attempts: 0,
            stamp: 0,
            input,
            stage: Stage::Queued,
            fate: Fate::Run,
            token_is_out: false,
            single: false,
            marked: false,
            unparked: false,
            rare: None,
        }
    }

    /// Where it is in its lane, and what it counts for.
    #[inline]
    pub(super) fn place(&self) -> Place {
        let Self { size, input, lane, previous, next, .. } = *self;
        Place { size, input, lane, previous, next }
    }

    /// Takes it apart; its message is let go.
    #[inline]
    pub(super) fn removed(mut self) -> Removed {
        let (place, token) = (self.place(), self.take_token());
        let Self { number, attempts, lease_until, rare, .. } = self;
        Removed { place, token, number, attempts, lease_until, rare }
    }

    /// It, in this place.
    pub(super) fn seat(&self, index: Index) -> Seat {
        Seat { index, stamp: self.stamp }
    }

    /// What identifies its delivery.
    pub(super) fn id(&self) -> TokenId {
        TokenId { partition: self.item.origin.partition, epoch: self.item.origin.epoch, id: self.delivery }
    }

    pub(super) fn partition(&self) -> PartitionId {
        self.item.origin.partition
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.item.origin.epoch
    }

    /// Whether it has its token: nothing of it is to be settled yet.
    pub(super) fn has_token(&self) -> bool {
        !self.token_is_out
    }

    /// Its token, once: whoever has it settles the delivery.
    #[inline]
    pub(super) fn take_token(&mut self) -> Option<Token> {
        let Origin { partition, epoch, .. } = self.item.origin;
        let is_out = std::mem::replace(&mut self.token_is_out, true);
        (!is_out).then(|| Token::new(partition, epoch, self.delivery))
    }

    /// Nothing came of its settlement: it is to be settled anew.
    pub(super) fn put_token_back(&mut self) {
        self.token_is_out = false;
    }

    /// What few have, made if it has none of it yet.
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Takes all of that.
    #[inline]
    pub(super) fn take_rare(&mut self) -> Rare {
        self.rare.take().map(|boxed| *boxed).unwrap_or_default()
    }

    /// Not before then.
    #[inline]
    pub(super) fn due(&self) -> Option<Instant> {
        self.rare.as_ref()?.due
    }

    pub(super) fn set_due(&mut self, due: Option<Instant>) {
        if due.is_some() || self.rare.is_some() {
            self.rare().due = due;
        }
    }

    pub(super) fn history(&mut self) -> &mut History {
        self.rare().history.get_or_insert_default()
    }

    pub(super) fn take_history(&mut self) -> History {
        self.rare.as_mut().and_then(|rare| rare.history.take()).unwrap_or_default()
    }

    #[inline]
    pub(super) fn has_reservation(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.reservation.is_some())
    }

    /// When its reservation was made.
    #[inline]
    pub(super) fn reserved_at(&self) -> Option<Instant> {
        self.rare.as_ref()?.reserved_at
    }

    /// Its reservation, for whoever releases or confirms it.
    pub(super) fn take_reservation(&mut self) -> Option<Reservation> {
        self.rare.as_mut()?.reservation.take()
    }

    /// Effects that waited for a write.
    pub(super) fn take_effects(&mut self) -> Effects {
        self.rare.as_mut().map(|rare| std::mem::take(&mut rare.effects)).unwrap_or_default()
    }

    /// Others of its batch, which were to end with it. What was to go with its settlement is forgotten.
    pub(super) fn take_followers(&mut self) -> Vec<Index> {
        let Some(rare) = &mut self.rare else { return Vec::new() };
        (rare.effects, rare.confirms) = (Effects::new(), false);
        std::mem::take(&mut rare.followers)
    }
}
