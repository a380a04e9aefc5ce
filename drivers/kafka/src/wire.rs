//! A message as a record of Kafka, and back: the id and the content type are headers, as the Go toolkit *streams* has
//! them, all else is in its own place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use millstream_core::{Error, ErrorKind, Message, names};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Header, Headers as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::cloudevents;
use crate::cluster::Topic;
use crate::settings::{DeadLetterHeaders, Wire};
use crate::spring;

/// The header of the id.
pub const MESSAGE_ID: &str = "message_id";
/// The header of the content type.
pub const CONTENT_TYPE: &str = "content_type";

/// The header that names the partition a message is to be written to, in decimal, instead of the one that its key hashes
/// to. It is an instruction: no reader sees it.
pub const PARTITION: &str = "millstream-kafka-partition";

/// Bytes of a payload that is small.
const SMALL: usize = 2 << 10;

/// Bytes of a block. A message that is kept keeps all of it.
const BLOCK: usize = 16 << 10;

/// Bytes of an id for which there is room: that of a longer one is made.
const ID_ROOM: usize = 64;

/// The longest name of a topic.
const TOPIC_LIMIT: usize = 249;

/// Refuses what Kafka cannot take, of a message whose topic is known.
pub(crate) fn check(message: &Message, topic: &Topic, wire: &Wire) -> Result<(), Error> {
    let message = &*cloudevents::dress(message, wire)?;
    let (size, max_message) = (message.size(), topic.max_message);
    if size > max_message {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the message has {size} bytes with its key and headers, the limit is {max_message}"),
        )
        .topic(&*message.topic)
        .fix("send less, or raise max.message.bytes of the topic and max_message in the URL"));
    }
    if message.headers.iter().any(|(name, _)| name.contains('\0')) {
        return Err(Error::new(ErrorKind::InvalidMessage, "a header's name has a NUL byte")
            .topic(&*message.topic)
            .fix("use a visible name"));
    }
    if let Some(told) = message.headers.get(PARTITION).filter(|_| !message.headers.is_empty())
        && chosen_partition(message, topic.partitions).is_none()
    {
        let (told, count) = (String::from_utf8_lossy(told), topic.partitions);
        let what = match count {
            0 => format!("{PARTITION} is {told:?}, which is no number of a partition"),
            _ => format!("{PARTITION} is {told:?}, and the topic has the partitions 0 to {}", count - 1),
        };
        return Err(Error::new(ErrorKind::InvalidMessage, what)
            .topic(&*message.topic)
            .fix("name one that is there, or leave the header out: then the key decides"));
    }
    Ok(())
}

/// Refuses a name that no topic of Kafka can have.
pub(crate) fn check_topic(topic: &str) -> Result<(), Error> {
    if topic.is_empty() {
        return Err(Error::new(ErrorKind::EmptyMessage, "the topic is empty").fix("name a topic"));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.len() > TOPIC_LIMIT || matches!(topic, "." | "..") || !topic.chars().all(legal) {
        let shown: String = topic.chars().take(64).collect();
        return Err(Error::new(ErrorKind::InvalidMessage, "no topic of Kafka can have this name")
            .topic(shown)
            .fix("use at most 249 of the letters a-z, A-Z, 0-9, dot, underscore and dash"));
    }
    Ok(())
}

/// The record of a message for a topic of so many partitions, which borrows it.
pub(crate) fn record(
    message: &Message,
    partitions: u32,
    words: DeadLetterHeaders,
    opaque: usize,
) -> BaseRecord<'_, [u8], [u8], usize> {
    let mut record = BaseRecord::with_opaque_to(&message.topic, opaque);
    record.partition = chosen_partition(message, partitions).or_else(|| park_partition(message, partitions));
    record.key = message.key.as_deref();
    record.payload = message.data.as_deref();
    // The epoch says that no time was given: then it is now.
    if message.time > UNIX_EPOCH {
        let millis = message.time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis());
        record.timestamp = i64::try_from(millis).ok();
    }
    record.headers = headers(message, words);
    record
}

