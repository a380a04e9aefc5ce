//! Which slots of a run loop were woken, by several threads at once. A wake-up that is not followed by a poll is a
//! deadlock here.

#[path = "../../../millstream/src/engine/woken.rs"]
mod woken;
mod sync {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
}

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use millstream_schedules::explore;
use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread;
use woken::Woken;

/// Something that happens on another thread, and a slot waits for.
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

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let Ok(mut state) = self.0.lock() else { return Poll::Pending };
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A run loop: polls each slot once, then those that were woken, until all events of all slots have happened.
async fn run(woken: &Arc<Woken>, slots: Vec<Vec<Arc<Event>>>) {
    let wakers: Vec<Waker> = (0..slots.len()).map(|slot| woken.waker(slot)).collect();
    let mut at = vec![0; slots.len()];
    let mut round: Vec<usize> = (0..slots.len()).collect();
    loop {
        for slot in round.drain(..) {
            let cx = Context::from_waker(&wakers[slot]);
            while slots[slot].get(at[slot]).is_some_and(|event| event.poll(&cx).is_ready()) {
                at[slot] += 1;
            }
        }
        if slots.iter().zip(&at).all(|(events, at)| events.len() == *at) {
            return;
        }
        poll_fn(|cx| if woken.take(cx.waker(), &mut round) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

fn events(slots: usize, each: usize) -> Vec<Vec<Arc<Event>>> {
    (0..slots).map(|_| (0..each).map(|_| Arc::default()).collect()).collect()
}

/// Two threads wake three slots, each twice, at any moment.
fn every_wake_up_is_followed_by_a_poll() {
    let (woken, events) = (Arc::default(), events(3, 2));
    let others: Vec<_> = (0..2)
        .map(|turn| {
            let mine: Vec<_> = events.iter().map(|of| Arc::clone(&of[turn])).collect();
            thread::spawn(move || mine.iter().for_each(|event| event.happen()))
        })
        .collect();
    block_on(run(&woken, events));
    others.into_iter().for_each(|other| assert!(other.join().is_ok()));
}

/// The loop goes on on another thread, with another waker, as tasks do.
fn a_loop_that_moves_is_woken_where_it_is() {
    let (woken, events) = (Arc::<Woken>::default(), events(2, 1));
    let happening = thread::spawn({
        let events = events.clone();
        move || events.iter().flatten().for_each(|event| event.happen())
    });
    // It was polled here once, and left its waker.
    block_on(poll_fn(|cx| Poll::Ready(woken.take(cx.waker(), &mut Vec::new()))));
    let moved = thread::spawn({
        let woken = Arc::clone(&woken);
        move || block_on(run(&woken, events))
    });
    assert!(happening.join().is_ok() && moved.join().is_ok());
}

/// A late wake-up of a slot that nobody uses any more is taken, and no other is lost for it.
fn a_wake_up_of_nobody_harms_no_other() {
    let (woken, events) = (Arc::<Woken>::default(), events(2, 1));
    let late = woken.waker(1);
    let others = [
        thread::spawn(move || late.wake()),
        thread::spawn({
            let events = events.clone();
            move || events.iter().flatten().for_each(|event| event.happen())
        }),
    ];
    block_on(run(&woken, events));
    others.into_iter().for_each(|other| assert!(other.join().is_ok()));
}

fn main() {
    explore("woken: every wake-up is followed by a poll", every_wake_up_is_followed_by_a_poll);
    explore("woken: a loop that moves is woken where it is", a_loop_that_moves_is_woken_where_it_is);
    explore("woken: a wake-up of nobody harms no other", a_wake_up_of_nobody_harms_no_other);
}
