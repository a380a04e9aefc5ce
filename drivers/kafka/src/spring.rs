//! Dead letters as Spring Kafka writes and reads them: the same facts under names of its own, numbers as big-endian bytes.
//!
//! The names are those of `org.springframework.kafka.support.KafkaHeaders`, as `DeadLetterPublishingRecoverer` writes
//! them.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use millstream_core::{Message, names};

/// All of them begin like this.
const PREFIX: &str = "kafka_dlt-";
const TOPIC: &str = "kafka_dlt-original-topic";
const PARTITION: &str = "kafka_dlt-original-partition";
const OFFSET: &str = "kafka_dlt-original-offset";
const TIMESTAMP: &str = "kafka_dlt-original-timestamp";
const TIMESTAMP_TYPE: &str = "kafka_dlt-original-timestamp-type";
const GROUP: &str = "kafka_dlt-original-consumer-group";
const EXCEPTION: &str = "kafka_dlt-exception-fqcn";
const CAUSE: &str = "kafka_dlt-exception-cause-fqcn";
const TEXT: &str = "kafka_dlt-exception-message";
const TRACE: &str = "kafka_dlt-exception-stacktrace";

/// What Spring's dead letters are called behind the topic's name: by default, and before version 3.
pub(crate) const SUFFIXES: [&str; 2] = ["-dlt", ".DLT"];

/// What a dead letter says in Spring's words, if it is one.
pub(crate) fn told(letter: &Message) -> Vec<(&'static str, Bytes)> {
    let headers = &letter.headers;
    if headers.is_empty() || headers.get(names::DL_TOPIC).is_none() {
        return Vec::new();
    }
    let text = |name| headers.get(name).cloned();
    let error = headers.get_str(names::DL_ERROR).unwrap_or_default();
    let first = error.lines().next().unwrap_or_default();
    let partition = headers.get_str(names::DL_PARTITION).and_then(|p| p.parse::<i32>().ok());
    let offset = headers.get_str(names::DL_OFFSET).and_then(|o| o.parse::<i64>().ok());
    let millis = letter.time.duration_since(UNIX_EPOCH).ok().and_then(|t| i64::try_from(t.as_millis()).ok());
    let big = |number: Option<i64>| number.map(|n| Bytes::copy_from_slice(&n.to_be_bytes()));
    [
        (TOPIC, text(names::DL_TOPIC)),
        (PARTITION, partition.map(|p| Bytes::copy_from_slice(&p.to_be_bytes()))),
        (OFFSET, big(offset)),
        (TIMESTAMP, big(millis)),
        (TIMESTAMP_TYPE, Some(Bytes::from_static(b"CREATE_TIME"))),
        (GROUP, text(names::DL_GROUP)),
        (EXCEPTION, text(names::DL_ERROR_TYPE)),
        (TEXT, Some(Bytes::copy_from_slice(first.as_bytes()))),
        (TRACE, Some(Bytes::copy_from_slice(error.as_bytes()))),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// A dead letter of Spring's in our words. One that speaks them already only loses Spring's.
pub(crate) fn understand(letter: &mut Message) {
    let headers = &letter.headers;
    if !headers.iter().any(|(name, _)| name.starts_with(PREFIX)) {
        return;
    }
    let ours = headers.get(names::DL_TOPIC).is_some();
    let number = |name| {
        let bytes = headers.get(name)?;
        // A partition has four bytes, an offset eight.
        let long = <[u8; 8]>::try_from(&**bytes).map(i64::from_be_bytes);
        long.or_else(|_| <[u8; 4]>::try_from(&**bytes).map(|b| i64::from(i32::from_be_bytes(b)))).ok()
    };
    let digits = |name| number(name).map(|n| Bytes::from(n.to_string()));
    let copy = |name| headers.get(name).cloned();
    // The outer exception is Spring's own, and its cause the one that tells something.
    let kind = copy(CAUSE).or_else(|| copy(EXCEPTION));
    let error = copy(TRACE).filter(|t| !t.is_empty()).or_else(|| copy(TEXT));
    let said = [
        (names::DL_TOPIC, copy(TOPIC)),
        (names::DL_PARTITION, digits(PARTITION)),
        (names::DL_OFFSET, digits(OFFSET)),
        (names::DL_GROUP, copy(GROUP)),
        (names::DL_ERROR_TYPE, kind),
        (names::DL_ERROR, error),
        (names::DL_KEY, letter.key.clone()),
    ];
    letter.headers.remove_prefix(PREFIX);
    for (name, value) in said.into_iter().filter(|_| !ours) {
        if let Some(value) = value {
            letter.headers.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_dead_letter_says_in_springs_words_what_it_says_in_ours() {
        let letter = Message::new("orders.dlq", "{}")
            .with_time(UNIX_EPOCH + Duration::from_millis(258))
            .with_header(names::DL_TOPIC, "orders")
            .with_header(names::DL_PARTITION, "3")
            .with_header(names::DL_OFFSET, "4711")
            .with_header(names::DL_GROUP, "billing")
            .with_header(names::DL_ERROR_TYPE, "shop::Refused")
            .with_header(names::DL_ERROR, "refused\nno stock");
        let told = told(&letter);
        let find = |name: &str| told.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_vec());
        assert_eq!(find(PARTITION), Some(vec![0, 0, 0, 3]));
        assert_eq!(find(OFFSET), Some(vec![0, 0, 0, 0, 0, 0, 0x12, 0x67]));
        assert_eq!(find(TIMESTAMP), Some(vec![0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(find(TEXT), Some(b"refused".to_vec()));
        assert_eq!(find(TRACE), Some(b"refused\nno stock".to_vec()));
        assert_eq!(find(GROUP), Some(b"billing".to_vec()));
        assert_eq!(find(EXCEPTION), Some(b"shop::Refused".to_vec()));
    }

    #[test]
    fn a_dead_letter_of_springs_is_understood_and_redriven_without_its_words() {
        let mut letter = Message::new("orders-dlt", "{}")
            .with_key("k")
            .with_header("own", "1")
            .with_header(TOPIC, "orders")
            .with_header(PARTITION, vec![0, 0, 0, 3])
            .with_header(OFFSET, vec![0, 0, 0, 0, 0, 0, 0x12, 0x67])
            .with_header(GROUP, "billing")
            .with_header(EXCEPTION, "org.springframework.kafka.listener.ListenerExecutionFailedException")
            .with_header(CAUSE, "java.lang.IllegalStateException")
            .with_header(TEXT, "no stock");
        understand(&mut letter);
        let says = |name| letter.headers.get_str(name);
        assert_eq!(says(names::DL_TOPIC), Some("orders"));
        assert_eq!(says(names::DL_PARTITION), Some("3"));
        assert_eq!(says(names::DL_OFFSET), Some("4711"));
        assert_eq!(says(names::DL_GROUP), Some("billing"));
        assert_eq!(says(names::DL_ERROR_TYPE), Some("java.lang.IllegalStateException"));
        assert_eq!(says(names::DL_ERROR), Some("no stock"));
        assert_eq!(says("own"), Some("1"));
        assert!(!letter.headers.iter().any(|(name, _)| name.starts_with(PREFIX)));
    }

    #[test]
    fn what_is_no_dead_letter_is_left_as_it_is() {
        let mut plain = Message::new("orders", "{}").with_header("own", "1");
        let before = plain.clone();
        assert!(told(&plain).is_empty());
        understand(&mut plain);
        assert_eq!(plain, before);
    }
}
