//! A line of `publish` as a message: JSON is published byte for byte under the key that its field holds, and what
//! is wrong with a line is said without repeating it.

use millstream::Bytes;
use serde_json::Value;

use super::Target;
use crate::input::{Input, Seed};
use crate::ours::lines::Line;
use crate::ours::payload::{Format, Maker};

pub(super) const TARGET: Target = Target::new("ndjson", run, seeds);

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let field = (kind & 2 != 0).then(|| input.text());
    let format = if kind & 1 == 0 { Format::Ndjson } else { Format::Lines };
    let bytes = input.rest();
    let maker = Maker { topic: "t".into(), format, key_field: field.clone() };
    let made = maker.message(&Line { number: 1, bytes: Bytes::copy_from_slice(bytes) });
    let message = match made {
        Ok(Some(message)) => message,
        Ok(None) => {
            assert!(format == Format::Ndjson && bytes.iter().all(u8::is_ascii_whitespace));
            return;
        }
        Err(why) => return is_told(&why, field.as_deref(), bytes),
    };
    assert_eq!(message.data.as_deref(), Some(bytes));
    if format == Format::Lines {
        assert_eq!(message.key, None);
        return;
    }
    // Numbers out of this parser's range are JSON as well.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    match (&field, &message.key) {
        (None, key) => assert_eq!(*key, None),
        (Some(field), Some(key)) => match &value[field.as_str()] {
            Value::String(text) => assert_eq!(&key[..], text.as_bytes()),
            Value::Bool(truth) => assert_eq!(&key[..], truth.to_string().as_bytes()),
            Value::Number(_) => assert!(key.iter().all(|b| b"+-.eE0123456789".contains(b)), "{key:?}"),
            other => panic!("the key of {other} is {key:?}"),
        },
        (Some(field), None) => panic!("{field} has no key in {value}"),
    }
}

/// A payload may hold secrets: no run of its letters is repeated.
fn is_told(why: &str, field: Option<&str>, bytes: &[u8]) {
    const SECRET: usize = 12;
    // What every error says that is about other lines than this one, and what the parser says of any.
    let said = [
        &format!("{:?}", field.unwrap_or_default())[..],
        "is JSON, and no object that could have a key field",
    ]
    .into_iter()
    .chain(["has no field ", " for the key", "has a field ", " that is neither a text nor a number"])
    .chain(["is not UTF-8: byte ", " is wrong", "is no JSON: ", " that is null, which is no key"])
    .fold(why.to_owned(), |why, words| why.replace(words, "\u{1}"));
    let said = said.split('\u{1}').filter(|part| !PARSER.iter().any(|words| part.starts_with(words)));
    for part in said {
        assert!(
            part.len() < SECRET || !bytes.windows(part.len()).any(|window| window == part.as_bytes()),
            "{why:?} repeats {part:?}"
        );
    }
}

/// How the errors of the parser begin.
const PARSER: &[&str] = &[
    "EOF while parsing",
    "control character",
    "expected",
    "invalid",
    "key must be",
    "lone leading",
    "number out",
    "recursion limit",
    "trailing",
    "unexpected end",
];

fn seeds() -> Vec<Vec<u8>> {
    let fields = [
        r#"{"x": {"id": "no"}, "id": "a\u00e4\"b"}"#,
        r#"{"id": 12345678901234567890123}"#,
        r#"{"id": 1.50, "id": true, "rest": []}"#,
        r#"{"i\u0064": ""}"#,
        r#"{"id": "\ud800"}"#,
        r#"{"id": null}"#,
        r#"[{"id": [1]}]"#,
        "\"a secret of many letters\"",
        "{\"id\": 1} and a secret of many letters",
    ];
    let mut all: Vec<_> = fields.iter().map(|json| Seed::new().byte(2).bytes("id").rest(json)).collect();
    all.extend(fields.iter().map(|json| Seed::new().byte(0).rest(json)));
    all.push(Seed::new().byte(0).rest(" \t\r"));
    all.push(Seed::new().byte(1).rest([0xff, 0]));
    all
}
