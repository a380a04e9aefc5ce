//! Lanes: one queue a key, made when its first message arrives and gone with its last.
//!
//! No fixed hash of keys to workers: a lane exists only while its key has messages here, and any free runner
//! takes the head of any lane. Keys are known by a 64-bit hash with a seed of this process, so that a lane
//! costs no copy of the key; two keys that share a hash share a lane, which only costs them parallelism.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::{FixedState, RandomState};
use millstream_core::PartitionId;

/// The place of an entry in the window's slab.
pub(crate) type Index = u32;

/// No entry.
pub(crate) const NONE: Index = Index::MAX;

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
    /// Messages of this key that the park holds: newer ones queue there behind them.
    pub(crate) parked: u32,
    /// The partition whose park that is.
    partition: PartitionId,
}

impl Lane {
    const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0, parked: 0, partition: PartitionId(0) };
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

    pub(crate) fn parked(&self, id: LaneId) -> u32 {
        self.lanes.get(&id).map_or(0, |l| l.parked)
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
        if lane.parked == 0 {
            self.lanes.remove(&id);
        }
        None
    }

    /// Tails of lanes that hold more than so many.
    pub(crate) fn crowded(&self, more_than: u32) -> Vec<(LaneId, Lane)> {
        self.lanes.iter().filter(|(_, l)| l.len > more_than).map(|(id, l)| (*id, *l)).collect()
    }

    /// Counts messages of a key into the park, or out of it.
    pub(crate) fn park(&mut self, id: LaneId, count: u32, partition: PartitionId) {
        let lane = self.lanes.entry(id).or_insert(Lane::EMPTY);
        lane.parked += count;
        lane.partition = partition;
    }

    /// Forgets what the park of a partition holds.
    pub(crate) fn forget_parked(&mut self, partition: PartitionId) {
        self.lanes.retain(|_, lane| {
            if lane.partition == partition {
                lane.parked = 0;
            }
            lane.parked > 0 || lane.len > 0
        });
    }

    pub(crate) fn unpark(&mut self, id: LaneId, count: u32) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.parked = lane.parked.saturating_sub(count);
            if lane.parked == 0 && lane.len == 0 {
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
        self.lanes.values().filter(|l| l.parked > 0).count()
    }
}
