//! Names of topics, wherever one may be said: the limits, the registry and the broker agree, and a refused name is
//! told with why.

use millstream::core::admin::TopicSettings;
use millstream::core::{Admin as _, Writer as _};
use millstream::{ErrorKind, Event, EventRegistry, Limits, Message, event};
use millstream_memory::MemoryBroker;
use serde::{Deserialize, Serialize};

use super::{Target, wait};

pub(super) const TARGET: Target = Target::new("topic", run, seeds);

#[derive(Serialize, Deserialize)]
struct Fact;

impl Event for Fact {
    type Format = event::Serde;
}

fn run(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    let limits = Limits::default();
    let registry = EventRegistry::new();
    let registered = registry.register::<Fact>(&*name);
    let error = match limits.check_topic(&name) {
        Ok(()) => {
            registered.expect("a good name");
            assert_eq!(registry.topic_of::<Fact>().expect("registered"), *name);
            assert!(!name.is_empty() && name.len() <= limits.topic && !name.chars().any(char::is_control));
            return on_a_broker(&name);
        }
        Err(error) => error,
    };
    assert_eq!(registered.expect_err("a bad name").kind(), error.kind());
    let expected = if name.is_empty() {
        ErrorKind::EmptyMessage
    } else if name.len() > limits.topic {
        ErrorKind::TooLarge
    } else {
        ErrorKind::InvalidMessage
    };
    assert_eq!(error.kind(), expected);
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.len() < 2_000, "a long name is not repeated: {text}");
}

fn on_a_broker(name: &str) {
    let broker = MemoryBroker::new();
    wait(async {
        broker.admin().ensure_topic(name, TopicSettings::default()).await.expect("a good name");
        let written = broker.writer().write(vec![Message::new(name, "x")]).await.expect("written");
        assert!(written.is_all_written());
        let topics = broker.admin().topics().await.expect("listed");
        assert_eq!(
            topics.iter().map(|topic| (&*topic.name, topic.messages)).collect::<Vec<_>>(),
            [(name, 1)]
        );
    });
}

fn seeds() -> Vec<Vec<u8>> {
    ["user.created", "orders.fifo", "größe 🦀", "", "a\0b", "a\u{85}b", "\u{202e}x", &"x".repeat(250)]
        .map(|name| name.as_bytes().to_vec())
        .to_vec()
}
