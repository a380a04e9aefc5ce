//! A message as one line of JSON, under the names of the Go toolkit (`docs/wire.md`), without loss.
//!
//! What text cannot say stands once more in a field of its own, and only then: a key that is not UTF-8 in
//! `stream_key_base64`, headers that are not UTF-8 or whose names repeat in `message_headers_base64`.

use std::fmt;
use std::str;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use millstream_core::{Error, ErrorKind, Headers, Message, Result};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A line as it is written and read.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(default)]
    message_id: String,
    stream_name: String,
    #[serde(default)]
    stream_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream_key_base64: Option<String>,
    #[serde(default)]
    message_headers: Texts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_headers_base64: Option<Vec<(String, Option<String>)>>,
    #[serde(default)]
    content_type: String,
    #[serde(default)]
    data: Option<String>,
    #[serde(default)]
    message_time: Option<String>,
}

/// Headers as text, in their order.
#[derive(Debug, Default)]
struct Texts(Vec<(String, Option<String>)>);

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of headers")
            }
            fn visit_unit<E>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = Texts::default();
                while let Some(header) = map.next_entry()? {
                    texts.0.push(header);
                }
                Ok(texts)
            }
        }
        deserializer.deserialize_any(InOrder)
    }
}

/// Writes a message, with a line's end.
///
/// # Errors
/// [`Encode`](ErrorKind::Encode); there is no message that it refuses.
pub(crate) fn encode(message: &Message) -> Result<Vec<u8>> {
    let key = message.key.as_deref();
    let line = Line {
        message_id: message.id.to_string(),
        stream_name: message.topic.to_string(),
        stream_key: key.map(|key| String::from_utf8_lossy(key).into_owned()),
        stream_key_base64: key.filter(|key| str::from_utf8(key).is_err()).map(|key| STANDARD.encode(key)),
        message_headers: texts(&message.headers),
        message_headers_base64: (!are_texts(&message.headers)).then(|| bytes(&message.headers)),
        content_type: message.content_type.to_string(),
        data: message.data.as_deref().map(|data| STANDARD.encode(data)),
        message_time: time(message.time),
    };
    let mut text = serde_json::to_vec(&line)
        .map_err(|e| message.locate(Error::new(ErrorKind::Encode, "the message has no JSON").source(e)))?;
    text.push(b'\n');
    Ok(text)
}

/// Reads a line.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) if it is none of a message.
pub(crate) fn decode(line: &[u8]) -> Result<Message> {
    let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what.to_owned());
    let line: Line =
        serde_json::from_slice(line).map_err(|e| corrupt("the line is not a message").source(e))?;
    let bytes = |text: String| {
        STANDARD.decode(text).map(Bytes::from).map_err(|e| corrupt("the base64 is broken").source(e))
    };
    let mut message = Message::tombstone(line.stream_name).with_id(line.message_id);
    message.key = match line.stream_key_base64 {
        Some(key) => Some(bytes(key)?),
        None => line.stream_key.map(Bytes::from),
    };
    let exact = line.message_headers_base64.is_some();
    for (name, value) in line.message_headers_base64.unwrap_or(line.message_headers.0) {
        match value {
            None => message.headers.append_null(name),
            Some(value) if exact => message.headers.append(name, bytes(value)?),
            Some(value) => message.headers.append(name, value),
        }
    }
    message.content_type = line.content_type.into();
    message.data = line.data.map(bytes).transpose()?;
    if let Some(time) = line.message_time {
        message.time =
            humantime::parse_rfc3339(&time).map_err(|e| corrupt("the message's time is none").source(e))?;
    }
    Ok(message)
}

/// Whether they come back from an object of texts as they are.
fn are_texts(headers: &Headers) -> bool {
    let is_last = |place: usize, name: &ByteString| headers.iter().skip(place + 1).all(|(n, _)| n != name);
    headers.iter().enumerate().all(|(place, (name, value))| {
        is_last(place, name) && value.is_none_or(|value| str::from_utf8(value).is_ok())
    })
}

