//! A `sqlite://` URL's path and parameters: what is wrong is refused before anything is opened, and with its name.

use std::fmt::Write as _;

use millstream::ErrorKind;
use millstream_sqlite::SqliteStore;

use super::{Target, wait_for_real};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("sqlite_url", run, seeds);

const PARAMETERS: [&str; 6] =
    ["create", "lease", "busy_timeout", "retention_age", "retention_size", "max_message"];

/// Below this nothing is: no URL of this target opens a file.
const NOWHERE: &str = "sqlite:///nowhere-at-all/";

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let parameters = input.byte();
    let mut url = NOWHERE.to_owned();
    encode(&mut url, &input.text());
    for n in 0..parameters % 4 {
        let name = match usize::from(input.byte()) {
            known if known < 200 => PARAMETERS[known % PARAMETERS.len()].to_owned(),
            _ => input.text(),
        };
        url.push(if n == 0 { '?' } else { '&' });
        encode(&mut url, &name);
        url.push('=');
        encode(&mut url, &input.text());
    }
    let error = wait_for_real(SqliteStore::connect(&url)).expect_err("there is no such folder");
    // Of what is no setting, and of the folder.
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::NotFound), "{url}: {error:?}");
    let text = error.to_string();
    assert!(error.context().fix.is_some(), "it says what to do: {text}");
}

fn encode(url: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'/' {
            url.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let one = |path: &str, parameter: u8, value: &str| {
        Seed::new().byte(1).bytes(path).byte(parameter).bytes(value).done()
    };
    vec![
        one("app.db", 0, "never"),
        one("app.db", 0, "sometimes"),
        one("data/app.db", 1, "5s"),
        one("app.db", 2, "1h 1ns"),
        one("app.db", 3, "forever"),
        one("app.db", 3, "584942417355y"),
        one("app.db", 4, "18446744073709551615"),
        one("app.db", 5, "0"),
        one("a\0b", 1, "-1s"),
        one("../:memory:", 5, "1"),
        Seed::new().byte(1).bytes("x").byte(255).bytes("no such").bytes("x").done(),
        Seed::new().byte(3).bytes("x").byte(1).bytes("1s").byte(1).bytes("2s").byte(2).bytes("1s").done(),
    ]
}
