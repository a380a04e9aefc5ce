//! The slots that handlers run in, woken from other threads.
#![allow(dead_code, unreachable_pub, reason = "the sources are built for more than these cases")]

#[path = "../../../millstream/src/engine/slots.rs"]
mod slots;
mod window {
    pub(crate) type Index = u32;
}
mod sync {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
}

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use millstream_schedules::explore;
use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread;
use slots::{Ended, Guard, Slots};
use tokio::time::Instant;
use tracing::Span;

/// What a handler has while it runs, as far as slots care.
#[derive(Debug)]
pub(crate) struct Context(u32);

/// Why a handler failed, as far as slots care.
#[derive(Debug)]
pub(crate) enum Failure {
    Panic,
    Timeout,
}

impl Failure {
    fn panic(_: &str) -> Self {
        Self::Panic
    }

    fn timeout(_: Duration) -> Self {
        Self::Timeout
    }
}

pub(crate) type Outcome = Result<(), Failure>;

/// Something that happens on another thread.
#[derive(Default)]
struct Event(Mutex<(bool, Option<Waker>)>);

impl Event {
    fn happen(&self) {
        let waker = {
            let Ok(mut state) = self.0.lock() else { return };
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let Ok(mut state) = self.0.lock() else { return Poll::Pending };
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

type Run = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Starts a handler that waits for each of its events in turn.
fn start(slots: &mut Slots<Run>, index: u32, events: Vec<Arc<Event>>, ended: &mut Vec<Ended>) {
    start_until(slots, index, None, events, ended);
}

fn start_until(
    slots: &mut Slots<Run>,
    index: u32,
    deadline: Option<Instant>,
    events: Vec<Arc<Event>>,
    ended: &mut Vec<Ended>,
) {
    let make = |cell| -> Run {
        let guard = Guard::new(Context(index), cell);
        Box::pin(async move {
            let _guard = guard;
            for event in events {
                poll_fn(|cx| event.poll(cx)).await;
            }
            Ok(())
        })
    };
    slots.start((index, Vec::new()), (Span::none(), Instant::now(), deadline), make, ended);
}

/// As a run loop waits: for any of its handlers.
async fn wait(slots: &mut Slots<Run>, ended: &mut Vec<Ended>) {
    poll_fn(|cx| if slots.poll_woken(cx.waker(), ended) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Handlers that are woken from other threads, at any moment, all end, each with its context.
fn every_wake_up_is_followed_by_a_poll() {
    let mut slots = Slots::new(4);
    let mut ended = Vec::new();
    let events: Vec<Vec<Arc<Event>>> = (0..3).map(|_| vec![Arc::default(), Arc::default()]).collect();
    let others: Vec<_> = (0..2)
        .map(|turn| {
            let mine: Vec<_> = events.iter().map(|of| Arc::clone(&of[turn])).collect();
            thread::spawn(move || mine.iter().for_each(|event| event.happen()))
        })
        .collect();
    block_on(async {
        for (index, events) in (0..).zip(events) {
            start(&mut slots, index, events, &mut ended);
        }
        while slots.active() > 0 {
            wait(&mut slots, &mut ended).await;
        }
    });
    others.into_iter().for_each(|other| assert!(other.join().is_ok()));
    let mut back: Vec<u32> = ended.iter().filter_map(|one| one.context.as_ref().map(|c| c.0)).collect();
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2]);
    assert!(ended.iter().all(|one| one.outcome.is_ok()));
}

/// A handler that ran out of time is woken late, when another runs in its slot: that one is polled once more, and ends
/// when its own event happens.
fn a_late_wake_up_of_the_last_handler_harms_no_other() {
    let mut slots = Slots::new(1);
    let mut ended = Vec::new();
    let (first, second) = (Arc::new(Event::default()), Arc::new(Event::default()));
    block_on(async {
        start_until(&mut slots, 1, Some(Instant::now()), vec![Arc::clone(&first)], &mut ended);
        let late = thread::spawn(move || first.happen());
        slots.expire(Instant::now(), Duration::ZERO, &mut ended);
        assert_eq!(slots.active(), 0);
        start(&mut slots, 2, vec![Arc::clone(&second)], &mut ended);
        let next = thread::spawn(move || second.happen());
        while slots.active() > 0 {
            wait(&mut slots, &mut ended).await;
        }
        assert!(late.join().is_ok() && next.join().is_ok());
    });
    assert!(ended.iter().map(|one| (one.index, one.outcome.is_ok())).eq([(1, false), (2, true)]));
}

fn main() {
    explore("slots: every wake-up is followed by a poll", every_wake_up_is_followed_by_a_poll);
    explore(
        "slots: a late wake-up harms no other handler",
        a_late_wake_up_of_the_last_handler_harms_no_other,
    );
}
