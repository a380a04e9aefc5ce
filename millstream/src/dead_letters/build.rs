//! Making a dead letter: the message untouched, with why and where in its headers.

use std::sync::LazyLock;
use std::time::SystemTime;

use bytes::Bytes;
use millstream_core::{ByteString, Headers, Limits, Message, Origin, names};

use crate::text::cut;

/// The longest chain of errors that a dead letter carries.
const ERROR_LIMIT: usize = 8 << 10;

/// What every writer's framing may add to a message beside what [`Message::size`] counts.
const FRAMING: usize = 64;

/// Where the dead letters of a topic go.
pub(crate) fn topic_of(topic: &str) -> ByteString {
    // Amazon's FIFO queues must end so.
    match topic.strip_suffix(".fifo") {
        Some(stem) => format!("{stem}.dlq.fifo").into(),
        None => format!("{topic}.dlq").into(),
    }
}

/// The name of this host.
pub(crate) fn host() -> &'static str {
    // Linux says it in a file, others in the environment: not worth a crate.
    static HOST: LazyLock<String> = LazyLock::new(|| {
        let file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let variable = || std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok();
        file.or_else(variable).map(|name| name.trim().to_owned()).unwrap_or_default()
    });
    &HOST
}

/// A message that could not be handled, and all that is known of it.
#[derive(Debug)]
pub(crate) struct Dying<'a> {
    pub(crate) message: &'a Message,
    /// The chain of errors, outermost first, a line each.
    pub(crate) error: &'a str,
    pub(crate) error_type: &'a str,
    pub(crate) class: &'a str,
    pub(crate) origin: Origin,
    pub(crate) topic: &'a str,
    pub(crate) group: Option<&'a str>,
    pub(crate) handler: &'a str,
    pub(crate) attempts: u32,
    /// 0 where the broker does not count.
    pub(crate) deliveries: u32,
    pub(crate) first_failure: Option<SystemTime>,
    pub(crate) last_failure: Option<SystemTime>,
    pub(crate) app: &'a str,
    pub(crate) version: &'a str,
    pub(crate) host: &'a str,
}

impl Dying<'_> {
    /// The dead letter for `topic`, of at most `max` bytes where that can be: the error's text gives way first,
    /// then what is said beside it; the message itself never does.
    pub(crate) fn into_message(self, topic: &ByteString, max: usize) -> Message {
        let mut letter = self.message.clone();
        letter.topic.clone_from(topic);
        letter.deliver_at = None;
        let redriven = letter.headers.get(names::DL_REDRIVE_COUNT).cloned();
        // A letter that died again tells of its last death; how often it was redriven is kept.
        letter.headers.remove_prefix(names::DL_PREFIX);
        letter.headers.remove(names::REDRIVE_GROUP);
        let limits = Limits::default();
        let room_for_headers = limits.headers.saturating_sub(letter.headers.len());
        let room = max
            .saturating_sub(letter.size() + FRAMING)
            .min(limits.header_bytes.saturating_sub(letter.headers.size()));
        self.tell(&mut letter.headers, redriven, room_for_headers, room);
        letter
    }

    /// Adds headers, the most needed first, as long as there is room.
    fn tell(&self, headers: &mut Headers, redriven: Option<Bytes>, mut count: usize, mut room: usize) {
        let mut add = |name: &'static str, value: Option<Bytes>| {
            let Some(value) = value else { return };
            let size = name.len() + value.len();
            if count > 0 && size <= room {
                count -= 1;
                room -= size;
                headers.append(ByteString::from_static(name), value);
            }
        };
        // What a redrive needs comes first.
        add(names::DL_TOPIC, text(self.topic));
        add(names::DL_GROUP, self.group.and_then(text));
        add(names::DL_REDRIVE_COUNT, redriven);
        add(names::DL_KEY, self.message.key.clone());
        add(names::DL_CLASS, text(self.class));
        add(names::DL_PARTITION, text(&self.origin.partition.to_string()));
        add(names::DL_OFFSET, self.origin.position.and_then(|p| text(&p.to_string())));
        add(names::DL_HANDLER, text(self.handler));
        add(names::DL_ATTEMPTS, text(&self.attempts.to_string()));
        add(names::DL_DELIVERIES, (self.deliveries > 0).then(|| Bytes::from(self.deliveries.to_string())));
        add(names::DL_FIRST_FAILURE, self.first_failure.map(time));
        add(names::DL_LAST_FAILURE, self.last_failure.map(time));
        add(names::DL_ERROR_TYPE, text(self.error_type));
        add(names::DL_APP, text(self.app));
        add(names::DL_VERSION, text(self.version));
        add(names::DL_HOST, text(self.host));
        // Last, since it takes what is left.
        if count > 0 {
            let limit = ERROR_LIMIT.min(room.saturating_sub(names::DL_ERROR.len()));
            if let Some(error) = text(cut(self.error, limit)) {
                headers.append(ByteString::from_static(names::DL_ERROR), error);
            }
        }
    }
}

