//! Cancellation at every poll: a future is dropped after its first poll, its second, its third …, until it gets
//! through, and each time what it leaves behind is looked at.
//!
//! A [`Cut`] runs a future and drops it at one place. [`at_every_poll`] tries all places there are: after so many
//! polls, at once or only when the future was woken and would have gone on ([`Moment`]), with `tokio`'s budget as it
//! is or so small that each of its resources is an await point of its own ([`Pace`]). A future is polled again only
//! once it was woken, so that each poll is one that a runtime would have made.
//!
//! ```
//! use millstream_testkit::cancel::at_every_poll;
//! use tokio::sync::Semaphore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), String> {
//! let permits = Semaphore::new(1);
//! let tally = at_every_poll(async |cut| {
//!     // Whether it was dropped or not, the permit is free again.
//!     let _ = cut.run(async {
//!         let _permit = permits.acquire().await;
//!         tokio::task::yield_now().await;
//!     }).await;
//!     (permits.available_permits() == 1).then_some(()).ok_or_else(|| "the permit leaked".to_owned())
//! }).await?;
//! assert!(tally.struck > 4);
//! # Ok(())
//! # }
//! ```
//!
//! | module | for |
//! |---|---|
//! | [`driver`] | the same cases for every driver and every deduplication store |
//! | [`public`] | a list of the async functions a crate offers, so that none is without a case |

pub mod driver;
pub mod public;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::coop::{consume_budget, has_budget_remaining};
use tokio::task::yield_now;

/// When a future is dropped, after its last poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// At once: what it waits for has not happened.
    AtOnce,
    /// When it was woken: what it waited for has happened, and it is never told.
    Woken,
}

/// How far a future gets in one poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// As far as it can.
    Free,
    /// Past one `tokio` resource at most, and past none in the first poll: a lock that is free is an await point, too.
    Stepwise,
}

/// Runs one future, and drops it at one place. Cloning shares what became of it.
#[derive(Debug, Clone)]
pub struct Cut {
    polls: usize,
    moment: Moment,
    pace: Pace,
    used: Arc<AtomicBool>,
    struck: Arc<AtomicBool>,
}

impl Cut {
    /// Drops after so many polls; after none, a future that was never polled.
    #[must_use]
    pub fn after(polls: usize, moment: Moment, pace: Pace) -> Self {
        Self { polls, moment, pace, used: Arc::default(), struck: Arc::default() }
    }

    /// After how many polls it drops.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.polls
    }

    /// Whether a future was dropped before it was ready.
    #[must_use]
    pub fn has_struck(&self) -> bool {
        self.struck.load(Ordering::Acquire)
    }

    /// Runs a future. Its output, or none if it was dropped.
    pub async fn run<F: Future>(&self, future: F) -> Option<F::Output> {
        self.used.store(true, Ordering::Release);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let ready = {
            let mut future = pin!(future);
            let mut polls = 0;
            loop {
                if polls == self.polls && (polls == 0 || self.moment == Moment::AtOnce) {
                    break None;
                }
                if polls > 0 {
                    woken.wait().await;
                }
                if polls == self.polls {
                    break None;
                }
                let spend = match self.pace {
                    Pace::Free => 0,
                    Pace::Stepwise => a_poll_of_budget().await.saturating_sub(polls.min(1)),
                };
                let polled = poll_fn(|cx| {
                    spend_budget(spend, cx);
                    Poll::Ready(future.as_mut().poll(&mut Context::from_waker(&waker)))
                });
                if let Poll::Ready(output) = polled.await {
                    break Some(output);
                }
                polls += 1;
            }
        };
        if ready.is_none() {
            self.struck.store(true, Ordering::Release);
        }
        ready
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { polls, moment, pace, .. } = self;
        write!(f, "dropped after {polls} polls ({moment:?}, {pace:?})")
    }
}

/// Yields, so that the poll that follows has a whole budget; gives how much that is.
async fn a_poll_of_budget() -> usize {
    yield_now().await;
    let mut budget = 0;
    poll_fn(|cx| {
        // The bound is for a task without a budget.
        while budget < 10_000 && has_budget_remaining() && pin!(consume_budget()).poll(cx).is_ready() {
            budget += 1;
        }
        Poll::Ready(())
    })
    .await;
    yield_now().await;
    budget
}

fn spend_budget(units: usize, cx: &mut Context<'_>) {
    for _ in 0..units {
        let _ = pin!(consume_budget()).poll(cx);
    }
}

