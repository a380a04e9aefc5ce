//! Given `#[derive(Event)]`: what the impl says.

#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::sync::Arc;

use millstream::{AsKey, Bytes, Event, Headers, Message};
use serde::{Deserialize, Serialize};

fn key_of(event: &impl Event) -> Option<String> {
    event.key().map(|key| String::from_utf8(key.into_owned()).unwrap())
}

fn headers_of(event: &impl Event) -> Headers {
    let mut headers = Headers::new();
    event.headers(&mut headers);
    headers
}

#[derive(Event, Serialize, Deserialize)]
struct Plain {}

#[test]
fn without_attributes_there_is_nothing_but_the_format() {
    assert_eq!((Plain::TOPIC, Plain::TYPE, Plain::VERSION), (None, None, None));
    assert_eq!(key_of(&Plain {}), None);
    assert!(headers_of(&Plain {}).is_empty());
}

#[derive(Event, Serialize, Deserialize)]
#[event(
    topic = "orders.paid",
    key = "order",
    type = "Paid",
    version = 2,
    headers(kind = "payment", tenant, "x-amount" = self.cents / 100, note = note),
)]
struct Paid {
    order: u64,
    tenant: String,
    cents: u64,
    note: Option<String>,
}

#[test]
fn every_attribute_finds_its_place() {
    let paid = Paid { order: 7, tenant: "acme".into(), cents: 1_200, note: None };
    assert_eq!((Paid::TOPIC, Paid::TYPE, Paid::VERSION), (Some("orders.paid"), Some("Paid"), Some(2)));
    assert_eq!(key_of(&paid).as_deref(), Some("7"));
    let headers = headers_of(&paid);
    assert_eq!(headers.get_str("kind"), Some("payment"));
    assert_eq!(headers.get_str("tenant"), Some("acme"));
    assert_eq!(headers.get_str("x-amount"), Some("12"));
    assert!(!headers.contains("note"), "none is no header");
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = format!("{}/{}", self.region, self.shop))]
struct Composed {
    region: String,
    shop: u32,
}

#[test]
fn a_key_can_be_an_expression() {
    assert_eq!(key_of(&Composed { region: "eu".into(), shop: 3 }).as_deref(), Some("eu/3"));
}

#[derive(Serialize, Deserialize)]
struct Inner {
    id: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = self.inner.id)]
struct Nested {
    inner: Inner,
}

#[test]
fn a_key_inside_of_a_field_is_borrowed() {
    let nested = Nested { inner: Inner { id: "7".into() } };
    assert!(matches!(nested.key(), Some(std::borrow::Cow::Borrowed(b"7"))));
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = "0")]
struct Tuple(Option<String>);

#[test]
fn a_field_can_be_a_number_and_none_is_unkeyed() {
    assert_eq!(key_of(&Tuple(Some("a".into()))).as_deref(), Some("a"));
    assert_eq!(key_of(&Tuple(None)), None);
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "shapes", key = match self { Self::Circle { id } | Self::Square { id } => id })]
enum Shape {
    Circle { id: String },
    Square { id: String },
}

#[test]
fn an_enum_has_a_key_by_an_expression() {
    assert_eq!(key_of(&Shape::Circle { id: "c".into() }).as_deref(), Some("c"));
    assert_eq!(key_of(&Shape::Square { id: "s".into() }).as_deref(), Some("s"));
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "wrapped", key = "key")]
struct Wrapped<T: Clone, const N: usize>
where
    T: Default,
{
    key: String,
    value: T,
}

#[test]
fn generics_keep_their_bounds() {
    let wrapped = Wrapped::<u8, 3> { key: "k".into(), value: 1 };
    assert_eq!(Wrapped::<u8, 3>::TOPIC, Some("wrapped"));
    assert_eq!(key_of(&wrapped).as_deref(), Some("k"));
    assert_eq!(wrapped.value, 1);
}

#[derive(Event)]
#[event(topic = "raw", format = "raw")]
struct Raw(Bytes);

impl AsRef<[u8]> for Raw {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Raw {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

#[test]
fn raw_bytes_are_an_event() {
    assert_eq!(Message::new("raw", "abc").decode::<Raw>().unwrap().0, "abc");
}

#[cfg(feature = "protobuf")]
mod protobuf {
    use super::*;

    #[derive(Event, Clone, PartialEq, prost::Message)]
    #[event(topic = "orders", key = "order", format = "protobuf")]
    struct Ordered {
        #[prost(string, tag = "1")]
        order: String,
    }

    #[test]
    fn a_prost_message_is_an_event() {
        let bytes = prost::Message::encode_to_vec(&Ordered { order: "7".into() });
        let message = Message::new("orders", bytes).with_content_type("application/x-protobuf");
        assert_eq!(message.decode::<Ordered>().unwrap().order, "7");
    }
}

mod renamed {
    use millstream as toolkit;

    #[derive(toolkit::Event, serde::Serialize, serde::Deserialize)]
    #[event(topic = "t", crate = toolkit)]
    pub(super) struct Elsewhere {}
}

#[test]
fn the_toolkit_may_have_another_name() {
    assert_eq!(renamed::Elsewhere::TOPIC, Some("t"));
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = "r#type")]
struct Keyword {
    r#type: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(key = "type")]
struct BareKeyword {
    r#type: String,
}

#[test]
fn a_field_named_by_a_keyword_is_found() {
    assert_eq!(key_of(&Keyword { r#type: "a".into() }).as_deref(), Some("a"));
    assert_eq!(key_of(&BareKeyword { r#type: "b".into() }).as_deref(), Some("b"));
}

#[test]
fn text_bytes_numbers_and_pointers_are_keys() {
    fn bytes(key: &impl AsKey) -> Vec<u8> {
        key.as_key().unwrap().into_owned()
    }
    assert_eq!(bytes(&"a"), b"a");
    assert_eq!(bytes(&vec![1, 2]), [1, 2]);
    assert_eq!(bytes(&-5i32), b"-5");
    assert_eq!(bytes(&Some(Box::new(Arc::<str>::from("x")))), b"x");
    assert_eq!(bytes(&[7u8; 2]), [7, 7]);
    assert_eq!(bytes(&millstream::ByteString::from_static("b")), b"b");
}

/// A crate of events that several services share needs the contract only.
#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "shared", key = "id", crate = millstream_core)]
struct OnCoreAlone {
    id: u32,
}

#[test]
fn an_event_needs_no_more_than_the_core() {
    assert_eq!(key_of(&OnCoreAlone { id: 7 }).as_deref(), Some("7"));
}
