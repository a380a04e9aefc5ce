//! Slots: places for running handlers that are used again and again, so that a message costs no allocation.
//!
//! Each slot keeps one pinned future and one waker. A future that is ready at its first poll, as most are,
//! never touches a waker. One that is not marks its slot when it is woken, and only marked slots are polled.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use tokio::time::Instant;
use tracing::Span;

use super::window::Index;
use crate::sync::{Mutex, MutexGuard};
use crate::{Context, Failure, Outcome};

/// Where a run leaves its context when it ends, however it ends: returned, dropped or panicked.
#[derive(Debug, Default)]
pub(super) struct Cell(Mutex<Option<Context>>);

impl Cell {
    fn take(&self) -> Option<Context> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Holds a context while its handler runs.
#[derive(Debug)]
pub(super) struct Guard {
    context: Option<Context>,
    cell: Arc<Cell>,
}

impl Guard {
    pub(super) fn new(context: Context, cell: Arc<Cell>) -> Self {
        Self { context: Some(context), cell }
    }

    /// The context; there until the guard is dropped.
    pub(super) fn context(&mut self) -> Option<&mut Context> {
        self.context.as_mut()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.cell.0.lock().unwrap_or_else(PoisonError::into_inner) = self.context.take();
    }
}

/// A run that ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) index: Index,
    pub(super) rest: Vec<Index>,
    /// `None` only for a blocking handler whose thread was lost.
    pub(super) context: Option<Context>,
    pub(super) outcome: Outcome,
    pub(super) started: Instant,
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
}

pub(super) struct Slots<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    round: Vec<usize>,
    limit: usize,
}

/// Which slots were woken, and the task that polls them.
#[derive(Default)]
struct Woken(Mutex<WokenState>);

#[derive(Default)]
struct WokenState {
    slots: Vec<usize>,
    task: Option<Waker>,
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, WokenState> {
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

impl<F: Future<Output = Outcome>> Slots<F> {
    pub(super) fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), woken: Arc::default(), round: Vec::new(), limit }
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
        ended: &mut Vec<Ended>,
    ) {
        let at = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len();
            self.slots.push(Slot {
                future: Box::pin(None),
                cell: Arc::default(),
                waker: Waker::from(Arc::new(SlotWaker { slot, woken: Arc::clone(&self.woken) })),
                index,
                rest: Vec::new(),
                span: Span::none(),
                started,
                deadline: None,
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

    fn poll_slot(&mut self, at: usize, ended: &mut Vec<Ended>) {
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

    fn end(&mut self, at: usize, outcome: Outcome, ended: &mut Vec<Ended>) {
        let slot = &mut self.slots[at];
        // Dropping what the handler captured may panic as well; it has ended by then.
        let dropped = catch_unwind(AssertUnwindSafe(|| slot.future.as_mut().set(None)));
        if dropped.is_err() {
            tracing::error!("dropping a handler's future panicked");
            slot.future = Box::pin(None);
        }
        slot.span = Span::none();
        ended.push(Ended {
            index: slot.index,
            rest: std::mem::take(&mut slot.rest),
            context: slot.cell.take(),
            outcome,
            started: slot.started,
        });
        self.free.push(at);
    }

    /// Polls those that were woken. If none was, the task's waker is kept for the first that will be.
    pub(super) fn poll_woken(&mut self, task: &Waker, ended: &mut Vec<Ended>) -> bool {
        {
            let mut woken = self.woken.lock();
            if woken.slots.is_empty() {
                if !woken.task.as_ref().is_some_and(|t| t.will_wake(task)) {
                    woken.task = Some(task.clone());
                }
                return false;
            }
            std::mem::swap(&mut woken.slots, &mut self.round);
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
        self.running().filter_map(|at| self.slots[at].deadline).min()
    }

    /// Ends those past their deadline.
    pub(super) fn expire(&mut self, now: Instant, limit: std::time::Duration, ended: &mut Vec<Ended>) {
        let late: Vec<usize> =
            self.running().filter(|at| self.slots[*at].deadline.is_some_and(|d| d <= now)).collect();
        for at in late {
            self.end(at, Err(Failure::timeout(limit)), ended);
        }
    }

    /// Forgets the deadlines that have passed; says how many.
    pub(super) fn overlook(&mut self, now: Instant) -> usize {
        let mut late = 0;
        for slot in &mut self.slots {
            if slot.future.is_some() && slot.deadline.is_some_and(|d| d <= now) {
                slot.deadline = None;
                late += 1;
            }
        }
        late
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
