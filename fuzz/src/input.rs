//! Bytes as the parts that a target wants, and the same parts as bytes, so that seeds are made of real encodings.
//!
//! Whatever the bytes are, they are some parts: what is missing at the end is zero or empty.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millstream::Message;

/// Gives the parts of an input, one after the other.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    rest: &'a [u8],
}

/// A part this long or longer says its length in two more bytes.
const LONG: u8 = 0xff;

const KEY: u8 = 1;
const DATA: u8 = 2;
const DELIVER_AT: u8 = 4;

impl<'a> Input<'a> {
    /// From these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number of eight bytes.
    pub fn number(&mut self) -> u64 {
        let mut number = [0; 8];
        let bytes = self.take(8);
        number[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(number)
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = match self.byte() {
            LONG => usize::from(self.byte()) | usize::from(self.byte()) << 8,
            length => usize::from(length),
        };
        self.take(length)
    }

    /// The same as text; what is not UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// A time, in nanoseconds before or after 1970.
    pub fn time(&mut self) -> SystemTime {
        let nanos = self.number().cast_signed();
        let distance = Duration::from_nanos(nanos.unsigned_abs());
        if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
    }

    /// A whole message.
    pub fn message(&mut self) -> Message {
        let parts = self.byte();
        let mut message = Message::tombstone(self.text()).with_id(self.text()).with_content_type(self.text());
        message.time = self.time();
        if parts & KEY != 0 {
            message.key = Some(Bytes::copy_from_slice(self.bytes()));
        }
        if parts & DATA != 0 {
            message.data = Some(Bytes::copy_from_slice(self.bytes()));
        }
        if parts & DELIVER_AT != 0 {
            message.deliver_at = Some(self.time());
        }
        for _ in 0..self.byte() {
            if self.is_empty() {
                break;
            }
            let name = self.text();
            match self.byte() {
                0 => message.headers.append_null(name),
                _ => message.headers.append(name, Bytes::copy_from_slice(self.bytes())),
            }
        }
        message
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// Makes bytes of parts: the other way round.
#[derive(Debug, Clone, Default)]
pub struct Seed {
    bytes: Vec<u8>,
}

impl Seed {
    /// Without parts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a byte.
    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.bytes.push(byte);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.bytes.extend(number.to_le_bytes());
        self
    }

    /// Adds bytes behind their length, at most 65,535.
    #[must_use]
    pub fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        match u8::try_from(length) {
            Ok(short) if short < LONG => self.bytes.push(short),
            _ => {
                self.bytes.push(LONG);
                self.bytes.extend(length.to_le_bytes());
            }
        }
        self.bytes.extend(&bytes[..usize::from(length)]);
        self
    }

    /// Adds a time.
    #[must_use]
    pub fn time(self, time: SystemTime) -> Self {
        let nanos = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        };
        self.number(nanos.cast_unsigned())
    }

    /// Adds a message; of its headers the first 255.
    #[must_use]
    pub fn message(self, message: &Message) -> Self {
        let flag = |there: bool, flag: u8| if there { flag } else { 0 };
        let parts = flag(message.key.is_some(), KEY)
            | flag(message.data.is_some(), DATA)
            | flag(message.deliver_at.is_some(), DELIVER_AT);
        let mut seed = self
            .byte(parts)
            .bytes(&*message.topic)
            .bytes(&*message.id)
            .bytes(&*message.content_type)
            .time(message.time);
        for bytes in [&message.key, &message.data].into_iter().flatten() {
            seed = seed.bytes(bytes);
        }
        if let Some(at) = message.deliver_at {
            seed = seed.time(at);
        }
        seed = seed.byte(u8::try_from(message.headers.len()).unwrap_or(u8::MAX));
        for (name, value) in message.headers.iter().take(255) {
            seed = seed.bytes(&**name);
            seed = match value {
                None => seed.byte(0),
                Some(value) => seed.byte(1).bytes(value),
            };
        }
        seed
    }

    /// Adds bytes as they are, to the end.
    #[must_use]
    pub fn rest(mut self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        self.bytes.extend(bytes.as_ref());
        self.bytes
    }

    /// The bytes.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.bytes
    }
}
