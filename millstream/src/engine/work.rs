//! Run loops: take jobs from the desk, run their handlers in slots, bring the results back.
//!
//! A loop is generic over the handler with all its layers and erased once, as [`Work`]: one box a loop, none
//! a message. It exchanges results for new jobs in one visit to the desk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use metrics::{Histogram, histogram};
use millstream_core::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tracing::Span;

use super::desk::{Desk, Phase};
use super::slots::{Cell, Guard, Slots};
use super::window::{Done, Index, Job};
use crate::context::{Item, Others};
use crate::policy::Execution;
use crate::{Context, Failure, Handler, Outcome};

/// A handler's run loop, erased.
pub(crate) trait Work: Send + Sync + 'static {
    /// Runs as the loop of this number until the desk is aborted or closes.
    fn run(self: Arc<Self>, desk: Arc<Desk>, number: usize) -> BoxFuture<'static, ()>;
}

/// Erases a handler.
pub(crate) fn work<H: Handler>(handler: H) -> Arc<dyn Work> {
    Arc::new(Loop { handler: Arc::new(handler) })
}

struct Loop<H> {
    handler: Arc<H>,
}

impl<H: Handler> Work for Loop<H> {
    fn run(self: Arc<Self>, desk: Arc<Desk>, number: usize) -> BoxFuture<'static, ()> {
        let handler = Arc::clone(&self.handler);
        match desk.policy.execution {
            Execution::Async => Box::pin(async move {
                let handler = &*handler;
                run_loop(&desk, number, |cell, context| on_runtime(handler, cell, context)).await;
            }),
            Execution::Blocking => Box::pin(async move {
                run_loop(&desk, number, |cell, context| on_thread(Arc::clone(&handler), cell, context)).await;
            }),
        }
    }
}

fn on_runtime<H: Handler>(
    handler: &H,
    cell: Arc<Cell>,
    context: Context,
) -> impl Future<Output = Outcome> + Send {
    let mut guard = Guard::new(context, cell);
    // A block, which uses the guard where it lies: a function's arguments would be moved once more.
    async move { handler.call(&mut guard.context).await }
}

async fn on_thread<H: Handler>(handler: Arc<H>, cell: Arc<Cell>, context: Context) -> Outcome {
    let runtime = tokio::runtime::Handle::current();
    let span = Span::current();
    let thread = tokio::task::spawn_blocking(move || {
        let _entered = span.enter();
        let mut guard = Guard::new(context, cell);
        runtime.block_on(handler.call(&mut guard.context))
    });
    match thread.await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Failure::retry(error)),
    }
}

/// How many jobs one visit to the desk may bring.
const CHUNK: usize = 32;

/// How many more than may run at once: handlers that never wait for anything are served one after the other.
const AHEAD: usize = CHUNK - 1;

/// How many are begun between two looks at the clock.
const LOOK_EVERY: usize = 8;

/// After so many visits without a wait, others on this thread get their turn.
const TURNS: u32 = 8;

/// So do they after a visit that took longer: what it finished should be settled before more is begun, and what it has
/// not begun another loop may take.
const LONG: Duration = Duration::from_millis(1);

