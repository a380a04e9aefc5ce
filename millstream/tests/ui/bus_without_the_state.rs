use millstream::{Bus, Event, Outcome, State, Subscribe};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t")]
struct Known {}

#[derive(Clone)]
struct Mailer;

async fn handler(_: Known, State(_): State<Mailer>) -> Outcome {
    Ok(())
}

fn forgets(bus: Bus) {
    let _ = bus.subscribe(handler.group("g"));
}

fn main() {}
