//! What an object is called: `<topic>/<day>/<time>-<mark>.json`, below the prefix.
//!
//! The name and a number say the same: 42 bits of milliseconds since 1970 (until the year 2109), and 22 bits of the mark,
//! which is drawn from what the message is. So a dead letter is named by a number that never changes, ascends with time,
//! and leads to the object without a search.

use std::time::{Duration, UNIX_EPOCH};

use millstream_core::{Error, ErrorKind, Result};
use object_store::path::Path;

use crate::identity::Identity;

/// Bits of the mark; above them are the milliseconds.
const MARK_BITS: u32 = 22;
const MARKS: u64 = 1 << MARK_BITS;

/// The longest name that folders take.
const LONGEST: usize = 255;

/// The number of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(pub(crate) u64);

impl Number {
    pub(crate) fn new(millis: u64, identity: &Identity) -> Self {
        let [a, b, c, d, ..] = *identity;
        Self(
            (millis.min(u64::MAX >> MARK_BITS) << MARK_BITS)
                | (u64::from(u32::from_be_bytes([a, b, c, d])) % MARKS),
        )
    }

    /// The next one of the same millisecond, for when this one is another's.
    pub(crate) fn beside(self) -> Self {
        Self((self.0 & !(MARKS - 1)) | ((self.0 + 1) % MARKS))
    }

    /// Day and name, such as `2026-11-28` and `034501.123-2f3a1c`.
    fn texts(self) -> (String, String) {
        let at = UNIX_EPOCH + Duration::from_millis(self.0 >> MARK_BITS);
        let text = humantime::format_rfc3339_millis(at).to_string();
        // 2026-11-28T03:45:01.123Z
        let (day, time) = text.split_once('T').unwrap_or_default();
        let time: String = time.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
        (day.to_owned(), format!("{time}-{:06x}", self.0 % MARKS))
    }

    /// What `texts` gives, and nothing else.
    fn parse(day: &str, name: &str) -> Option<Self> {
        let (time, mark) = name.split_once('-')?;
        let (hours, minutes, seconds) = (time.get(..2)?, time.get(2..4)?, time.get(4..)?);
        let at = humantime::parse_rfc3339(&format!("{day}T{hours}:{minutes}:{seconds}Z")).ok()?;
        let millis = u64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
        if millis >= 1 << (u64::BITS - MARK_BITS) {
            return None;
        }
        let number = Self((millis << MARK_BITS) | u64::from_str_radix(mark, 16).ok().filter(|m| *m < MARKS)?);
        (number.texts() == (day.to_owned(), name.to_owned())).then_some(number)
    }
}

/// What lies in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// One message.
    One,
    /// So many, a line each.
    Many(usize),
}

/// Where the objects of everybody begin, and what they are called below.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    prefix: Path,
}

impl Names {
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a prefix with empty parts, dots as parts, or characters that not
    /// every store takes.
    pub(crate) fn new(prefix: &str) -> Result<Self> {
        let prefix = Path::parse(prefix).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, "the prefix is no path")
                .source(e)
                .fix("write it as words with a slash between them, such as shop/letters")
        })?;
        Ok(Self { prefix })
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// The folder of a topic. Prefixes match whole parts: `orders` is no beginning of `orders.dlq`.
    ///
    /// # Errors
    /// [`InvalidMessage`](ErrorKind::InvalidMessage) if its name is too long for a folder.
    pub(crate) fn topic(&self, topic: &str) -> Result<Path> {
        let name = encode(topic);
        if name.len() > LONGEST {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                format!(
                    "the topic's name takes {} characters in an object's, the limit is {LONGEST}",
                    name.len()
                ),
            )
            .topic(topic)
            .fix("use a shorter name, or one of letters, digits, dots, dashes and underscores"));
        }
        Ok(self.prefix.clone().join(name))
    }

    /// The days of a topic, as the store lists its folders; others that somebody put there are left out.
    pub(crate) fn day<'a>(&self, folder: &'a Path) -> Option<&'a str> {
        let day = folder.filename()?;
        Number::parse(day, "000000.000-000000").map(|_| day)
    }

    pub(crate) fn key(&self, topic: &str, number: Number, holds: Holds) -> Result<Path> {
        let (day, name) = number.texts();
        let name = match holds {
            Holds::One => format!("{name}.json"),
            Holds::Many(count) => format!("{name}-{count}.jsonl"),
        };
        Ok(self.topic(topic)?.join(day).join(name))
    }

    /// Behind the objects of this number and before all others.
    pub(crate) fn behind(&self, topic: &str, number: Number) -> Result<Path> {
        let (day, name) = number.texts();
        // Behind the dot and the dash with which names go on.
        Ok(self.topic(topic)?.join(day).join(format!("{name}a")))
    }

    /// The topic of its folder; none for a folder that is not ours.
    pub(crate) fn topic_of(&self, folder: &Path) -> Option<String> {
        decode(folder.filename()?)
    }

    /// What an object is, by its name; none for one that is not ours.
    pub(crate) fn parse(&self, key: &Path) -> Option<(Number, Holds)> {
        let (day, name) = key.as_ref().rsplit_once('/')?;
        let day = day.rsplit_once('/').map_or(day, |(_, day)| day);
        if let Some(name) = name.strip_suffix(".json") {
            return Some((Number::parse(day, name)?, Holds::One));
        }
        let (name, count) = name.strip_suffix(".jsonl")?.rsplit_once('-')?;
        Some((Number::parse(day, name)?, Holds::Many(count.parse().ok()?)))
    }
}

