//! The twenty lines: an event, a handler, a bus.
//!
//! ```sh
//! cargo run -p millstream-examples --example hello
//! ```

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "user.created", key = "user_id")]
struct UserCreated {
    user_id: String,
    display_name: String,
}

/// Something handlers share. Clones must be cheap: each run of a handler gets one.
#[derive(Clone)]
struct Mailer {
    sent: tokio::sync::mpsc::Sender<String>,
}

impl Mailer {
    async fn send(&self, user: &UserCreated) -> Result<(), tokio::sync::mpsc::error::SendError<String>> {
        self.sent.send(format!("Welcome, {}!", user.display_name)).await
    }
}

async fn send_welcome_email(user: UserCreated, State(mailer): State<Mailer>) -> Outcome {
    mailer.send(&user).await?; // an error is retried, then dead-lettered
    Ok(()) // only now is the message acknowledged
}

#[tokio::main]
async fn main() -> millstream::Result<()> {
    let (sent, mut outbox) = tokio::sync::mpsc::channel(10);

    let bus = Bus::connect("memory://").await?;
    bus.publish(&UserCreated { user_id: "1".into(), display_name: "Ada".into() }).await?;

    let first_mail = async { outbox.recv().await };
    // A service would end with `.run()`, which waits for SIGINT or SIGTERM.
    bus.with_state(Mailer { sent })
        .subscribe(
            send_welcome_email
                .group("welcome-email")
                .concurrency(64) // 64 in flight, at most one per key
                .retry(Retry::exponential(100.ms(), 30.s()).attempts(6))
                .deduplicate(EmbeddedDedupStore::new(1_000_000)),
        )
        .run_until(async { println!("{}", first_mail.await.unwrap_or_default()) })
        .await?;
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
