//! Given a `tower` layer around a handler.
#![cfg(all(feature = "tower", feature = "memory"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{self, Poll};

use common::{UserCreated, ada, memory_bus, until};
use millstream::layer::Tower;
use millstream::{Context, Failure, Outcome, State, Subscribe};

/// Counts calls, as any layer of `tower` might.
#[derive(Clone, Default)]
struct Counting(Arc<AtomicU32>);

#[derive(Clone)]
struct Counted<S> {
    inner: S,
    count: Arc<AtomicU32>,
}

impl<S> tower_layer::Layer<S> for Counting {
    type Service = Counted<S>;
    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, count: Arc::clone(&self.0) }
    }
}

impl<'a, S: tower_service::Service<&'a mut Context>> tower_service::Service<&'a mut Context> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;
    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, context: &'a mut Context) -> S::Future {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.inner.call(context)
    }
}

async fn refuses(_: UserCreated, State(runs): State<Arc<AtomicU32>>) -> Outcome {
    runs.fetch_add(1, Ordering::Relaxed);
    Err(Failure::unrecoverable("never"))
}

#[tokio::test(start_paused = true)]
async fn a_tower_layer_sees_each_run_and_a_failure_keeps_its_kind() {
    let (counting, runs) = (Counting::default(), Arc::new(AtomicU32::new(0)));
    let bus = memory_bus().await;
    bus.publish(&ada()).await.unwrap();
    let running = bus
        .with_state(Arc::clone(&runs))
        .subscribe(refuses.group("g").layer(Tower(counting.clone())))
        .start()
        .await
        .unwrap();
    let control = running.control();
    until(|| control.counts()[0].dead_lettered == 1).await;
    assert_eq!((counting.0.load(Ordering::Relaxed), runs.load(Ordering::Relaxed)), (1, 1));
    running.shutdown().await;
}
