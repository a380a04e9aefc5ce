//! Which of a run loop's slots were woken, from any thread.

use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};

use crate::sync::{Mutex, MutexGuard};

/// The slots that were woken and not polled since, and the task that polls them.
#[derive(Default)]
pub(super) struct Woken(Mutex<State>);

#[derive(Default)]
struct State {
    slots: Vec<usize>,
    task: Option<Waker>,
}

impl Woken {
    /// Wakes a slot.
    pub(super) fn waker(self: &Arc<Self>, slot: usize) -> Waker {
        Waker::from(Arc::new(SlotWaker { slot, woken: Arc::clone(self) }))
    }

    /// Takes the slots that were woken, in place of what is in `round`. If none was, the task's waker is kept for the
    /// first that will be, and it says so.
    pub(super) fn take(&self, task: &Waker, round: &mut Vec<usize>) -> bool {
        let mut woken = self.lock();
        if woken.slots.is_empty() {
            if !woken.task.as_ref().is_some_and(|t| t.will_wake(task)) {
                woken.task = Some(task.clone());
            }
            return false;
        }
        round.clear();
        std::mem::swap(&mut woken.slots, round);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct SlotWaker {
    slot: usize,
    woken: Arc<Woken>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = {
            let mut woken = self.woken.lock();
            // Few are woken between two polls: a list is scanned faster than a set is kept.
            if !woken.slots.contains(&self.slot) {
                woken.slots.push(self.slot);
            }
            woken.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}