/// Whether a future was woken since it was last polled, and who waits for that.
#[derive(Default)]
struct Woken(Mutex<(bool, Option<Waker>)>);

impl Woken {
    async fn wait(&self) {
        poll_fn(|cx| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut state.0) {
                return Poll::Ready(());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        let waiting = state.1.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

/// How much was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs of a case.
    pub cases: usize,
    /// Of these, how many dropped a future before it was ready.
    pub struck: usize,
    /// Of these, how many had polled it.
    pub under_way: usize,
    /// The most polls that a future had before it was dropped.
    pub deepest: usize,
}

impl Tally {
    /// Adds another one's.
    pub fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.struck += other.struck;
        self.under_way += other.under_way;
        self.deepest = self.deepest.max(other.deepest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, struck, under_way, deepest } = self;
        write!(f, "{cases:>6} cases, {struck:>6} dropped, {under_way:>6} of them after 1 to {deepest} polls")
    }
}

/// Polls after which a future is taken to have no end.
const ENDLESS: usize = 1_000;

/// Runs a case with every cut there is, until the future gets through. A case runs its future with
/// [`Cut::run`], and then checks what is left.
///
/// # Errors
/// The first that a case gives, with its cut; for a case that runs nothing, or a future without an end.
pub async fn at_every_poll(mut case: impl AsyncFnMut(&Cut) -> Result<(), String>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for pace in [Pace::Free, Pace::Stepwise] {
        for moment in [Moment::AtOnce, Moment::Woken] {
            for polls in 0.. {
                let cut = Cut::after(polls, moment, pace);
                case(&cut).await.map_err(|what| format!("{cut}: {what}"))?;
                if !cut.used.load(Ordering::Acquire) {
                    return Err("the case ran no future".to_owned());
                }
                tally.cases += 1;
                if !cut.has_struck() {
                    break;
                }
                tally.struck += 1;
                tally.under_way += polls.min(1);
                tally.deepest = tally.deepest.max(polls);
                if polls >= ENDLESS {
                    return Err(format!("the future was not ready after {polls} polls"));
                }
            }
        }
    }
    Ok(tally)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn every_await_is_tried_and_the_last_run_gets_through() {
        let reached = [const { AtomicUsize::new(0) }; 4];
        let tally = at_every_poll(async |cut| {
            let _ = cut
                .run(async {
                    for place in &reached {
                        place.fetch_add(1, Ordering::Relaxed);
                        yield_now().await;
                    }
                })
                .await;
            Ok(())
        })
        .await
        .unwrap();

        // Polls 0 to 4 are cut short, the sixth run gets through: for two moments and two paces.
        assert_eq!((tally.cases, tally.struck, tally.under_way, tally.deepest), (24, 20, 16, 4));
        let reached: Vec<_> = reached.iter().map(|place| place.load(Ordering::Relaxed)).collect();
        assert_eq!(reached, [20, 16, 12, 8]);
    }

    #[tokio::test]
    async fn a_lock_that_is_free_is_an_await_point_stepwise_and_not_else() {
        let lock = tokio::sync::Mutex::new(());
        let deepest = async |pace| {
            let mut polls = 0;
            loop {
                let cut = Cut::after(polls, Moment::Woken, pace);
                let two = async {
                    drop(lock.lock().await);
                    drop(lock.lock().await);
                };
                if cut.run(two).await.is_some() {
                    return polls;
                }
                polls += 1;
            }
        };
        assert_eq!(deepest(Pace::Free).await, 1);
        assert_eq!(deepest(Pace::Stepwise).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_is_not_polled_before_it_is_woken() {
        let bell = Notify::new();
        let polls = AtomicUsize::new(0);
        let cut = Cut::after(2, Moment::Woken, Pace::Free);
        let mut ring = pin!(bell.notified());
        let counted = poll_fn(|cx| {
            polls.fetch_add(1, Ordering::Relaxed);
            ring.as_mut().poll(cx)
        });
        let later = async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            bell.notify_one();
        };
        let (ready, ()) = tokio::join!(cut.run(counted), later);
        assert_eq!((ready, polls.load(Ordering::Relaxed)), (Some(()), 2));
    }

    #[tokio::test]
    async fn a_case_that_fails_says_where_it_was_cut() {
        let told = at_every_poll(async |cut| {
            let through = cut.run(yield_now()).await;
            if cut.polls() == 1 && through.is_none() { Err("it leaked".to_owned()) } else { Ok(()) }
        });
        assert_eq!(told.await.unwrap_err(), "dropped after 1 polls (AtOnce, Free): it leaked");
    }
}