/// The partition that whoever published it chose. Where nobody asked how many there are, any number will do.
fn chosen_partition(message: &Message, partitions: u32) -> Option<i32> {
    if message.headers.is_empty() {
        return None;
    }
    let partition: u32 = message.headers.get_str(PARTITION)?.parse().ok()?;
    i32::try_from(partition).ok().filter(|_| partitions == 0 || partition < partitions)
}

/// A parked message waits in the partition that it had in its topic, where the partition's owner finds it: it may have no
/// key, or one that its producer hashed in another way.
fn park_partition(message: &Message, partitions: u32) -> Option<i32> {
    if message.headers.is_empty() {
        return None;
    }
    let partition: u32 = message.headers.get_str(names::PARK_PARTITION)?.parse().ok()?;
    i32::try_from(partition).ok().filter(|_| partition < partitions)
}

fn headers(message: &Message, words: DeadLetterHeaders) -> Option<OwnedHeaders> {
    let own: [(&str, &str); 2] = [(MESSAGE_ID, &message.id), (CONTENT_TYPE, &message.content_type)];
    let own = own.into_iter().filter(|(_, value)| !value.is_empty());
    let spring = if words == DeadLetterHeaders::Spring { spring::told(message) } else { Vec::new() };
    let count = own.clone().count() + message.headers.len() + spring.len();
    if count == 0 {
        return None;
    }
    let mut headers = OwnedHeaders::new_with_capacity(count);
    for (key, value) in own {
        headers = headers.insert(Header { key, value: Some(value.as_bytes()) });
    }
    for (key, value) in message.headers.iter().filter(|(name, _)| &***name != PARTITION) {
        headers = headers.insert(Header { key, value: value.map(|v| &**v) });
    }
    for (key, value) in &spring {
        headers = headers.insert(Header { key, value: Some(&**value) });
    }
    Some(headers)
}

/// The message of a record.
///
/// What is small lies together, that of several messages in one block: they are freed by other threads than this one, which
/// would contend for the allocator over each part. A payload that is large has memory of its own, so that who keeps a
/// key keeps little else.
pub(crate) fn message(record: &BorrowedMessage<'_>, topic: &ByteString, block: &mut BytesMut) -> Message {
    let (payload, key) = (record.payload(), record.key());
    let mut message = Message::new(topic.clone(), Bytes::new());
    message.time = record.timestamp().to_millis().map_or(UNIX_EPOCH, time);
    let small = payload.unwrap_or_default();
    let together = if small.len() <= SMALL { small } else { &[] };
    let size = together.len() + key.map_or(0, <[u8]>::len);
    if block.capacity() < size + ID_ROOM {
        // Not `reserve`, which would look whether the old one has been given back.
        *block = BytesMut::with_capacity((size + ID_ROOM).max(BLOCK));
    }
    // In the order in which they lie in memory that another thread wrote: the headers come behind the payload.
    block.extend_from_slice(key.unwrap_or_default());
    block.extend_from_slice(together);
    let data = match payload {
        Some(payload) if payload.len() > SMALL => Some(Bytes::copy_from_slice(payload)),
        _ => None,
    };
    let headers = record.headers();
    let id = headers.and_then(first_id).unwrap_or_default();
    block.extend_from_slice(id);
    let mut bytes = block.split().freeze();
    message.key = key.map(|key| bytes.split_to(key.len()));
    let small = bytes.split_to(together.len());
    message.data = data.or_else(|| payload.map(|_| small));
    // One that is no text stays a header.
    message.id = ByteString::try_from(bytes).unwrap_or_default();
    if let Some(headers) = headers {
        take_headers(&mut message, headers);
    }
    message
}

/// The header of the id, if it is where writers put it.
fn first_id(headers: &BorrowedHeaders) -> Option<&[u8]> {
    let header = catch_unwind(AssertUnwindSafe(|| headers.try_get(0))).ok()??;
    header.value.filter(|_| header.key == MESSAGE_ID)
}