/// Letters, digits, dots, dashes and underscores are themselves, all else is `=` and two digits a byte. So is a dot at the
/// beginning: `..` leads nowhere, and nothing is hidden.
fn encode(topic: &str) -> String {
    let mut name = String::with_capacity(topic.len());
    for (place, byte) in topic.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && place > 0);
        match plain {
            true => name.push(char::from(byte)),
            false => name += &format!("={byte:02X}"),
        }
    }
    name
}

fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((plain, more)) = rest.split_once('=') {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(more.get(..2)?, 16).ok()?);
        rest = &more[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    let topic = String::from_utf8(bytes).ok()?;
    (encode(&topic) == name).then_some(topic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Names {
        Names::new("shop/letters").unwrap()
    }

    #[test]
    fn a_key_has_topic_day_and_time() {
        let number = Number::new(1_795_837_501_123, &[0xff; 32]);
        let key = names().key("orders.dlq", number, Holds::One).unwrap();
        assert_eq!(key.as_ref(), "shop/letters/orders.dlq/2026-11-28/034501.123-3fffff.json");
        let key = names().key("orders", number, Holds::Many(20)).unwrap();
        assert_eq!(key.as_ref(), "shop/letters/orders/2026-11-28/034501.123-3fffff-20.jsonl");
    }

    #[test]
    fn no_topic_leads_out_of_its_folder_or_into_anothers() {
        for (topic, name) in [
            ("..", "=2E."),
            (".", "=2E"),
            ("a//b", "a=2F=2Fb"),
            ("../../etc", "=2E.=2F..=2Fetc"),
            ("a=2Fb", "a=3D2Fb"),
            ("größe", "gr=C3=B6=C3=9Fe"),
        ] {
            assert_eq!(names().topic(topic).unwrap().as_ref(), format!("shop/letters/{name}"));
            assert_eq!(names().topic_of(&names().topic(topic).unwrap()).as_deref(), Some(topic));
        }
    }

    #[test]
    fn what_somebody_else_put_there_is_not_ours() {
        for key in [
            "shop/letters/orders/2026-11-28/readme.txt",
            "shop/letters/orders/2026-11-28/034501.123-3fffff.json.bak",
            "shop/letters/orders/2026-11-28/034501.123-3FFFFF.json",
            "shop/letters/orders/2026-11-28/034501.123-400000.json",
            "shop/letters/orders/2026-13-28/034501.123-3fffff.json",
            "034501.123-3fffff.json",
            "x.json",
        ] {
            assert_eq!(names().parse(&Path::from(key)), None, "{key}");
        }
        assert_eq!(names().day(&Path::from("shop/letters/orders/2026-11-28")), Some("2026-11-28"));
        assert_eq!(names().day(&Path::from("shop/letters/orders/old")), None);
        assert_eq!(names().topic_of(&Path::from("shop/letters/a=2")), None);
    }

    #[test]
    fn a_name_that_no_folder_takes_is_refused() {
        let error = names().topic(&"é".repeat(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    }

    #[test]
    fn a_prefix_that_is_no_path_is_refused() {
        for prefix in ["a//b", "../a", "a/./b"] {
            assert_eq!(Names::new(prefix).unwrap_err().kind(), ErrorKind::InvalidConfig, "{prefix}");
        }
        assert_eq!(Names::new("").unwrap().topic("t").unwrap().as_ref(), "t");
    }

    proptest! {
        #[test]
        fn names_and_numbers_say_the_same_in_the_same_order(one in any::<u64>(), other in any::<u64>()) {
            let key = |n| names().key("t", Number(n), Holds::One).unwrap();
            prop_assert_eq!(names().parse(&key(one)), Some((Number(one), Holds::One)));
            let many = names().key("t", Number(one), Holds::Many(7)).unwrap();
            prop_assert_eq!(names().parse(&many), Some((Number(one), Holds::Many(7))));
            prop_assert_eq!(one.cmp(&other), key(one).as_ref().cmp(key(other).as_ref()));
            let behind = names().behind("t", Number(one)).unwrap();
            prop_assert!(key(one) < behind && many < behind);
            prop_assert!(other <= one || behind < key(other));
        }

        #[test]
        fn beside_is_in_the_same_millisecond_and_is_another(number in any::<u64>()) {
            let beside = Number(number).beside();
            prop_assert_eq!(beside.0 >> MARK_BITS, number >> MARK_BITS);
            prop_assert_ne!(beside.0, number);
        }

        #[test]
        fn a_topic_is_found_again_by_its_folder(topic in "\\PC{1,20}") {
            let folder = names().topic(&topic).unwrap();
            prop_assert_eq!(folder.parts().count(), 3);
            prop_assert_eq!(names().topic_of(&folder), Some(topic));
        }
    }
}
