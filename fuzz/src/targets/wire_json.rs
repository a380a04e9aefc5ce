//! A whole message as JSON under the Go toolkit's names: it is JSON whatever the message is, and says all that JSON
//! can.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millstream::Bytes;
use serde_json::Value;

use super::Target;
use super::message::hostile;
use crate::input::{Input, Seed};
use crate::wire::Wire;

pub(super) const TARGET: Target = Target::new("wire_json", run, seeds);

fn run(data: &[u8]) {
    let message = Input::new(data).message();
    let text = serde_json::to_string(&Wire::from(&message)).expect("it is JSON");
    let value: Value = serde_json::from_str(&text).expect("and can be read");
    assert_eq!(value["message_id"], *message.id);
    assert_eq!(value["stream_name"], *message.topic);
    assert_eq!(value["content_type"], *message.content_type);
    let text_of = |bytes: &Bytes| Value::from(String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(value["stream_key"], message.key.as_ref().map_or(Value::Null, text_of));
    match (&message.data, &value["data"]) {
        (None, data) => assert_eq!(*data, Value::Null),
        (Some(bytes), data) => {
            let decoded = STANDARD.decode(data.as_str().expect("text")).expect("base64");
            assert_eq!(decoded, bytes[..]);
        }
    }
    let headers = value["message_headers"].as_object().expect("an object");
    for (name, _) in message.headers.iter() {
        let last = message.headers.get(name);
        assert_eq!(headers[&**name], last.map_or(Value::Null, text_of), "{name}");
    }
    if let Some(time) = value["message_time"].as_str() {
        assert_eq!(humantime::parse_rfc3339(time), Ok(message.time));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    hostile().iter().map(|message| Seed::new().message(message).done()).collect()
}
