//! The unit of transport and the limits it is held to.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use bytestring::ByteString;

use crate::{Codecs, Error, ErrorKind, Event, Format, Headers, Result};

/// What travels: an id, a topic, an optional key, headers, a content type, bytes and a time.
///
/// Absent and empty differ for `key` and `data`, and both survive every driver: a message without data is a
/// tombstone. Cloning shares the bytes.
///
/// ```
/// use millstream_core::Message;
/// let message = Message::new("orders", "{}").with_id("1").with_key("customer-7");
/// assert_eq!(message.key.as_deref(), Some(&b"customer-7"[..]));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Unique to this message; the same on every redelivery, retry and redrive. Empty: none was given.
    pub id: ByteString,
    /// Where it goes or came from.
    pub topic: ByteString,
    /// Messages of one key are handled in order. Absent or empty: unkeyed.
    pub key: Option<Bytes>,
    /// Everything beside the payload.
    pub headers: Headers,
    /// What the bytes are, such as `application/json`. Empty: not said; the default codec is tried.
    pub content_type: ByteString,
    /// The payload; `None` is a tombstone.
    pub data: Option<Bytes>,
    /// When it was published, by the publisher's wall clock.
    pub time: SystemTime,
    /// Not before this time is it delivered, where the driver can delay. `None`: at once.
    pub deliver_at: Option<SystemTime>,
}

impl Message {
    /// A message with a topic and bytes, and nothing else. Its time is the Unix epoch: the publisher sets it.
    pub fn new(topic: impl Into<ByteString>, data: impl Into<Bytes>) -> Self {
        Self {
            id: ByteString::new(),
            topic: topic.into(),
            key: None,
            headers: Headers::new(),
            content_type: ByteString::new(),
            data: Some(data.into()),
            time: UNIX_EPOCH,
            deliver_at: None,
        }
    }

    /// A message without data.
    pub fn tombstone(topic: impl Into<ByteString>) -> Self {
        Self { data: None, ..Self::new(topic, Bytes::new()) }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<ByteString>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets the content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<ByteString>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Sets the time.
    #[must_use]
    pub fn with_time(mut self, time: SystemTime) -> Self {
        self.time = time;
        self
    }

    /// Sets the time before which it is not delivered.
    #[must_use]
    pub fn with_deliver_at(mut self, at: SystemTime) -> Self {
        self.deliver_at = Some(at);
        self
    }

    /// The key for ordering: none if it is absent or empty.
    #[must_use]
    pub fn lane_key(&self) -> Option<&Bytes> {
        self.key.as_ref().filter(|k| !k.is_empty())
    }

    /// The event's type as its header says it.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.headers.get_str(crate::names::TYPE)
    }

    /// Bytes of payload, key, id, content type and headers: what budgets count.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.as_ref().map_or(0, Bytes::len)
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.id.len()
            + self.content_type.len()
            + self.headers.size()
    }

    /// Decodes the payload by the message's own content type, with the built-in codecs.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if the bytes are not such an event, or no codec knows the content type.
    pub fn decode<E: Event>(&self) -> Result<E> {
        self.decode_with(Codecs::built_in())
    }

    /// The same with codecs of your own.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_with<E: Event>(&self, codecs: &Codecs) -> Result<E> {
        E::Format::decode(self.data.as_ref(), &self.content_type, codecs).map_err(|e| self.locate(e))
    }

    /// Adds this message's topic and key to an error.
    #[must_use]
    pub fn locate(&self, error: Error) -> Error {
        let error = error.topic(&*self.topic);
        match self.lane_key() {
            Some(key) => error.key(key.clone()),
            None => error,
        }
    }
}

impl fmt::Debug for Message {
    // Payloads may hold secrets: their size is shown, never their bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("key", &self.key)
            .field("content_type", &self.content_type)
            .field("headers", &self.headers)
            .field("data_len", &self.data.as_ref().map(Bytes::len))
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

/// What a message may be at most. The publisher refuses what breaks them, before any driver sees it.
///
/// The figures for headers are chosen so that a message within them fits every broker served here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Payload bytes. Default 1 MiB.
    pub payload: usize,
    /// Number of headers. Default 128.
    pub headers: usize,
    /// Bytes of one header's name. Default 256.
    pub header_name: usize,
    /// Bytes of all headers' names and values. Default 32 KiB.
    pub header_bytes: usize,
    /// Bytes of a topic's name. Default 249, as Kafka's.
    pub topic: usize,
    /// Bytes of a key. Default 1 KiB.
    pub key: usize,
    /// Bytes of an id. Default 256.
    pub id: usize,
    /// How far ahead `deliver_at` may lie. Default 366 days.
    pub delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload: 1 << 20,
            headers: 128,
            header_name: 256,
            header_bytes: 32 << 10,
            topic: 249,
            key: 1 << 10,
            id: 256,
            delay: Duration::from_secs(366 * 24 * 3600),
        }
    }
}

