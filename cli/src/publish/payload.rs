//! What a line is as a message: a JSON document with a key out of it, or text.

use std::borrow::Cow;

use clap::ValueEnum;
use millstream::{ByteString, Bytes, Message};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lines::Line;

/// How an input is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Each line is a JSON document; blank lines are left out
    Ndjson,
    /// Each line is a text
    Lines,
}

/// Makes messages of lines.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) topic: ByteString,
    pub(crate) format: Format,
    /// The field that holds the key.
    pub(crate) key_field: Option<String>,
}

impl Maker {
    /// The message of a line; none for a blank one.
    ///
    /// # Errors
    /// What is wrong with the line, without repeating it: a payload may hold secrets.
    pub(crate) fn message(&self, line: &Line) -> Result<Option<Message>, String> {
        let message = Message::new(self.topic.clone(), line.bytes.clone());
        match self.format {
            Format::Lines => Ok(Some(message.with_content_type(ByteString::from_static("text/plain")))),
            Format::Ndjson if line.bytes.iter().all(u8::is_ascii_whitespace) => Ok(None),
            Format::Ndjson => {
                let message = message.with_content_type(ByteString::from_static("application/json"));
                Ok(Some(match self.key(&line.bytes)? {
                    Some(key) => message.with_key(key),
                    None => message,
                }))
            }
        }
    }

    /// Checks that it is JSON, and takes the key out of it.
    fn key(&self, bytes: &[u8]) -> Result<Option<Bytes>, String> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| format!("is not UTF-8: byte {} is wrong", error.valid_up_to() + 1))?;
        let Some(field) = &self.key_field else {
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| not_json(&error))?;
            return Ok(None);
        };
        let mut json = serde_json::Deserializer::from_str(text);
        let found = match json.deserialize_any(FieldOf(field)) {
            Ok(found) => found,
            // JSON that is no object is one kind of mistake, what is no JSON another.
            Err(error) if error.is_data() => {
                return Err("is JSON, and no object that could have a key field".to_owned());
            }
            Err(error) => return Err(not_json(&error)),
        };
        json.end().map_err(|error| not_json(&error))?;
        let value = found.ok_or_else(|| format!("has no field {field:?} for the key"))?;
        match value.get().as_bytes().first() {
            Some(b'"') => {
                let text = Cow::<'_, str>::deserialize(value).map_err(|error| not_json(&error))?;
                Ok(Some(Bytes::from(text.into_owned())))
            }
            Some(b'{' | b'[') => Err(format!("has a field {field:?} that is neither a text nor a number")),
            Some(b'n') | None => Err(format!("has a field {field:?} that is null, which is no key")),
            // As it is written: 1 and 1.0 are two keys, and no digit is lost.
            Some(_) => Ok(Some(Bytes::copy_from_slice(value.get().as_bytes()))),
        }
    }
}

fn not_json(error: &serde_json::Error) -> String {
    // Its text would say "line 1" of a line whose number is said already.
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("is no JSON: {what} at column {}", error.column())
}

/// Finds the last value of a field at the top.
struct FieldOf<'f>(&'f str);

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(
        format: Format,
        key_field: Option<&str>,
        bytes: &'static [u8],
    ) -> Result<Option<Message>, String> {
        let maker = Maker { topic: "orders".into(), format, key_field: key_field.map(str::to_owned) };
        maker.message(&Line { number: 1, bytes: Bytes::from_static(bytes) })
    }

    fn key(json: &'static str) -> Result<String, String> {
        let message = made(Format::Ndjson, Some("id"), json.as_bytes())?.unwrap();
        Ok(String::from_utf8(message.key.unwrap().to_vec()).unwrap())
    }

    #[test]
    fn a_document_is_published_byte_for_byte() {
        let bytes = b"  {\"b\" : 1,  \"a\": 1.50}";
        let message = made(Format::Ndjson, None, bytes).unwrap().unwrap();
        assert_eq!(message.data.as_deref(), Some(&bytes[..]));
        assert_eq!((&*message.content_type, message.key), ("application/json", None));
    }

    #[test]
    fn any_line_is_a_text_and_a_blank_line_is_no_document() {
        let message = made(Format::Lines, None, b"").unwrap().unwrap();
        assert_eq!((&*message.content_type, message.data.as_deref()), ("text/plain", Some(&b""[..])));
        assert_eq!(made(Format::Ndjson, Some("id"), b" \t").unwrap(), None);
    }

    #[test]
    fn the_key_is_the_text_of_a_top_level_field() {
        assert_eq!(key(r#"{"x": {"id": "no"}, "id": "a\u00e4\"b"}"#).as_deref(), Ok("aä\"b"));
        assert_eq!(key(r#"{"id": 12345678901234567890123}"#).as_deref(), Ok("12345678901234567890123"));
        assert_eq!(key(r#"{"id": true, "rest": []}"#).as_deref(), Ok("true"));
        assert_eq!(key(r#"{"id": 1, "id": 2}"#).as_deref(), Ok("2"));
        assert_eq!(key(r#"{"i\u0064": ""}"#).as_deref(), Ok(""));
    }

    #[test]
    fn a_document_without_a_usable_key_says_why() {
        assert_eq!(key(r#"{"ids": 1}"#).unwrap_err(), "has no field \"id\" for the key");
        assert!(key(r#"{"id": null}"#).unwrap_err().contains("null"));
        assert!(key(r#"{"id": [1]}"#).unwrap_err().contains("neither a text nor a number"));
        assert!(key("[1]").unwrap_err().contains("no object"));
        assert!(key("\"id\"").unwrap_err().contains("no object"));
    }

    #[test]
    fn what_is_no_json_says_at_which_column_and_does_not_repeat_it() {
        for field in [None, Some("id")] {
            for bytes in
                [&b"{\"id\": 1, secret}"[..], b"{\"id\": 1} secret", b"{\"id\": 1", b"{\"id\": 1\xff}"]
            {
                let error = made(Format::Ndjson, field, Box::leak(bytes.into())).unwrap_err();
                assert!(error.starts_with("is no"), "{error}");
                assert!(!error.contains("secret") && !error.contains("line 1"), "{error}");
            }
        }
        let error = made(Format::Ndjson, None, b"{\"id\": 1, secret}").unwrap_err();
        assert!(error.contains("column 11"), "{error}");
    }
}
