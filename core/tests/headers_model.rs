//! Headers against a list of pairs, and messages against their own size and lane, under random use.

use millstream_core::{Bytes, Headers, Message};
use proptest::prelude::*;

/// What headers are meant to be.
type Reference = Vec<(String, Option<Vec<u8>>)>;

#[derive(Debug, Clone)]
enum Step {
    Append(String, Vec<u8>),
    AppendNull(String),
    Insert(String, Vec<u8>),
    InsertIfAbsent(String, Vec<u8>),
    Remove(String),
    RemovePrefix(String),
    Clear,
}

/// Few names, so that they meet; among them an empty one, prefixes of others, and what is no ASCII.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just(""), Just("a"), Just("ab"), Just("A"), Just("millstream-type"), Just("ключ")]
        .prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Step> {
    let value = || prop::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        4 => (name(), value()).prop_map(|(name, value)| Step::Append(name, value)),
        2 => name().prop_map(Step::AppendNull),
        2 => (name(), value()).prop_map(|(name, value)| Step::Insert(name, value)),
        2 => (name(), value()).prop_map(|(name, value)| Step::InsertIfAbsent(name, value)),
        2 => name().prop_map(Step::Remove),
        1 => name().prop_map(Step::RemovePrefix),
        1 => Just(Step::Clear),
    ]
}

fn apply(step: Step, headers: &mut Headers, reference: &mut Reference) {
    match step {
        Step::Append(name, value) => {
            headers.append(name.clone(), value.clone());
            reference.push((name, Some(value)));
        }
        Step::AppendNull(name) => {
            headers.append_null(name.clone());
            reference.push((name, None));
        }
        Step::Insert(name, value) => {
            headers.insert(name.clone(), value.clone());
            reference.retain(|(other, _)| *other != name);
            reference.push((name, Some(value)));
        }
        Step::InsertIfAbsent(name, value) => {
            headers.insert_if_absent(name.clone(), value.clone());
            if !reference.iter().any(|(other, _)| *other == name) {
                reference.push((name, Some(value)));
            }
        }
        Step::Remove(name) => {
            let before = reference.len();
            reference.retain(|(other, _)| *other != name);
            assert_eq!(headers.remove(&name), before - reference.len());
        }
        Step::RemovePrefix(prefix) => {
            headers.remove_prefix(&prefix);
            reference.retain(|(name, _)| !name.starts_with(&prefix));
        }
        Step::Clear => {
            headers.clear();
            reference.clear();
        }
    }
}

fn same(headers: &Headers, reference: &Reference) -> bool {
    let pairs = headers.iter().map(|(name, value)| (name.to_string(), value.map(|value| value.to_vec())));
    pairs.eq(reference.iter().cloned())
}

proptest! {
    #[test]
    fn headers_are_an_ordered_list_in_which_the_last_of_a_name_counts(
        steps in prop::collection::vec(step(), 0..40),
        asked in name(),
    ) {
        let (mut headers, mut reference) = (Headers::new(), Reference::new());
        for step in steps {
            apply(step, &mut headers, &mut reference);

            prop_assert!(same(&headers, &reference), "{:?} for {:?}", headers, reference);
            prop_assert_eq!((headers.len(), headers.is_empty()), (reference.len(), reference.is_empty()));
            let last = reference.iter().rev().find(|(name, _)| *name == asked);
            prop_assert_eq!(headers.contains(&asked), last.is_some());
            let value = last.and_then(|(_, value)| value.as_deref());
            prop_assert_eq!(headers.get(&asked).map(|value| &**value), value);
            prop_assert_eq!(headers.get_str(&asked), value.and_then(|value| std::str::from_utf8(value).ok()));
            let size = |(name, value): &(String, Option<Vec<u8>>)| name.len() + value.as_ref().map_or(0, Vec::len);
            prop_assert_eq!(headers.size(), reference.iter().map(size).sum::<usize>());
        }
        // A copy shares nothing that could change under it, and order is part of what is compared.
        let copy = headers.clone();
        headers.append("later", "x");
        prop_assert!(same(&copy, &reference));
        prop_assert_ne!(&headers, &copy);
        prop_assert!(copy.into_iter().map(|(name, _)| name.to_string()).eq(reference.into_iter().map(|(name, _)| name)));
    }

    #[test]
    fn a_message_has_the_lane_of_its_key_unless_that_is_empty_and_counts_all_its_bytes(
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        data in prop::collection::vec(any::<u8>(), 0..200),
        headers in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..20)), 0..5),
    ) {
        let mut message = Message::new("topic", data.clone()).with_id("id");
        let bare = message.size();
        for (name, value) in &headers {
            message = message.with_header(name.clone(), value.clone());
        }
        if let Some(key) = &key {
            message = message.with_key(key.clone());
        }

        // The bytes of a key are kept, also of one that is empty and so is none.
        prop_assert_eq!(message.key.as_deref(), key.as_deref());
        let lane = key.filter(|key| !key.is_empty());
        prop_assert_eq!(message.lane_key().map(|key| key.to_vec()), lane.clone());
        let more = message.headers.size() + lane.map_or(0, |key| key.len());
        prop_assert_eq!(message.size(), bare + more);
        prop_assert!(bare >= data.len());
        prop_assert_eq!(message.data, Some(Bytes::from(data)));
    }
}
