use millstream::{Bus, Event, Outcome};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t")]
struct Known {}

use millstream::Attempt as A;

async fn handler(_: Known, _: A, _: A, _: A, _: A, _: A, _: A, _: A, _: A) -> Outcome {
    Ok(())
}

fn subscribes(bus: Bus) {
    let _ = bus.subscribe(handler);
}

fn main() {}
