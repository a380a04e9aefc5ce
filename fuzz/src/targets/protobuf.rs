//! The Go toolkit's stored messages, `TransportMessage` and `TransportMessageBatch`, as protobuf events.

use std::collections::HashMap;
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use millstream::{Codecs, ErrorKind, Event, Message, Result, event};

use super::Target;
use crate::input::Input;

pub(super) const TARGET: Target = Target::new("protobuf", run, seeds);

#[derive(Clone, PartialEq, prost::Message)]
struct TransportMessage {
    #[prost(string, tag = "1")]
    message_id: String,
    #[prost(string, tag = "2")]
    stream_name: String,
    #[prost(string, tag = "3")]
    stream_key: String,
    #[prost(map = "string, string", tag = "4")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "5")]
    content_type: String,
    #[prost(bytes = "vec", tag = "6")]
    data: Vec<u8>,
    #[prost(message, optional, tag = "7")]
    time: Option<Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TransportMessageBatch {
    #[prost(message, repeated, tag = "1")]
    messages: Vec<TransportMessage>,
}

impl Event for TransportMessage {
    type Format = event::Protobuf;
}

impl Event for TransportMessageBatch {
    type Format = event::Protobuf;
}

const CONTENT_TYPES: [&str; 4] =
    ["application/x-google-protobuf", "", "application/octet-stream", "Application/Protobuf; v=1"];

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let content_type = CONTENT_TYPES[usize::from(input.byte()) % CONTENT_TYPES.len()];
    let payload = input.rest();
    comes_back::<TransportMessage>(payload, content_type);
    comes_back::<TransportMessageBatch>(payload, content_type);
    // Protobuf takes nearly anything for a message, so what says that it is something else is never tried.
    let other = message(payload, "application/json").decode::<TransportMessage>();
    assert_eq!(other.expect_err("it is JSON").kind(), ErrorKind::Decode);
}

fn message(payload: &[u8], content_type: &'static str) -> Message {
    Message::new("topic", Bytes::copy_from_slice(payload)).with_content_type(content_type)
}

fn comes_back<E: Event<Format = event::Protobuf> + prost::Message + Default + PartialEq + Debug>(
    payload: &[u8],
    content_type: &'static str,
) {
    let event: E = match message(payload, content_type).decode() {
        Ok(event) => event,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
            assert!(error.to_string().contains("\"topic\""), "it names its place: {error}");
            return;
        }
    };
    let mut out = BytesMut::new();
    let written = <event::Protobuf as event::Format<E>>::encode(&event, Codecs::built_in(), &mut out);
    assert_eq!(written.expect("what decoded encodes"), CONTENT_TYPES[0]);
    let again: Result<E> = message(&out, CONTENT_TYPES[0]).decode();
    assert_eq!(again.expect("what was encoded decodes"), event);
}

fn seeds() -> Vec<Vec<u8>> {
    use prost::Message as _;

    let one = TransportMessage {
        message_id: "01931c5e-9a41-7c3f-8a57-3c1c2f6f2f10".into(),
        stream_name: "user.created".into(),
        stream_key: "1".into(),
        headers: [("tenant".into(), "acme".into())].into(),
        content_type: "application/json".into(),
        data: br#"{"user_id":"1"}"#.to_vec(),
        time: Some(Timestamp { seconds: 1_795_521_600, nanos: 1 }),
    };
    let batch = TransportMessageBatch { messages: vec![one.clone(), TransportMessage::default()] };
    [one.encode_to_vec(), batch.encode_to_vec()]
        .into_iter()
        .zip(0u8..)
        .map(|(bytes, content_type)| [vec![content_type], bytes].concat())
        .collect()
}
