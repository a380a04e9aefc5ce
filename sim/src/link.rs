//! A process's connection to the broker: up, cut for a while, slow, or dead with its process.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How long a caller waits for an answer over a link that is cut, before it says that nobody knows.
const PATIENCE: Duration = Duration::from_secs(10);

/// What goes wrong on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing comes back.
    Silent,
    /// Every call is refused at once.
    Refused,
}

#[derive(Debug, Default)]
struct State {
    cut: Option<Cut>,
    slow: Duration,
    dead: bool,
}

/// The link of one life of a process, or of a publisher.
#[derive(Debug, Default)]
pub(crate) struct Link {
    state: Mutex<State>,
    changed: Notify,
}

/// What a link makes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    Free,
    Refused,
    /// It is cut: the call may or may not arrive.
    Silent,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    pub(crate) fn cut(&self, cut: Cut) {
        self.change(|state| state.cut = Some(cut));
    }

    pub(crate) fn slow(&self, by: Duration) {
        self.change(|state| state.slow = by);
    }

    pub(crate) fn heal(&self) {
        self.change(|state| (state.cut, state.slow) = (None, Duration::ZERO));
    }

    /// The process is dead: nothing passes any more, and nothing is answered.
    pub(crate) fn kill(&self) {
        self.change(|state| state.dead = true);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// How much longer a call takes.
    pub(crate) fn slowness(&self) -> Duration {
        self.lock().slow
    }

    /// What becomes of a call now. Of a dead process nothing becomes anything.
    pub(crate) async fn passage(&self) -> Passage {
        let (dead, cut) = {
            let state = self.lock();
            (state.dead, state.cut)
        };
        if dead {
            std::future::pending::<()>().await;
        }
        match cut {
            None => Passage::Free,
            Some(Cut::Silent) => Passage::Silent,
            Some(Cut::Refused) => Passage::Refused,
        }
    }

    /// Waits until it is healed; says whether that was soon enough for an answer.
    pub(crate) async fn healed_in_time(&self) -> bool {
        timeout(PATIENCE, self.up()).await.is_ok()
    }

    /// Resolves while it is neither cut nor dead.
    pub(crate) async fn up(&self) {
        self.until(|state| state.cut.is_none() && !state.dead).await;
    }

    /// Resolves once it is cut or dead.
    pub(crate) async fn down(&self) {
        self.until(|state| state.cut.is_some() || state.dead).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if holds(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// The time a call takes.
    pub(crate) async fn travel(&self, usual: Duration) {
        let time = usual + self.slowness();
        if !time.is_zero() {
            sleep(time).await;
        }
    }
}
