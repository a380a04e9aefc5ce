//! A structured CloudEvent of anybody's: it is taken or left as it was, and what was taken says the same when it is written
//! and read again.

use millstream::core::cloudevents::{attributes, is_structured, to_structured, unpack};
use millstream::{Bytes, Message};

use super::Target;
use crate::input::Seed;

pub(super) const TARGET: Target = Target::new("cloudevents", run, seeds);

const PREFIX: &str = "ce_";

fn run(data: &[u8]) {
    let mut message = Message::new("orders", Bytes::copy_from_slice(data)).with_header("own", "1");
    let before = message.clone();
    let _ = std::str::from_utf8(data).map(is_structured);
    if unpack(&mut message, PREFIX).is_err() {
        assert_eq!(message, before);
        return;
    }
    assert_eq!(message.headers.get_str("own"), Some("1"));
    assert!(message.headers.get_str("ce_specversion").is_some_and(|version| version.starts_with("1.")));
    // What it has, it does not get again.
    assert!(attributes(&message, "/fuzz", PREFIX).iter().all(|(name, _)| !before.headers.contains(name)));
    let written = to_structured(&message, "/fuzz", PREFIX).expect("it has data");
    let mut again = Message::new("orders", written);
    unpack(&mut again, PREFIX).expect("what was written is an event");
    assert_eq!((&again.data, &again.id), (&message.data, &message.id));
    // An event without a type of its data is written without one, as base64, and read so.
    if !message.content_type.is_empty() {
        assert_eq!(again.content_type, message.content_type);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","data":{"n":1.0}}"#,
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"text","x":5,"y":null,"z":true}"#,
        r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"a/b+JSON; q","data_base64":"aGk="}"#,
        r#"{"specversion":"1.1","datacontenttype":"text/plain","data":"\ud83d\ude00","data_base64":null}"#,
        r#"{"specversion":"0.3","data":[[[[]]]]}"#,
    ]
    .map(|event| event.as_bytes().to_vec())
    .into_iter()
    .chain([Seed::new().bytes("{").done()])
    .collect()
}
