//! A layer and an extractor of your own: the layer admits only known tenants and hands on who it is, the
//! extractor reads the request's number from a header.
//!
//! ```sh
//! cargo run -p millstream-examples --example layers
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream::prelude::*;
use millstream::{Context, Extension, FromContext, Handler, Layer, PublishOptions};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "report.wanted")]
struct ReportWanted {
    title: String,
}

/// Who a message belongs to.
#[derive(Debug, Clone, PartialEq)]
struct Tenant(String);

/// The layer's settings. `layer` puts it around a handler.
struct Admit(&'static [&'static str]);

impl<H: Handler> Layer<H> for Admit {
    type Handler = Admitted<H>;
    fn layer(self, inner: H) -> Admitted<H> {
        Admitted { tenants: self.0, inner }
    }
}

/// The handler with the layer around it.
struct Admitted<H> {
    tenants: &'static [&'static str],
    inner: H,
}

impl<H: Handler> Handler for Admitted<H> {
    async fn call(&self, context: &mut Context) -> Outcome {
        let tenant = context.message().headers.get_str("tenant").unwrap_or_default().to_owned();
        if !self.tenants.contains(&tenant.as_str()) {
            // Wanted by nobody here: acknowledged, and counted as discarded.
            return Err(Failure::discard(format!("the tenant {tenant:?} is not ours")));
        }
        context.extensions_mut().insert(Tenant(tenant));
        self.inner.call(context).await
    }
}

/// The number of the request that led to the message; 0 if it names none.
struct RequestNumber(u64);

// For every state `S`: it needs none.
impl<S> FromContext<S> for RequestNumber {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        match context.message().headers.get_str("request") {
            None => Ok(Self(0)),
            // The handler does not run; a retry could not help, so it is dead-lettered.
            Some(text) => text.parse().map(Self).map_err(Failure::unrecoverable),
        }
    }
}

async fn write_report(
    wanted: ReportWanted,
    Extension(Tenant(tenant)): Extension<Tenant>,
    RequestNumber(number): RequestNumber,
    State(written): State<Arc<AtomicU64>>,
) -> Outcome {
    println!("request {number} of {tenant}: {}", wanted.title);
    written.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[tokio::main]
async fn main() -> millstream::Result<()> {
    let written = Arc::new(AtomicU64::new(0));
    let bus = Bus::connect("memory://").await?;
    let wanted = ReportWanted { title: "Sales in May".into() };
    for (tenant, request) in [("acme", "1"), ("acme", "2"), ("nobody-we-know", "3"), ("acme", "four")] {
        let options = PublishOptions::new().header("tenant", tenant).header("request", request);
        bus.publish_with(&wanted, options).await?;
    }

    let running = bus
        .with_state(Arc::clone(&written))
        .subscribe(write_report.group("reports").layer(Admit(&["acme"])))
        .start()
        .await?;
    let control = running.control();
    loop {
        let counts = &control.counts()[0];
        if counts.handled + counts.discarded + counts.dead_lettered == 4 {
            break;
        }
        tokio::time::sleep(1.ms()).await;
    }
    let report = running.shutdown().await;
    let counts = &report.subscriptions[0];
    println!(
        "handled {}, discarded {}, dead-lettered {}",
        counts.handled, counts.discarded, counts.dead_lettered
    );
    assert_eq!((written.load(Ordering::Relaxed), counts.discarded, counts.dead_lettered), (2, 1, 1));
    Ok(())
}

#[test]
fn it_runs() {
    main().unwrap();
}
