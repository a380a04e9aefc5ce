use millstream::{Bus, Event};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t")]
struct Known {}

fn handler(_: Known) -> u32 {
    7
}

fn subscribes(bus: Bus) {
    let _ = bus.subscribe(handler);
}

fn main() {}
