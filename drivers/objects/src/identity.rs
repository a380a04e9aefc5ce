//! Whether two lines are the same message: by its topic, its id, who could not handle it, and how often it was redriven
//! before. Written again, after a lost answer or by a process that took over from one that died, it is the same; redriven
//! and dead once more, or dead in another group, it is another.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millstream_core::{Message, names};
use sha2::{Digest as _, Sha256};

/// What makes a message the one it is.
pub(crate) type Identity = [u8; 32];

/// Whether it is a dead letter of Millstream's.
pub(crate) fn is_dead_letter(message: &Message) -> bool {
    message.headers.contains(names::DL_TOPIC) || message.headers.contains(names::DL_CLASS)
}

/// Whether it is on its way back to those who could not handle it.
pub(crate) fn is_redriven(message: &Message) -> bool {
    message.headers.contains(names::DL_REDRIVE_COUNT) && !is_dead_letter(message)
}

/// Of a message and its line, which counts for those without an id.
pub(crate) fn of(message: &Message, line: &[u8]) -> Identity {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    let header = |name| message.headers.get(name).map_or(&[][..], |value| value);
    add(message.topic.as_bytes());
    add(header(names::DL_GROUP));
    add(header(names::DL_REDRIVE_COUNT));
    add(if message.id.is_empty() { line } else { message.id.as_bytes() });
    hash.finalize().into()
}

/// The time by which it is sorted: its own; of a letter that was redriven and died again, that of its death, so that it
/// lies behind those that were there when it was redriven.
pub(crate) fn time(message: &Message) -> SystemTime {
    let header = |name| message.headers.get_str(name);
    let again = header(names::DL_REDRIVE_COUNT).is_some_and(|count| count != "0");
    let death = || humantime::parse_rfc3339(header(names::DL_LAST_FAILURE)?).ok();
    again.then(death).flatten().unwrap_or(message.time)
}

/// The same in milliseconds since 1970.
pub(crate) fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Message {
        Message::new("orders.dlq", "{}")
            .with_id("7")
            .with_header(names::DL_TOPIC, "orders")
            .with_header(names::DL_GROUP, "billing")
            .with_header(names::DL_LAST_FAILURE, "2026-11-28T12:00:00.000Z")
    }

    #[test]
    fn a_letter_that_is_written_again_is_the_same_and_one_that_died_again_is_not() {
        let first = of(&letter(), b"line");
        let later = letter().with_header(names::DL_LAST_FAILURE, "2026-11-28T13:00:00.000Z");
        assert_eq!(of(&later, b"another line"), first);
        assert_ne!(of(&letter().with_header(names::DL_REDRIVE_COUNT, "1"), b"line"), first);
        assert_ne!(of(&letter().with_header(names::DL_GROUP, "shipping"), b"line"), first);
        assert_ne!(of(&letter().with_id("8"), b"line"), first);
    }

    #[test]
    fn without_an_id_all_that_it_says_counts() {
        let nameless = letter().with_id("");
        assert_ne!(of(&nameless, b"one"), of(&nameless, b"another"));
        assert_eq!(of(&nameless, b"one"), of(&nameless, b"one"));
    }

    #[test]
    fn a_letter_that_died_again_is_sorted_by_its_death() {
        assert_eq!(time(&letter()), UNIX_EPOCH);
        let again = letter().with_header(names::DL_REDRIVE_COUNT, "1");
        assert_eq!(time(&again), humantime::parse_rfc3339("2026-11-28T12:00:00Z").unwrap());
    }

    #[test]
    fn one_on_its_way_back_is_known_by_its_count_without_a_death() {
        let back = Message::new("orders", "{}").with_header(names::DL_REDRIVE_COUNT, "1");
        assert!(is_redriven(&back) && !is_redriven(&letter().with_header(names::DL_REDRIVE_COUNT, "1")));
        assert!(!is_redriven(&Message::new("orders", "{}")));
    }
}
