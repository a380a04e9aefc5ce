//! A whole message through the publisher and a broker: what is within the limits arrives as it was, what is not is
//! refused with its place, and nothing of it is written.

use std::time::UNIX_EPOCH;

use millstream::core::{
    Admin as _, OpenRequest, ReadLimits, Reader as _, Settlement, Settler as _, Source as _,
};
use millstream::{ErrorKind, EventRegistry, Limits, Message, Publisher, names};
use millstream_memory::MemoryBroker;

use super::{Target, wait};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("message", run, seeds);

fn run(data: &[u8]) {
    let message = Input::new(data).message();
    let limits = Limits::default();
    assert_eq!(limits.check(&message).is_ok(), is_within(&message, &limits), "{message:?}");
    wait(async {
        let broker = MemoryBroker::new();
        let publisher = Publisher::new(broker.writer(), EventRegistry::new());
        match publisher.publish_message(message.clone()).await {
            Ok(()) if message.deliver_at.is_some() => {}
            Ok(()) => arrives(&broker, message).await,
            Err(error) => {
                let kinds = [
                    ErrorKind::EmptyMessage,
                    ErrorKind::InvalidMessage,
                    ErrorKind::TooLarge,
                    ErrorKind::Unsupported,
                ];
                assert!(kinds.contains(&error.kind()), "{error:?}");
                assert!(!is_within(&message, &limits) || message.deliver_at.is_some(), "{error}");
                assert!(error.context().topic.is_some() || message.topic.is_empty(), "{error}");
                assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
                let topics = broker.admin().topics().await.expect("listed");
                assert!(topics.iter().all(|topic| topic.messages == 0), "nothing is written");
            }
        }
    });
}

/// The limits, said once more.
fn is_within(message: &Message, limits: &Limits) -> bool {
    let is_text = |text: &str| !text.chars().any(char::is_control);
    !message.topic.is_empty()
        && message.topic.len() <= limits.topic
        && is_text(&message.topic)
        && message.data.as_ref().is_none_or(|data| data.len() <= limits.payload)
        && message.id.len() <= limits.id
        && is_text(&message.id)
        && message.content_type.len() <= limits.header_name
        && is_text(&message.content_type)
        && message.key.as_ref().is_none_or(|key| key.len() <= limits.key)
        && message.headers.len() <= limits.headers
        && message.headers.size() <= limits.header_bytes
        && message
            .headers
            .iter()
            .all(|(name, _)| !name.is_empty() && name.len() <= limits.header_name && is_text(name))
}

async fn arrives(broker: &MemoryBroker, sent: Message) {
    let mut opened =
        broker.reader().open(OpenRequest::new(sent.topic.clone()).group("g")).await.expect("opened");
    let mut deliveries = Vec::new();
    opened.source.read(&mut deliveries, ReadLimits::new(10, usize::MAX)).await.expect("read");
    assert_eq!(deliveries.len(), 1);
    let delivery = deliveries.remove(0);
    let mut came = Message::clone(&delivery.message);
    // What it lacked, it was given.
    if sent.id.is_empty() {
        assert!(!came.id.is_empty());
        came.id = sent.id.clone();
    }
    if sent.time == UNIX_EPOCH {
        came.time = sent.time;
    }
    assert_eq!(came, sent);
    assert_eq!(came.size(), sent.size());
    assert!(came.lane_key().is_none_or(|key| !key.is_empty()));
    assert_eq!(came.event_type(), sent.headers.get_str(names::TYPE));
    assert!(opened.settler.settle(vec![Settlement::ack(delivery.token)]).await[0].is_done());
}

fn seeds() -> Vec<Vec<u8>> {
    hostile().iter().map(|message| Seed::new().message(message).done()).collect()
}

/// Messages with parts that have broken some program somewhere.
pub(super) fn hostile() -> Vec<Message> {
    let plain = || {
        Message::new("t", r#"{"n":1}"#)
            .with_id("01931c5e-9a41-7c3f-8a57-3c1c2f6f2f10")
            .with_key("customer-1")
            .with_content_type("application/json")
            .with_header("tenant", "acme")
    };
    let all_bytes: Vec<u8> = (0..=255).collect();
    let mut null = plain();
    null.headers.append_null("nothing");
    null.headers.append("tenant", "again");
    let mut many = plain();
    (0..128).for_each(|n| many.headers.append(format!("h{n}"), "v"));
    vec![
        plain(),
        Message { data: None, key: None, ..plain() },
        Message { data: Some("".into()), key: Some("".into()), id: "".into(), ..plain() },
        plain().with_key(all_bytes.clone()).with_header("bytes", all_bytes),
        plain().with_key("שלום \u{202e} 🦀").with_header("größe 🦀", "a\r\nInjected: b"),
        plain().with_key(vec![b'k'; 1025]).with_id("i".repeat(257)),
        plain().with_content_type("Application/X; q=\"ü, ;\"").with_header(names::TYPE, "Another"),
        plain().with_time(UNIX_EPOCH - std::time::Duration::from_secs(1)),
        plain().with_deliver_at(UNIX_EPOCH + std::time::Duration::from_secs(1 << 33)),
        plain().with_header(names::REDRIVE_GROUP, "another"),
        null,
        many,
    ]
}
