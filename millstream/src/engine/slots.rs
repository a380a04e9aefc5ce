//! Slots: places for running handlers that are used again and again, so that a message costs no allocation.
//!
//! Each slot keeps one pinned future and one waker. A future that is ready at its first poll, as most are,
//! never touches a waker. One that is not marks its slot when it is woken, and only marked slots are polled.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use tokio::time::Instant;
use tracing::Span;

use super::window::{Done, Index};
use super::woken::Woken;
use crate::context::Held;
use crate::{Context, Failure, Outcome};

/// Where a run says that it is over, however it ended (returned, dropped or panicked), and leaves what it held.
#[derive(Debug, Default)]
pub(super) struct Cell {
    over: AtomicBool,
    /// Whether there is something in `held`: nearly no handler leaves anything, and then no lock is taken.
    left: AtomicBool,
    held: Mutex<Option<Arc<Held>>>,
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was left. `None`: the run is not over, as far as anybody can tell.
    fn take(&self) -> Option<Option<Arc<Held>>> {
        if !self.over.load(Ordering::Acquire) {
            return None;
        }
        self.over.store(false, Ordering::Relaxed);
        if !self.left.load(Ordering::Relaxed) {
            return Some(None);
        }
        self.left.store(false, Ordering::Relaxed);
        Some(self.lock().take())
    }
}

/// Holds a context while its handler runs.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) context: Context,
    cell: Arc<Cell>,
}

impl Guard {
    pub(super) fn new(context: Context, cell: Arc<Cell>) -> Self {
        Self { context, cell }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(held) = self.context.take_held() {
            *self.cell.lock() = Some(held);
            self.cell.left.store(true, Ordering::Relaxed);
        }
        self.cell.over.store(true, Ordering::Release);
    }
}

struct Slot<F> {
    future: Pin<Box<Option<F>>>,
    cell: Arc<Cell>,
    waker: Waker,
    index: Index,
    rest: Vec<Index>,
    span: Span,
    started: Instant,
    deadline: Option<Instant>,
    /// It was past its deadline, and goes on.
    overlooked: bool,
}

pub(super) struct Slots<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    round: Vec<usize>,
    limit: usize,
    /// When those began that ended after they had waited for something.
    waited: Vec<Instant>,
}

impl<F: Future<Output = Outcome>> Slots<F> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            woken: Arc::default(),
            round: Vec::new(),
            limit,
            waited: Vec::new(),
        }
    }

    /// Handlers that run.
    pub(super) fn active(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Handlers that may still start.
    pub(super) fn room(&self) -> usize {
        self.limit - self.active()
    }

    /// Starts a run and polls it once.
    pub(super) fn start(
        &mut self,
        (index, rest): (Index, Vec<Index>),
        (span, started, deadline): (Span, Instant, Option<Instant>),
        make: impl FnOnce(Arc<Cell>) -> F,
        ended: &mut Vec<Done>,
    ) {
        let at = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            self.slots.push(Slot {
                future: Box::pin(None),
                cell: Arc::default(),
                waker: self.woken.waker(slot),
                index,
                rest: Vec::new(),
                span: Span::none(),
                started,
                deadline: None,
                overlooked: false,
            });
            slot
        });
        let slot = &mut self.slots[at];
        (slot.index, slot.rest, slot.span, slot.started, slot.deadline) =
            (index, rest, span, started, deadline);
        // Making the future runs no code of the user's; a panic in there would be ours.
        slot.future.as_mut().set(Some(make(Arc::clone(&slot.cell))));
        self.poll_slot(at, ended);
    }

    /// When those began that ended after they had waited for something, since this was last asked.
    pub(super) fn waited(&mut self) -> impl Iterator<Item = Instant> + '_ {
        self.waited.drain(..)
    }

    fn poll_slot(&mut self, at: usize, ended: &mut Vec<Done>) {
        let slot = &mut self.slots[at];
        let polled = {
            let _entered = slot.span.enter();
            let Some(future) = slot.future.as_mut().as_pin_mut() else { return };
            let mut context = TaskContext::from_waker(&slot.waker);
            catch_unwind(AssertUnwindSafe(|| future.poll(&mut context)))
        };
        match polled {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(outcome)) => self.end(at, outcome, ended),
            Err(panic) => self.end(at, Err(Failure::panic(&panic_text(&*panic))), ended),
        }
    }

    fn end(&mut self, at: usize, outcome: Outcome, ended: &mut Vec<Done>) {
        let slot = &mut self.slots[at];
        // Dropping what the handler captured may panic as well; it has ended by then.
        let dropped = catch_unwind(AssertUnwindSafe(|| slot.future.as_mut().set(None)));
        if dropped.is_err() {
            tracing::error!("dropping a handler's future panicked");
            slot.future = Box::pin(None);
        }
        slot.span = Span::none();
        slot.overlooked = false;
        let (index, rest) = (slot.index, std::mem::take(&mut slot.rest));
        // A blocking handler whose thread was lost may run on: its message cannot be settled from here, and its lease
        // or connection gives it back.
        if let Some(held) = slot.cell.take() {
            ended.push(Done { index, rest, outcome, held });
        } else {
            slot.cell = Arc::default();
        }
        self.free.push(at);
    }

    /// Polls those that were woken. If none was, the task's waker is kept for the first that will be.
    pub(super) fn poll_woken(&mut self, task: &Waker, ended: &mut Vec<Done>) -> bool {
        if !self.woken.take(task, &mut self.round) {
            return false;
        }
        let mut round = std::mem::take(&mut self.round);
        for at in round.drain(..) {
            let before = ended.len();
            self.poll_slot(at, ended);
            if ended.len() > before {
                self.waited.push(self.slots[at].started);
            }
        }
        self.round = round;
        true
    }

    /// The earliest deadline of those that run.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.running().filter_map(|at| self.slots[at].deadline).min()
    }

    /// Ends those past their deadline.
    pub(super) fn expire(&mut self, now: Instant, limit: std::time::Duration, ended: &mut Vec<Done>) {
        let late: Vec<usize> =
            self.running().filter(|at| self.slots[*at].deadline.is_some_and(|d| d <= now)).collect();
        for at in late {
            self.waited.push(self.slots[at].started);
            self.end(at, Err(Failure::timeout(limit)), ended);
        }
    }

    /// Forgets the deadlines that have passed; says how many are past theirs and go on.
    pub(super) fn overlook(&mut self, now: Instant) -> usize {
        for slot in &mut self.slots {
            if slot.future.is_some() && slot.deadline.is_some_and(|d| d <= now) {
                slot.deadline = None;
                slot.overlooked = true;
            }
        }
        self.slots.iter().filter(|slot| slot.overlooked).count()
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(|at| self.slots[*at].future.is_some())
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not text".to_owned()
    }
}
