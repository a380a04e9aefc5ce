//! What waits of one key: the messages that came back or could not be handed out yet, in their order.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Names a lane: a key by its hash, or an unkeyed message by its position.
///
/// Two keys of one hash share a lane and so wait for each other, which is rare and does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LaneId(u64);

impl LaneId {
    const KEYED: u64 = 1 << 63;

    /// The one lane of a group that is read in total order.
    pub(crate) const TOTAL: Self = Self(u64::MAX);

    /// The lane of a key.
    pub(crate) fn of_key(hash: u64) -> Self {
        Self(hash | Self::KEYED)
    }

    /// The lane of an unkeyed message.
    pub(crate) fn alone(position: u64) -> Self {
        Self(position & !Self::KEYED)
    }

    /// Whether it can hold more than one message.
    pub(crate) fn is_shared(self) -> bool {
        self.0 & Self::KEYED != 0
    }
}

/// A message of a lane that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) position: u64,
    /// Not before this.
    pub(crate) due: Option<Instant>,
    /// Whether it lies in the park: handed out alone, and nothing behind it before it is settled.
    pub(crate) parked: bool,
}

/// Where the head of a lane's queue is listed in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Nothing waits, or what waits must wait for a settlement.
    Nowhere,
    /// Among those for any member.
    Free(u64),
    /// Among those of the member that has others of this lane.
    Own(u32, u64),
    /// Among those that are not due yet.
    Timer(Instant, u64),
}

/// A key of which something is in flight or waits.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The member that has what is in flight.
    pub(crate) owner: u32,
    pub(crate) in_flight: u32,
    /// Whether what is in flight came out of the park.
    pub(crate) solo: bool,
    pub(crate) listed: Listed,
    queue: VecDeque<Waiting>,
}

impl Lane {
    /// A lane with so many in flight at this member, and nothing waiting.
    pub(crate) fn new(owner: u32, in_flight: u32) -> Self {
        Self { owner, in_flight, solo: false, listed: Listed::Nowhere, queue: VecDeque::new() }
    }

    /// Whether a new message may go to this member at once.
    pub(crate) fn is_open_to(&self, member: u32) -> bool {
        self.queue.is_empty() && !self.solo && self.owner == member
    }

    pub(crate) fn queue(&self) -> impl Iterator<Item = &Waiting> {
        self.queue.iter()
    }

    pub(crate) fn into_queue(self) -> impl Iterator<Item = Waiting> {
        self.queue.into_iter()
    }

    /// Whether its head is listed nowhere, and rightly so.
    pub(crate) fn is_listed_nowhere(&self) -> bool {
        self.queue.is_empty() && self.listed == Listed::Nowhere
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.queue.is_empty()
    }

    pub(crate) fn head_mut(&mut self) -> Option<&mut Waiting> {
        self.queue.front_mut()
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.queue.pop_front()
    }

    /// Adds a message in its place.
    pub(crate) fn insert(&mut self, waiting: Waiting) {
        let index = self.queue.partition_point(|w| w.position < waiting.position);
        self.queue.insert(index, waiting);
    }

    /// Takes a message out.
    pub(crate) fn forget(&mut self, position: u64) -> Option<Waiting> {
        let index = self.queue.binary_search_by_key(&position, |w| w.position).ok()?;
        self.queue.remove(index)
    }

    /// Where its head belongs.
    pub(crate) fn place(&self) -> Listed {
        let Some(head) = self.queue.front() else { return Listed::Nowhere };
        match head.due {
            _ if self.solo => Listed::Nowhere,
            Some(due) => Listed::Timer(due, head.position),
            None if self.in_flight == 0 => Listed::Free(head.position),
            None if head.parked => Listed::Nowhere,
            None => Listed::Own(self.owner, head.position),
        }
    }
}
