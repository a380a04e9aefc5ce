//! Messages by position: an append-only log from which any message can be taken out.
//!
//! Positions are never used twice.

use std::sync::Arc;

use millstream_core::Message;

use crate::lane::LaneId;
use crate::positions::Positions;

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
#[derive(Debug)]
pub(crate) struct Log {
    entries: Positions<Entry>,
    end: u64,
    bytes: usize,
    /// Messages before this position were written when there was no group; they are kept for groups to
    /// come, until room is needed.
    unclaimed_before: u64,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { entries: Positions::new(), end: 0, bytes: 0, unclaimed_before: 0 }
    }

    /// One behind the last position.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Messages held.
    pub(crate) fn live(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the messages held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a message that `left` groups have to settle.
    pub(crate) fn push(&mut self, message: Arc<Message>, size: usize, key: Option<LaneId>, left: u32) -> u64 {
        let position = self.end;
        self.end += 1;
        self.bytes += size;
        let lane = key.unwrap_or(LaneId::alone(position));
        self.entries.insert(position, Entry { message, size, lane, left });
        position
    }

    /// The message at a position, unless it is gone.
    pub(crate) fn get(&self, position: u64) -> Option<&Entry> {
        self.entries.get(position)
    }

    /// The first message at this position or behind it.
    #[inline]
    pub(crate) fn next(&self, from: u64) -> Option<(u64, &Entry)> {
        self.entries.next(from)
    }

    /// All messages at this position or behind it, in order.
    pub(crate) fn iter(&self, from: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter(from)
    }

    /// One more group has to settle this message.
    pub(crate) fn claim(&mut self, position: u64) {
        if let Some(entry) = self.entries.get_mut(position) {
            entry.left += 1;
        }
    }

    /// One group has settled this message; the last one lets it go.
    #[inline]
    pub(crate) fn release(&mut self, position: u64) {
        let unwanted = self.entries.remove_if(position, |entry| {
            entry.left = entry.left.saturating_sub(1);
            entry.left == 0
        });
        self.bytes -= unwanted.map_or(0, |entry| entry.size);
    }

    /// Takes a message out, whoever wants it.
    pub(crate) fn remove(&mut self, position: u64) -> bool {
        let removed = self.entries.remove(position);
        self.bytes -= removed.as_ref().map_or(0, |entry| entry.size);
        removed.is_some()
    }

    /// Takes all messages out; positions go on.
    pub(crate) fn clear(&mut self) {
        *self = Self { end: self.end, ..Self::new() };
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(count: u64) -> Log {
        let mut log = Log::new();
        for i in 0..count {
            log.push(Arc::new(Message::new("t", i.to_string())), 1, None, 1);
        }
        log
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
    fn a_message_goes_with_its_last_group() {
        let mut log = filled(1);
        log.claim(0);

        log.release(0);
        assert_eq!(log.live(), 1);
        log.release(0);
        assert_eq!(log.live(), 0);
    }
}
