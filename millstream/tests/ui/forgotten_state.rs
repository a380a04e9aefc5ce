use millstream::{Bus, Event, Outcome, Subscribe};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "t")]
struct Known {}

#[derive(Clone)]
struct Mailer;

async fn handler(_: Known, _: Mailer) -> Outcome {
    Ok(())
}

fn forgets(bus: Bus) {
    let _ = bus.with_state(Mailer).subscribe(handler.group("g"));
}

fn main() {}
