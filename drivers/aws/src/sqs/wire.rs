//! A message as the body and the attributes of SQS and SNS, and back. Nothing is lost, whatever AWS has no place for.
//!
//! The attributes of the Go toolkit *streams* hold what they can. What is no text that SQS takes is in `millstream-rest`, and
//! `millstream-body` says how the body is written when it is not the payload itself.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use bytestring::ByteString;
use millstream_core::Message;
use serde_json::{Map, Value, json};

/// The attribute of the id.
pub const MESSAGE_ID: &str = "streams-message-id";
/// The attribute of the topic.
pub const STREAM_NAME: &str = "streams-stream-name";
/// The attribute of the key.
pub const STREAM_KEY: &str = "streams-stream-key";
/// The attribute of the content type.
pub const CONTENT_TYPE: &str = "streams-content-type";
/// The attribute of the time: Unix milliseconds on SQS, RFC 3339 on SNS.
pub const MESSAGE_TIME: &str = "streams-message-time";
/// How the body is written, if it is not the payload: `base64`, `empty` (the payload is), or `null` (there is none).
pub const BODY: &str = "millstream-body";
/// What has no attribute of its own, as JSON.
pub const REST: &str = "millstream-rest";

const OWN: [&str; 7] = [MESSAGE_ID, STREAM_NAME, STREAM_KEY, CONTENT_TYPE, MESSAGE_TIME, BODY, REST];

/// Attributes that SQS takes of a message.
const ATTRIBUTES: usize = 10;

/// What stands for a body that may not be empty.
const NOTHING: &str = "-";

/// A message as it is sent. What is there in the message is not copied: the SDK wants strings of its own of all of it, and
/// another set for each attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wired<'a> {
    pub(crate) body: Cow<'a, str>,
    /// By name; all of the type `String`.
    pub(crate) attributes: Attributes<'a>,
}

/// Names and values.
type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

impl Wired<'_> {
    /// Bytes, as AWS counts them: body, and names, types and values of attributes.
    pub(crate) fn size(&self) -> usize {
        let attributes = self.attributes.iter();
        let sizes = attributes.map(|(name, value)| name.len() + "String".len() + value.len());
        self.body.len() + sizes.sum::<usize>()
    }
}

/// How times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// Unix milliseconds, as on SQS.
    Millis,
    /// RFC 3339, as on SNS.
    #[cfg(feature = "sns")]
    Rfc3339,
}

/// A message as it is sent.
pub(crate) fn wire(message: &Message, times: Times) -> Wired<'_> {
    let mut attributes: Attributes<'_> = Vec::with_capacity(ATTRIBUTES);
    let mut rest = Map::new();
    let mut own = |name: &'static str, short: &str, value| match text(value) {
        Some(text) => attributes.push((name.into(), text.into())),
        None if value.is_empty() => {}
        None => {
            rest.insert(short.to_owned(), bytes(value));
        }
    };
    own(MESSAGE_ID, "id", message.id.as_bytes());
    own(STREAM_NAME, "topic", message.topic.as_bytes());
    own(STREAM_KEY, "key", message.key.as_deref().unwrap_or_default());
    own(CONTENT_TYPE, "type", message.content_type.as_bytes());
    if message.key.as_ref().is_some_and(Bytes::is_empty) {
        rest.insert("key".to_owned(), json!(""));
    }
    // The epoch says that no time was given: then it is when AWS got it.
    if message.time > UNIX_EPOCH {
        attributes.push((MESSAGE_TIME.into(), time_text(message.time, times).into()));
    }
    let (body, marker) = body(message.data.as_deref());
    if let Some(marker) = marker {
        attributes.push((BODY.into(), marker.into()));
    }
    headers(message, &mut attributes, &mut rest);
    if !rest.is_empty() {
        // JSON leaves these as they are, in a header's name too, and SQS does not take them.
        let text =
            Value::Object(rest).to_string().replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
        attributes.push((REST.into(), text.into()));
    }
    Wired { body, attributes }
}

