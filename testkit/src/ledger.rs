//! The ledger: what was intended, confirmed, delivered, done and settled, one record each, append-only.
//!
//! It is kept apart from the thing under test, so that a defect there cannot hide itself: whoever publishes
//! writes intents and confirmations, whoever handles writes deliveries, effects and settlements, whoever
//! breaks things writes faults. [`invariants::check`](crate::invariants::check) then reads it once.
//!
//! A [`Ledger`] lives in memory, or in a file with a JSON object a line. A line is one write to the file, so
//! that a process killed with signal 9 loses at most the line it was writing. Several processes each write a
//! file of their own; [`Ledger::merge`] puts them in the order of their clocks.

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytestring::ByteString;
use millstream_core::{Message, Settled, Verdict, names};
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Record {
    /// Somebody is about to publish. Written before the write is sent.
    Intent {
        /// The message's id.
        id: ByteString,
        /// Its topic.
        topic: ByteString,
        /// Its key, escaped as ASCII; none if unkeyed.
        key: Option<ByteString>,
        /// Its place among those of its key, or of all, in the order of publishing.
        seq: u64,
        /// Its [`digest`].
        digest: u64,
    },
    /// The write was confirmed. Twice for an id that was sent twice on purpose.
    Acked {
        /// The message's id.
        id: ByteString,
    },
    /// Nobody knows whether the write happened: it may come once, also beside a confirmed one.
    MaybeWritten {
        /// The message's id.
        id: ByteString,
    },
    /// The transaction that wrote it was rolled back: it must never be delivered.
    RolledBack {
        /// The message's id.
        id: ByteString,
    },
    /// A group takes part: every message confirmed on the topic must end in it.
    Subscribed {
        /// The group.
        group: ByteString,
        /// The topic.
        topic: ByteString,
        /// Only messages confirmed after this record count.
        from_now: bool,
    },
    /// A message was delivered to a member of a group.
    Delivered {
        /// The message's id.
        id: ByteString,
        /// The topic it came from.
        topic: ByteString,
        /// The group.
        group: ByteString,
        /// Which worker or member got it.
        worker: ByteString,
        /// The broker's count, or 0.
        deliveries: u32,
        /// The assignment's epoch.
        epoch: u32,
        /// The [`digest`] of what came.
        digest: u64,
    },
    /// The handler's effect took place.
    Effect {
        /// The message's id.
        id: ByteString,
        /// The group.
        group: ByteString,
    },
    /// A delivery was settled, or not.
    Settled {
        /// The message's id.
        id: ByteString,
        /// The group.
        group: ByteString,
        /// How it was to end.
        verdict: Ending,
        /// What became of that.
        outcome: Outcome,
    },
    /// A dead letter was confirmed by its store.
    DeadLettered {
        /// The message's id.
        id: ByteString,
        /// The group that could not handle it.
        group: ByteString,
        /// The [`digest`] of the dead letter.
        digest: u64,
    },
    /// A duplicate was recognised and not handled.
    Suppressed {
        /// The message's id.
        id: ByteString,
        /// The group.
        group: ByteString,
    },
    /// The user's policy discarded it, or a retention that the user set expired it.
    Discarded {
        /// The message's id.
        id: ByteString,
        /// The group.
        group: ByteString,
    },
    /// A dead letter was sent back to its group.
    Redriven {
        /// The message's id.
        id: ByteString,
        /// The group.
        group: ByteString,
    },
    /// Something was broken on purpose, now. Whatever was unsettled at this moment may come once more.
    Fault {
        /// What.
        what: ByteString,
        /// The group it concerns; none: all.
        group: Option<ByteString>,
        /// Duplicates it explains beside what was unsettled: of messages that were confirmed, if the broker
        /// may forget confirmations.
        budget: u64,
    },
    /// What was broken works again.
    Healed {
        /// What.
        what: ByteString,
    },
    /// Where a group stood at one moment, as the broker says and as it ought to.
    Committed {
        /// The group.
        group: ByteString,
        /// The topic.
        topic: ByteString,
        /// The partition.
        partition: u32,
        /// The broker's committed position: the first that would be read again.
        committed: u64,
        /// The lowest position that is not finished.
        lowest_unfinished: u64,
    },
    /// A figure that has a limit.
    Gauge {
        /// What it speaks of.
        concern: Concern,
        /// Its name with its unit, such as `rss in bytes` or `drained after, in ms`.
        name: ByteString,
        /// What was measured.
        value: u64,
        /// What it was before.
        baseline: u64,
        /// How much above that it may be.
        slack: u64,
    },
}

/// What a [`Record::Gauge`] speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concern {
    /// Progress: time to drain, CPU when idle.
    Liveness,
    /// Resources: memory, files, tasks, connections.
    Bounds,
}

/// A verdict, without what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Ending {
    /// Done.
    Ack,
    /// Again, later.
    Retry,
    /// Again, at once.
    Release,
    /// Set aside.
    Park,
    /// To the dead letters.
    Dead,
}

impl From<&Verdict> for Ending {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Retry { .. } => Self::Retry,
            Verdict::Release => Self::Release,
            Verdict::Park(_) => Self::Park,
            Verdict::Dead(_) => Self::Dead,
            _ => Self::Ack,
        }
    }
}