async fn run_loop<F: Future<Output = Outcome>>(
    desk: &Desk,
    number: usize,
    make: impl Fn(Arc<Cell>, Context) -> F,
) {
    let mut slots = Slots::new(desk.policy.concurrency);
    let mut jobs: VecDeque<Job> = VecDeque::new();
    // Those behind one that did not end, or not well.
    let mut behind: VecDeque<Job> = VecDeque::new();
    let mut done: Vec<Done> = Vec::new();
    // How many handlers of this loop may run at once, as the window granted them.
    let mut permits = 0;
    let mut ahead = 0;
    let time = handler_time(desk);
    let mut turns = 0;
    let mut stuck = 0;
    // How long handlers kept this loop busy since it was last at the desk.
    let mut busy = Duration::ZERO;
    loop {
        let now = Instant::now();
        let active = slots.active();
        if slots.room() > 0 || permits > active || !done.is_empty() || !jobs.is_empty() {
            let ended = done.len();
            desk.with(now, |window| {
                window.crew.comes(number, std::mem::take(&mut busy), ended, now);
                window.put_back(&mut jobs, now);
                window.finished(&mut done, now);
                window.free(permits - active);
                let room = slots.room().min(CHUNK);
                permits = active + window.take((room, ahead), now, &mut jobs);
                if jobs.is_empty() {
                    window.crew.sleeps(number);
                }
            });
        }
        let took = jobs.len();
        let mut begun = 0;
        let deadline = desk.policy.timeout.map(|limit| now + limit);
        let mut went_well = false;
        while slots.active() < permits
            && let Some(job) = jobs.pop_front()
        {
            if job.follows && !went_well {
                behind.push_back(job);
                continue;
            }
            let Job { index, item, rest, .. } = job;
            let before = done.len();
            let span = span(desk, &item);
            let (places, items) = match rest {
                None => (None, None),
                Some(rest) => split(rest),
            };
            let context = Context::new(Arc::clone(&desk.info), item, items);
            slots.start((index, places), (span, now, deadline), |cell| make(cell, context), &mut done);
            went_well = done.len() > before && done.last().is_some_and(Done::is_plain);
            begun += 1;
            if begun % LOOK_EVERY == 1 && now.elapsed() > LONG {
                break;
            }
        }
        jobs.append(&mut behind);
        // What waits for something lets nothing by: others may have what is left.
        ahead = if jobs.is_empty() { (2 * ahead + 1).min(AHEAD) } else { 0 };
        let at_once = done.len();
        let idle = at_once == 0 && took == 0;
        if idle {
            if desk.phase() >= Phase::Aborted {
                return;
            }
            turns = 0;
            busy += wait(desk, number, &mut slots, &mut done).await;
        } else {
            std::future::poll_fn(|cx| Poll::Ready(slots.poll_woken(cx.waker(), &mut done))).await;
        }
        if let Some(limit) = desk.policy.timeout {
            let now = Instant::now();
            match desk.policy.execution {
                Execution::Async => slots.expire(now, limit, &mut done),
                // A thread cannot be stopped, and a second copy beside it would be worse than waiting.
                Execution::Blocking => {
                    let before = std::mem::replace(&mut stuck, slots.overlook(now));
                    if desk.stuck(before, stuck, limit) {
                        tracing::error!(topic = %desk.info.topic, handler = %desk.info.handler, ?limit,
                            "a blocking handler does not end; its message stays with it");
                    }
                }
            }
        }
        turns += 1;
        if !idle || !done.is_empty() {
            let end = Instant::now();
            let took = end.duration_since(now);
            if !idle {
                busy += took;
            }
            if at_once > 0 {
                // They ran one after the other, without a look at the clock in between.
                time.record_many(took.as_secs_f64() / at_once as f64, at_once);
            }
            for started in slots.waited() {
                time.record(end.duration_since(started).as_secs_f64());
            }
            if !idle && took > LONG {
                let ended = done.len();
                desk.with(end, |window| {
                    window.crew.comes(number, std::mem::take(&mut busy), ended, end);
                    window.put_back(&mut jobs, end);
                    window.finished(&mut done, end);
                });
                turns = TURNS;
                ahead = 0;
            }
        }
        if turns >= TURNS {
            turns = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The places of a batch, and its messages.
fn split(rest: Box<[(Index, Item)]>) -> (Others<Index>, Others<Item>) {
    let (places, items): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
    (Some(places.into()), Some(items.into()))
}

/// Waits for a job, for a handler that goes on, for a deadline, or for the end. Says how long handlers went on.
async fn wait<F: Future<Output = Outcome>>(
    desk: &Desk,
    number: usize,
    slots: &mut Slots<F>,
    done: &mut Vec<Done>,
) -> Duration {
    let mut busy = Duration::ZERO;
    let mut bell = std::pin::pin!(desk.runner_bells[number].notified());
    let mut abort = std::pin::pin!(desk.reached(Phase::Aborted));
    let deadline = slots.next_deadline();
    let mut sleep = std::pin::pin!(async move {
        match deadline {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    });
    std::future::poll_fn(|cx| {
        let before = Instant::now();
        let went_on = slots.poll_woken(cx.waker(), done);
        if went_on {
            busy += before.elapsed();
        }
        let ready = went_on
            || bell.as_mut().poll(cx).is_ready()
            || abort.as_mut().poll(cx).is_ready()
            || sleep.as_mut().poll(cx).is_ready();
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    busy
}

fn span(desk: &Desk, item: &Item) -> Span {
    let message = &item.message;
    // Names of the OpenTelemetry conventions for messaging.
    tracing::info_span!(
        "process",
        otel.kind = "consumer",
        messaging.operation.type = "process",
        messaging.destination.name = %desk.info.topic,
        messaging.consumer.group.name = desk.info.group.as_deref(),
        messaging.message.id = %message.id,
        messaging.destination.partition.id = item.origin.partition.0,
        messaging.message.body.size = message.data.as_ref().map_or(0, bytes::Bytes::len),
        millstream.handler = %desk.info.handler,
        millstream.attempt = item.attempt,
        traceparent = message.headers.get_str(millstream_core::names::TRACEPARENT),
    )
}

fn handler_time(desk: &Desk) -> Histogram {
    histogram!(
        "millstream_handler_seconds",
        "topic" => desk.info.topic.to_string(),
        "group" => desk.info.group.as_deref().unwrap_or_default().to_owned(),
        "handler" => desk.info.handler.to_string(),
    )
}