impl Limits {
    /// Checks a message.
    ///
    /// # Errors
    /// [`ErrorKind::EmptyMessage`] without a topic, [`ErrorKind::TooLarge`] over a limit,
    /// [`ErrorKind::InvalidMessage`] for control characters where text is expected.
    pub fn check(&self, message: &Message) -> Result<()> {
        self.check_topic(&message.topic)?;
        let within = |what: &str, size: usize, limit: usize| match size <= limit {
            true => Ok(()),
            false => Err(too_large(message, what, size, limit)),
        };
        within("payload in bytes", message.data.as_ref().map_or(0, Bytes::len), self.payload)?;
        within("id in bytes", message.id.len(), self.id)?;
        within("content type in bytes", message.content_type.len(), self.header_name)?;
        if let Some(key) = &message.key {
            // The key itself is left out of this error: it is the thing that is too long.
            if key.len() > self.key {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!("the key has {} bytes, the limit is {}", key.len(), self.key),
                )
                .topic(&*message.topic)
                .fix("use a shorter key, such as a hash of it"));
            }
        }
        if !message.headers.is_empty() {
            within("number of headers", message.headers.len(), self.headers)?;
            within("headers in bytes", message.headers.size(), self.header_bytes)?;
            for (name, _) in message.headers.iter() {
                within("header name in bytes", name.len(), self.header_name)?;
                if name.is_empty() || has_control(name) {
                    return Err(message.locate(
                        Error::new(
                            ErrorKind::InvalidMessage,
                            format!("the header name {name:?} is empty or has control characters"),
                        )
                        .fix("use a visible name"),
                    ));
                }
            }
        }
        if has_control(&message.id) || has_control(&message.content_type) {
            return Err(message.locate(
                Error::new(ErrorKind::InvalidMessage, "the id or content type has control characters")
                    .fix("use visible characters"),
            ));
        }
        Ok(())
    }

    /// Checks a topic's name.
    ///
    /// # Errors
    /// [`ErrorKind::EmptyMessage`] if empty, [`ErrorKind::TooLarge`] over the limit,
    /// [`ErrorKind::InvalidMessage`] for NUL and other control characters.
    pub fn check_topic(&self, topic: &str) -> Result<()> {
        if topic.is_empty() {
            return Err(Error::new(ErrorKind::EmptyMessage, "the topic is empty").fix("name a topic"));
        }
        if topic.len() > self.topic {
            let shown: String = topic.chars().take(32).collect();
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the topic's name has {} bytes, the limit is {}", topic.len(), self.topic),
            )
            .topic(format!("{shown}…"))
            .fix("use a shorter name"));
        }
        if has_control(topic) {
            return Err(Error::new(ErrorKind::InvalidMessage, "the topic's name has control characters")
                .topic(topic)
                .fix("remove them; a NUL byte is one"));
        }
        Ok(())
    }
}

#[cold]
fn too_large(message: &Message, what: &str, size: usize, limit: usize) -> Error {
    message.locate(
        Error::new(ErrorKind::TooLarge, format!("the {what} has {size}, the limit is {limit}"))
            .fix("send less, or raise the limit on the publisher"),
    )
}

#[inline]
fn has_control(text: &str) -> bool {
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let all = |byte: u8| u64::from_ne_bytes([byte; 8]);
    let bytes = text.as_bytes();
    let Some(last) = bytes.last_chunk::<8>() else {
        let ascii = |byte: &u8| (0x20..0x7f).contains(byte);
        return !bytes.iter().all(ascii) && text.chars().any(char::is_control);
    };
    let (mut control, mut foreign) = (0, 0);
    // Eight bytes at a time, the last eight once more. In ASCII the one sets the highest bit of all below 0x20, the
    // other that of 0x7f. A borrow may mark a byte too many, but only beside one that is marked rightly.
    let mut look_at = |bytes: &[u8; 8]| {
        let word = u64::from_ne_bytes(*bytes);
        control |= word.wrapping_sub(all(0x20)) | word.wrapping_add(all(0x01));
        foreign |= word;
    };
    bytes.as_chunks::<8>().0.iter().for_each(&mut look_at);
    look_at(last);
    if foreign & HIGH == 0 { control & HIGH != 0 } else { text.chars().any(char::is_control) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found_wherever_they_stand_and_nothing_else_is() {
        let texts = (0..=0x24f).filter_map(char::from_u32).chain(['\u{2028}', '…', '語', '🦀']);
        for c in texts {
            for before in 0..18 {
                let text = format!("{}{c}{}", "a".repeat(before), "~ é"[..before % 3].to_owned());
                assert_eq!(has_control(&text), text.chars().any(char::is_control), "{text:?}");
            }
        }
        assert!(!has_control(""));
    }
}
