//! A line of an object as a message, whoever wrote it: what is read is written and read again as the same, and any message
//! is a line of its own that comes back without loss.

use millstream::ErrorKind;

use super::Target;
use super::message::hostile;
use crate::input::{Input, Seed};
use crate::ours::object_line::{decode, encode};

pub(super) const TARGET: Target = Target::new("object_line", run, seeds);

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let read = match input.byte() & 1 {
        0 => {
            let mut message = input.message();
            message.deliver_at = None;
            let line = encode(&message).expect("there is no message that it refuses");
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "a line is one line");
            let came = decode(&line).expect("what was written can be read");
            if has_time(&message) {
                assert_eq!(came.time, message.time);
            }
            message.time = came.time;
            assert_eq!(came, message);
            came
        }
        _ => match decode(input.rest()) {
            Ok(message) => message,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                return;
            }
        },
    };
    let again = decode(&encode(&read).expect("written again")).expect("read again");
    assert_eq!(again, read);
}

/// Text has room for the years 1970 to 9999.
fn has_time(message: &millstream::Message) -> bool {
    const LAST: u64 = 253_402_300_799;
    message.time.duration_since(std::time::UNIX_EPOCH).is_ok_and(|since| since.as_secs() <= LAST)
}

fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"stream_name": "t"}"#,
        r#"{"message_id": "1", "stream_name": "t", "stream_key": "k", "message_headers": {"a": "b", "a": null},
            "content_type": "application/json", "data": "e30=", "message_time": "2026-11-28T12:00:00.000Z"}"#,
        r#"{"stream_name": "t", "stream_key": "?", "stream_key_base64": "/w==", "message_headers": null,
            "message_headers_base64": [["a", "/w=="], ["a", null]], "data": "", "message_time": "1969-01-01T00:00:00Z"}"#,
        r#"{"stream_name": "t", "data": "%"}"#,
        "[]",
    ];
    let read = lines.iter().map(|line| Seed::new().byte(1).rest(line));
    read.chain(hostile().iter().map(|message| Seed::new().byte(0).message(message).done())).collect()
}
