//! Topics: logs in partitions, what is delayed, and dead letters.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use millstream_core::{Bytes, End, Message, Position, Start};
use tokio::time::Instant;

/// One append-only log.
#[derive(Debug, Default)]
pub(super) struct Log {
    base: u64,
    messages: VecDeque<Stored>,
}

#[derive(Debug)]
struct Stored {
    message: Message,
    at: SystemTime,
}

impl Log {
    pub(super) fn start(&self) -> u64 {
        self.base
    }

    pub(super) fn end(&self) -> u64 {
        self.base + self.messages.len() as u64
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Message> {
        let index = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        self.messages.get(index).map(|s| &s.message)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().map(|s| &s.message)
    }

    fn append(&mut self, message: Message, now: SystemTime) -> u64 {
        // As Kafka's CreateTime: the publisher's clock counts, where it said anything.
        let at = if message.time == UNIX_EPOCH { now } else { message.time };
        self.messages.push_back(Stored { message, at });
        self.end() - 1
    }

    fn clear(&mut self) -> u64 {
        let count = self.messages.len() as u64;
        self.base += count;
        self.messages.clear();
        count
    }

    /// The offset a start means.
    pub(super) fn resolve(&self, start: Start) -> u64 {
        match start {
            Start::Latest => self.end(),
            Start::Position(Position(offset)) => offset.clamp(self.base, self.end()),
            Start::Time(time) => {
                let before = self.messages.iter().take_while(|s| s.at < time).count();
                self.base + before as u64
            }
            _ => self.base,
        }
    }

    /// The offset before which an end lies.
    pub(super) fn resolve_end(&self, end: End) -> Option<u64> {
        match end {
            End::Latest => Some(self.end()),
            End::Position(Position(offset)) => Some(offset),
            _ => None,
        }
    }
}

/// A topic.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) logs: Vec<Log>,
    delayed: BTreeMap<(Instant, u64), Message>,
    pub(super) dead: BTreeMap<u64, Message>,
    next_delayed: u64,
    next_dead: u64,
    next_unkeyed: usize,
}

impl Topic {
    pub(super) fn new(partitions: u32) -> Self {
        Self {
            logs: (0..partitions.max(1)).map(|_| Log::default()).collect(),
            delayed: BTreeMap::new(),
            dead: BTreeMap::new(),
            next_delayed: 0,
            next_dead: 1,
            next_unkeyed: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.logs.iter().map(|l| l.messages.len()).sum::<usize>() + self.delayed.len()
    }

    /// Takes a message in; says where it lies if it is there already.
    pub(super) fn append(&mut self, message: Message, now: Instant, day: SystemTime) -> Option<Position> {
        if let Some(at) = message.deliver_at {
            // Wall time into the runtime's time, whose clock may be paused.
            let wait = at.duration_since(day).unwrap_or_default();
            if !wait.is_zero() {
                self.delayed.insert((now + wait, self.next_delayed), message);
                self.next_delayed += 1;
                return None;
            }
        }
        let partition = self.partition_of(&message);
        Some(Position(self.logs[partition].append(message, day)))
    }

    /// Moves what is due into the log; says when the next is.
    pub(super) fn ripen(&mut self, now: Instant, day: SystemTime) -> Option<Instant> {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return Some(entry.key().0);
            }
            let message = entry.remove();
            let partition = self.partition_of(&message);
            self.logs[partition].append(message, day);
        }
        None
    }

    pub(super) fn bury(&mut self, message: Message) {
        self.dead.insert(self.next_dead, message);
        self.next_dead += 1;
    }

    pub(super) fn purge(&mut self) -> u64 {
        let delayed = self.delayed.len() as u64;
        self.delayed.clear();
        delayed + self.logs.iter_mut().map(Log::clear).sum::<u64>()
    }

    fn partition_of(&mut self, message: &Message) -> usize {
        let count = self.logs.len();
        match message.lane_key() {
            Some(key) => (hash(key) % count as u64) as usize,
            None => {
                self.next_unkeyed += 1;
                self.next_unkeyed % count
            }
        }
    }
}

/// FNV-1a: the same in every run, as a partitioner must be.
fn hash(key: &Bytes) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
