//! Values by position: dense where positions follow each other, and free of what is gone.
//!
//! Cut into chunks, of which an empty one is freed wherever it lies: one value that stays for an hour does not hold
//! the place of the millions behind it. Nothing is hashed, and nothing moves.

use std::collections::VecDeque;

/// Slots of a chunk. Large enough that an empty one costs nothing to keep, small enough to come and go.
const CHUNK: u64 = 256;

/// At most one value a position.
#[derive(Debug)]
pub(crate) struct Positions<T> {
    chunks: VecDeque<Option<Chunk<T>>>,
    /// Position of the first chunk's first slot; a multiple of [`CHUNK`].
    base: u64,
    len: usize,
    /// A chunk's memory, kept for the next one: as many empty slots as there are.
    spare: Vec<Option<T>>,
}

#[derive(Debug)]
struct Chunk<T> {
    len: u32,
    slots: Vec<Option<T>>,
}

impl<T> Positions<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: VecDeque::new(), base: 0, len: 0, spare: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a value to a position, in place of the one that was there.
    #[inline]
    pub(crate) fn insert(&mut self, position: u64, value: T) {
        let (index, slot) = match self.place(position) {
            Some(place) if place.0 < self.chunks.len() => place,
            _ => self.make_place(position),
        };
        let Some(chunk) = self.chunks.get_mut(index) else { return };
        let chunk = chunk.get_or_insert_with(|| Chunk { len: 0, slots: std::mem::take(&mut self.spare) });
        let is_new = match chunk.slots.get_mut(slot) {
            Some(place) if place.is_none() => {
                *place = Some(value);
                true
            }
            Some(place) => {
                *place = Some(value);
                false
            }
            None => {
                while chunk.slots.len() < slot {
                    chunk.slots.push(None);
                }
                chunk.slots.push(Some(value));
                true
            }
        };
        chunk.len += u32::from(is_new);
        self.len += usize::from(is_new);
    }

    #[inline]
    pub(crate) fn get(&self, position: u64) -> Option<&T> {
        let (chunk, slot) = self.place(position)?;
        self.chunks.get(chunk)?.as_ref()?.slots.get(slot)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, position: u64) -> Option<&mut T> {
        let (chunk, slot) = self.place(position)?;
        self.chunks.get_mut(chunk)?.as_mut()?.slots.get_mut(slot)?.as_mut()
    }

    /// Takes a value out.
    #[inline]
    pub(crate) fn remove(&mut self, position: u64) -> Option<T> {
        self.remove_if(position, |_| true)
    }

    /// Takes a value out, if it is such a one.
    #[inline]
    pub(crate) fn remove_if(&mut self, position: u64, wanted: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let (index, slot) = self.place(position)?;
        let chunk = self.chunks.get_mut(index)?.as_mut()?;
        let value = chunk.slots.get_mut(slot)?.take_if(wanted)?;
        chunk.len -= 1;
        self.len -= 1;
        if chunk.len == 0 {
            self.free(index);
        }
        Some(value)
    }

    /// The first value at this position or behind it.
    #[inline]
    pub(crate) fn next(&self, from: u64) -> Option<(u64, &T)> {
        // Nearly always it is right there.
        match self.get(from) {
            Some(value) => Some((from, value)),
            None => self.search(from),
        }
    }

    fn search(&self, from: u64) -> Option<(u64, &T)> {
        let mut position = from.max(self.base);
        loop {
            let (index, slot) = self.place(position)?;
            // Behind the last chunk there is nothing.
            if let Some(chunk) = self.chunks.get(index)? {
                let rest = chunk.slots.get(slot..).unwrap_or_default();
                let found = rest.iter().zip(position..).find_map(|(value, at)| Some((at, value.as_ref()?)));
                if found.is_some() {
                    return found;
                }
            }
            position = position - position % CHUNK + CHUNK;
        }
    }

    /// All values at this position or behind it, in order.
    pub(crate) fn iter(&self, from: u64) -> impl Iterator<Item = (u64, &T)> {
        let mut next = from;
        std::iter::from_fn(move || {
            let (position, value) = self.next(next)?;
            next = position + 1;
            Some((position, value))
        })
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    #[inline]
    fn place(&self, position: u64) -> Option<(usize, usize)> {
        let offset = position.checked_sub(self.base)?;
        Some((usize::try_from(offset / CHUNK).ok()?, (offset % CHUNK) as usize))
    }

    /// Adds chunks up to this position.
    #[cold]
    fn make_place(&mut self, position: u64) -> (usize, usize) {
        if self.chunks.is_empty() {
            self.base = position - position % CHUNK;
        }
        while position < self.base {
            self.chunks.push_front(None);
            self.base -= CHUNK;
        }
        while self.base + self.chunks.len() as u64 * CHUNK <= position {
            self.chunks.push_back(None);
        }
        (((position - self.base) / CHUNK) as usize, (position % CHUNK) as usize)
    }

    fn free(&mut self, index: usize) {
        if let Some(chunk) = self.chunks.get_mut(index).and_then(Option::take) {
            self.spare = chunk.slots;
        }
        while let Some(None) = self.chunks.front() {
            self.chunks.pop_front();
            self.base += CHUNK;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn filled(count: u64) -> Positions<u64> {
        let mut positions = Positions::new();
        for position in 0..count {
            positions.insert(position, position);
        }
        positions
    }

    #[test]
    fn a_value_that_stays_does_not_keep_the_place_of_those_behind_it() {
        let mut positions = filled(CHUNK * 10);

        for position in 1..CHUNK * 10 {
            positions.remove(position);
        }

        assert_eq!(positions.iter(0).collect::<Vec<_>>(), [(0, &0)]);
        assert_eq!(positions.chunks.iter().flatten().count(), 1, "all other chunks are freed");
    }

    #[test]
    fn an_emptied_last_chunk_behind_a_kept_one_is_used_again() {
        let mut positions = filled(CHUNK + 2);
        positions.remove(CHUNK);
        positions.remove(CHUNK + 1);

        positions.insert(CHUNK + 2, 7);

        assert_eq!(positions.iter(CHUNK).collect::<Vec<_>>(), [(CHUNK + 2, &7)]);
    }

    #[test]
    fn in_any_order_it_holds_what_a_map_holds() {
        let mut seed = 1_u64;
        let mut below = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        let (mut positions, mut map) = (Positions::new(), BTreeMap::new());
        for round in 0..20_000_u64 {
            // They grow, with steps back, and most are taken out again.
            let position = (round / 4 + below(2_000)).saturating_sub(below(2_000));
            match below(3) {
                0 => {
                    positions.insert(position, round);
                    map.insert(position, round);
                }
                1 => assert_eq!(positions.remove(position), map.remove(&position)),
                _ => {
                    let next = map.range(position..).next().map(|(at, value)| (*at, value));
                    assert_eq!(positions.next(position), next);
                    assert_eq!(positions.get(position), map.get(&position));
                }
            }
            assert_eq!(positions.len(), map.len());
        }
        assert!(positions.iter(0).map(|(at, value)| (at, *value)).eq(map));
    }
}