/// A time as brokers say it.
pub(crate) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Takes all headers, but for the id if that is known already.
fn take_headers(message: &mut Message, headers: &BorrowedHeaders) {
    let mut may_be_event = false;
    for index in usize::from(!message.id.is_empty())..headers.count() {
        // The client panics over a name that is not UTF-8, which anybody may write. The rest of the message is sound.
        let Ok(header) = catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) else {
            tracing::warn!(topic = %message.topic, "a header whose name is not UTF-8 was left out");
            continue;
        };
        let Some(Header { key, value }) = header else { continue };
        match (key, value.map(std::str::from_utf8)) {
            (MESSAGE_ID, Some(Ok(id))) if message.id.is_empty() => message.id = id.into(),
            (CONTENT_TYPE, Some(Ok(kind))) if message.content_type.is_empty() => {
                message.content_type = content_type(kind);
            }
            _ => {
                may_be_event |= matches!(key, cloudevents::VERSION | cloudevents::CONTENT_TYPE);
                match value {
                    Some(value) => message.headers.append(key, Bytes::copy_from_slice(value)),
                    None => message.headers.append_null(key),
                }
            }
        }
    }
    if may_be_event {
        cloudevents::undress(message);
    }
}

/// A content type. Those that nearly all messages have need no memory of their own.
fn content_type(kind: &str) -> ByteString {
    const KNOWN: [&str; 2] = ["application/json", "application/octet-stream"];
    KNOWN
        .iter()
        .find(|known| **known == kind)
        .map_or_else(|| kind.into(), |known| ByteString::from_static(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_type_are_headers_before_the_others_and_null_stays_null() {
        let mut message = Message::new("t", "x").with_id("7").with_content_type("text/plain");
        message.headers.append("a", "");
        message.headers.append_null("b");
        let headers = headers(&message, DeadLetterHeaders::Millstream).unwrap();
        let all: Vec<_> = headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
        let text = |t: &str| Some(t.as_bytes().to_vec());
        assert_eq!(
            all,
            [
                ("message_id".to_owned(), text("7")),
                ("content_type".to_owned(), text("text/plain")),
                ("a".to_owned(), text("")),
                ("b".to_owned(), None),
            ]
        );
        let mut back = Message::new("t", "x");
        take_headers(&mut back, headers.as_borrowed());
        assert_eq!(
            (back.id, back.content_type, back.headers),
            (message.id, message.content_type, message.headers)
        );
    }

    fn partition_of(message: &Message, partitions: u32) -> Option<i32> {
        record(message, partitions, DeadLetterHeaders::Millstream, 0).partition
    }

    #[test]
    fn what_is_parked_keeps_its_partition_as_long_as_there_is_one() {
        let plain = Message::new("t", "x").with_key("k");
        let parked = plain.clone().with_header(names::PARK_PARTITION, "2");
        assert_eq!(partition_of(&plain, 3), None);
        assert_eq!(partition_of(&parked, 3), Some(2));
        assert_eq!(partition_of(&parked, 2), None);
    }

    #[test]
    fn a_partition_that_is_chosen_is_taken_and_the_choice_does_not_travel() {
        let chosen = Message::new("t", "x").with_key("k").with_header(PARTITION, "2");
        assert_eq!(partition_of(&chosen, 3), Some(2));
        assert_eq!(partition_of(&chosen, 0), Some(2), "nobody asked how many there are");
        assert!(
            headers(&chosen, DeadLetterHeaders::Millstream)
                .is_none_or(|h| h.iter().all(|h| h.key != PARTITION))
        );
        let topic = |partitions| Topic { partitions, max_message: 1_000 };
        assert!(check(&chosen, &topic(3), &Wire::Streams).is_ok());
        for (bad, partitions) in [("2", 2), ("-1", 3), ("two", 0)] {
            let message = chosen.clone().with_header(PARTITION, bad);
            let error = check(&message, &topic(partitions), &Wire::Streams).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidMessage, "{error}");
        }
    }

    #[test]
    fn names_that_no_topic_can_have_are_refused() {
        for bad in ["", "a/b", "ü", "..", &"x".repeat(250)] {
            assert!(check_topic(bad).is_err(), "{bad:?}");
        }
        assert!(check_topic("user.created_2-x").is_ok());
    }
}