/// Of headers of one name the last one counts, here as everywhere.
fn texts(headers: &Headers) -> Texts {
    let mut texts: Vec<(String, Option<String>)> = Vec::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        texts.retain(|(n, _)| n != &**name);
        texts.push((name.to_string(), value.map(|value| String::from_utf8_lossy(value).into_owned())));
    }
    Texts(texts)
}

fn bytes(headers: &Headers) -> Vec<(String, Option<String>)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.map(|v| STANDARD.encode(v)))).collect()
}

/// The end of the year 9999.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// Times before 1970 and behind the year 9999, which a foreign message may have, have no such text.
pub(crate) fn time(at: SystemTime) -> Option<String> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    (since <= LAST).then(|| humantime::format_rfc3339(at).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn text(line: &[u8]) -> String {
        String::from_utf8(line.to_vec()).unwrap()
    }

    #[test]
    fn a_usual_message_has_the_names_of_the_go_toolkit_and_no_others() {
        let message = Message::new("user.created", "{\"user_id\":\"1\"}")
            .with_id("7")
            .with_key("1")
            .with_header("tenant", "acme")
            .with_content_type("application/json")
            .with_time(UNIX_EPOCH + Duration::from_secs(1_795_521_600));
        assert_eq!(
            text(&encode(&message).unwrap()),
            concat!(
                r#"{"message_id":"7","stream_name":"user.created","stream_key":"1","message_headers":{"tenant":"acme"},"#,
                r#""content_type":"application/json","data":"eyJ1c2VyX2lkIjoiMSJ9","message_time":"2026-11-24T12:00:00Z"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn what_the_go_toolkit_left_out_is_absent() {
        let message =
            decode(br#"{"message_id":"7","stream_name":"t","stream_key":"","message_headers":null}"#);
        assert_eq!(message.unwrap(), Message::tombstone("t").with_id("7").with_key(""));
    }

    #[test]
    fn bytes_that_are_no_message_are_told_as_such() {
        for line in [
            "",
            "{}",
            "[1]",
            r#"{"stream_name":"t","data":"%"}"#,
            r#"{"stream_name":"t","message_time":"x"}"#,
        ] {
            assert_eq!(decode(line.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{line}");
        }
    }

    #[test]
    fn a_time_that_has_no_text_is_left_out() {
        for at in [UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH + LAST + Duration::from_secs(1)] {
            let line = encode(&Message::new("t", "").with_time(at)).unwrap();
            assert_eq!(decode(&line).unwrap().time, UNIX_EPOCH);
        }
    }

    fn header() -> impl Strategy<Value = (String, Option<Vec<u8>>)> {
        (
            "[a-c]{1,2}|é",
            option::of(prop_oneof![vec(any::<u8>(), 0..5), "[a-z\"\\\\\n]{0,4}".prop_map(Vec::from)]),
        )
    }

    proptest! {
        #[test]
        fn a_message_comes_back_as_it_was(
            (id, topic, content_type) in ("\\PC{0,8}", "\\PC{1,8}", "\\PC{0,8}"),
            (key, data) in (option::of(vec(any::<u8>(), 0..8)), option::of(vec(any::<u8>(), 0..64))),
            headers in vec(header(), 0..5),
            (seconds, nanos) in (0..253_402_300_799u64, 0..1_000_000_000u32),
        ) {
            let mut message = Message::tombstone(topic).with_id(id).with_content_type(content_type)
                .with_time(UNIX_EPOCH + Duration::new(seconds, nanos));
            message.key = key.map(Bytes::from);
            message.data = data.map(Bytes::from);
            for (name, value) in headers {
                match value {
                    Some(value) => message.headers.append(name, value),
                    None => message.headers.append_null(name),
                }
            }
            let line = encode(&message).unwrap();
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            prop_assert_eq!(decode(&line).unwrap(), message);
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(line in vec(any::<u8>(), 0..64)) {
            let _ = decode(&line);
        }
    }
}
