//! What is published, and what becomes of it in a handler.
//!
//! The id alone decides the latter, so that every process that gets a message does the same with it, and whoever
//! judges in the end knows how it should have ended.

use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use millstream::Event;
use serde::{Deserialize, Serialize};

/// The topic that is published to.
pub(crate) const TOPIC: &str = "storm";
/// The topic of the events that handlers publish.
pub(crate) const FOLLOWED: &str = "storm.followed";

/// Reads [`TOPIC`], and publishes to [`FOLLOWED`] with its acknowledgements.
pub(crate) const PLAIN: &str = "plain";
/// Reads [`TOPIC`] with a deduplication store in the file.
pub(crate) const DEDUP: &str = "dedup";
/// Reads [`FOLLOWED`].
pub(crate) const AFTER: &str = "after";

/// Published by the workers.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(topic = "storm", key = "key")]
pub(crate) struct Tick {
    /// Each is used by one publisher; empty for unkeyed ones.
    pub(crate) key: String,
    /// Grows within a key, from one life of its publisher to the next too.
    pub(crate) seq: u64,
    /// Makes messages of different sizes.
    pub(crate) pad: String,
}

/// Published by the handlers of [`Tick`], with their acknowledgement.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(topic = "storm.followed", key = "key")]
pub(crate) struct Followed {
    pub(crate) key: String,
    pub(crate) seq: u64,
}

/// The id of what follows a message.
pub(crate) fn followed_by(id: &str) -> String {
    format!("f/{id}")
}

/// How a message ends, and by which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Handled at once.
    Handled,
    /// The handler fails so often before.
    Fails(u32),
    /// The handler succeeds, and its SQL fails the first time.
    EffectFails,
    /// The handler panics the first time.
    Panics,
    /// A dead letter: the handler says so, after it queued an effect.
    Unrecoverable,
    /// A dead letter: its payload is cut off.
    Poison,
}

impl Fate {
    /// What becomes of the message with this id.
    pub(crate) fn of(id: &str) -> Self {
        match hash(id, 0) % 1_000 {
            0..10 => Self::Fails(1),
            10..16 => Self::Fails(3),
            16..20 => Self::EffectFails,
            20..23 => Self::Panics,
            23..26 => Self::Unrecoverable,
            26..28 => Self::Poison,
            _ => Self::Handled,
        }
    }

    pub(crate) fn is_dead(self) -> bool {
        matches!(self, Self::Unrecoverable | Self::Poison)
    }
}

/// Whether its handler in [`PLAIN`] publishes an event.
pub(crate) fn is_followed(id: &str) -> bool {
    hash(id, 1).is_multiple_of(4) && !Fate::of(id).is_dead()
}

/// How long its handlers run: most are quick, and some are there when somebody strikes.
pub(crate) fn runs_for(id: &str) -> Duration {
    match hash(id, 2) % 200 {
        0 => Duration::from_millis(30),
        1..20 => Duration::from_millis(2),
        _ => Duration::ZERO,
    }
}

/// Whether its handlers are among those that hang where some do.
pub(crate) fn may_hang(id: &str) -> bool {
    hash(id, 3).is_multiple_of(40)
}

/// The id of a message that is due at this time, in nanoseconds since 1970.
pub(crate) fn due_at(id: &str, due: u64) -> String {
    format!("{id}@{due}")
}

/// When a message is due, if it is one that is delayed.
pub(crate) fn due_of(id: &str) -> Option<u64> {
    id.rsplit_once('@')?.1.parse().ok()
}

/// The same in every process of the same build.
fn hash(id: &str, about: u8) -> u64 {
    let mut hash = DefaultHasher::new();
    hash.write_u8(about);
    hash.write(id.as_bytes());
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_when_its_message_is_due_and_others_say_nothing() {
        assert_eq!(due_of(&due_at("1.2.3", 77)), Some(77));
        assert_eq!(due_of("1.2.3"), None);
    }

    #[test]
    fn among_ten_thousand_ids_there_is_every_fate_and_dead_ones_are_never_followed() {
        let ids: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
        let count = |fate| ids.iter().filter(|id| Fate::of(id) == fate).count();
        for fate in [
            Fate::Handled,
            Fate::Fails(1),
            Fate::Fails(3),
            Fate::EffectFails,
            Fate::Panics,
            Fate::Unrecoverable,
            Fate::Poison,
        ] {
            assert!(count(fate) >= 5, "{fate:?}");
        }
        assert!(count(Fate::Handled) > 9_500);
        assert!(!ids.iter().any(|id| Fate::of(id).is_dead() && is_followed(id)));
        assert!(ids.iter().filter(|id| is_followed(id)).count() > 2_000);
    }
}
