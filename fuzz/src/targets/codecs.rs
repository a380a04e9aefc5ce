//! Each codec on any bytes: what decodes encodes to something that decodes to the same, and a codec that is called
//! without its type says the same as one that is called by it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use millstream::codec::{Cbor, Json, MsgPack};
use millstream::{ByteString, Codec, Codecs, ErrorKind, Event, Message, Result, event};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Target;

pub(super) const JSON: Target = Target::new("codec_json", |data| run(Json, data), || seeds(Json));
pub(super) const MSGPACK: Target = Target::new("codec_msgpack", |data| run(MsgPack, data), || seeds(MsgPack));
pub(super) const CBOR: Target = Target::new("codec_cbor", |data| run(Cbor, data), || seeds(Cbor));
pub(super) const RAW: Target = Target::new("codec_raw", raw, || vec![b"bytes".to_vec(), Vec::new()]);

/// An event with everything that a field can be, and floats apart: not a number is not itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Everything {
    text: String,
    small: i8,
    large: u64,
    larger: Option<i64>,
    truth: bool,
    letter: char,
    list: Vec<u32>,
    lists: Vec<Vec<String>>,
    map: BTreeMap<String, i32>,
    pair: (u8, String),
    choice: Choice,
    inner: Option<Box<Self>>,
    #[serde(default, with = "blob")]
    blob: Vec<u8>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Choice {
    Nothing,
    One(u16),
    Two(String, bool),
    Named { left: String, right: Option<u8> },
}

/// A field of bytes, as a codec that has bytes writes it.
mod blob {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Blob;
        impl<'de> Visitor<'de> for Blob {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
            // JSON has no bytes.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Blob)
    }
}

impl Event for Everything {
    type Format = event::Serde;
}

/// Anything that describes itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Anything(Value);

impl Event for Anything {
    type Format = event::Serde;
}

/// A codec as a user's own is: called through the trait alone.
#[derive(Debug)]
struct Erased<C>(C);

impl<C: Codec> Codec for Erased<C> {
    fn content_type(&self) -> ByteString {
        self.0.content_type()
    }
    fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut BytesMut) -> Result<()> {
        self.0.encode(value, out)
    }
    fn decode(
        &self,
        data: &[u8],
        visit: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> erased_serde::Result<()>,
    ) -> Result<()> {
        self.0.decode(data, visit)
    }
}

fn run<C: Codec + Copy>(codec: C, data: &[u8]) {
    comes_back::<Everything, C>(codec, data, |_| true);
    // cbor4ii writes Serde's unit, and so the null of a `Value`, as an empty array.
    let whole = |value: &Anything| !codec.reads("application/cbor") || !holds_null(&value.0);
    comes_back::<Anything, C>(codec, data, whole);
}

fn holds_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(holds_null),
        Value::Object(map) => map.values().any(holds_null),
        _ => false,
    }
}

/// What decodes comes back, if it is `whole`.
fn comes_back<E, C>(codec: C, data: &[u8], whole: impl Fn(&E) -> bool)
where
    E: Event<Format = event::Serde> + Serialize + DeserializeOwned + PartialEq + Debug,
    C: Codec + Copy,
{
    let message = Message::new("topic", Bytes::copy_from_slice(data)).with_content_type(codec.content_type());
    let direct = Codecs::new(codec);
    let erased = Codecs::new(Erased(codec));
    let decoded: Result<E> = message.decode_with(&direct);
    // Through `erased_serde` an error is wrapped anew at each level of nesting, and cbor4ii quotes what it wraps: its
    // text doubles with each. Not deeper, then.
    let deep = data.iter().filter(|byte| (0x80..=0xbf).contains(*byte)).count() > 4;
    if deep && codec.reads("application/cbor") {
        return;
    }
    let through: Result<E> = message.decode_with(&erased);
    match (&decoded, &through) {
        (Ok(one), Ok(other)) => assert_eq!(one, other, "erased, it is another value"),
        (Err(_), Err(_)) => {}
        _ => panic!("by its type {decoded:?}, erased {through:?}"),
    }
    let event = match decoded {
        Ok(event) => event,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
            assert!(error.to_string().contains("\"topic\""), "it names its place: {error}");
            return;
        }
    };
    for codecs in [&direct, &erased] {
        let mut out = BytesMut::new();
        let content_type = <event::Serde as event::Format<E>>::encode(&event, codecs, &mut out)
            .expect("what decoded encodes");
        let again = Message::new("topic", out.freeze()).with_content_type(content_type);
        let again: E = again.decode_with(codecs).expect("what was encoded decodes");
        assert!(again == event || !whole(&event), "{again:?} was {event:?}");
    }
}

/// Bytes that are an event already.
#[derive(Debug)]
struct Blob(Bytes);

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Event for Blob {
    type Format = event::Raw;
}

fn raw(data: &[u8]) {
    // Whatever it says that it is.
    let content_type = String::from_utf8_lossy(&data[..data.len().min(16)]).into_owned();
    let message = Message::new("topic", Bytes::copy_from_slice(data)).with_content_type(content_type);
    let event: Blob = message.decode().expect("any bytes are bytes");
    let mut out = BytesMut::new();
    <event::Raw as event::Format<Blob>>::encode(&event, Codecs::built_in(), &mut out).expect("and encode");
    assert_eq!(out, data);
}

fn seeds<C: Codec>(codec: C) -> Vec<Vec<u8>> {
    let codecs = Codecs::new(codec);
    let plain = || Everything {
        text: "né \"x\" 🦀".into(),
        small: -7,
        large: u64::MAX,
        larger: Some(i64::MIN),
        truth: true,
        letter: 'ß',
        list: vec![0, 1, 127, 128, 255, 256, 65_535, 65_536, u32::MAX],
        lists: vec![vec![], vec!["a".into(), String::new()]],
        map: [("a".into(), -1), (String::new(), 70_000)].into(),
        pair: (3, "p".into()),
        choice: Choice::Nothing,
        inner: None,
        blob: vec![0, 255],
    };
    let choices = [
        Choice::One(9),
        Choice::Two("t".into(), false),
        Choice::Named { left: "l".into(), right: Some(1) },
        Choice::Named { left: String::new(), right: None },
    ];
    let mut all: Vec<Vec<u8>> = choices
        .into_iter()
        .map(|choice| encoded(&Everything { choice, inner: Some(Box::new(plain())), ..plain() }, &codecs))
        .collect();
    let json = r#"{"a":[1,-1,1.5,1e300,null,true,"\u00e4\n"],"b":{"c":{"d":[[[]]]}},"":0}"#;
    all.extend(serde_json::from_str(json).ok().map(|value| encoded(&Anything(value), &codecs)));
    all
}

fn encoded<E: Serialize + DeserializeOwned>(event: &E, codecs: &Codecs) -> Vec<u8> {
    let mut out = BytesMut::new();
    let encoded = <event::Serde as event::Format<E>>::encode(event, codecs, &mut out);
    encoded.map(|_| out.to_vec()).unwrap_or_default()
}