/// Headers get attributes as long as there is room. Attributes have no order and no double names, and their values are
/// text: what that loses is told by the list of all headers in the rest, which names those that have attributes.
fn headers<'a>(message: &'a Message, attributes: &mut Attributes<'a>, rest: &mut Map<String, Value>) {
    if message.headers.is_empty() {
        return;
    }
    let ascending = message.headers.iter().map(|(name, _)| name).is_sorted_by(|a, b| a < b);
    let room = ATTRIBUTES - attributes.len();
    let simple = ascending
        && rest.is_empty()
        && message.headers.len() <= room
        && message.headers.iter().all(|(name, value)| plain(name, value).is_some());
    // The rest has an attribute of its own.
    let room = if simple { room } else { room - 1 };
    let mut named = HashSet::new();
    let mut list = Vec::new();
    for (name, value) in message.headers.iter() {
        let free = named.len() < room && !named.contains(name);
        if let Some(text) = plain(name, value).filter(|_| free) {
            named.insert(name);
            attributes.push((Cow::Borrowed(name), text.into()));
            list.push(json!(&**name));
        } else {
            list.push(json!([&**name, value.map(|v| bytes(v))]));
        }
    }
    if !simple {
        rest.insert("headers".to_owned(), Value::Array(list));
    }
}

/// The value of a header that may be an attribute under its own name.
fn plain<'a>(name: &str, value: Option<&'a Bytes>) -> Option<&'a str> {
    value.and_then(|value| text(value)).filter(|_| name_fits(name))
}

/// How a payload is written, and what says so.
fn body(data: Option<&[u8]>) -> (Cow<'_, str>, Option<&'static str>) {
    match data {
        None => (NOTHING.into(), Some("null")),
        Some([]) => (NOTHING.into(), Some("empty")),
        Some(data) => match text(data) {
            Some(text) => (text.into(), None),
            None => (BASE64.encode(data).into(), Some("base64")),
        },
    }
}

/// Bytes in JSON: as text if they are, else as base64.
fn bytes(value: &[u8]) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) if allowed(text) => json!(text),
        _ => json!({ "base64": BASE64.encode(value) }),
    }
}

fn of_value(value: &Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        Value::Object(object) => Some(BASE64.decode(object.get("base64")?.as_str()?).ok()?.into()),
        _ => None,
    }
}

/// Bytes as text that SQS takes, if they are.
fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| !text.is_empty() && allowed(text))
}

/// Whether SQS takes every character.
fn allowed(text: &str) -> bool {
    // Nearly no text has a byte that a forbidden character begins with, and all bytes are looked at sooner than one
    // character after the other. 0xEF begins U+FFFE and U+FFFF, beside others.
    let plain = |byte: u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=0xee | 0xf0..);
    text.bytes().fold(true, |all, byte| all & plain(byte)) || !text.chars().any(forbidden)
}

/// SQS refuses what XML does. U+FFFF makes some servers fail the whole request.
fn forbidden(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether a header may be an attribute under its own name.
fn name_fits(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let lower = name.to_ascii_lowercase();
    !name.is_empty()
        && name.len() < 256
        && name.chars().all(legal)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
        && !OWN.contains(&name)
}

fn time_text(time: SystemTime, times: Times) -> String {
    match times {
        Times::Millis => time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis()).to_string(),
        #[cfg(feature = "sns")]
        Times::Rfc3339 => humantime::format_rfc3339_millis(time).to_string(),
    }
}

/// A time, in either way.
fn time_of(text: &str) -> Option<SystemTime> {
    match text.parse::<u64>() {
        Ok(millis) => Some(UNIX_EPOCH + Duration::from_millis(millis)),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    }
}

/// What came from a queue.
#[derive(Debug, Default)]
pub(crate) struct Came {
    pub(crate) body: String,
    /// The values' bytes, by name.
    pub(crate) attributes: HashMap<String, Bytes>,
    /// The id that SQS gave it.
    pub(crate) id: String,
    /// When SQS got it.
    pub(crate) sent: Option<SystemTime>,
    /// The group it was sent in, on a FIFO queue.
    pub(crate) group: Option<String>,
}

/// The message of what came, whoever sent it.
pub(crate) fn message(mut came: Came, topic: &ByteString) -> Message {
    unwrap_envelope(&mut came);
    let Came { body, mut attributes, id, sent, group } = came;
    let mut message = Message::new(topic.clone(), Bytes::new());
    // Others may write it as bytes.
    let key = attributes.remove(STREAM_KEY);
    let mut take = |name: &str| {
        let taken = attributes.remove(name)?;
        Some(ByteString::try_from(taken).unwrap_or_default())
    };
    let rest = take(REST).and_then(|rest| serde_json::from_str::<Value>(&rest).ok()).unwrap_or_default();
    let more = |short: &str| rest.get(short).and_then(of_value);
    let more_text = |short: &str| more(short).and_then(|bytes| ByteString::try_from(bytes).ok());
    // The topic is where it was read, whatever it was called where it was written.
    take(STREAM_NAME);
    message.id = take(MESSAGE_ID).or_else(|| more_text("id")).unwrap_or_default();
    if message.id.is_empty() {
        message.id = id.into();
    }
    message.content_type = take(CONTENT_TYPE).or_else(|| more_text("type")).unwrap_or_default();
    message.key = key.or_else(|| more("key"));
    if message.key.is_none() {
        // Who sent it to a FIFO queue wanted the order of its group.
        message.key = group.as_deref().and_then(crate::sqs::names::key);
    }
    message.time = take(MESSAGE_TIME).and_then(|time| time_of(&time)).or(sent).unwrap_or(UNIX_EPOCH);
    message.data = match take(BODY).as_deref() {
        Some("null") => None,
        Some("empty") => Some(Bytes::new()),
        Some("base64") => Some(BASE64.decode(&body).map_or_else(|_| body.into(), Bytes::from)),
        _ => Some(body.into()),
    };
    take_headers(&mut message, attributes, &rest);
    message
}

