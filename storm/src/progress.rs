//! How far a worker is: it says so on stdout, again and again, and on stdin it is told `drain`, to publish no more. When
//! stdin ends, whoever started it is gone, and it goes too.

use std::io::BufRead as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the tasks of a worker count.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    draining: AtomicBool,
    publishing: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    handled: AtomicU64,
}

impl Progress {
    /// Of a worker with so many tasks that publish, which does from now on as stdin says.
    pub(crate) fn of(publishers: u32) -> Arc<Self> {
        let progress =
            Arc::new(Self { publishing: AtomicU64::new(u64::from(publishers)), ..Self::default() });
        let listening = Arc::clone(&progress);
        // A thread of its own, since reading stdin blocks.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if line == "drain" {
                    listening.draining.store(true, Ordering::Release);
                }
            }
            std::process::exit(5);
        });
        progress
    }

    /// Tells it for as long as the process lives.
    pub(crate) async fn tell(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let of = |figure: &AtomicU64| figure.load(Ordering::Acquire);
            println!(
                "publishing {} acknowledged {} refused {} handled {}",
                of(&self.publishing),
                of(&self.acknowledged),
                of(&self.refused),
                of(&self.handled)
            );
        }
    }

    /// Whether no more is to be published.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// A task publishes no more.
    pub(crate) fn publisher_ended(&self) {
        self.publishing.fetch_sub(1, Ordering::AcqRel);
    }

    /// A message was confirmed.
    pub(crate) fn acknowledged(&self) {
        self.acknowledged.fetch_add(1, Ordering::AcqRel);
    }

    /// A message was not confirmed, and is sent again.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::AcqRel);
    }

    /// A message was handled.
    pub(crate) fn handled(&self) {
        self.handled.fetch_add(1, Ordering::AcqRel);
    }
}
