//! Lanes: one queue a key, made when its first message arrives and gone with its last.
//!
//! No fixed hash of keys to workers: a lane exists only while its key has messages here, and any free runner
//! takes the head of any lane. Keys are known by a 64-bit hash with a seed of this process, so that a lane
//! costs no copy of the key; two keys that share a hash share a lane, which only costs them parallelism.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;

use foldhash::fast::{FixedState, RandomState};
use millstream_core::{PartitionId, Position};

/// The place of an entry in the window's slab.
pub(crate) type Index = u32;

/// No entry.
pub(crate) const NONE: Index = Index::MAX;

/// Behind all that a park can hold.
pub(crate) const NEWEST: Position = Position(u64::MAX);

/// A key's hash.
pub(crate) type LaneId = u64;

/// A key with messages here, or with messages in the park.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    /// The one that may run; `NONE` if only the park holds messages of this key.
    pub(crate) head: Index,
    pub(crate) tail: Index,
    /// Messages here.
    pub(crate) len: u32,
    /// The park holds messages of this key, the newest of them from this place in the topic: what follows queues
    /// there behind it. A place and not a count: what is read from the park, or written to it, a second time after a
    /// fault does not falsify it.
    parked_to: Option<Position>,
    /// From where the oldest of them came: what is older still is not in the park, and goes before them.
    parked_from: Position,
    /// The partition whose park that is.
    partition: PartitionId,
}

impl Lane {
    const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
        len: 0,
        parked_to: None,
        parked_from: Position(0),
        partition: PartitionId(0),
    };

    fn is_empty(&self) -> bool {
        self.len == 0 && self.parked_to.is_none()
    }

    #[inline]
    fn unlink(&mut self, previous: Index, next: Index) -> Option<Index> {
        self.len -= 1;
        if next == NONE {
            self.tail = previous;
        }
        if previous != NONE {
            return None;
        }
        self.head = next;
        (next != NONE).then_some(next)
    }
}

/// The lane of everything, where all is in one order.
pub(super) const TOTAL: LaneId = 0;

#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: HashMap<LaneId, Lane, FixedState>,
    /// [`TOTAL`], which every message of its subscription enters: it is not looked for.
    total: Lane,
    hasher: FixedState,
}

/// What an entry finds in its lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pushed {
    /// The entry before it; none: it is the head.
    pub(super) before: Option<Index>,
    /// Whether the park holds messages of the key.
    pub(super) parked: bool,
}

impl Lanes {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        // Without a seed given: one nobody can guess, so that nobody can choose keys that collide.
        let seed = seed.unwrap_or_else(|| RandomState::default().hash_one(0u8));
        // The same seed for the map: with a seed given, also the order in which lanes are gone through repeats.
        let hasher = FixedState::with_seed(seed);
        Self { lanes: HashMap::with_hasher(hasher.clone()), total: Lane::EMPTY, hasher }
    }

    pub(crate) fn id(&self, key: &[u8]) -> LaneId {
        self.hasher.hash_one(key)
    }

    pub(crate) fn get(&self, id: LaneId) -> Option<&Lane> {
        match id {
            TOTAL => Some(&self.total).filter(|lane| !lane.is_empty()),
            id => self.lanes.get(&id),
        }
    }

    /// Whether the park holds messages of this key.
    pub(crate) fn is_parked(&self, id: LaneId) -> bool {
        self.get(id).is_some_and(|l| l.parked_to.is_some())
    }

    /// Whether a message from this place in the topic has to queue in the park, behind those of its key.
    pub(crate) fn follows_parked(&self, id: LaneId, place: Position) -> bool {
        self.get(id).is_some_and(|l| l.parked_to.is_some() && place >= l.parked_from)
    }

    /// Whether the park holds messages of this key from behind this place in the topic.
    pub(crate) fn precedes_parked(&self, id: LaneId, place: Position) -> bool {
        self.get(id).is_some_and(|l| l.parked_to.is_some_and(|newest| place < newest))
    }

    fn made(&mut self, id: LaneId) -> &mut Lane {
        match id {
            TOTAL => &mut self.total,
            id => self.lanes.entry(id).or_insert(Lane::EMPTY),
        }
    }

    /// Puts an entry behind those of its lane. The entry before it is to be linked to it.
    #[inline]
    pub(super) fn push(&mut self, id: LaneId, index: Index) -> Pushed {
        let lane = self.made(id);
        lane.len += 1;
        let before = std::mem::replace(&mut lane.tail, index);
        if lane.head == NONE {
            lane.head = index;
            return Pushed { before: None, parked: lane.parked_to.is_some() };
        }
        Pushed { before: Some(before), parked: lane.parked_to.is_some() }
    }

    /// Takes an entry out from between `previous` and `next`. Says the new head, if the head was taken.
    #[inline]
    pub(crate) fn unlink(&mut self, id: LaneId, previous: Index, next: Index) -> Option<Index> {
        if id == TOTAL {
            return self.total.unlink(previous, next);
        }
        let Entry::Occupied(mut lane) = self.lanes.entry(id) else { return None };
        let head = lane.get_mut().unlink(previous, next);
        if lane.get().is_empty() {
            lane.remove();
        }
        head
    }

    fn all(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        let total = self.get(TOTAL).map(|lane| (TOTAL, lane));
        self.lanes.iter().map(|(id, lane)| (*id, lane)).chain(total)
    }

    /// Tails of lanes that hold more than so many.
    pub(crate) fn crowded(&self, more_than: u32) -> Vec<(LaneId, Lane)> {
        self.all().filter(|(_, l)| l.len > more_than).map(|(id, l)| (id, *l)).collect()
    }

    /// The park holds a message of a key, from this place in the topic.
    pub(crate) fn park(&mut self, id: LaneId, place: Position, partition: PartitionId) {
        let lane = self.made(id);
        lane.parked_from = if lane.parked_to.is_some() { place.min(lane.parked_from) } else { place };
        lane.parked_to = lane.parked_to.max(Some(place));
        lane.partition = partition;
    }

    /// Forgets what the park of a partition holds.
    pub(crate) fn forget_parked(&mut self, partition: PartitionId) {
        let forget = |lane: &mut Lane| {
            if lane.partition == partition {
                lane.parked_to = None;
            }
            !lane.is_empty()
        };
        forget(&mut self.total);
        self.lanes.retain(|_, lane| forget(lane));
    }

    /// A message of a key, from this place in the topic, came out of the park and is through. They come in their order:
    /// with the newest the park holds none any more.
    pub(crate) fn unpark(&mut self, id: LaneId, place: Position) {
        let is_newest = |lane: &Lane| lane.parked_to.is_some_and(|newest| newest <= place);
        if id == TOTAL {
            self.total.parked_to = self.total.parked_to.filter(|newest| *newest > place);
        } else if let Entry::Occupied(mut lane) = self.lanes.entry(id)
            && is_newest(lane.get())
        {
            lane.get_mut().parked_to = None;
            if lane.get().is_empty() {
                lane.remove();
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.total.is_empty()
    }

    /// Keys that the park holds messages of.
    pub(crate) fn parked_keys(&self) -> usize {
        self.all().filter(|(_, l)| l.parked_to.is_some()).count()
    }
}
