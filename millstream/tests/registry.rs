//! Given an event registry: what it knows, and what it refuses.

use millstream::{ErrorKind, Event, EventRegistry, Limits};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "own")]
struct Own {}

#[derive(Event, serde::Serialize, serde::Deserialize)]
struct Homeless {}

#[test]
fn a_registered_topic_goes_before_the_events_own() {
    let registry = EventRegistry::new();
    assert_eq!(registry.topic_of::<Own>().unwrap(), "own");
    registry.register::<Own>("registered").unwrap();
    assert_eq!(registry.topic_of::<Own>().unwrap(), "registered");
}

#[test]
fn an_event_with_neither_is_not_found_and_the_error_names_it_and_the_fix() {
    let error = EventRegistry::new().topic_of::<Homeless>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventNotFound);
    assert!(error.to_string().contains("Homeless") && error.to_string().contains("#[event(topic"), "{error}");
}

#[test]
fn saying_it_again_is_fine_and_contradicting_it_names_both_topics() {
    let registry = EventRegistry::new();
    registry.register::<Homeless>("a").unwrap();
    registry.register::<Homeless>("a").unwrap();
    let error = registry.register::<Homeless>("b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("\"a\"") && error.to_string().contains("\"b\""), "{error}");
    assert_eq!(registry.topic_of::<Homeless>().unwrap(), "a");
}

#[test]
fn bad_names_are_refused() {
    let registry = EventRegistry::new();
    assert_eq!(registry.register::<Homeless>("").unwrap_err().kind(), ErrorKind::EmptyMessage);
    assert_eq!(registry.register::<Homeless>("a\0").unwrap_err().kind(), ErrorKind::InvalidMessage);
    let mut limits = Limits::default();
    limits.topic = 3;
    let narrow = EventRegistry::with_limits(limits);
    assert_eq!(narrow.register::<Homeless>("four").unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn one_topic_carries_several_types_and_clones_share() {
    let registry = EventRegistry::new();
    let clone = registry.clone();
    registry.register::<Own>("shared").unwrap();
    clone.register::<Homeless>("shared").unwrap();
    let types = registry.types_of("shared");
    assert_eq!(types.len(), 2);
    assert!(types[0].ends_with("Homeless") && types[1].ends_with("Own"), "{types:?}");
    assert_eq!(registry.topics(), ["shared"]);
    assert!(registry.types_of("elsewhere").is_empty());
}
