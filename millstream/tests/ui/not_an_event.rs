use millstream::{Bus, Event, Outcome, Subscribe};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t")]
struct Known {}

struct NotEvent;

async fn handler(_: NotEvent) -> Outcome {
    Ok(())
}

fn subscribes(bus: Bus) {
    let _ = bus.subscribe(handler.group("g"));
}

fn main() {}
