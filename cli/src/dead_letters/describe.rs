//! A dead letter for people and as JSON.

use std::fmt::Write as _;

use millstream::DeadLetter;
use serde::Serialize;

use crate::text::{self, Side, Table};
use crate::wire::Wire;

/// Characters of an error that a list shows.
const ERROR: usize = 80;
/// Characters of a key that a list shows.
const KEY: usize = 32;

/// What `--json` prints of a letter.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    id: Option<u64>,
    message_id: &'a str,
    class: Option<&'a str>,
    error: Option<&'a str>,
    error_type: Option<&'a str>,
    topic: Option<&'a str>,
    partition: Option<u32>,
    offset: Option<u64>,
    key: Option<String>,
    group: Option<&'a str>,
    handler: Option<&'a str>,
    attempts: Option<u32>,
    deliveries: Option<u32>,
    first_failure: Option<String>,
    last_failure: Option<String>,
    app: Option<&'a str>,
    version: Option<&'a str>,
    host: Option<&'a str>,
    redrive_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Wire<'a>>,
}

impl<'a> Document<'a> {
    /// All but the message itself.
    pub(crate) fn brief(letter: &'a DeadLetter) -> Self {
        Self {
            id: letter.id,
            message_id: &letter.message.id,
            class: letter.class.as_deref(),
            error: letter.error.as_deref(),
            error_type: letter.error_type.as_deref(),
            topic: letter.topic.as_deref(),
            partition: letter.partition,
            offset: letter.offset,
            key: letter.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned()),
            group: letter.group.as_deref(),
            handler: letter.handler.as_deref(),
            attempts: letter.attempts,
            deliveries: letter.deliveries,
            first_failure: letter.first_failure.and_then(text::exact_time),
            last_failure: letter.last_failure.and_then(text::exact_time),
            app: letter.app.as_deref(),
            version: letter.version.as_deref(),
            host: letter.host.as_deref(),
            redrive_count: letter.redrive_count,
            message: None,
        }
    }

    /// With the message, its headers and its payload.
    pub(crate) fn full(letter: &'a DeadLetter) -> Self {
        Self { message: Some(Wire::from(&letter.message)), ..Self::brief(letter) }
    }
}

/// The columns of a list.
pub(crate) fn table() -> Table<7> {
    Table::new([
        ("ID", Side::Right),
        ("LAST FAILURE", Side::Left),
        ("CLASS", Side::Left),
        ("GROUP", Side::Left),
        ("ATTEMPTS", Side::Right),
        ("KEY", Side::Left),
        ("ERROR", Side::Left),
    ])
}

/// A letter's cells in it.
pub(crate) fn row(id: u64, letter: &DeadLetter) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let short = |text: &str| text::line(text.as_bytes());
    [
        id.to_string(),
        or_dash(letter.last_failure.map(text::time)),
        or_dash(letter.class.as_deref().map(short)),
        or_dash(letter.group.as_deref().map(short)),
        or_dash(letter.attempts.map(|n| n.to_string())),
        or_dash(letter.key.as_deref().map(|key| text::cut(&text::line(key), KEY))),
        or_dash(
            letter.error.as_deref().map(|error| text::cut(&short(error.lines().next().unwrap_or("")), ERROR)),
        ),
    ]
}

