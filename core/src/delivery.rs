//! What a driver hands up: deliveries with their tokens, and changes of the assignment.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Message;

/// A partition of a topic, or whatever a driver divides it by. Drivers without partitions use 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the times a partition was assigned to this reader: what finishes under an old epoch is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u32);

/// A place in a partition; grows by at least one from message to message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What identifies a delivery to its driver, to be copied into logs and lease tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId {
    /// The partition it came from.
    pub partition: PartitionId,
    /// The assignment it belongs to.
    pub epoch: Epoch,
    /// The driver's own number: an offset, a delivery tag, the index of a receipt handle. Where a delivery
    /// can be answered late, after it was delivered again, the number is a new one for each delivery.
    pub id: u64,
}

/// The right and the duty to settle one delivery, once.
///
/// It moves and cannot be copied: one delivery cannot be settled twice by accident. A driver whose handles
/// are larger than a number keeps a table from [`TokenId::id`] to them.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a delivery that is never settled comes back or blocks its partition"]
pub struct Token(TokenId);

impl Token {
    /// For drivers: the token of a delivery.
    pub fn new(partition: PartitionId, epoch: Epoch, id: u64) -> Self {
        Self(TokenId { partition, epoch, id })
    }

    /// What it stands for.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.0
    }
}

/// One message as a driver delivered it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// The message, shared with whoever else has it: what a driver keeps of it costs no copy. Foreign ones may lack
    /// an id and a content type.
    pub message: Arc<Message>,
    /// To settle it with.
    pub token: Token,
    /// Its place in the partition, where there are places.
    pub position: Option<Position>,
    /// How often the broker delivered it, this time included; 0 where it does not count. A driver that parks
    /// natively counts anew from each park, since the run before it ended in order.
    pub deliveries: u32,
    /// What was noted when it was parked natively; only if it comes out of a park.
    pub parked: Option<Box<ParkNote>>,
}

impl Delivery {
    /// A delivery without position, count or park note.
    pub fn new(message: impl Into<Arc<Message>>, token: Token) -> Self {
        Self { message: message.into(), token, position: None, deliveries: 0, parked: None }
    }

    /// Sets the position.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    /// Sets the broker's count.
    #[must_use]
    pub fn delivered(mut self, times: u32) -> Self {
        self.deliveries = times;
        self
    }

    /// Sets what was noted when it was parked.
    #[must_use]
    pub fn parked(mut self, note: ParkNote) -> Self {
        self.parked = Some(Box::new(note));
        self
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let id = self.token.id();
        Origin { partition: id.partition, epoch: id.epoch, position: self.position }
    }
}

/// Where a delivery came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The partition.
    pub partition: PartitionId,
    /// The assignment under which it was read.
    pub epoch: Epoch,
    /// The place in the partition.
    pub position: Option<Position>,
}

/// What is kept with a parked message, so that its history survives a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkNote {
    /// Runs of the handler used so far.
    pub attempts: u32,
    /// When it first failed.
    pub first_failure: Option<SystemTime>,
    /// The last error, as text.
    pub error: String,
}

/// A partition that is this reader's from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Assigned {
    /// Which.
    pub partition: PartitionId,
    /// Above every epoch of this partition before.
    pub epoch: Epoch,
    /// Where reading starts, if known.
    pub start: Option<Position>,
    /// One behind the last message there was when it was assigned, if known. A park is read up to here
    /// before its partition is dispatched.
    pub end: Option<Position>,
    /// The note that was last stored with [`Settler::mark`](crate::Settler::mark) for this group.
    pub mark: Option<String>,
}

impl Assigned {
    /// An assignment of which no more is known.
    #[must_use]
    pub fn new(partition: PartitionId, epoch: Epoch) -> Self {
        Self { partition, epoch, start: None, end: None, mark: None }
    }
}

/// Partitions that are to be given back. The driver waits for [`Revoking::done`] up to the deadline, while
/// its reader goes on being polled, and only then lets go.
#[derive(Debug)]
#[must_use = "the driver waits until it is answered or dropped"]
pub struct Revoking {
    /// Which, under which assignment.
    pub partitions: Vec<(PartitionId, Epoch)>,
    /// When the driver lets go at the latest.
    pub deadline: Instant,
    done: oneshot::Sender<()>,
}

impl Revoking {
    /// For drivers: the event, and what completes when it was answered or dropped.
    pub fn new(partitions: Vec<(PartitionId, Epoch)>, deadline: Instant) -> (Self, oneshot::Receiver<()>) {
        let (done, answered) = oneshot::channel();
        (Self { partitions, deadline, done }, answered)
    }

    /// All that had to be settled is settled: the driver may let go.
    pub fn done(self) {
        // Nobody listens any more if the driver let go at the deadline.
        let _ = self.done.send(());
    }
}

/// Partitions that are gone already: nothing of them can be settled any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Which, under which assignment.
    pub partitions: Vec<(PartitionId, Epoch)>,
}