/// Takes the headers in the order of the list, if there is one, else by name. What the list does not know comes last.
fn take_headers(message: &mut Message, attributes: HashMap<String, Bytes>, rest: &Value) {
    let mut attributes: BTreeMap<_, _> = attributes.into_iter().collect();
    for entry in rest.get("headers").and_then(Value::as_array).into_iter().flatten() {
        match entry {
            Value::String(name) => {
                if let Some(value) = attributes.remove(name) {
                    message.headers.append(name.as_str(), value);
                }
            }
            Value::Array(pair) => {
                if let [Value::String(name), value] = pair.as_slice() {
                    match of_value(value) {
                        Some(value) => message.headers.append(name.as_str(), value),
                        None => message.headers.append_null(name.as_str()),
                    }
                }
            }
            _ => {}
        }
    }
    message.headers.extend(attributes);
}

/// Takes a notification of SNS out of its envelope, which is there unless its delivery is raw.
fn unwrap_envelope(came: &mut Came) {
    if !came.attributes.is_empty() || !came.body.starts_with('{') {
        return;
    }
    let Ok(Value::Object(mut envelope)) = serde_json::from_str::<Value>(&came.body) else { return };
    let text = |envelope: &Map<String, Value>, name: &str| {
        envelope.get(name).and_then(Value::as_str).map(ToOwned::to_owned)
    };
    if text(&envelope, "Type").as_deref() != Some("Notification") || !envelope.contains_key("TopicArn") {
        return;
    }
    let Some(body) = text(&envelope, "Message") else { return };
    came.body = body;
    if let Some(id) = text(&envelope, "MessageId") {
        came.id = id;
    }
    came.sent = text(&envelope, "Timestamp").and_then(|time| time_of(&time)).or(came.sent);
    let Some(Value::Object(attributes)) = envelope.remove("MessageAttributes") else { return };
    for (name, attribute) in attributes {
        let Some(value) = attribute.get("Value").and_then(Value::as_str) else { continue };
        let value = match attribute.get("Type").and_then(Value::as_str) {
            Some("Binary") => BASE64.decode(value).unwrap_or_else(|_| value.into()),
            _ => value.into(),
        };
        came.attributes.insert(name, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(wired: Wired<'_>, topic: &str) -> Message {
        let attributes = wired.attributes.into_iter();
        let came = Came {
            body: wired.body.into_owned(),
            attributes: attributes.map(|(n, v)| (n.into_owned(), v.into_owned().into())).collect(),
            id: "of-sqs".to_owned(),
            ..Came::default()
        };
        message(came, &topic.into())
    }

    fn plain() -> Message {
        Message::new("user.created", "{}")
            .with_id("7")
            .with_key("ann")
            .with_content_type("application/json")
            .with_time(UNIX_EPOCH + Duration::from_millis(1_764_000_000_123))
    }

    fn survives(message: &Message) {
        let wired = wire(message, Times::Millis);
        assert!(wired.attributes.len() <= ATTRIBUTES, "{wired:?}");
        assert!(wired.attributes.iter().all(|(_, value)| text(value.as_bytes()).is_some()), "{wired:?}");
        assert_eq!(&back(wired, &message.topic), message);
    }

    #[test]
    fn a_plain_message_is_as_the_go_toolkit_writes_it() {
        let message = plain().with_header("tenant", "acme");
        let wired = wire(&message, Times::Millis);
        assert_eq!(wired.body, "{}");
        let attributes: Vec<_> = wired.attributes.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(
            attributes,
            [
                ("streams-message-id", "7"),
                ("streams-stream-name", "user.created"),
                ("streams-stream-key", "ann"),
                ("streams-content-type", "application/json"),
                ("streams-message-time", "1764000000123"),
                ("tenant", "acme"),
            ]
        );
        assert_eq!(
            wired.size(),
            2 + "String".len() * 6 + attributes.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
        );
    }

    #[test]
    fn whatever_sqs_has_no_place_for_survives() {
        let mut message = plain();
        survives(&message);
        message.key = Some(Bytes::new());
        survives(&message);
        message.key = None;
        survives(&message);
        message.key = Some(vec![0, 255].into());
        survives(&message);
        for data in
            [None, Some(Bytes::new()), Some("\u{1}".into()), Some(vec![0xff].into()), Some(" x\n".into())]
        {
            message.data = data;
            survives(&message);
        }
        message.headers.append_null("nothing");
        message.headers.append("empty", "");
        message.headers.append("b", "2");
        message.headers.append("a", vec![0, 200]);
        message.headers.append("b", "1");
        message.headers.append("gr\u{f6}\u{df}e", "1");
        message.headers.append("streams-message-id", "not the id");
        message.headers.append("AWS.x", "1");
        message.headers.append("\u{ffff} and \u{fffe}", "1");
        survives(&message);
        (0..300).for_each(|n| message.headers.append(format!("h{n}"), n.to_string()));
        survives(&message);
    }

    #[test]
    fn what_shares_a_byte_with_a_forbidden_character_is_text_and_that_character_is_not() {
        for plain in ["\u{feff}", "\u{fffd}", "\u{f000}", "\u{85}", "\u{10ffff}", "\u{7f}", " \t\r\n~"] {
            assert_eq!(text(plain.as_bytes()), Some(plain));
        }
        for odd in ["", "\0", "a\u{b}", "\u{1f}", "a\u{fffe}", "\u{feff}\u{ffff}"] {
            assert_eq!(text(odd.as_bytes()), None, "{odd:?}");
        }
    }

    #[test]
    fn few_headers_in_ascending_order_need_no_list() {
        let mut message = plain();
        ["a", "b", "c", "d", "e"].into_iter().for_each(|name| message.headers.append(name, name));
        let wired = wire(&message, Times::Millis);
        assert!(wired.attributes.len() == 10 && wired.attributes.iter().all(|(name, _)| name != REST));
        survives(&message);
        message.headers.append("f", "f");
        survives(&message);
    }

    #[test]
    fn what_others_sent_is_taken_as_it_is() {
        let attributes = HashMap::from([("tenant".to_owned(), Bytes::from_static(b"acme"))]);
        let came = Came {
            body: "{\"a\":1}".to_owned(),
            attributes,
            id: "of-sqs".to_owned(),
            sent: Some(UNIX_EPOCH + Duration::from_secs(9)),
            group: Some("customer%207".to_owned()),
        };
        let message = message(came, &"t".into());
        assert_eq!((&*message.id, message.key.as_deref()), ("of-sqs", Some(&b"customer 7"[..])));
        assert_eq!(message.data.as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(message.headers.get_str("tenant"), Some("acme"));
        assert_eq!(message.time, UNIX_EPOCH + Duration::from_secs(9));
    }

    #[test]
    fn a_key_that_others_wrote_as_bytes_is_the_key() {
        let attributes = HashMap::from([(STREAM_KEY.to_owned(), Bytes::from_static(&[0xff, 0]))]);
        let came = Came { attributes, group: Some("another".to_owned()), ..Came::default() };
        assert_eq!(message(came, &"t".into()).key.as_deref(), Some(&[0xff, 0][..]));
    }

    #[test]
    fn a_notification_is_taken_out_of_its_envelope_and_nothing_else_is() {
        let envelope = json!({
            "Type": "Notification", "MessageId": "of-sns", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Message": "{}",
            "Timestamp": "2026-11-24T12:00:00.000Z",
            "MessageAttributes": {
                "streams-message-id": { "Type": "String", "Value": "7" },
                "bytes": { "Type": "Binary", "Value": "AP8=" },
            },
        });
        let came = Came { body: envelope.to_string(), ..Came::default() };
        let unwrapped = message(came, &"t".into());
        assert_eq!((&*unwrapped.id, unwrapped.data.as_deref()), ("7", Some(&b"{}"[..])));
        assert_eq!(unwrapped.headers.get("bytes").map(|v| &**v), Some(&[0, 255][..]));
        let own = r#"{"Type":"Notification","Message":"mine"}"#;
        let came = Came { body: own.to_owned(), ..Came::default() };
        assert_eq!(message(came, &"t".into()).data.as_deref(), Some(own.as_bytes()));
    }
}
