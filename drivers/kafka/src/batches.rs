//! Batches on their way: each delivery report finds its batch by a number, and the last one wakes whoever waits.
//!
//! A report carries one `usize`: the batch's slot and the message's place in the batch. Nothing is allocated for a
//! message, and a failure says which message it was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    pub(crate) room: Notify,
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
    /// Reports to come, and one for whoever sends.
    left: AtomicUsize,
    failed: Mutex<Vec<(usize, KafkaError)>>,
    done: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Batches {
    pub(crate) fn begin(&self) -> Arc<Batch> {
        let mut slots = lock(&self.slots);
        let slot = slots.free.pop().unwrap_or(slots.batches.len());
        let batch = Arc::new(Batch {
            slot,
            left: AtomicUsize::new(1),
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
        let batch = lock(&self.slots).batches.get(opaque >> PLACE_BITS).and_then(Clone::clone);
        let Some(batch) = batch else { return };
        if let Some(error) = failure {
            lock(&batch.failed).push((opaque & (BATCH_LIMIT - 1), error));
        }
        self.ended(&batch);
        self.room.notify_waiters();
    }

    /// One thing less that the batch waits for.
    pub(crate) fn ended(&self, batch: &Batch) {
        if batch.left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut slots = lock(&self.slots);
        slots.batches[batch.slot] = None;
        slots.free.push(batch.slot);
        let idle = slots.free.len() == slots.batches.len();
        drop(slots);
        batch.done.notify_one();
        if idle {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        let slots = lock(&self.slots);
        slots.free.len() == slots.batches.len()
    }
}

impl Batch {
    /// What the report of this message will carry; it counts from now on.
    pub(crate) fn expect(&self, place: usize) -> usize {
        self.left.fetch_add(1, Ordering::AcqRel);
        (self.slot << PLACE_BITS) | place
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
    async fn the_last_report_ends_a_batch_and_frees_its_slot() {
        let batches = Batches::default();
        let (first, second) = (batches.begin(), batches.begin());
        let reports: Vec<_> = (0..3).map(|place| second.expect(place)).collect();
        batches.ended(&second);
        batches.report(reports[2], Some(KafkaError::Canceled));
        batches.report(reports[0], None);
        assert!(!batches.is_idle());
        batches.report(reports[1], None);
        second.done().await;
        assert_eq!(second.take_failed().into_iter().map(|(place, _)| place).collect::<Vec<_>>(), [2]);
        batches.ended(&first);
        first.done().await;
        assert!(batches.is_idle());
        assert_eq!(batches.begin().slot, 0, "the slot that was freed last");
    }
}
