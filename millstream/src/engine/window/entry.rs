//! An entry of the window: a message read and not yet settled, and where it stands.

use std::time::SystemTime;

use millstream_core::{Effects, PartitionId, Reservation, Token, TokenId};
use tokio::time::Instant;

use super::Input;
use super::lanes::{Index, LaneId};
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
    /// Out once it is to be settled.
    pub(super) token: Option<Token>,
    pub(super) id: TokenId,
    pub(super) input: Input,
    pub(super) partition: PartitionId,
    pub(super) stage: Stage,
    pub(super) lane: Option<LaneId>,
    /// Before and behind it in its lane.
    pub(super) previous: Index,
    pub(super) next: Index,
    pub(super) fate: Fate,
    /// In its partition's tracker.
    pub(super) number: u64,
    pub(super) size: usize,
    /// Runs of the handler that count.
    pub(super) attempts: u32,
    /// Runs that did not count, since something was unavailable.
    pub(super) excused: u32,
    /// Not before.
    pub(super) due: Option<Instant>,
    /// Ours until then; `None`: for good.
    pub(super) lease_until: Option<Instant>,
    /// Tells its timers from those of an earlier entry in this place.
    pub(super) stamp: u32,
    /// Runs on its own: the batch it was in failed.
    pub(super) single: bool,
    /// The suspicion that it kills processes is noted durably: it may run.
    pub(super) marked: bool,
    /// It came out of the driver's own park: younger ones of its key are still there.
    pub(super) unparked: bool,
    pub(super) history: Option<Box<History>>,
    pub(super) reservation: Option<Box<Reservation>>,
    /// When that was made.
    pub(super) reserved_at: Option<Instant>,
    pub(super) extra: Option<Box<Extra>>,
}

impl Entry {
    /// Its reservation, for whoever releases or confirms it.
    pub(super) fn take_reservation(&mut self) -> Option<Reservation> {
        self.reservation.take().map(|boxed| *boxed)
    }
}

/// What few entries have: effects that wait for a write, and others of a batch that end with it.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) effects: Effects,
    pub(super) followers: Vec<Index>,
    /// Its reservation, and those of the others, are confirmed once it is settled.
    pub(super) confirms: bool,
}
