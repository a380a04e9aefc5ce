//! Messages by position: an append-only log from which any message can be taken out.
//!
//! Positions are never used twice. The log is cut into chunks, and a chunk of which nothing is left is freed
//! wherever it lies: one message that waits for an hour does not hold the place of the millions behind it.

use std::collections::VecDeque;
use std::sync::Arc;

use millstream_core::Message;

use crate::lane::LaneId;

/// Slots of a chunk. Large enough that an empty one costs nothing to keep, small enough to come and go.
const CHUNK: u64 = 256;

/// A message in the log.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    /// As [`Message::size`] counted it once.
    pub(crate) size: usize,
    /// The lane of its key; for an unkeyed message a lane of its own.
    pub(crate) lane: LaneId,
    /// Groups that have not settled it. 0 at the time of writing: no group was there to want it.
    left: u32,
}

/// The messages of a topic that are still wanted.
#[derive(Debug, Default)]
pub(crate) struct Log {
    chunks: VecDeque<Option<Chunk>>,
    /// Position of the first chunk's first slot; a multiple of [`CHUNK`].
    base: u64,
    end: u64,
    live: usize,
    bytes: usize,
    /// Messages before this position were written when there was no group; they are kept for groups to
    /// come, until room is needed.
    unclaimed_before: u64,
    /// A chunk's memory, kept for the next one.
    spare: Vec<Option<Entry>>,
}

#[derive(Debug)]
struct Chunk {
    live: u32,
    slots: Vec<Option<Entry>>,
}

impl Log {
    /// One behind the last position.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Messages held.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Bytes of the messages held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a message that `left` groups have to settle.
    pub(crate) fn push(&mut self, message: Arc<Message>, size: usize, key: Option<LaneId>, left: u32) -> u64 {
        let position = self.end;
        self.end += 1;
        self.live += 1;
        self.bytes += size;
        let lane = key.unwrap_or(LaneId::alone(position));
        let entry = Entry { message, size, lane, left };
        if self.chunks.is_empty() {
            self.base = position - position % CHUNK;
        }
        if self.base + self.chunks.len() as u64 * CHUNK <= position {
            self.chunks.push_back(None);
        }
        let Some(last) = self.chunks.back_mut() else { return position };
        let chunk = last.get_or_insert_with(|| Chunk { live: 0, slots: std::mem::take(&mut self.spare) });
        // The last chunk may have been freed before it was full: its slots begin again.
        while (chunk.slots.len() as u64) < position % CHUNK {
            chunk.slots.push(None);
        }
        chunk.slots.push(Some(entry));
        chunk.live += 1;
        position
    }

    /// The message at a position, unless it is gone.
    pub(crate) fn get(&self, position: u64) -> Option<&Entry> {
        let (chunk, slot) = self.place(position)?;
        self.chunks.get(chunk)?.as_ref()?.slots.get(slot)?.as_ref()
    }

    /// The first message at this position or behind it.
    pub(crate) fn next(&self, from: u64) -> Option<(u64, &Entry)> {
        let mut position = from.max(self.base);
        // Nearly always it is right there.
        if let Some(entry) = self.get(position) {
            return Some((position, entry));
        }
        while position < self.end {
            let (chunk, slot) = self.place(position)?;
            let start = position - slot as u64;
            if let Some(chunk) = self.chunks.get(chunk)? {
                let rest = chunk.slots.get(slot..).unwrap_or_default();
                if let Some(found) = rest.iter().position(Option::is_some) {
                    let position = position + found as u64;
                    return self.get(position).map(|entry| (position, entry));
                }
            }
            position = start + CHUNK;
        }
        None
    }

    /// All messages at this position or behind it, in order.
    pub(crate) fn iter(&self, from: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let mut next = from;
        std::iter::from_fn(move || {
            let (position, entry) = self.next(next)?;
            next = position + 1;
            Some((position, entry))
        })
    }

    /// One more group has to settle this message.
    pub(crate) fn claim(&mut self, position: u64) {
        if let Some(entry) = self.get_mut(position) {
            entry.left += 1;
        }
    }

