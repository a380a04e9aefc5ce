//! Ids from outside: what a factory of the user's gives is the message's id as it is, or refused; what ours give
//! passes every limit.

use std::sync::Arc;

use millstream::{ErrorKind, EventRegistry, IdFactory, Limits, Message, Publisher};
use millstream_memory::MemoryBroker;

use super::{Target, wait};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("ids", run, seeds);

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    if kind.is_multiple_of(2) {
        theirs(&String::from_utf8_lossy(input.rest()));
    } else {
        ours(input.number());
    }
}

fn theirs(id: &str) {
    let shared: Arc<str> = id.into();
    let factory = IdFactory::from_fn(move || Ok(shared.to_string()));
    let made = factory.next_id();
    match &made {
        Ok(made) => assert_eq!(*made, *id),
        Err(error) => {
            assert!(id.is_empty(), "{error}");
            assert_eq!(error.kind(), ErrorKind::IdFactory);
        }
    }
    let fits = id.len() <= Limits::default().id && !id.chars().any(char::is_control);
    let publisher = Publisher::new(MemoryBroker::new().writer(), EventRegistry::new()).with_ids(factory);
    match wait(publisher.publish_message(Message::new("t", "x"))) {
        Ok(()) => assert!(fits && !id.is_empty()),
        Err(error) if id.is_empty() => assert_eq!(error.kind(), ErrorKind::IdFactory),
        Err(error) => {
            assert!(!fits, "{error}");
            assert!(matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::InvalidMessage), "{error}");
        }
    }
}

fn ours(seed: u64) {
    let factories = [
        IdFactory::seeded(seed),
        IdFactory::uuid_v7(),
        IdFactory::uuid_v4(),
        IdFactory::ksuid(),
        IdFactory::ulid(),
    ];
    for factory in factories {
        let (one, two) = (factory.next_id().expect("an id"), factory.next_id().expect("another"));
        assert_ne!(one, two);
        Limits::default().check(&Message::new("t", "x").with_id(one)).expect("within every limit");
    }
    assert_eq!(IdFactory::seeded(seed).next_id().ok(), IdFactory::seeded(seed).next_id().ok());
}

fn seeds() -> Vec<Vec<u8>> {
    ["order-7", "", "0ujtsYcgvSTl8PAuAdqWYSMnLOv", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "a\0b", "ü\u{85}"]
        .into_iter()
        .map(|id| Seed::new().byte(0).rest(id))
        .chain([Seed::new().byte(1).number(7).done()])
        .collect()
}
