//! Handlers, with and without layers, dropped as a time limit drops them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::{
    Attempt, Bus, Context, EmbeddedDedupStore, Event, Failure, Handler, Layer, Outcome, Publisher, Retry,
    State, Subscribable, Subscribe,
};
use millstream_testkit::cancel::Cut;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::world::{Checked, Handled, OrderPlaced, World, ensure, sweep};

pub(crate) const FUNCTIONS: &[&str] = &["Handler::call", "Shape::call", "Call::run", "Service::call"];

const ORDERS: [&str; 5] = ["a", "b", "cc", "dd", "eee"];

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(topic = "order.shipped")]
struct OrderShipped {
    id: String,
}

/// What handlers share and must give back.
#[derive(Clone)]
struct Shared {
    handled: Handled,
    permits: Arc<Semaphore>,
    lock: Arc<Mutex<()>>,
}

impl Shared {
    fn new(world: &World) -> Self {
        Self { handled: world.handled.clone(), permits: Arc::new(Semaphore::new(1)), lock: Arc::default() }
    }
}

/// Holds a permit and a lock on its way, and has something to say before it is through.
async fn ship(order: OrderPlaced, State(shared): State<Shared>, publisher: Publisher) -> Outcome {
    let _permit = shared.permits.acquire().await?;
    publisher.publish(&OrderShipped { id: order.id.clone() }).await?;
    yield_now().await;
    let _locked = shared.lock.lock().await;
    yield_now().await;
    shared.handled.add(&order.id);
    Ok(())
}

/// Drops the first run that comes with a cut, and lets all others through.
#[derive(Clone)]
struct Dropping {
    cut: Cut,
    dropped: Arc<AtomicBool>,
}

impl Dropping {
    fn first(cut: &Cut) -> Self {
        Self { cut: cut.clone(), dropped: Arc::default() }
    }
}

struct DroppingHandler<H> {
    inner: H,
    dropping: Dropping,
}

impl<H: Handler> Layer<H> for Dropping {
    type Handler = DroppingHandler<H>;
    fn layer(self, inner: H) -> DroppingHandler<H> {
        DroppingHandler { inner, dropping: self }
    }
}

impl<H: Handler> Handler for DroppingHandler<H> {
    async fn call(&self, context: &mut Context) -> Outcome {
        let Dropping { cut, dropped } = &self.dropping;
        if dropped.swap(true, Ordering::AcqRel) {
            return self.inner.call(context).await;
        }
        cut.run(self.inner.call(context)).await.unwrap_or_else(|| Err(Failure::retry("it was dropped")))
    }
}

/// After a run was dropped every order is handled once, what the dropped run said is not published, and everything
/// that was held is free.
async fn checked(world: &World, shared: &Shared, bus: Bus<Shared>, store: &EmbeddedDedupStore) -> Checked {
    world.publish(&ORDERS).await;
    let running = bus.start().await.map_err(|e| e.to_string())?;
    world.settled("g").await?;
    let report = running.shutdown().await;
    ensure!(report.is_clean(), "{report:?}");
    let handled = world.handled.all();
    ensure!(handled.keys().eq(ORDERS) && handled.values().all(|n| *n == 1), "handled were {handled:?}");
    let shipped = world.messages("order.shipped").await;
    let mut shipped: Vec<_> = shipped.iter().map(|m| m.decode::<OrderShipped>().unwrap().id).collect();
    shipped.sort_unstable();
    ensure!(shipped == ORDERS, "shipped were {shipped:?}");
    ensure!(shared.permits.available_permits() == 1, "the permit leaked");
    ensure!(shared.lock.try_lock().is_ok(), "the lock is held");
    ensure!(ORDERS.iter().all(|id| store.was_handled("g", id)), "the store does not know all");
    Ok(())
}

/// Runs a subscription that was given a layer which drops one of its runs.
async fn one_run_is_dropped<S, A, M>(
    cut: &Cut,
    subscribe: impl FnOnce(Dropping, EmbeddedDedupStore) -> S,
) -> Checked
where
    S: Subscribable<Shared, A, M>,
{
    let world = World::new();
    let shared = Shared::new(&world);
    let store = EmbeddedDedupStore::new(100);
    let subscription = subscribe(Dropping::first(cut), store.clone());
    let bus = Bus::from_connection(world.connection()).with_state(shared.clone()).subscribe(subscription);
    checked(&world, &shared, bus, &store).await
}

fn soon() -> Retry {
    Retry::exponential(Duration::from_millis(100), Duration::from_secs(1))
}

fn some(seed: u64) -> usize {
    1 + usize::try_from(seed % 3).unwrap()
}

#[test]
fn a_handler_may_be_dropped_at_every_poll_and_its_run_leaves_nothing_behind() {
    let tally = sweep("Handler::call", async |cut, seed| {
        let subscribe = |dropping, store| {
            ship.group("g").concurrency(some(seed)).retry(soon()).deduplicate(store).layer(dropping)
        };
        one_run_is_dropped(cut, subscribe).await
    });
    assert!(tally.deepest >= 3, "{tally}");
}

#[cfg(feature = "tower")]
#[test]
fn a_handler_within_a_layer_of_tower_may_be_dropped_at_every_poll() {
    use millstream::layer::Tower;
    let tally = sweep("Call::run", async |cut, seed| {
        let subscribe = |dropping, store| {
            let inner = ship.group("g").concurrency(some(seed)).retry(soon()).deduplicate(store);
            inner.layer(Tower(tower_layer::Identity::new())).layer(dropping)
        };
        one_run_is_dropped(cut, subscribe).await
    });
    assert!(tally.deepest >= 3, "{tally}");
}

/// Waits several times in its first run.
async fn slow(
    order: OrderPlaced,
    Attempt(attempt): Attempt,
    State(shared): State<Shared>,
    publisher: Publisher,
) -> Outcome {
    let _permit = shared.permits.acquire().await?;
    for _ in 0..4 {
        if attempt == 1 {
            sleep(Duration::from_millis(10)).await;
        }
        let _locked = shared.lock.lock().await;
    }
    publisher.publish(&OrderShipped { id: order.id.clone() }).await?;
    shared.handled.add(&order.id);
    Ok(())
}

#[test]
fn a_handler_that_runs_out_of_time_anywhere_gives_back_what_it_held() {
    for limit in (0..=50).step_by(5) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let ended: Checked = runtime.unwrap().block_on(async {
            let world = World::new();
            let shared = Shared::new(&world);
            let store = EmbeddedDedupStore::new(100);
            let subscription = slow
                .group("g")
                .timeout(Duration::from_millis(limit + 1))
                .retry(Retry::fixed(Duration::from_millis(100)))
                .concurrency(1)
                .deduplicate(store.clone());
            let bus =
                Bus::from_connection(world.connection()).with_state(shared.clone()).subscribe(subscription);
            checked(&world, &shared, bus, &store).await
        });
        ended.unwrap_or_else(|what| panic!("after {limit} ms: {what}"));
    }
}
