//! How work reaches the threads of the sqlite driver. A wait that nobody ends is a deadlock here: no wait runs out of
//! time.
#![allow(dead_code, unreachable_pub, reason = "the sources are built for more than these cases")]

#[path = "../../../drivers/sqlite/src/handover.rs"]
mod handover;
mod sync {
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
}

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use handover::{Bell, Queue};
use millstream_schedules::explore;
use shuttle::thread::{self, JoinHandle};

const LONG: Duration = Duration::from_secs(3_600);

type Item = (usize, usize);

fn push(queue: &Arc<Queue<Item>>, producer: usize, count: usize) -> JoinHandle<()> {
    let queue = Arc::clone(queue);
    thread::spawn(move || (0..count).for_each(|number| queue.push((producer, number))))
}

fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| assert!(thread.join().is_ok()));
}

fn in_order(taken: &[Item], producers: usize, count: usize) {
    for producer in 0..producers {
        let of = taken.iter().filter(|(by, _)| *by == producer).map(|(_, number)| *number);
        assert!(of.eq(0..count), "of {producer}: {taken:?}");
    }
}

/// One thread takes what several hand over, until it is told that nothing more comes.
fn what_is_handed_over_is_taken_once_and_in_order() {
    let queue = Arc::new(Queue::default());
    let taking = thread::spawn({
        let queue = Arc::clone(&queue);
        move || {
            let mut taken = Vec::new();
            while let Some(some) = queue.take(1, LONG) {
                taken.extend(some);
            }
            taken
        }
    });
    join((0..2).map(|producer| push(&queue, producer, 3)).collect());
    queue.shut();
    let taken = taking.join().unwrap_or_default();
    in_order(&taken, 2, 3);
    assert_eq!(taken.len(), 6);
}

/// A thread that waits for several at once is woken when they are there, whoever brings the last.
fn who_waits_for_several_is_woken_by_the_last() {
    let queue = Arc::new(Queue::default());
    let producers: Vec<_> = (0..3).map(|producer| push(&queue, producer, 1)).collect();
    let mut taken: Vec<Item> = Vec::new();
    while taken.len() < 3 {
        taken.extend(queue.take(3 - taken.len(), LONG).unwrap_or_default());
    }
    join(producers);
    in_order(&taken, 3, 1);
}

/// What is put back comes before what was handed over meanwhile.
fn what_is_put_back_comes_first() {
    let queue = Arc::new(Queue::default());
    let producer = push(&queue, 0, 4);
    let mut taken = Vec::new();
    while taken.len() < 4 {
        let mut some = queue.take(1, LONG).unwrap_or_default();
        taken.extend(some.pop_front());
        queue.put_back(some);
    }
    join(vec![producer]);
    in_order(&taken, 1, 4);
    assert_eq!(queue.take(1, Duration::ZERO), Some(VecDeque::new()));
}

/// A ring is heard, also one that comes before the wait; one that says more than another is not lost in it.
fn every_ring_is_heard() {
    let bell = Arc::new(Bell::default());
    let ringing: Vec<_> = (0..2)
        .map(|which| {
            let bell = Arc::clone(&bell);
            thread::spawn(move || if which == 0 { bell.ring() } else { bell.ring_from_outside() })
        })
        .collect();
    while !bell.wait(LONG).from_outside {}
    join(ringing);
    let ending = thread::spawn({
        let bell = Arc::clone(&bell);
        move || bell.shut()
    });
    while !bell.wait(LONG).shut {}
    join(vec![ending]);
}

fn main() {
    explore("handover: taken once and in order", what_is_handed_over_is_taken_once_and_in_order);
    explore("handover: woken by the last of several", who_waits_for_several_is_woken_by_the_last);
    explore("handover: what is put back comes first", what_is_put_back_comes_first);
    explore("handover: every ring is heard", every_ring_is_heard);
}
