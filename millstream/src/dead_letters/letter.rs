//! Reading a dead letter: its headers as values.

use std::time::SystemTime;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_core::{Message, names};

/// A dead letter, as its headers tell it. What a header does not say, or says wrongly, is `None`: letters of other
/// programs and of brokers can be read as well.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Names it in its topic's store; none if it was read elsewhere.
    pub id: Option<u64>,
    /// The message with all its headers.
    pub message: Message,
    /// The chain of errors, outermost first, a line each.
    pub error: Option<String>,
    /// `exhausted`, `unrecoverable`, `decode`, `panic`, `crash-loop` or `timeout`.
    pub class: Option<String>,
    /// The type name of the error.
    pub error_type: Option<String>,
    /// The topic it was read from.
    pub topic: Option<ByteString>,
    /// The partition it was read from.
    pub partition: Option<u32>,
    /// Its position there.
    pub offset: Option<u64>,
    /// Its routing key.
    pub key: Option<Bytes>,
    /// The group that could not handle it.
    pub group: Option<ByteString>,
    /// The handler's name.
    pub handler: Option<String>,
    /// How often the handler ran.
    pub attempts: Option<u32>,
    /// How often the broker delivered it.
    pub deliveries: Option<u32>,
    /// When it first failed.
    pub first_failure: Option<SystemTime>,
    /// When it last failed.
    pub last_failure: Option<SystemTime>,
    /// The program.
    pub app: Option<String>,
    /// The program's version.
    pub version: Option<String>,
    /// The host it ran on.
    pub host: Option<String>,
    /// How often it was redriven before.
    pub redrive_count: u32,
}

impl DeadLetter {
    /// Reads a message's headers.
    #[must_use]
    pub fn parse(message: Message) -> Self {
        let headers = &message.headers;
        let text = |name| headers.get_str(name);
        let owned = |name| text(name).map(str::to_owned);
        let name = |name| text(name).map(ByteString::from);
        let time = |name| text(name).and_then(|t| humantime::parse_rfc3339(t).ok());
        Self {
            id: None,
            error: owned(names::DL_ERROR),
            class: owned(names::DL_CLASS),
            error_type: owned(names::DL_ERROR_TYPE),
            topic: name(names::DL_TOPIC),
            partition: number(text(names::DL_PARTITION)),
            offset: number(text(names::DL_OFFSET)),
            key: headers.get(names::DL_KEY).or(message.key.as_ref()).cloned(),
            group: name(names::DL_GROUP),
            handler: owned(names::DL_HANDLER),
            attempts: number(text(names::DL_ATTEMPTS)),
            deliveries: number(text(names::DL_DELIVERIES)),
            first_failure: time(names::DL_FIRST_FAILURE),
            last_failure: time(names::DL_LAST_FAILURE),
            app: owned(names::DL_APP),
            version: owned(names::DL_VERSION),
            host: owned(names::DL_HOST),
            redrive_count: number(text(names::DL_REDRIVE_COUNT)).unwrap_or(0),
            message,
        }
    }

    /// The message as it was before it died: its own headers, topic and key.
    #[must_use]
    pub fn original(&self) -> Message {
        let mut message = self.message.clone();
        message.headers.remove_prefix(names::DL_PREFIX);
        message.headers.remove(names::REDRIVE_GROUP);
        if let Some(topic) = &self.topic {
            message.topic = topic.clone();
        }
        message.key = message.key.or_else(|| self.key.clone());
        message
    }

    /// The message to be published again: for the group that failed alone, with the same id, its count one up.
    pub(super) fn redriven(&self) -> Message {
        let mut message = self.original();
        if let Some(group) = &self.group {
            message.headers.insert(ByteString::from_static(names::REDRIVE_GROUP), group.clone().into_bytes());
        }
        let count = self.redrive_count.saturating_add(1);
        message.headers.insert(ByteString::from_static(names::DL_REDRIVE_COUNT), count.to_string());
        message
    }
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
    text.and_then(|t| t.parse().ok())
}
