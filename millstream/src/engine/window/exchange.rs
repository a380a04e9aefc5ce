//! What goes in and out of the window: jobs and results, what must leave, what is to be settled.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use millstream_core::{Epoch, Message, Origin, PartitionId, Reservation, Settlement, TokenId};
use tokio::time::Instant;

use super::entry::History;
use super::lanes::{Index, LaneId};
use crate::context::{Held, Item, Others};
use crate::policy::Next;
use crate::{Failure, Outcome};

/// Which of a subscription's two inputs a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Input {
    /// The topic.
    Main = 0,
    /// The group's park of it.
    Park = 1,
}

impl Input {
    pub(crate) const ALL: [Self; 2] = [Self::Main, Self::Park];
}

/// A place in the window and who is in it: by the time somebody answers, another may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(super) index: Index,
    pub(super) stamp: u32,
}

/// A message for a runner; `rest` are the others of a batch.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) index: Index,
    pub(crate) item: Item,
    pub(crate) rest: Others<(Index, Item)>,
    /// It is behind the job before it in its lane: begun only if that one has [succeeded plainly](Done::is_plain).
    pub(crate) follows: bool,
}

/// What a runner brings back.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) index: Index,
    /// The others of a batch.
    pub(crate) rest: Others<Index>,
    pub(crate) outcome: Outcome,
    /// What the handler published and queued, to leave with its success.
    pub(crate) held: Option<Arc<Held>>,
}

impl Done {
    /// Whether a message was handled, and nothing has to leave before its lane goes on.
    pub(crate) fn is_plain(&self) -> bool {
        self.outcome.is_ok() && self.held.is_none() && self.rest.is_none()
    }
}

/// What must be written, confirmed, before a message is settled.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) index: Index,
    /// Others of its batch, settled the same way with it.
    pub(crate) rest: Vec<Index>,
    pub(crate) lane: Option<LaneId>,
    pub(crate) load: Load,
    pub(crate) dedup: DedupStep,
    pub(crate) then: Then,
}

/// The ways out: each has a task of its own, so that a target that is down holds up only what goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Emit = 0,
    Dead = 1,
    Park = 2,
}

#[cfg(test)]
impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Emit, Self::Dead, Self::Park];
}

impl Load {
    pub(super) fn way(&self) -> Way {
        match self {
            Self::Nothing | Self::Emit(_) | Self::Ride(_) => Way::Emit,
            Self::Dead(_) => Way::Dead,
            Self::Park(_) => Way::Park,
        }
    }
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Load {
    /// Nothing: just the deduplication store.
    Nothing,
    /// A handler's messages.
    Emit(Vec<Message>),
    /// A handler's messages that will commit with a position: asked about only, since one that is refused then would hold
    /// up all behind it.
    Ride(Vec<Message>),
    /// A dead letter.
    Dead(Box<DeadLoad>),
    /// A message to the park topic; due then, or behind its key.
    Park(Box<ParkLoad>),
}

/// A dead letter to be built and written.
#[derive(Debug)]
pub(crate) struct DeadLoad {
    pub(crate) message: Arc<Message>,
    pub(crate) origin: Origin,
    pub(crate) class: &'static str,
    pub(crate) attempts: u32,
    pub(crate) deliveries: u32,
    pub(crate) history: History,
}

/// A message to be parked.
#[derive(Debug)]
pub(crate) struct ParkLoad {
    pub(crate) message: Arc<Message>,
    pub(crate) origin: Origin,
    pub(crate) attempts: u32,
    /// When it may come, and how long that is from now.
    pub(crate) due: Option<(SystemTime, Duration)>,
    pub(crate) history: History,
}

/// What the deduplication store is to be told.
#[derive(Debug)]
pub(crate) enum DedupStep {
    Confirm(Vec<Reservation>),
    Release(Vec<Reservation>),
}

/// How a message ends once what had to leave has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Ack,
    Release,
    Retry(Duration),
    ParkNative { after: Option<Duration> },
}

/// Settlements on their way to the broker, each with what depends on it: two lists of the same length, so that a
/// batch is handed to the driver as it is.
#[derive(Debug, Default)]
pub(crate) struct Outward {
    pub(crate) settlements: Vec<Settlement>,
    pub(crate) tags: Vec<Tag>,
}

impl Outward {
    pub(crate) fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    pub(crate) fn push(&mut self, settlement: Settlement, tag: Tag) {
        self.settlements.push(settlement);
        self.tags.push(tag);
    }

    /// Moves all of `other` behind those that are here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
        } else {
            self.settlements.append(&mut other.settlements);
            self.tags.append(&mut other.tags);
        }
    }
}

/// What depends on a settlement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tag {
    /// An entry that waits for it, with its lane.
    pub(crate) waits: Option<Index>,
    pub(crate) partition: PartitionId,
    /// The assignment it belongs to.
    pub(crate) epoch: Epoch,
    /// Messages it settles; more than one for a cumulative settlement.
    pub(crate) count: usize,
    /// Too late after this.
    pub(crate) lease_until: Option<Instant>,
    /// It stores a dead letter: counted once the broker confirms.
    pub(crate) dead: bool,
}

impl Tag {
    /// One message, on which nothing waits.
    pub(super) fn of(id: TokenId, lease_until: Option<Instant>) -> Self {
        let TokenId { partition, epoch, .. } = id;
        Self { waits: None, partition, epoch, count: 1, lease_until, dead: false }
    }

    /// Whether its being done changes nothing but that it is.
    pub(super) fn is_plain(&self) -> bool {
        self.waits.is_none() && !self.dead
    }

    /// An entry waits for it, with its lane.
    pub(super) fn awaited_by(self, index: Index) -> Self {
        Self { waits: Some(index), ..self }
    }
}

/// Who has something to do now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wants {
    /// The run loop to be woken.
    pub(crate) runner: Option<usize>,
    pub(crate) reserver: bool,
    pub(crate) outbound: [bool; 3],
    pub(crate) settlers: [bool; 2],
    pub(crate) pumps: [bool; 2],
    pub(crate) reports: bool,
}

/// A failure, for logs and the user's own hook.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) message: Arc<Message>,
    pub(crate) attempt: u32,
    pub(crate) failure: Failure,
    pub(crate) next: Next,
}

/// A note to be stored durably; `then` may run once it is.
#[derive(Debug)]
pub(crate) struct MarkRequest {
    pub(crate) partition: PartitionId,
    pub(crate) epoch: Epoch,
    pub(crate) note: String,
    pub(crate) then: Option<Seat>,
}
