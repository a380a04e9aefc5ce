//! A whole message as JSON, under the names that docs/wire.md gives.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millstream::Message;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::text;

/// A message with the names of the Go toolkit. What is absent is null.
#[derive(Debug, Serialize)]
pub(crate) struct Wire<'a> {
    message_id: &'a str,
    stream_name: &'a str,
    stream_key: Option<String>,
    message_headers: Map<String, Value>,
    content_type: &'a str,
    data: Option<String>,
    message_time: Option<String>,
}

impl<'a> From<&'a Message> for Wire<'a> {
    fn from(message: &'a Message) -> Self {
        // Of headers of one name the last one counts, here as everywhere.
        let header = |value: Option<&[u8]>| value.map_or(Value::Null, |value| lossy(value).into());
        Self {
            message_id: &message.id,
            stream_name: &message.topic,
            stream_key: message.key.as_deref().map(lossy),
            message_headers: message
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), header(value.map(|v| &**v))))
                .collect(),
            content_type: &message.content_type,
            data: message.data.as_deref().map(|data| STANDARD.encode(data)),
            message_time: text::exact_time(message.time),
        }
    }
}

/// JSON has text only.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_message_has_the_names_of_the_go_toolkit() {
        let message = Message::new("user.created", "{\"user_id\":\"1\"}")
            .with_id("7")
            .with_key("1")
            .with_header("tenant", "acme")
            .with_content_type("application/json")
            .with_time(UNIX_EPOCH + Duration::from_secs(1_795_521_600));
        assert_eq!(
            serde_json::to_value(Wire::from(&message)).unwrap(),
            serde_json::json!({
                "message_id": "7",
                "stream_name": "user.created",
                "stream_key": "1",
                "message_headers": { "tenant": "acme" },
                "content_type": "application/json",
                "data": "eyJ1c2VyX2lkIjoiMSJ9",
                "message_time": "2026-11-24T12:00:00Z",
            })
        );
    }

    #[test]
    fn absent_and_empty_differ() {
        let absent = serde_json::to_value(Wire::from(&Message::tombstone("t"))).unwrap();
        let empty = serde_json::to_value(Wire::from(&Message::new("t", "").with_key(""))).unwrap();
        assert_eq!((&absent["data"], &absent["stream_key"]), (&Value::Null, &Value::Null));
        assert_eq!((&empty["data"], &empty["stream_key"]), (&"".into(), &"".into()));
    }
}
