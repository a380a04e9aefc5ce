//! placeholder until dead_letters
use std::time::SystemTime;
use millstream_core::{ByteString, Message, Origin, names};

pub(super) fn topic_of(topic: &str) -> ByteString { format!("{topic}.dlq").into() }
pub(super) fn host() -> &'static str { "" }

pub(super) struct Dying<'a> {
    pub(super) message: &'a Message,
    pub(super) error: &'a str,
    pub(super) error_type: &'a str,
    pub(super) class: &'a str,
    pub(super) origin: Origin,
    pub(super) topic: &'a str,
    pub(super) group: Option<&'a str>,
    pub(super) handler: &'a str,
    pub(super) attempts: u32,
    pub(super) deliveries: u32,
    pub(super) first_failure: Option<SystemTime>,
    pub(super) last_failure: Option<SystemTime>,
    pub(super) app: &'a str,
    pub(super) version: &'a str,
    pub(super) host: &'a str,
}
impl Dying<'_> {
    pub(super) fn into_message(self, topic: &ByteString, _max: usize) -> Message {
        let mut m = self.message.clone();
        m.topic = topic.clone();
        m.headers.insert(names::DL_CLASS, self.class.to_owned());
        m.headers.insert(names::DL_ERROR, self.error.to_owned());
        m
    }
}