    /// One group has settled this message; the last one lets it go.
    pub(crate) fn release(&mut self, position: u64) {
        let Some(entry) = self.get_mut(position) else { return };
        entry.left = entry.left.saturating_sub(1);
        if entry.left == 0 {
            self.remove(position);
        }
    }

    /// Takes a message out, whoever wants it.
    pub(crate) fn remove(&mut self, position: u64) -> bool {
        let Some((index, slot)) = self.place(position) else { return false };
        let Some(Some(chunk)) = self.chunks.get_mut(index) else { return false };
        let Some(entry) = chunk.slots.get_mut(slot).and_then(Option::take) else { return false };
        chunk.live -= 1;
        self.live -= 1;
        self.bytes -= entry.size;
        drop(entry);
        if chunk.live == 0 {
            self.free(index);
        }
        true
    }

    /// Takes all messages out; positions go on.
    pub(crate) fn clear(&mut self) {
        *self = Self { end: self.end, ..Self::default() };
    }

    /// From now on there is a group: what no group wanted so far goes when room is needed.
    pub(crate) fn first_group_came(&mut self) {
        self.unclaimed_before = self.end;
    }

    /// Lets go of what no group wants; says whether that was anything.
    pub(crate) fn evict_unclaimed(&mut self) -> bool {
        let before = std::mem::take(&mut self.unclaimed_before);
        let unclaimed: Vec<u64> = self
            .iter(0)
            .take_while(|(position, _)| *position < before)
            .filter(|(_, entry)| entry.left == 0)
            .map(|(position, _)| position)
            .collect();
        for position in &unclaimed {
            self.remove(*position);
        }
        !unclaimed.is_empty()
    }

    fn get_mut(&mut self, position: u64) -> Option<&mut Entry> {
        let (chunk, slot) = self.place(position)?;
        self.chunks.get_mut(chunk)?.as_mut()?.slots.get_mut(slot)?.as_mut()
    }

    fn place(&self, position: u64) -> Option<(usize, usize)> {
        let offset = position.checked_sub(self.base)?;
        Some((usize::try_from(offset / CHUNK).ok()?, (offset % CHUNK) as usize))
    }

    fn free(&mut self, index: usize) {
        if let Some(mut chunk) = self.chunks.get_mut(index).and_then(Option::take) {
            chunk.slots.clear();
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
    use super::*;

    fn filled(count: u64) -> Log {
        let mut log = Log::default();
        for i in 0..count {
            log.push(Arc::new(Message::new("t", i.to_string())), 1, None, 1);
        }
        log
    }

    #[test]
    fn a_message_that_stays_does_not_keep_those_behind_it() {
        let mut log = filled(CHUNK * 10);

        for position in 1..CHUNK * 10 {
            log.release(position);
        }

        assert_eq!(log.live(), 1);
        assert_eq!(log.iter(0).map(|(p, _)| p).collect::<Vec<_>>(), [0]);
        assert_eq!(log.chunks.iter().flatten().count(), 1, "all other chunks are freed");
    }

    #[test]
    fn positions_go_on_after_a_chunk_was_emptied_in_its_middle() {
        let mut log = filled(3);
        for position in 0..3 {
            log.release(position);
        }

        let position = log.push(Arc::new(Message::new("t", "next")), 4, None, 1);

        assert_eq!(position, 3);
        assert_eq!(log.get(3).map(|e| e.size), Some(4));
        assert_eq!(log.next(0).map(|(p, _)| p), Some(3));
        assert_eq!((log.live(), log.bytes()), (1, 4));
    }

    #[test]
    fn an_emptied_last_chunk_behind_a_kept_one_is_used_again() {
        let mut log = filled(CHUNK + 2);
        log.release(CHUNK);
        log.release(CHUNK + 1);

        let position = log.push(Arc::new(Message::new("t", "next")), 1, None, 1);

        assert_eq!(position, CHUNK + 2);
        assert_eq!(log.iter(CHUNK).map(|(p, _)| p).collect::<Vec<_>>(), [CHUNK + 2]);
    }

    #[test]
    fn a_message_goes_with_its_last_group() {
        let mut log = filled(1);
        log.claim(0);

        log.release(0);
        assert_eq!(log.live(), 1);
        log.release(0);
        assert_eq!(log.live(), 0);
    }
}
