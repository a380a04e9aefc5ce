//! Slots: places for running handlers that are used again and again, so that a message costs no allocation.
//!
//! Each slot keeps one pinned future and one waker. A future that is ready at its first poll, as most are,
//! never touches a waker. One that is not marks its slot when it is woken, and only marked slots are polled.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use tokio::time::Instant;
use tracing::Span;

use super::window::{Done, Index};
use super::woken::Woken;
use crate::context::{Held, Others};
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
    #[inline]
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
    #[inline]
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
    run: Run,
    /// It was past its deadline, and goes on.
    overlooked: bool,
}

/// What is known of a run. Kept by its slot only once it waits for something.
struct Run {
    index: Index,
    /// The others of its batch.
    rest: Others<Index>,
    span: Span,
    started: Instant,
    deadline: Option<Instant>,
}

impl<F: Future<Output = Outcome>> Slot<F> {
    /// Polls the future once, and drops it if it is over.
    fn poll(&mut self) -> Option<Outcome> {
        let mut outcome = None;
        let (future, waker) = (&mut self.future, &self.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let Some(running) = future.as_mut().as_pin_mut() else { return };
            if let Poll::Ready(ended) = running.poll(&mut TaskContext::from_waker(waker)) {
                outcome = Some(ended);
                // Dropping what the handler captured may panic as well; it has ended by then.
                future.as_mut().set(None);
            }
        }));
        match polled {
            Ok(()) => outcome,
            Err(panic) => Some(self.panicked(outcome, &*panic)),
        }
    }

    #[cold]
    fn panicked(&mut self, outcome: Option<Outcome>, panic: &(dyn Any + Send)) -> Outcome {
        if let Some(outcome) = outcome {
            self.drop_panicked();
            return outcome;
        }
        self.drop_future();
        Err(Failure::panic(&panic_text(panic)))
    }

    fn drop_future(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.future.as_mut().set(None))).is_err() {
            self.drop_panicked();
        }
    }

    fn drop_panicked(&mut self) {
        tracing::error!("dropping a handler's future panicked");
        self.future = Box::pin(None);
    }
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
    #[inline]
    pub(super) fn start(
        &mut self,
        (index, rest): (Index, Others<Index>),
        (span, started, deadline): (Span, Instant, Option<Instant>),
        make: impl FnOnce(Arc<Cell>) -> F,
        ended: &mut Vec<Done>,
    ) {
        let at = match self.free.pop() {
            Some(at) => at,
            None => self.grow(started),
        };
        let slot = &mut self.slots[at];
        // Making the future runs no code of the user's; a panic in there would be ours.
        slot.future.as_mut().set(Some(make(Arc::clone(&slot.cell))));
        let outcome = {
            let _entered = span.enter();
            slot.poll()
        };
        match outcome {
            Some(outcome) => self.end(at, (index, rest), outcome, ended),
            None => slot.run = Run { index, rest, span, started, deadline },
        }
    }

    #[cold]
    fn grow(&mut self, now: Instant) -> usize {
        let slot = self.slots.len();
        self.slots.push(Slot {
            future: Box::pin(None),
            cell: Arc::default(),
            waker: self.woken.waker(slot),
            run: Run { index: 0, rest: None, span: Span::none(), started: now, deadline: None },
            overlooked: false,
        });
        slot
    }

    /// When those began that ended after they had waited for something, since this was last asked.
    pub(super) fn waited(&mut self) -> impl Iterator<Item = Instant> + '_ {
        self.waited.drain(..)
    }

    /// Polls a run that was woken.
    fn poll_slot(&mut self, at: usize, ended: &mut Vec<Done>) {
        let slot = &mut self.slots[at];
        if slot.future.is_none() {
            return;
        }
        let span = slot.run.span.clone();
        let outcome = span.in_scope(|| slot.poll());
        if let Some(outcome) = outcome {
            self.end_waited(at, outcome, ended);
        }
    }

    /// A run that had to wait is over; its future is dropped.
    fn end_waited(&mut self, at: usize, outcome: Outcome, ended: &mut Vec<Done>) {
        let slot = &mut self.slots[at];
        slot.overlooked = false;
        slot.run.span = Span::none();
        self.waited.push(slot.run.started);
        let run = (slot.run.index, slot.run.rest.take());
        self.end(at, run, outcome, ended);
    }

    /// A run is over, and its slot free.
    #[inline]
    fn end(
        &mut self,
        at: usize,
        (index, rest): (Index, Others<Index>),
        outcome: Outcome,
        ended: &mut Vec<Done>,
    ) {
        let slot = &mut self.slots[at];
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
            self.poll_slot(at, ended);
        }
        self.round = round;
        true
    }

    /// The earliest deadline of those that run.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.running().filter_map(|at| self.slots[at].run.deadline).min()
    }

    /// Ends those past their deadline.
    pub(super) fn expire(&mut self, now: Instant, limit: std::time::Duration, ended: &mut Vec<Done>) {
        let late: Vec<usize> =
            self.running().filter(|at| self.slots[*at].run.deadline.is_some_and(|d| d <= now)).collect();
        for at in late {
            self.slots[at].drop_future();
            self.end_waited(at, Err(Failure::timeout(limit)), ended);
        }
    }

    /// Forgets the deadlines that have passed; says how many are past theirs and go on.
    pub(super) fn overlook(&mut self, now: Instant) -> usize {
        for slot in &mut self.slots {
            if slot.future.is_some() && slot.run.deadline.is_some_and(|d| d <= now) {
                slot.run.deadline = None;
                slot.overlooked = true;
            }
        }
        self.slots.iter().filter(|slot| slot.overlooked).count()
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(|at| self.slots[*at].future.is_some())
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not text".to_owned()
    }
}
