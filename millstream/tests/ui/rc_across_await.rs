use millstream::{Bus, Event, Outcome, Subscribe};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t")]
struct Known {}

async fn handler(_: Known) -> Outcome {
    let shared = std::rc::Rc::new(1);
    std::future::ready(()).await;
    drop(shared);
    Ok(())
}

fn subscribes(bus: Bus) {
    let _ = bus.subscribe(handler.group("g"));
}

fn main() {}