/// All that is known of a letter, in lines.
pub(crate) fn whole(id: u64, letter: &DeadLetter) -> String {
    let message = &letter.message;
    let mut all = format!("dead letter {id}\n");
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a string cannot fail.
            let _ = writeln!(all, "  {name:<14}{value}");
        }
    };
    let short = |text: &str| text::line(text.as_bytes());
    fact("message", Some(short(&message.id)));
    fact("topic", letter.topic.as_deref().map(short));
    fact(
        "position",
        letter.offset.map(|offset| match letter.partition {
            Some(partition) if partition > 0 => format!("{offset} of partition {partition}"),
            _ => offset.to_string(),
        }),
    );
    fact("key", letter.key.as_deref().map(text::line));
    fact("published", Some(text::time(message.time)));
    fact("group", letter.group.as_deref().map(short));
    fact("handler", letter.handler.as_deref().map(short));
    fact("class", letter.class.as_deref().map(short));
    fact("attempts", letter.attempts.map(|n| n.to_string()));
    fact("deliveries", letter.deliveries.map(|n| n.to_string()));
    fact("first failure", letter.first_failure.map(text::time));
    fact("last failure", letter.last_failure.map(text::time));
    fact("redriven", (letter.redrive_count > 0).then(|| text::count(letter.redrive_count.into(), "time")));
    fact("program", program(letter));
    fact("error type", letter.error_type.as_deref().map(short));
    if let Some(error) = &letter.error {
        all.push_str("error\n");
        indent(&mut all, &text::lines(error.as_bytes()));
    }
    if !message.headers.is_empty() {
        all.push_str("headers\n");
        for (name, value) in message.headers.iter() {
            let value = value.map_or_else(|| "(null)".to_owned(), |value| text::line(value));
            let _ = writeln!(all, "  {}: {value}", text::line(name.as_bytes()));
        }
    }
    match &message.data {
        None => all.push_str("no payload: a tombstone"),
        Some(data) => {
            let what = match &*message.content_type {
                "" => "no content type".to_owned(),
                content_type => short(content_type),
            };
            let _ = writeln!(all, "payload ({what}, {})", text::count(data.len() as u64, "byte"));
            indent(&mut all, &text::lines(data));
        }
    }
    all.truncate(all.trim_end().len());
    all
}

fn program(letter: &DeadLetter) -> Option<String> {
    let short = |text: &str| text::line(text.as_bytes());
    let mut program = short(letter.app.as_deref()?);
    if let Some(version) = &letter.version {
        let _ = write!(program, " {}", short(version));
    }
    if let Some(host) = &letter.host {
        let _ = write!(program, " on {}", short(host));
    }
    Some(program)
}

fn indent(all: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(all, "  {line}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use millstream::{Message, names};

    use super::*;

    fn letter() -> DeadLetter {
        let message = Message::new("orders.dlq", "{\"n\":\x1b1}")
            .with_id("m-7")
            .with_key("customer-1")
            .with_time(UNIX_EPOCH)
            .with_content_type("application/json")
            .with_header("tenant", "acme")
            .with_header(names::DL_CLASS, "exhausted")
            .with_header(names::DL_ERROR, "it failed\nthe disk is full")
            .with_header(names::DL_GROUP, "billing")
            .with_header(names::DL_ATTEMPTS, "10");
        DeadLetter::parse(message)
    }

    #[test]
    fn a_list_shows_the_first_line_of_an_error_and_a_dash_for_what_is_not_known() {
        let mut table = table();
        table.row(row(7, &letter()));
        assert_eq!(
            table.take(),
            [
                "ID  LAST FAILURE  CLASS      GROUP    ATTEMPTS  KEY         ERROR",
                " 7  -             exhausted  billing        10  customer-1  it failed",
            ]
        );
    }

    #[test]
    fn a_letter_is_shown_with_its_chain_of_errors_its_headers_and_its_payload() {
        let text = whole(7, &letter());
        for part in [
            "dead letter 7\n  message       m-7\n",
            "  class         exhausted\n",
            "error\n  it failed\n  the disk is full\n",
            "headers\n  tenant: acme\n  millstream-dl-class: exhausted\n",
            "payload (application/json, 8 bytes)\n  {\"n\":\\u{1b}1}",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn the_document_of_a_list_leaves_the_payload_out() {
        let letter = letter();
        let brief = serde_json::to_value(Document::brief(&letter)).unwrap();
        assert_eq!((&brief["class"], brief.get("message")), (&"exhausted".into(), None));
        let full = serde_json::to_value(Document::full(&letter)).unwrap();
        assert_eq!(full["message"]["message_headers"]["tenant"], "acme");
    }
}
