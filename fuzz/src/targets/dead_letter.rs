//! A dead letter of any program: it is read, shown without harm to a terminal, and redriven as it was.

use millstream::core::{OpenRequest, ReadLimits, Reader as _, Source as _};
use millstream::{DeadLetter, ErrorKind, Limits, Message, names};
use millstream_memory::MemoryBroker;

use super::letters::Store;
use super::message::hostile;
use super::{Target, wait};
use crate::input::{Input, Seed};
use crate::ours::describe;
use crate::targets::terminal;

pub(super) const TARGET: Target = Target::new("dead_letter", run, seeds);

fn run(data: &[u8]) {
    let message = Message { deliver_at: None, ..Input::new(data).message() };
    let letter = DeadLetter::parse(message.clone());
    assert_eq!(letter.message, message);
    is_as_it_was(&letter);
    is_shown(&letter);
    is_redriven(&letter);
}

fn own_headers(message: &Message) -> Vec<(&str, Option<&[u8]>)> {
    let is_own = |name: &str| !name.starts_with(names::DL_PREFIX) && name != names::REDRIVE_GROUP;
    message.headers.iter().map(|(n, v)| (&**n, v.map(|v| &v[..]))).filter(|(n, _)| is_own(n)).collect()
}

fn is_as_it_was(letter: &DeadLetter) {
    let original = letter.original();
    assert_eq!((&original.id, &original.data), (&letter.message.id, &letter.message.data));
    assert_eq!(original.content_type, letter.message.content_type);
    assert_eq!(original.time, letter.message.time);
    assert_eq!(own_headers(&original), own_headers(&letter.message));
    assert_eq!(original.headers.len(), own_headers(&letter.message).len(), "nothing of its death is left");
    assert_eq!(DeadLetter::parse(original.clone()).original(), original);
}

fn is_shown(letter: &DeadLetter) {
    for cell in describe::row(7, letter) {
        terminal::assert_harmless(&cell, "");
    }
    terminal::assert_harmless(&describe::whole(7, letter), "\n\t");
    let document = serde_json::to_value(describe::Document::full(letter)).expect("it is JSON");
    assert_eq!(document["message_id"], *letter.message.id);
    assert_eq!(document["redrive_count"], letter.redrive_count);
}

fn is_redriven(letter: &DeadLetter) {
    let store = Store::new([letter.message.clone()]);
    let redriven = wait(store.open("t").redrive(1));
    let expected = letter.topic.as_deref().unwrap_or("t");
    match redriven {
        Ok(there) => {
            assert!(there && store.len() == 0, "it is removed once it was sent");
            let came = wait(first(&store.broker, expected));
            assert_eq!((&*came.topic, &came.data), (expected, &letter.message.data));
            assert!(came.id == letter.message.id || letter.message.id.is_empty());
            assert_eq!(came.headers.get_str(names::REDRIVE_GROUP), letter.group.as_deref());
            let again = DeadLetter::parse(came.clone());
            assert_eq!(again.redrive_count, letter.redrive_count.saturating_add(1));
            assert_eq!(own_headers(&came), own_headers(&letter.message));
        }
        Err(error) => {
            assert_eq!(store.len(), 1, "what was not sent stays: {error}");
            // Only what no publisher takes: size is no reason, since it was taken once.
            let shown = Message { topic: expected.into(), ..letter.original() };
            let refused = Limits::default().check(&shown).map_or_else(|e| e.kind(), |()| ErrorKind::Internal);
            assert!(
                matches!(refused, ErrorKind::InvalidMessage | ErrorKind::EmptyMessage | ErrorKind::TooLarge),
                "{error:?}"
            );
        }
    }
}

async fn first(broker: &MemoryBroker, topic: &str) -> Message {
    let mut opened = broker.reader().open(OpenRequest::new(topic).group("g")).await.expect("opened");
    let mut deliveries = Vec::new();
    opened.source.read(&mut deliveries, ReadLimits::new(1, usize::MAX)).await.expect("read");
    Message::clone(&deliveries.remove(0).message)
}

fn seeds() -> Vec<Vec<u8>> {
    let mut letters = hostile();
    letters.extend(hostile().into_iter().map(as_letter));
    letters.iter().map(|message| Seed::new().message(message).done()).collect()
}

/// A message as a dead letter of ours.
pub(super) fn as_letter(message: Message) -> Message {
    let key = message.key.clone().unwrap_or_default();
    Message { topic: "t.dlq".into(), ..message }
        .with_header(names::DL_TOPIC, "t")
        .with_header(names::DL_GROUP, "billing")
        .with_header(names::DL_KEY, key)
        .with_header(names::DL_CLASS, "exhausted")
        .with_header(names::DL_PARTITION, "3")
        .with_header(names::DL_OFFSET, "42")
        .with_header(names::DL_HANDLER, "charge")
        .with_header(names::DL_ATTEMPTS, "10")
        .with_header(names::DL_DELIVERIES, "2")
        .with_header(names::DL_FIRST_FAILURE, "2026-11-24T12:00:00Z")
        .with_header(names::DL_LAST_FAILURE, "2026-11-24T12:00:00.123Z")
        .with_header(names::DL_ERROR_TYPE, "std::io::Error")
        .with_header(names::DL_APP, "shop")
        .with_header(names::DL_VERSION, "1.2.3")
        .with_header(names::DL_HOST, "node-1")
        .with_header(names::DL_REDRIVE_COUNT, "2")
        .with_header(names::DL_ERROR, "it failed\nthe disk is \x1b[31mfull")
}
