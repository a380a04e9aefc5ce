//! CloudEvents 1.0, the second wire format: a message as an event of that standard, and back.
//!
//! In *binary* mode the attributes are headers and the data stays as it is; in *structured* mode one JSON object holds
//! both. Either way a message reads alike: its attributes are headers with the driver's prefix (`ce_` on Kafka), its id
//! is theirs, and `type` is the event's type where it is not the topic.
//!
//! Sources: the [specification](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md), its
//! [JSON format](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md) and its
//! [Kafka binding](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md).

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use crate::{Error, ErrorKind, Message, Result, names};

/// The content type of a structured event.
pub const STRUCTURED: &str = "application/cloudevents+json";

/// The version of the standard that is written. All of 1.x are read.
const VERSION: &str = "1.0";

/// The longest name of an attribute that a reader has to take.
const NAME_LIMIT: usize = 20;

/// Whether a content type says that the data is a whole event.
#[must_use]
pub fn is_structured(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case(STRUCTURED)
}

/// The attributes of a message, without the type of its data: those that it carries already, and those that follow from
/// its parts. A message of no time has none.
#[must_use]
pub fn attributes(message: &Message, source: &str, prefix: &str) -> Vec<(ByteString, Bytes)> {
    let kind = message.headers.get_str(names::TYPE).unwrap_or(&message.topic);
    let text = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    let time =
        (message.time > UNIX_EPOCH).then(|| humantime::format_rfc3339_millis(message.time).to_string());
    let key = message.key.as_ref().filter(|key| !key.is_empty() && std::str::from_utf8(key).is_ok());
    [
        ("specversion", text(VERSION)),
        ("id", text(&message.id)),
        ("source", text(source)),
        ("type", text(kind)),
        ("time", time.map(Bytes::from)),
        ("partitionkey", key.cloned()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((ByteString::from(format!("{prefix}{name}")), value?)))
    .filter(|(name, _)| !message.headers.contains(name))
    .collect()
}

/// Takes the id and the type out of the attributes of a binary event, where the message has none of its own.
pub fn understand(message: &mut Message, prefix: &str) {
    let attribute = |name: &str| message.headers.get_str(&format!("{prefix}{name}")).map(ByteString::from);
    let (id, kind) = (attribute("id"), attribute("type"));
    if message.id.is_empty()
        && let Some(id) = id
    {
        message.id = id;
    }
    if let Some(kind) = kind.filter(|kind| *kind != message.topic) {
        message.headers.insert_if_absent(names::TYPE, kind.into_bytes());
    }
}

/// The JSON object of a message: attributes, data, and those of its headers whose names can be attributes. The others are
/// to travel beside it: [`travels_beside`] says which.
///
/// # Errors
/// [`InvalidMessage`](ErrorKind::InvalidMessage) if it is a tombstone, which has no such form.
pub fn to_structured(message: &Message, source: &str, prefix: &str) -> Result<Bytes> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::Internal, "an event was not encoded").source(e);
    let Some(data) = &message.data else {
        return Err(Error::new(ErrorKind::InvalidMessage, "a tombstone has no structured form")
            .fix("write it in binary mode"));
    };
    let raw = |text: &str| serde_json::value::to_raw_value(text).map_err(failed);
    let mut object: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
    for (name, value) in attributes(message, source, prefix) {
        let name = name.strip_prefix(prefix).unwrap_or_default();
        object.insert(name.to_owned(), raw(&String::from_utf8_lossy(&value))?);
    }
    for (name, value) in message.headers.iter().filter(|(name, value)| !travels_beside(name, *value, prefix))
    {
        let name = name.strip_prefix(prefix).unwrap_or_default();
        let value = value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
        object.insert(name.to_owned(), raw(value)?);
    }
    if !message.content_type.is_empty() {
        object.insert("datacontenttype".to_owned(), raw(&message.content_type)?);
    }
    // Whitespace around a value is no part of it, and would be lost.
    let json = match is_json(&message.content_type) {
        true => serde_json::from_slice::<Box<RawValue>>(data).ok().filter(|v| v.get().len() == data.len()),
        false => None,
    };
    match (json, std::str::from_utf8(data)) {
        (Some(value), _) => object.insert("data".to_owned(), value),
        // A text that is said to be JSON and is not must come back as it was, not as a JSON string.
        (None, Ok(text)) if !is_json(&message.content_type) && !message.content_type.is_empty() => {
            object.insert("data".to_owned(), raw(text)?)
        }
        _ => object.insert("data_base64".to_owned(), raw(&STANDARD.encode(data))?),
    };
    serde_json::to_vec(&object).map(Bytes::from).map_err(failed)
}

/// Whether a header has no place among the attributes of an event.
#[must_use]
pub fn travels_beside(name: &str, value: Option<&Bytes>, prefix: &str) -> bool {
    let text = value.is_some_and(|value| std::str::from_utf8(value).is_ok());
    let attribute = name.strip_prefix(prefix).is_some_and(|name| {
        !matches!(name, "data" | "data_base64" | "datacontenttype" | "")
            && name.len() <= NAME_LIMIT
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    });
    !(text && attribute)
}