fn text(text: &str) -> Option<Bytes> {
    (!text.is_empty()).then(|| Bytes::copy_from_slice(text.as_bytes()))
}

fn time(at: SystemTime) -> Bytes {
    Bytes::from(humantime::format_rfc3339_millis(at).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use millstream_core::{Epoch, PartitionId, Position};

    use super::*;

    fn message() -> Message {
        Message::new("orders", "{}").with_id("7").with_key("customer-1").with_header("tenant", "acme")
    }

    fn dying(message: &Message) -> Dying<'_> {
        Dying {
            message,
            error: "it failed\nthe disk is full",
            error_type: "std::io::Error",
            class: "exhausted",
            origin: Origin { partition: PartitionId(3), epoch: Epoch(1), position: Some(Position(42)) },
            topic: "orders",
            group: Some("billing"),
            handler: "charge",
            attempts: 10,
            deliveries: 2,
            first_failure: Some(UNIX_EPOCH),
            last_failure: Some(UNIX_EPOCH + Duration::from_secs(60)),
            app: "shop",
            version: "1.2.3",
            host: "node-1",
        }
    }

    #[test]
    fn the_message_stays_as_it_was_and_says_why_and_where() {
        let original = message();
        let letter = dying(&original).into_message(&topic_of("orders"), usize::MAX);
        assert_eq!(letter.topic, "orders.dlq");
        assert_eq!(
            (&letter.id, &letter.key, &letter.data, letter.headers.get_str("tenant")),
            (&original.id, &original.key, &original.data, Some("acme"))
        );
        for (name, value) in [
            (names::DL_ERROR, "it failed\nthe disk is full"),
            (names::DL_ERROR_TYPE, "std::io::Error"),
            (names::DL_CLASS, "exhausted"),
            (names::DL_TOPIC, "orders"),
            (names::DL_PARTITION, "3"),
            (names::DL_OFFSET, "42"),
            (names::DL_KEY, "customer-1"),
            (names::DL_GROUP, "billing"),
            (names::DL_HANDLER, "charge"),
            (names::DL_ATTEMPTS, "10"),
            (names::DL_DELIVERIES, "2"),
            (names::DL_FIRST_FAILURE, "1970-01-01T00:00:00.000Z"),
            (names::DL_LAST_FAILURE, "1970-01-01T00:01:00.000Z"),
            (names::DL_APP, "shop"),
            (names::DL_VERSION, "1.2.3"),
            (names::DL_HOST, "node-1"),
        ] {
            assert_eq!(letter.headers.get_str(name), Some(value), "{name}");
        }
    }

    #[test]
    fn the_errors_text_gives_way_before_the_limit_and_the_payload_never_does() {
        let original = Message::new("orders", vec![7; 1_000]).with_id("7");
        let long = "ä".repeat(10_000);
        let told = Dying { error: &long, ..dying(&original) };
        let letter = told.into_message(&topic_of("orders"), 4_000);
        assert!(letter.size() <= 4_000, "{}", letter.size());
        assert!(letter.headers.get_str(names::DL_ERROR).unwrap().len() > 1_000, "what fits is kept");
        assert_eq!(letter.data, original.data);

        let told = Dying { error: &long, ..dying(&original) };
        let letter = told.into_message(&topic_of("orders"), 100);
        assert_eq!(letter.data, original.data);
        assert!(!letter.headers.contains(names::DL_ERROR));
    }

    #[test]
    fn the_error_has_at_most_8_kib() {
        let original = message();
        let long = "x".repeat(100_000);
        let letter = Dying { error: &long, ..dying(&original) }.into_message(&topic_of("orders"), usize::MAX);
        assert_eq!(letter.headers.get(names::DL_ERROR).unwrap().len(), ERROR_LIMIT);
    }

    #[test]
    fn a_message_full_of_headers_still_fits_the_limits() {
        let mut original = message();
        while original.headers.len() < 126 {
            original.headers.append("h", "v");
        }
        let letter = dying(&original).into_message(&topic_of("orders"), usize::MAX);
        Limits::default().check(&letter).unwrap();
        assert_eq!(letter.headers.get_str(names::DL_TOPIC), Some("orders"));
        assert_eq!(letter.headers.get_str(names::DL_GROUP), Some("billing"));
    }

    #[test]
    fn a_letter_that_dies_again_keeps_its_redrive_count_and_tells_of_its_last_death() {
        let original = message()
            .with_header(names::DL_REDRIVE_COUNT, "2")
            .with_header(names::DL_CLASS, "panic")
            .with_header(names::REDRIVE_GROUP, "billing");
        let letter = dying(&original).into_message(&topic_of("orders"), usize::MAX);
        assert_eq!(letter.headers.get_str(names::DL_REDRIVE_COUNT), Some("2"));
        assert_eq!(letter.headers.get_str(names::DL_CLASS), Some("exhausted"));
        assert!(!letter.headers.contains(names::REDRIVE_GROUP));
    }

    #[test]
    fn a_fifo_topic_stays_one() {
        assert_eq!(topic_of("orders.fifo"), "orders.dlq.fifo");
    }
}
