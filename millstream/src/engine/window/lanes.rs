//! Lanes: one queue a key, made when its first message arrives and gone with its last.
//!
//! No fixed hash of keys to workers: a lane exists only while its key has messages here, and any free runner
//! takes the head of any lane. Keys are known by a 64-bit hash with a seed of this process, so that a lane
//! costs no copy of the key; two keys that share a hash share a lane, which only costs them parallelism.

use std::collections::HashMap;
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
}

#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: HashMap<LaneId, Lane, FixedState>,
    hasher: FixedState,
}

impl Lanes {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        // Without a seed given: one nobody can guess, so that nobody can choose keys that collide.
        let seed = seed.unwrap_or_else(|| RandomState::default().hash_one(0u8));
        // The same seed for the map: with a seed given, also the order in which lanes are gone through repeats.
        let hasher = FixedState::with_seed(seed);
        Self { lanes: HashMap::with_hasher(hasher.clone()), hasher }
    }

    pub(crate) fn id(&self, key: &[u8]) -> LaneId {
        self.hasher.hash_one(key)
    }

    pub(crate) fn get(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(&id)
    }

    /// Whether the park holds messages of this key.
    pub(crate) fn is_parked(&self, id: LaneId) -> bool {
        self.lanes.get(&id).is_some_and(|l| l.parked_to.is_some())
    }

    /// Whether a message from this place in the topic has to queue in the park, behind those of its key.
    pub(crate) fn follows_parked(&self, id: LaneId, place: Position) -> bool {
        self.lanes.get(&id).is_some_and(|l| l.parked_to.is_some() && place >= l.parked_from)
    }

    /// Whether the park holds messages of this key from behind this place in the topic.
    pub(crate) fn precedes_parked(&self, id: LaneId, place: Position) -> bool {
        self.lanes.get(&id).is_some_and(|l| l.parked_to.is_some_and(|newest| place < newest))
    }

    /// Puts an entry behind those of its lane. The entry before it, to be linked to it, or `None` if it is
    /// the head now.
    pub(crate) fn push(&mut self, id: LaneId, index: Index) -> Option<Index> {
        let lane = self.lanes.entry(id).or_insert(Lane::EMPTY);
        lane.len += 1;
        if lane.head == NONE {
            (lane.head, lane.tail) = (index, index);
            None
        } else {
            Some(std::mem::replace(&mut lane.tail, index))
        }
    }

    /// Takes an entry out from between `previous` and `next`. Says the new head, if the head was taken.
    pub(crate) fn unlink(&mut self, id: LaneId, previous: Index, next: Index) -> Option<Index> {
        let lane = self.lanes.get_mut(&id)?;
        lane.len -= 1;
        if next == NONE {
            lane.tail = previous;
        }
        if previous != NONE {
            return None;
        }
        lane.head = next;
        if next != NONE {
            return Some(next);
        }
        if lane.parked_to.is_none() {
            self.lanes.remove(&id);
        }
        None
    }

    /// Tails of lanes that hold more than so many.
    pub(crate) fn crowded(&self, more_than: u32) -> Vec<(LaneId, Lane)> {
        self.lanes.iter().filter(|(_, l)| l.len > more_than).map(|(id, l)| (*id, *l)).collect()
    }

    /// The park holds a message of a key, from this place in the topic.
    pub(crate) fn park(&mut self, id: LaneId, place: Position, partition: PartitionId) {
        let lane = self.lanes.entry(id).or_insert(Lane::EMPTY);
        lane.parked_from = if lane.parked_to.is_some() { place.min(lane.parked_from) } else { place };
        lane.parked_to = lane.parked_to.max(Some(place));
        lane.partition = partition;
    }

    /// Forgets what the park of a partition holds.
    pub(crate) fn forget_parked(&mut self, partition: PartitionId) {
        self.lanes.retain(|_, lane| {
            if lane.partition == partition {
                lane.parked_to = None;
            }
            lane.parked_to.is_some() || lane.len > 0
        });
    }

    /// A message of a key, from this place in the topic, came out of the park and is through. They come in their order:
    /// with the newest the park holds none any more.
    pub(crate) fn unpark(&mut self, id: LaneId, place: Position) {
        if let Some(lane) = self.lanes.get_mut(&id)
            && lane.parked_to.is_some_and(|newest| newest <= place)
        {
            lane.parked_to = None;
            if lane.len == 0 {
                self.lanes.remove(&id);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Keys that the park holds messages of.
    pub(crate) fn parked_keys(&self) -> usize {
        self.lanes.values().filter(|l| l.parked_to.is_some()).count()
    }
}