/// What became of a settlement, without the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// Confirmed.
    Done,
    /// No longer ours.
    Lost,
    /// Nothing happened.
    Failed,
    /// Its effects failed and were undone.
    EffectsFailed,
    /// Nobody knows.
    Unknown,
}

impl From<&Settled> for Outcome {
    fn from(settled: &Settled) -> Self {
        match settled {
            Settled::Done => Self::Done,
            Settled::Lost => Self::Lost,
            Settled::Failed { .. } => Self::Failed,
            Settled::EffectsFailed(_) => Self::EffectsFailed,
            // Unknown, and what a later version of the contract may add: never success.
            _ => Self::Unknown,
        }
    }
}

impl Record {
    /// The intent to publish a message.
    #[must_use]
    pub fn intent(message: &Message, seq: u64) -> Self {
        Self::Intent {
            id: message.id.clone(),
            topic: message.topic.clone(),
            key: message.lane_key().map(|k| key_text(k)),
            seq,
            digest: digest(message),
        }
    }

    /// A delivery to a worker.
    #[must_use]
    pub fn delivered(
        delivery: &millstream_core::Delivery,
        group: impl Into<ByteString>,
        worker: impl Into<ByteString>,
    ) -> Self {
        Self::Delivered {
            id: delivery.message.id.clone(),
            topic: delivery.message.topic.clone(),
            group: group.into(),
            worker: worker.into(),
            deliveries: delivery.deliveries,
            epoch: delivery.token.id().epoch.0,
            digest: digest(&delivery.message),
        }
    }

    /// A settlement and its outcome.
    #[must_use]
    pub fn settled(
        id: impl Into<ByteString>,
        group: impl Into<ByteString>,
        verdict: Ending,
        outcome: &Settled,
    ) -> Self {
        Self::Settled { id: id.into(), group: group.into(), verdict, outcome: outcome.into() }
    }

    /// A fault that concerns every group and explains only what was unsettled.
    #[must_use]
    pub fn fault(what: impl Into<ByteString>) -> Self {
        Self::Fault { what: what.into(), group: None, budget: 0 }
    }
}

/// A key as text: its bytes, escaped as ASCII, so that different keys stay different.
#[must_use]
pub fn key_text(key: &[u8]) -> ByteString {
    key.escape_ascii().to_string().into()
}

/// A hash of everything that must travel unchanged: payload, key, headers with their order, content type;
/// absent, null and empty differ. What Millstream itself adds to parked, dead and redriven messages is left
/// out. The same in every process of the same build.
#[must_use]
pub fn digest(message: &Message) -> u64 {
    let mut hash = DefaultHasher::new();
    let mut part = |bytes: Option<&[u8]>| {
        // The length goes in too, or two parts could trade bytes.
        hash.write_u64(bytes.map_or(u64::MAX, |b| b.len() as u64));
        hash.write(bytes.unwrap_or_default());
    };
    part(message.data.as_deref());
    part(message.key.as_deref());
    part(Some(message.content_type.as_bytes()));
    for (name, value) in message.headers.iter() {
        let ours = name.starts_with(names::DL_PREFIX)
            || name.starts_with(names::PARK_PREFIX)
            || *name == names::REDRIVE_GROUP;
        if !ours {
            part(Some(name.as_bytes()));
            part(value.map(|v| &v[..]));
        }
    }
    hash.finish()
}

/// A record and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Nanoseconds since the Unix epoch, by the writing process's clock.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
}

/// The ledger. Cloning shares it; any thread may write.
#[derive(Debug, Clone)]
pub struct Ledger {
    sink: Arc<Mutex<Sink>>,
}

#[derive(Debug)]
enum Sink {
    Memory(Vec<Entry>),
    File { file: File, line: Vec<u8>, failed: Option<io::Error> },
}

