//! An id in the table: what its item says, and how it is changed under a condition.
//!
//! | attribute | holds |
//! |---|---|
//! | `worker_id`, `message_id` | the key: the group, and the message's id |
//! | `lease_owner`, `lease_until` | while it is reserved: by whom, and until when in milliseconds since 1970 |
//! | `handled_by` | once it is handled: who reserved it last |
//! | `expiration_time` | when it is forgotten, in seconds since 1970: the table's time to live |
//!
//! An item without a lease is handled: so are those that the Go toolkit wrote, which knows of no leases. What has expired
//! counts for nothing, whether DynamoDB has deleted it or not: that can take days.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;
use millstream_core::DedupKey;
use sha2::{Digest as _, Sha256};

pub(super) const GROUP: &str = "worker_id";
pub(super) const ID: &str = "message_id";
pub(super) const EXPIRES: &str = "expiration_time";
const OWNER: &str = "lease_owner";
const UNTIL: &str = "lease_until";

/// Bytes of the two parts of a key at most.
const LONGEST_GROUP: usize = 2_048;
const LONGEST_ID: usize = 1_024;

pub(super) type Item = HashMap<String, AttributeValue>;

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// As much of it as a key takes: what is too long, or empty, by its hash.
fn part(whole: &str, longest: usize) -> AttributeValue {
    if !whole.is_empty() && whole.len() <= longest {
        return text(whole);
    }
    let hash = Sha256::digest(whole.as_bytes());
    text(hash.iter().fold("sha256:".to_owned(), |hex, byte| format!("{hex}{byte:02x}")))
}

/// The key of an item.
pub(super) fn key(of: &DedupKey) -> Item {
    HashMap::from([
        (GROUP.to_owned(), part(&of.group, LONGEST_GROUP)),
        (ID.to_owned(), part(&of.id, LONGEST_ID)),
    ])
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is done to an item.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    Reserve { lease: Duration },
    Confirm,
    Release,
}

/// One of them: of which id, and by which reservation.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) key: DedupKey,
    pub(super) owner: u64,
    pub(super) deed: Deed,
}

/// A step in the words of DynamoDB.
pub(super) struct Change {
    /// What changes; none: the item goes.
    pub(super) update: Option<&'static str>,
    /// Without it, nothing does.
    pub(super) condition: &'static str,
    pub(super) values: Item,
}

impl Step {
    /// The change that it is at this time, of a store that remembers what was handled for this long.
    pub(super) fn change(&self, now: u64, window: Duration) -> Change {
        // A second later at most: nothing is forgotten too early.
        let forgotten = |from: u64| number(from.saturating_add(millis(window)) / 1_000 + 1);
        let me = (":me".to_owned(), text(self.owner.to_string()));
        let (update, condition, more) = match self.deed {
            Deed::Reserve { lease } => {
                let until = now.saturating_add(millis(lease));
                (
                    Some(
                        "SET lease_owner = :me, lease_until = :until, expiration_time = :forgotten REMOVE handled_by",
                    ),
                    "attribute_not_exists(message_id) OR lease_until <= :now OR expiration_time < :seconds",
                    vec![
                        (":until", number(until)),
                        (":forgotten", forgotten(until)),
                        (":now", number(now)),
                        (":seconds", number(now / 1_000)),
                    ],
                )
            }
            Deed::Confirm => (
                // Who confirmed stays known: an answer that was lost is asked for again.
                Some("SET handled_by = :me, expiration_time = :forgotten REMOVE lease_owner, lease_until"),
                "lease_owner = :me OR handled_by = :me",
                vec![(":forgotten", forgotten(now))],
            ),
            Deed::Release => (None, "lease_owner = :me", Vec::new()),
        };
        let values = more.into_iter().map(|(name, value)| (name.to_owned(), value)).chain([me]).collect();
        Change { update, condition, values }
    }
}

/// What an item says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody has it.
    Free,
    /// This reservation has it, for so long.
    Reserved {
        owner: Option<u64>,
        left: Duration,
    },
    Handled,
}

/// Reads an item, as DynamoDB gives it; none at all is free.
pub(super) fn state(item: Option<&Item>, now: u64) -> State {
    let Some(item) = item.filter(|item| !item.is_empty()) else { return State::Free };
    let number = |name: &str| item.get(name)?.as_n().ok()?.parse::<u64>().ok();
    if number(EXPIRES).is_some_and(|seconds| seconds < now / 1_000) {
        return State::Free;
    }
    match number(UNTIL) {
        None => State::Handled,
        Some(until) if until <= now => State::Free,
        Some(until) => State::Reserved {
            owner: item.get(OWNER).and_then(|owner| owner.as_s().ok()?.parse().ok()),
            left: Duration::from_millis(until - now),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn item(parts: &[(&str, AttributeValue)]) -> Item {
        parts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn an_item_without_a_lease_is_handled_as_those_of_the_go_toolkit_are() {
        assert_eq!(state(Some(&item(&[(EXPIRES, number(1_001))])), NOW), State::Handled);
        assert_eq!(state(Some(&item(&[(ID, text("1"))])), NOW), State::Handled);
    }

    #[test]
    fn what_has_expired_counts_for_nothing_though_it_is_there() {
        assert_eq!(state(Some(&item(&[(EXPIRES, number(999))])), NOW), State::Free);
        assert_eq!(state(None, NOW), State::Free);
    }

    #[test]
    fn a_lease_holds_until_its_end() {
        let held = item(&[(OWNER, text("7")), (UNTIL, number(NOW + 5)), (EXPIRES, number(2_000))]);
        let reserved = State::Reserved { owner: Some(7), left: Duration::from_millis(5) };
        assert_eq!(state(Some(&held), NOW), reserved);
        assert_eq!(state(Some(&held), NOW + 5), State::Free);
    }

    #[test]
    fn parts_that_no_key_takes_are_hashed_and_stay_apart() {
        let of = |group: &str, id: &str| {
            key(&DedupKey { group: group.to_owned().into(), id: id.to_owned().into() })
        };
        assert_eq!(of("g", "1")[ID], text("1"));
        let long = "x".repeat(LONGEST_ID + 1);
        for (id, other) in [(&*long, "x"), ("", "x")] {
            let hashed = of("g", id)[ID].as_s().unwrap().clone();
            assert!(hashed.len() == 71 && hashed != *of("g", other)[ID].as_s().unwrap(), "{hashed}");
        }
        assert_ne!(of("", "1")[GROUP], text(""));
        assert_ne!(of(&"g".repeat(LONGEST_GROUP + 1), "1"), of(&"g".repeat(LONGEST_GROUP + 2), "1"));
    }
}
