//! What to do with what could not be handled: look at it, send it back, or let it go.
//!
//! ```sh
//! cargo run -p millstream-examples --example dead_letters
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream::prelude::*;
use millstream::{Control, DeadLetters};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "parcel.sent", key = "parcel")]
struct ParcelSent {
    parcel: u32,
    country: String,
}

/// Whether the customs office has opened yet.
type Customs = Arc<AtomicBool>;

async fn declare(sent: ParcelSent, State(open): State<Customs>) -> Outcome {
    if sent.country == "Atlantis" {
        return Err(Failure::unrecoverable("there is no such country"));
    }
    if !open.load(Ordering::Relaxed) {
        return Err(Failure::retry("the customs office is closed"));
    }
    println!("parcel {} to {}", sent.parcel, sent.country);
    Ok(())
}

#[tokio::main]
async fn main() -> millstream::Result<()> {
    let customs = Customs::default();
    let bus = Bus::connect("memory://").await?;
    for (parcel, country) in [(1, "Norway"), (2, "Atlantis"), (3, "Peru")] {
        bus.publish(&ParcelSent { parcel, country: country.into() }).await?;
    }
    let letters = bus.dead_letters("parcel.sent");
    let running = bus
        .with_state(Arc::clone(&customs))
        .subscribe(declare.group("customs").retry(Retry::fixed(1.ms()).attempts(2)))
        .start()
        .await?;
    let control = running.control();

    // The office is closed: two parcels use up their attempts, one can never be declared.
    until(&control, |_, dead| dead == 3).await;
    show(&letters).await?;

    // It opens. Those that failed because it was closed go back, to this group alone and with their ids.
    customs.store(true, Ordering::Relaxed);
    let redriven = letters.redrive_where(|letter| letter.class.as_deref() == Some("exhausted")).await?;
    println!("sent back: {redriven}");
    until(&control, |handled, _| handled == 2).await;

    // Nothing will help the other one.
    let discarded = letters.discard_where(|letter| letter.class.as_deref() == Some("unrecoverable")).await?;
    println!("discarded: {discarded}");
    assert_eq!((redriven, discarded, letters.list(None, 10).await?.len()), (2, 1, 0));
    running.shutdown().await;
    Ok(())
}

async fn show(letters: &DeadLetters) -> millstream::Result<()> {
    for letter in letters.list(None, 10).await? {
        println!(
            "dead: {} of {}, {}: {}",
            letter.message.id,
            letter.group.as_deref().unwrap_or("no group"),
            letter.class.as_deref().unwrap_or("no class"),
            letter.error.as_deref().unwrap_or("no error"),
        );
    }
    Ok(())
}

/// Waits until the counts of handled and dead-lettered messages are so.
async fn until(control: &Control, reached: impl Fn(u64, u64) -> bool) {
    while !control.counts().iter().any(|count| reached(count.handled, count.dead_lettered)) {
        tokio::time::sleep(1.ms()).await;
    }
}

#[test]
fn it_runs() {
    main().unwrap();
}
