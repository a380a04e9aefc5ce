//! Batches on their way: each delivery report finds its batch by a number, and the last one wakes whoever waits.
//!
//! A report carries one `usize`: the batch's slot and the message's place in the batch. Nothing is allocated for a
//! message, and a failure says which message it was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::KafkaError;
use tokio::sync::Notify;

/// Bits of a message's place in its batch.
const PLACE_BITS: u32 = 20;

/// Messages of a batch at most.
pub(crate) const BATCH_LIMIT: usize = 1 << PLACE_BITS;

/// The slots of batches on their way.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    slots: Mutex<Slots>,
    /// Some report came: there is room in the client's queue.
    room: Notify,
    /// Those who wait for room: where there is none, as nearly always, a report rings for nobody.
    waiting: AtomicUsize,
    /// No batch is on its way.
    pub(crate) idle: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    batches: Vec<Option<Arc<Batch>>>,
    free: Vec<usize>,
}

/// One batch.
#[derive(Debug)]
pub(crate) struct Batch {
    slot: usize,
    /// Messages that are not sent yet or have no report yet, and one for whoever sends.
    left: AtomicUsize,
    failed: Mutex<Vec<(usize, KafkaError)>>,
    done: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Batches {
    /// A batch of so many messages, each of which ends with its report or with [`ended`](Self::ended).
    pub(crate) fn begin(&self, messages: usize) -> Arc<Batch> {
        let mut slots = lock(&self.slots);
        let slot = slots.free.pop().unwrap_or(slots.batches.len());
        let batch = Arc::new(Batch {
            slot,
            left: AtomicUsize::new(messages + 1),
            failed: Mutex::default(),
            done: Notify::new(),
        });
        if slot == slots.batches.len() {
            slots.batches.push(None);
        }
        slots.batches[slot] = Some(Arc::clone(&batch));
        batch
    }

    /// The delivery report of a message.
    pub(crate) fn report(&self, opaque: usize, failure: Option<KafkaError>) {
        let slots = lock(&self.slots);
        let Some(batch) = slots.batches.get(opaque >> PLACE_BITS).and_then(Option::as_ref) else { return };
        if let Some(error) = failure {
            lock(&batch.failed).push((opaque & (BATCH_LIMIT - 1), error));
        }
        if batch.is_last(1) {
            let batch = Arc::clone(batch);
            self.end(slots, &batch);
        } else {
            drop(slots);
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }

    /// So many things less that the batch waits for.
    pub(crate) fn ended(&self, batch: &Batch, count: usize) {
        if batch.is_last(count) {
            self.end(lock(&self.slots), batch);
        }
    }

    fn end(&self, mut slots: MutexGuard<'_, Slots>, batch: &Batch) {
        slots.batches[batch.slot] = None;
        slots.free.push(batch.slot);
        let idle = slots.free.len() == slots.batches.len();
        drop(slots);
        batch.done.notify_one();
        if idle {
            self.idle.notify_waiters();
        }
    }

    /// Tries again and again, when a report came or such a time has passed.
    pub(crate) async fn retry<T>(&self, within: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            // One that is made before the attempt misses no report after it.
            let room = self.room.notified();
            if let Some(done) = attempt() {
                return done;
            }
            let _ = tokio::time::timeout(within, room).await;
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let slots = lock(&self.slots);
        slots.free.len() == slots.batches.len()
    }
}

/// Somebody waits, as long as this lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Batch {
    /// What the report of the message at this place carries.
    pub(crate) fn opaque(&self, place: usize) -> usize {
        (self.slot << PLACE_BITS) | place
    }

    fn is_last(&self, count: usize) -> bool {
        count > 0 && self.left.fetch_sub(count, Ordering::AcqRel) == count
    }

    /// Waits for the last report.
    pub(crate) async fn done(&self) {
        self.done.notified().await;
    }

    pub(crate) fn take_failed(&self) -> Vec<(usize, KafkaError)> {
        std::mem::take(&mut *lock(&self.failed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_no_room_tries_again_when_a_report_came() {
        let batches = Arc::new(Batches::default());
        let batch = batches.begin(1);
        let (reporting, opaque) = (Arc::clone(&batches), batch.opaque(0));
        let mut refused = 0;
        batches
            .retry(Duration::from_secs(60), || {
                refused += 1;
                if refused == 1 {
                    reporting.report(opaque, None);
                }
                (refused > 1).then_some(())
            })
            .await;
        assert_eq!(batches.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn the_last_report_ends_a_batch_and_frees_its_slot() {
        let batches = Batches::default();
        let (first, second) = (batches.begin(2), batches.begin(3));
        let reports: Vec<_> = (0..3).map(|place| second.opaque(place)).collect();
        batches.ended(&second, 1);
        batches.report(reports[2], Some(KafkaError::Canceled));
        batches.report(reports[0], None);
        assert!(!batches.is_idle());
        batches.report(reports[1], None);
        second.done().await;
        assert_eq!(second.take_failed().into_iter().map(|(place, _)| place).collect::<Vec<_>>(), [2]);
        // Neither of its two was sent.
        batches.ended(&first, 3);
        first.done().await;
        assert!(batches.is_idle());
        assert_eq!(batches.begin(1).slot, 0, "the slot that was freed last");
    }
}
