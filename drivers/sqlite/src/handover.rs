//! How work reaches a thread, and what wakes it: a queue that is taken whole, and a bell that keeps its ring.
//!
//! Neither wakes anybody who is awake: that would cost a call into the kernel every time.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// What waits for one thread.
pub(crate) struct Queue<T> {
    state: Mutex<Waiting<T>>,
    bell: Condvar,
}

struct Waiting<T> {
    items: VecDeque<T>,
    /// The thread sleeps until there are so many.
    wake_at: Option<usize>,
    shut: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let state = Waiting { items: VecDeque::new(), wake_at: None, shut: false };
        Self { state: Mutex::new(state), bell: Condvar::new() }
    }
}

impl<T> Queue<T> {
    /// Hands something over.
    pub(crate) fn push(&self, item: T) {
        let mut queue = self.lock();
        queue.items.push_back(item);
        let enough = queue.wake_at.is_some_and(|count| queue.items.len() >= count);
        if enough {
            queue.wake_at = None;
        }
        drop(queue);
        if enough {
            self.bell.notify_one();
        }
    }

    /// Waits until there are `count`, at most so long, and takes what there is; `None` when there is nothing and never
    /// will be.
    pub(crate) fn take(&self, count: usize, wait: Duration) -> Option<VecDeque<T>> {
        let mut queue = self.lock();
        if queue.items.len() < count && !queue.shut && !wait.is_zero() {
            queue.wake_at = Some(count);
            queue = self.bell.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
            queue.wake_at = None;
        }
        if queue.items.is_empty() && queue.shut {
            return None;
        }
        Some(std::mem::take(&mut queue.items))
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Hands back what could not be done now: it comes first the next time.
    pub(crate) fn put_back(&self, items: VecDeque<T>) {
        let mut queue = self.lock();
        for item in items.into_iter().rev() {
            queue.items.push_front(item);
        }
    }

    /// Nothing more comes.
    pub(crate) fn shut(&self) {
        self.lock().shut = true;
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes one thread; a ring that nobody waits for is kept.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<Rung>,
    bell: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Rung {
    /// Somebody waits.
    waits: bool,
    pub(crate) rung: bool,
    /// Others may have changed the file.
    pub(crate) from_outside: bool,
    pub(crate) shut: bool,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.change(|rung| rung.rung = true);
    }

    pub(crate) fn ring_from_outside(&self) {
        self.change(|rung| (rung.rung, rung.from_outside) = (true, true));
    }

    pub(crate) fn shut(&self) {
        self.change(|rung| rung.shut = true);
    }

    fn change(&self, change: impl FnOnce(&mut Rung)) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut rung);
        let waits = std::mem::take(&mut rung.waits);
        drop(rung);
        if waits {
            self.bell.notify_one();
        }
    }

    /// Waits for a ring, at most so long.
    pub(crate) fn wait(&self, time: Duration) -> Rung {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !rung.rung && !rung.shut {
            rung.waits = true;
            rung = self.bell.wait_timeout(rung, time).unwrap_or_else(PoisonError::into_inner).0;
            rung.waits = false;
        }
        let now = *rung;
        (rung.rung, rung.from_outside) = (false, false);
        now
    }
}
