//! CloudEvents on Kafka: which headers hold what.
//!
//! Source: the [Kafka binding](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md).

use std::borrow::Cow;

use bytestring::ByteString;
use millstream_core::cloudevents::{self, STRUCTURED};
use millstream_core::{Headers, Message, Result};

use crate::settings::Wire;

/// What the names of attributes begin with.
const PREFIX: &str = "ce_";

/// The attribute without which it is no event.
pub(crate) const VERSION: &str = "ce_specversion";

/// The header of the data's type in binary mode, and of the whole event's in structured mode.
pub(crate) const CONTENT_TYPE: &str = "content-type";

/// A message as it is to lie in its record.
pub(crate) fn dress<'a>(message: &'a Message, wire: &Wire) -> Result<Cow<'a, Message>> {
    match wire {
        Wire::Streams => Ok(Cow::Borrowed(message)),
        // Without data there is nothing to be structured, and a record without a value means something to Kafka.
        Wire::CloudEventsJson { source } if message.data.is_some() => {
            structured(message, source).map(Cow::Owned)
        }
        Wire::CloudEvents { source } | Wire::CloudEventsJson { source } => {
            Ok(Cow::Owned(binary(message, source)))
        }
    }
}

fn binary(message: &Message, source: &str) -> Message {
    let mut headers = Headers::default();
    for (name, value) in cloudevents::attributes(message, source, PREFIX) {
        headers.append(name, value);
    }
    if !message.content_type.is_empty() && !message.headers.contains(CONTENT_TYPE) {
        headers.append(CONTENT_TYPE, message.content_type.clone().into_bytes());
    }
    add(&mut headers, message, |_| true);
    bare(message, headers)
}

fn structured(message: &Message, source: &str) -> Result<Message> {
    let mut headers = Headers::default();
    headers.append(CONTENT_TYPE, format!("{STRUCTURED}; charset=UTF-8"));
    add(&mut headers, message, |(name, value)| {
        *name != CONTENT_TYPE && cloudevents::travels_beside(name, value, PREFIX)
    });
    let mut dressed = bare(message, headers);
    dressed.data = Some(cloudevents::to_structured(message, source, PREFIX)?);
    Ok(dressed)
}

fn add(
    headers: &mut Headers,
    message: &Message,
    keep: impl Fn((&ByteString, Option<&bytes::Bytes>)) -> bool,
) {
    for (name, value) in message.headers.iter().filter(|header| keep(*header)) {
        match value {
            Some(value) => headers.append(name.clone(), value.clone()),
            None => headers.append_null(name.clone()),
        }
    }
}

/// The message whose id and content type are told elsewhere.
fn bare(message: &Message, headers: Headers) -> Message {
    let mut bare = message.clone();
    (bare.id, bare.content_type, bare.headers) = (ByteString::new(), ByteString::new(), headers);
    bare
}

/// Takes a message that may be an event for one, if it is one.
pub(crate) fn undress(message: &mut Message) {
    let kind = message.headers.get_str(CONTENT_TYPE).map(ByteString::from);
    if kind.as_deref().is_some_and(cloudevents::is_structured) {
        match cloudevents::unpack(message, PREFIX) {
            Ok(()) => drop(message.headers.remove(CONTENT_TYPE)),
            Err(error) => tracing::debug!(topic = %message.topic, %error, "a message is taken as it is"),
        }
        return;
    }
    if message.headers.get_str(VERSION).is_some_and(|version| version.starts_with("1.")) {
        if message.content_type.is_empty()
            && let Some(kind) = kind
        {
            message.content_type = kind;
        }
        cloudevents::understand(message, PREFIX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message::new("orders", "{}")
            .with_id("7")
            .with_content_type("application/json")
            .with_header("tenant", "acme")
    }

    fn wires() -> [Wire; 2] {
        let source = || "/shop".to_owned();
        [Wire::CloudEvents { source: source() }, Wire::CloudEventsJson { source: source() }]
    }

    #[test]
    fn an_event_of_either_mode_reads_as_the_message_that_was_written() {
        for wire in wires() {
            let dressed = dress(&message(), &wire).unwrap().into_owned();
            assert!(dressed.id.is_empty() && dressed.content_type.is_empty(), "its headers tell them");
            let mut read = dressed;
            undress(&mut read);
            assert_eq!((&*read.id, &*read.content_type), ("7", "application/json"));
            assert_eq!(read.data, message().data);
            let says = |name| read.headers.get_str(name);
            assert_eq!(
                (says("tenant"), says("ce_source"), says("ce_type")),
                (Some("acme"), Some("/shop"), Some("orders"))
            );
        }
    }

    #[test]
    fn what_was_read_and_is_written_again_says_everything_once() {
        for wire in wires() {
            let mut read = dress(&message(), &wire).unwrap().into_owned();
            undress(&mut read);
            for again in wires() {
                let dressed = dress(&read, &again).unwrap();
                let mut names: Vec<_> = dressed.headers.iter().map(|(name, _)| name.clone()).collect();
                names.sort();
                names.dedup();
                assert_eq!(names.len(), dressed.headers.len(), "{:?}", dressed.headers);
            }
        }
    }

    #[test]
    fn a_tombstone_stays_one() {
        for wire in wires() {
            let tombstone = Message { data: None, ..message() };
            assert_eq!(dress(&tombstone, &wire).unwrap().data, None);
        }
    }
}
