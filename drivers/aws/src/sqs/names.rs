//! A topic's name as that of a queue, and keys as groups of FIFO queues.
//!
//! Dots are dashes, as the Go toolkit *streams* has them. A segment `fifo` makes a FIFO queue and goes last, where AWS wants
//! it: `orders.fifo` is the queue `orders.fifo`, its dead letters `orders.fifo.dlq` are in `orders-dlq.fifo`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use bytestring::ByteString;
use millstream_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

/// What a FIFO queue's name ends with.
pub(crate) const FIFO: &str = ".fifo";

/// The longest group or deduplication id.
const ID_LIMIT: usize = 128;

/// Which queues topics get whose names do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Queues {
    /// Standard queues: any number of messages a second, in no order. A topic whose name has a segment `fifo` gets a FIFO
    /// queue all the same.
    #[default]
    Standard,
    /// FIFO queues: the messages of one key in order.
    Fifo,
}

/// The kinds of names there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Queue,
    #[cfg(feature = "sns")]
    Topic,
}

impl Kind {
    fn limit(self) -> usize {
        match self {
            Self::Queue => 80,
            #[cfg(feature = "sns")]
            Self::Topic => 256,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            #[cfg(feature = "sns")]
            Self::Topic => "topic of SNS",
        }
    }
}

/// The name that a topic has at AWS.
pub(crate) fn of(topic: &str, kind: Kind, queues: Queues) -> Result<String> {
    if topic.is_empty() {
        return Err(Error::new(ErrorKind::EmptyMessage, "the topic is empty").fix("name a topic"));
    }
    let mut segments = topic.split('.');
    let mut name = segments.next().unwrap_or_default().to_owned();
    let mut fifo = queues == Queues::Fifo;
    for segment in segments {
        if segment == &FIFO[1..] {
            fifo = true;
        } else {
            name.push('-');
            name.push_str(segment);
        }
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if fifo {
        name.push_str(FIFO);
    }
    let stem = name.strip_suffix(FIFO).filter(|_| fifo).unwrap_or(&name);
    if name.len() > kind.limit() || stem.is_empty() || !stem.chars().all(legal) {
        let shown: String = topic.chars().take(64).collect();
        return Err(Error::new(ErrorKind::InvalidMessage, format!("no {} can have this name", kind.word()))
            .topic(shown)
            .fix(format!(
                "use at most {} of the letters a-z, A-Z, 0-9, dot, dash and underscore",
                kind.limit()
            )));
    }
    Ok(name)
}

/// The names that are taken, and by which topics: two that want one are refused.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    topics: Mutex<HashMap<String, ByteString>>,
}

impl Taken {
    /// Takes a name for a topic.
    pub(crate) fn take(&self, name: &str, topic: &ByteString) -> Result<()> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(other) = topics.get(name) else {
            topics.insert(name.to_owned(), topic.clone());
            return Ok(());
        };
        if other == topic {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the topics {other:?} and {topic:?} would both be {name:?} at AWS, where a dot is a dash"
            ),
        )
        .topic(&**topic)
        .fix("rename one of them"))
    }

    /// The topic that a name was taken for.
    pub(crate) fn topic(&self, name: &str) -> Option<ByteString> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// Begins the group of a message without a key. No key begins so: behind each of its own `%` are two digits.
const UNKEYED: &str = "%-";

/// A key as a group. Two keys never have the same.
pub(crate) fn group(key: &[u8]) -> String {
    id(key)
}

/// The group of a message without a key, which is alone in it: it waits for nobody.
pub(crate) fn group_of_its_own(unique: &str) -> String {
    let name = format!("{UNKEYED}{}", id(unique.as_bytes()));
    if name.len() <= ID_LIMIT { name } else { format!("{UNKEYED}{}", hash(unique.as_bytes())) }
}

/// The key of a group, if there is one and it can be told from it.
pub(crate) fn key(group: &str) -> Option<Bytes> {
    if group.starts_with(UNKEYED) || group.is_empty() {
        return None;
    }
    let mut key = Vec::with_capacity(group.len());
    let mut rest = group.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                key.push(decoded);
                rest = &after[2..];
            }
            // What others wrote is its own key.
            None => {
                key.push(byte);
                rest = after;
            }
        }
    }
    Some(key.into())
}

/// Bytes as an id of FIFO queues: other characters than these are percent-encoded, and what is too long is hashed.
pub(crate) fn id(bytes: &[u8]) -> String {
    let mut id = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || (byte.is_ascii_punctuation() && byte != b'%') {
            id.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(id, "%{byte:02X}");
        }
    }
    if id.len() <= ID_LIMIT { id } else { hash(bytes) }
}

fn hash(bytes: &[u8]) -> String {
    let mut hash = String::from("%sha256-");
    for byte in Sha256::digest(bytes) {
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(topic: &str, queues: Queues) -> String {
        of(topic, Kind::Queue, queues).unwrap()
    }

    #[test]
    fn dots_are_dashes_and_fifo_goes_last() {
        for (topic, standard, fifo) in [
            ("user.created", "user-created", "user-created.fifo"),
            ("orders.fifo", "orders.fifo", "orders.fifo"),
            ("orders.fifo.dlq", "orders-dlq.fifo", "orders-dlq.fifo"),
            ("orders.dlq", "orders-dlq", "orders-dlq.fifo"),
            ("fifo", "fifo", "fifo.fifo"),
        ] {
            assert_eq!((&*queue(topic, Queues::Standard), &*queue(topic, Queues::Fifo)), (standard, fifo));
        }
    }

    #[test]
    fn names_that_no_queue_can_have_are_refused() {
        for bad in ["", "a b", "a/b", "ü", ".fifo", &"x".repeat(81)] {
            assert!(of(bad, Kind::Queue, Queues::Standard).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_topics_that_would_be_one_queue_are_refused() {
        let taken = Taken::default();
        taken.take("a-b", &"a.b".into()).unwrap();
        taken.take("a-b", &"a.b".into()).unwrap();
        let error = taken.take("a-b", &"a-b".into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("\"a.b\" and \"a-b\""), "{error}");
    }

    #[test]
    fn keys_and_groups_are_each_others_and_no_two_keys_share_one() {
        let keys: [&[u8]; 7] =
            [b"customer-7", b"a b", b"a%20b", "\u{e9}".as_bytes(), &[0, 255], b"%-x", b"~!"];
        let groups: std::collections::HashSet<_> = keys.iter().map(|key| group(key)).collect();
        assert_eq!(groups.len(), keys.len());
        for of in keys {
            assert_eq!(key(&group(of)).as_deref(), Some(of));
            assert!(group(of).bytes().all(|b| b.is_ascii_graphic()));
        }
        assert_eq!(key(&group_of_its_own("7")), None);
        assert_eq!(group(&[b' '; 100]).len(), 72);
    }
}
