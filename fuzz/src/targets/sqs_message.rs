//! Body and attributes of a queue as a message: whoever wrote them, it is one; and what Millstream writes there comes back
//! without loss, within what AWS takes.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use millstream::{Bytes, Limits, Message};

use super::Target;
use super::message::hostile;
use crate::input::{Input, Seed};
use crate::sqs::names;
use crate::sqs::wire::{Came, Times, message, wire};

pub(super) const TARGET: Target = Target::new("sqs_message", run, seeds);

/// Attributes of a message, and letters of a group, that SQS takes.
const ATTRIBUTES: usize = 10;
const GROUP: usize = 128;

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() & 1 {
        0 => comes_back(input.message()),
        _ => is_a_message(&mut input),
    }
}

fn comes_back(mut sent: Message) {
    // These are refused before, or have a way of their own.
    sent.deliver_at = None;
    if Limits::default().check(&sent).is_err() {
        return;
    }
    let wired = wire(&sent, Times::Millis);
    let names: BTreeSet<_> = wired.attributes.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), wired.attributes.len(), "no name twice");
    assert!(names.len() <= ATTRIBUTES, "{names:?}");
    let texts = wired.attributes.iter().map(|(_, value)| value).chain([&wired.body]);
    for text in texts {
        assert!(!text.is_empty() && !text.chars().any(is_refused), "{text:?}");
    }
    let attributes = wired
        .attributes
        .iter()
        .map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())));
    let came = Came {
        body: wired.body.to_string(),
        attributes: attributes.collect(),
        id: "of-sqs".to_owned(),
        ..Came::default()
    };
    let came = message(came, &sent.topic);
    if sent.id.is_empty() {
        sent.id = "of-sqs".into();
    }
    let millis = sent.time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    sent.time = UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).expect("a time"));
    assert_eq!(came, sent);
}

/// What XML has no place for.
fn is_refused(c: char) -> bool {
    (c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{7f}'))
        || matches!(c, '\u{fffe}' | '\u{ffff}')
}

fn is_a_message(input: &mut Input<'_>) {
    let (body, id, key) = (input.text(), input.text(), Bytes::copy_from_slice(input.bytes()));
    let group = names::group(&key);
    assert!(group.len() <= GROUP && group.chars().all(|c| c.is_ascii_graphic()), "{group:?}");
    let others = input.text();
    let group = if others.is_empty() { group } else { others };
    let mut came = Came { body, id, group: Some(group), ..Came::default() };
    while !input.is_empty() && came.attributes.len() < ATTRIBUTES {
        came.attributes.insert(input.text(), Bytes::copy_from_slice(input.bytes()));
    }
    let read = message(came, &"t".into());
    assert_eq!(read.topic, "t");
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |body: &str, attributes: &[(&str, &str)]| {
        let seed = Seed::new().byte(1).bytes(body).bytes("of-sqs").bytes("key").bytes("");
        attributes.iter().fold(seed, |seed, (name, value)| seed.bytes(name).bytes(value)).done()
    };
    let envelope = r#"{"Type": "Notification", "MessageId": "1", "TopicArn": "arn:t", "Message": "{}", "Timestamp":
        "2026-11-28T12:00:00.000Z", "MessageAttributes": {"a": {"Type": "Binary", "Value": "/w=="}, "streams-message-id":
        {"Type": "String", "Value": "7"}}}"#;
    let rest =
        r#"{"id": "1", "key": {"base64": "/w=="}, "headers": ["a", ["b", null], ["a", {"base64": "AA=="}]]}"#;
    let mut all = vec![
        of("{}", &[]),
        of(envelope, &[]),
        of("-", &[("millstream-body", "null"), ("millstream-rest", rest), ("a", "1")]),
        of("%", &[("millstream-body", "base64"), ("streams-message-time", "1795867200000")]),
        of("text", &[("streams-message-id", "7"), ("streams-stream-key", "k"), ("millstream-rest", "[")]),
    ];
    all.extend(hostile().iter().map(|message| Seed::new().byte(0).message(message).done()));
    all
}
