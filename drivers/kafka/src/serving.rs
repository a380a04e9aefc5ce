//! A thread that serves the clients which only ask: their log, their reasons and their wish for a token wait in a queue
//! until somebody polls, and nobody else does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};

use crate::cluster::Asker;

/// How long one turn waits: what a client tells is heard after that, and so is our own end.
const TURN: Duration = Duration::from_millis(50);

/// Serves as long as it lives.
#[derive(Debug)]
pub(crate) struct Serving {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    askers: Mutex<Vec<Weak<Asker>>>,
    ended: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Serving {
    pub(crate) fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("millstream-kafka-serving".to_owned())
            .spawn(move || of_thread.run())
            .map_err(|e| {
                Error::new(ErrorKind::Io, "a thread could not be started").source(e).fix("allow more threads")
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Serves this one too, until it is dropped.
    pub(crate) fn add(&self, asker: &Arc<Asker>) {
        let mut askers = self.shared.askers.lock().unwrap_or_else(PoisonError::into_inner);
        askers.retain(|asker| asker.strong_count() > 0);
        askers.push(Arc::downgrade(asker));
    }
}

impl Shared {
    fn run(&self) {
        while !self.ended.load(Ordering::Acquire) {
            let askers: Vec<_> = {
                let askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
                askers.iter().filter_map(Weak::upgrade).collect()
            };
            for asker in &askers {
                // They read nothing: what a poll returns is an error that the ears have heard as well.
                let _ = asker.poll(Duration::from_millis(1));
            }
            // None is held meanwhile: who drops the last of a client waits for its end, and shall not wait for us.
            drop(askers);
            std::thread::park_timeout(TURN);
        }
    }
}

impl Drop for Serving {
    // Before the clients end: a thread that lets go of the last of one while the process ends would be in its way.
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