/// Unpacks a structured event: its data and content type become the message's, its attributes headers. A message that is
/// none, whatever its content type says, stays as it is.
///
/// # Errors
/// [`Decode`](ErrorKind::Decode), and then nothing of the message has changed.
pub fn unpack(message: &mut Message, prefix: &str) -> Result<()> {
    let bad = |what: &str| Error::new(ErrorKind::Decode, format!("this is no structured event: {what}"));
    let object: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(message.data.as_deref().unwrap_or_default())
            .map_err(|e| bad(&e.to_string()))?;
    let text = |raw: &RawValue| match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => text,
        // Numbers and truth values are attributes, too.
        Err(_) => raw.get().to_owned(),
    };
    let version = object.get("specversion").map(|raw| text(raw)).unwrap_or_default();
    if !version.starts_with("1.") {
        return Err(bad("its specversion is not 1.x"));
    }
    let content_type = match object.get("datacontenttype") {
        Some(raw) => text(raw),
        None if object.contains_key("data") => "application/json".to_owned(),
        None => String::new(),
    };
    let data = match (object.get("data_base64"), object.get("data")) {
        (Some(raw), _) => {
            let decoded = STANDARD.decode(text(raw)).map_err(|e| bad(&format!("its data_base64: {e}")))?;
            Bytes::from(decoded)
        }
        (None, Some(raw)) if is_json(&content_type) => Bytes::copy_from_slice(raw.get().as_bytes()),
        (None, Some(raw)) => Bytes::from(text(raw)),
        (None, None) => Bytes::new(),
    };
    for (name, raw) in &object {
        if !matches!(name.as_str(), "data" | "data_base64" | "datacontenttype") && raw.get() != "null" {
            message.headers.insert(format!("{prefix}{name}"), text(raw));
        }
    }
    message.content_type = content_type.into();
    message.data = Some(data);
    understand(message, prefix);
    Ok(())
}

/// As the JSON format of the standard draws the line.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let subtype = kind.rsplit('/').next().unwrap_or_default();
    subtype.eq_ignore_ascii_case("json") || subtype.to_ascii_lowercase().ends_with("+json")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn message(content_type: &str, data: &[u8]) -> Message {
        Message::new("orders", data.to_vec())
            .with_id("7")
            .with_key("customer-1")
            .with_content_type(content_type.to_owned())
            .with_time(UNIX_EPOCH + Duration::from_millis(1_764_000_000_123))
    }

    fn back(message: &Message) -> Message {
        let mut back = Message::new("orders", to_structured(message, "/shop", "ce_").unwrap());
        unpack(&mut back, "ce_").unwrap();
        back
    }

    #[test]
    fn an_event_is_as_the_standard_has_it() {
        let sent = message("application/json", br#"{"n": 1.50}"#).with_header("ce_subject", "o-1");
        let json = to_structured(&sent, "/shop", "ce_").unwrap();
        assert_eq!(
            std::str::from_utf8(&json).unwrap(),
            r#"{"data":{"n": 1.50},"datacontenttype":"application/json","id":"7","partitionkey":"customer-1","source":"/shop","specversion":"1.0","subject":"o-1","time":"2025-11-24T16:00:00.123Z","type":"orders"}"#
        );
    }

    #[test]
    fn an_event_of_another_program_is_understood() {
        // The example of the specification's JSON format, shortened.
        let event = br#"{"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","id":"C234-1234-1234",
            "comexampleothervalue":5,"unsetextension":null,"datacontenttype":"application/vnd.apache.thrift.binary",
            "data_base64":"aGVsbG8="}"#;
        let mut message = Message::new("orders", &event[..]);
        unpack(&mut message, "ce_").unwrap();
        assert_eq!(
            (&*message.id, &*message.content_type),
            ("C234-1234-1234", "application/vnd.apache.thrift.binary")
        );
        assert_eq!(message.data.as_deref(), Some(&b"hello"[..]));
        let says = |name| message.headers.get_str(name);
        assert_eq!(says("ce_comexampleothervalue"), Some("5"));
        assert_eq!(says("ce_unsetextension"), None);
        assert_eq!(says(names::TYPE), Some("com.example.someevent"));
    }

    #[test]
    fn what_is_no_event_is_left_as_it_is() {
        for data in ["", "{", "[]", r#"{"specversion":"0.3"}"#, r#"{"specversion":"1.0","data_base64":"*"}"#]
        {
            let mut message = message(STRUCTURED, data.as_bytes());
            let before = message.clone();
            assert_eq!(unpack(&mut message, "ce_").unwrap_err().kind(), ErrorKind::Decode, "{data}");
            assert_eq!(message, before);
        }
    }

    #[test]
    fn what_a_message_already_says_is_not_said_again() {
        let sent = message("", b"x").with_header("ce_source", "/elsewhere");
        assert!(attributes(&sent, "/shop", "ce_").iter().all(|(name, _)| name != "ce_source"));
        assert!(to_structured(&Message { data: None, ..sent }, "/shop", "ce_").is_err());
    }

    proptest! {
        #[test]
        fn data_of_any_kind_comes_back_byte_for_byte(
            data in proptest::collection::vec(any::<u8>(), 0..64),
            text in ".{0,32}",
            kind in prop_oneof!["application/json", "text/plain", "application/x-thing", "application/a\\+json; v=1"],
        ) {
            for data in [data, text.clone().into_bytes(), serde_json::to_vec(&text).unwrap()] {
                let sent = message(&kind, &data);
                let got = back(&sent);
                prop_assert_eq!(&got.data, &sent.data);
                prop_assert_eq!(&got.content_type, &sent.content_type);
                prop_assert_eq!(&got.id, &sent.id);
            }
        }
    }
}
