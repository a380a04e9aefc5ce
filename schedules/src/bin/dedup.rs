//! The deduplication store in memory, asked by several threads at once.
#![allow(dead_code, unreachable_pub, reason = "the sources are built for more than these cases")]

#[path = "../../../millstream/src/dedup.rs"]
mod dedup;
mod sync {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
}

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dedup::EmbeddedDedupStore;
use millstream_core::{DedupKey, DedupStore, Reserve};
use millstream_schedules::explore;
use shuttle::future::block_on;
use shuttle::thread;

const LEASE: Duration = Duration::from_secs(3_600);

fn key(id: usize) -> DedupKey {
    DedupKey { group: "g".into(), id: format!("id {id}").into() }
}

/// Two copies of each message race: one runs it, the other waits or learns that it is a duplicate.
fn an_id_is_handled_once() {
    let store = EmbeddedDedupStore::new(8);
    let handled: Arc<[AtomicUsize; 2]> = Arc::default();
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let (store, handled) = (store.clone(), Arc::clone(&handled));
            thread::spawn(move || {
                block_on(async {
                    for id in [worker % 2, (worker + 1) % 2] {
                        let mut fails = worker == 2;
                        loop {
                            let Ok(mut answers) = store.reserve(vec![key(id)], LEASE).await else {
                                panic!("it fails")
                            };
                            match answers.pop() {
                                // The first run of the last worker fails.
                                Some(Reserve::Reserved(reservation)) if std::mem::take(&mut fails) => {
                                    assert!(store.release(vec![reservation]).await.is_ok());
                                }
                                Some(Reserve::Reserved(reservation)) => {
                                    handled[id].fetch_add(1, Ordering::Relaxed);
                                    let confirmed = store.confirm(&[reservation]).await;
                                    assert!(matches!(confirmed.as_deref(), Ok([true])), "{confirmed:?}");
                                    break;
                                }
                                Some(Reserve::Duplicate) => break,
                                _ => thread::yield_now(),
                            }
                        }
                    }
                });
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| assert!(worker.join().is_ok()));
    for (id, times) in handled.iter().enumerate() {
        assert_eq!(times.load(Ordering::Relaxed), 1, "id {id}");
        assert!(store.was_handled("g", &format!("id {id}")));
    }
    assert_eq!((store.len(), store.is_empty()), (2, false));
}

/// More ids than fit in: reservations are never pushed out, and room always comes.
fn a_store_that_is_full_of_reservations_serves_all_in_the_end() {
    let store = EmbeddedDedupStore::new(1);
    let workers: Vec<_> = (0..3)
        .map(|id| {
            let store = store.clone();
            thread::spawn(move || {
                block_on(async {
                    let reservation = loop {
                        match store.reserve(vec![key(id)], LEASE).await.map(|mut answers| answers.pop()) {
                            Ok(Some(Reserve::Reserved(reservation))) => break reservation,
                            Ok(Some(Reserve::Busy(_))) => thread::yield_now(),
                            other => panic!("{other:?}"),
                        }
                    };
                    let confirmed = store.confirm(&[reservation]).await;
                    assert!(matches!(confirmed.as_deref(), Ok([true])), "a reservation was pushed out");
                });
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| assert!(worker.join().is_ok()));
    assert_eq!(store.len(), 1);
}

fn main() {
    explore("dedup: an id is handled once", an_id_is_handled_once);
    explore(
        "dedup: a full store serves all in the end",
        a_store_that_is_full_of_reservations_serves_all_in_the_end,
    );
}
