use millstream::{Bus, Event, Subscribe};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t")]
struct Known {}

async fn handler(_: Known) -> u32 {
    7
}

fn subscribes(bus: Bus) {
    let _ = bus.subscribe(handler.group("g"));
}

fn main() {}