impl Ledger {
    /// A ledger in memory.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { sink: Arc::new(Mutex::new(Sink::Memory(Vec::new()))) }
    }

    /// A ledger that appends to a file, which is made if it is not there.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn append_to(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let sink = Sink::File { file, line: Vec::new(), failed: None };
        Ok(Self { sink: Arc::new(Mutex::new(sink)) })
    }

    /// Writes a record. A file that cannot be written is told by [`finish`](Self::finish), not here: the
    /// ledger must not change the course of what it watches.
    pub fn write(&self, record: Record) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let entry = Entry { at: u64::try_from(at).unwrap_or(u64::MAX), record };
        match &mut *self.lock() {
            Sink::Memory(entries) => entries.push(entry),
            Sink::File { file, line, failed } => {
                line.clear();
                let written =
                    serde_json::to_writer(&mut *line, &entry).map_err(io::Error::other).and_then(|()| {
                        line.push(b'\n');
                        file.write_all(line)
                    });
                if let Err(error) = written {
                    failed.get_or_insert(error);
                }
            }
        }
    }

    /// A copy of what was written so far; empty for one in a file, which is read with [`read`](Self::read).
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        match &*self.lock() {
            Sink::Memory(entries) => entries.clone(),
            Sink::File { .. } => Vec::new(),
        }
    }

    /// Says whether every record reached the file.
    ///
    /// # Errors
    /// The first error there was in writing.
    pub fn finish(&self) -> io::Result<()> {
        match &mut *self.lock() {
            Sink::Memory(_) => Ok(()),
            Sink::File { failed, .. } => failed.take().map_or(Ok(()), Err),
        }
    }

    /// Saves entries to a file, a line each.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(entries: &[Entry], path: &Path) -> io::Result<()> {
        let mut file = io::BufWriter::new(File::create(path)?);
        for entry in entries {
            serde_json::to_writer(&mut file, entry)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }

    /// Reads a file. A last line without its end is what a killed process left, and is skipped.
    ///
    /// # Errors
    /// If the file cannot be read, or a line in it is not a record; the error says which.
    pub fn read(path: &Path) -> io::Result<Vec<Entry>> {
        let mut file = BufReader::new(File::open(path)?);
        let mut entries = Vec::new();
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line)? > 0 {
            if line.last() == Some(&b'\n') {
                let entry = serde_json::from_slice(&line).map_err(|e| {
                    let place = format!("{}:{}: {e}", path.display(), entries.len() + 1);
                    io::Error::new(io::ErrorKind::InvalidData, place)
                })?;
                entries.push(entry);
            }
            line.clear();
        }
        Ok(entries)
    }

    /// Puts the ledgers of several processes into one, by their clocks; what one process wrote keeps its order.
    #[must_use]
    pub fn merge(ledgers: Vec<Vec<Entry>>) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::with_capacity(ledgers.iter().map(Vec::len).sum());
        for mut ledger in ledgers {
            // A clock that was set back must not reorder what one process wrote.
            let mut latest = 0;
            for entry in &mut ledger {
                latest = latest.max(entry.at);
                entry.at = latest;
            }
            all.append(&mut ledger);
        }
        // Stable, and merges runs that are sorted already in linear time for a fixed number of ledgers.
        all.sort_by_key(|entry| entry.at);
        all
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(id: &str, at: u64) -> Entry {
        Entry { at, record: Record::Acked { id: id.into() } }
    }

    fn ids(entries: &[Entry]) -> Vec<String> {
        let id = |e: &Entry| match &e.record {
            Record::Acked { id } => id.to_string(),
            other => panic!("unexpected {other:?}"),
        };
        entries.iter().map(id).collect()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("millstream-ledger-{}-{name}", std::process::id()))
    }

    #[test]
    fn what_is_appended_to_a_file_is_read_back() {
        let path = scratch("append");
        let ledger = Ledger::append_to(&path).unwrap();
        let message = Message::new("t", vec![0, 255]).with_id("1").with_key(vec![200, b'"']);
        let records = [
            Record::intent(&message, 7),
            Record::fault("kill"),
            Record::settled("1", "g", Ending::Retry, &Settled::Lost),
        ];
        records.iter().cloned().for_each(|r| ledger.write(r));
        ledger.finish().unwrap();
        let read: Vec<_> = Ledger::read(&path).unwrap().into_iter().map(|e| e.record).collect();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read, records);
    }

    #[test]
    fn a_last_line_that_was_cut_off_is_skipped() {
        let path = scratch("torn");
        Ledger::save(&[acked("1", 1), acked("2", 2)], &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let read = Ledger::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(ids(&read), ["1"]);
    }

    #[test]
    fn a_line_that_is_no_record_is_an_error_that_says_which() {
        let path = scratch("broken");
        std::fs::write(&path, "{\"at\":1,\"kind\":\"acked\",\"id\":\"1\"}\nnonsense\n").unwrap();
        let error = Ledger::read(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains(":2:"), "{error}");
    }

    #[test]
    fn ledgers_merge_by_clock_and_each_keeps_its_own_order() {
        // The second process's clock was set back between its records.
        let merged = Ledger::merge(vec![
            vec![acked("a1", 10), acked("a2", 30)],
            vec![acked("b1", 20), acked("b2", 5)],
        ]);
        assert_eq!(ids(&merged), ["a1", "b1", "b2", "a2"]);
    }

    #[test]
    fn a_digest_tells_absent_from_empty_and_parts_from_each_other() {
        let plain = Message::new("t", "ab").with_key("c");
        let mut null = plain.clone();
        null.headers.append_null("h");
        let variants = [
            plain.clone(),
            Message::new("t", "a").with_key("bc"),
            Message::new("t", "ab"),
            Message::new("t", "ab").with_key(""),
            Message::tombstone("t").with_key("c"),
            Message::new("t", "").with_key("c"),
            null,
            plain.clone().with_header("h", ""),
            plain.clone().with_header("H", ""),
            plain.clone().with_content_type("x"),
        ];
        let digests: std::collections::HashSet<u64> = variants.iter().map(digest).collect();
        assert_eq!(digests.len(), variants.len());
    }

    #[test]
    fn a_digest_does_not_see_what_a_dead_letter_adds() {
        let plain = Message::new("t", "x");
        assert_eq!(digest(&plain), digest(&plain.clone().with_header(names::DL_ERROR, "why")));
    }
}
