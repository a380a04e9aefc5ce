//! Any content type on any payload: the codec that reads it is found whatever its parameters and letters, and what
//! nobody reads says which there are.

use bytes::Bytes;
use millstream::{Codecs, ErrorKind, Event, Message, event};
use serde::{Deserialize, Serialize};

use super::Target;
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("content_type", run, seeds);

#[derive(Serialize, Deserialize)]
struct Number(#[allow(dead_code, reason = "it is decoded")] u64);

impl Event for Number {
    type Format = event::Serde;
}

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let content_type = input.text();
    let message =
        Message::new("topic", Bytes::copy_from_slice(input.rest())).with_content_type(&*content_type);
    let codecs = Codecs::built_in();
    match codecs.for_content_type(&content_type) {
        Ok(codec) => {
            let found = codec.content_type();
            let dressed =
                format!(" {} ;q=1", content_type.split(';').next().unwrap_or("").to_ascii_uppercase());
            let again = codecs.for_content_type(&dressed).expect("parameters and letters do not matter");
            assert_eq!(again.content_type(), found, "{content_type:?} and {dressed:?}");
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Decode);
            let text = error.to_string();
            assert!(text.contains(&format!("{content_type:?}")), "it names what it does not know: {text}");
            assert!(text.contains("application/json"), "it names those there are: {text}");
            assert!(message.decode::<Number>().is_err());
        }
    }
    if let Err(error) = message.decode::<Number>() {
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.to_string().contains("(topic \"topic\""), "it names its place: {error}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        ("application/json", &b"7"[..]),
        ("Text/JSON; charset=utf-8", b"7"),
        ("application/msgpack", b"\x07"),
        ("application/x-msgpack", b"\xcd\x01\x00"),
        ("application/cbor", b"\x18\x64"),
        ("application/octet-stream", b"12"),
        ("", b"12"),
        (" ; ", b""),
        ("application/x-google-protobuf", b"\x08\x01"),
    ]
    .into_iter()
    .map(|(content_type, payload)| Seed::new().bytes(content_type).rest(payload))
    .collect()
}
