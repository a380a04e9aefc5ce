//! The thread that talks to AWS: one runtime on one thread. On a runtime of several threads the SDK takes nearly twice the
//! processor time for the same request.

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Requests under way at once, polls and leases aside. Beyond it callers wait: that is the bound of what is handed over.
const REQUESTS: u32 = 64;

/// The thread. Cloning shares it; it ends when nobody has it any more and what was started on it has ended.
#[derive(Clone)]
pub(crate) struct Io {
    handle: Handle,
    running: Arc<Running>,
    requests: Arc<Semaphore>,
}

/// Ends the thread when the last owner drops it.
struct Running {
    _ends: oneshot::Sender<()>,
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("free", &self.requests.available_permits()).finish()
    }
}

impl Io {
    pub(crate) fn start() -> Result<Self> {
        let failed = |e: std::io::Error| {
            Error::new(ErrorKind::Io, "a thread could not be started").source(e).fix("allow more threads")
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("millstream-aws".to_owned())
            .spawn(move || {
                // Nothing is ever sent: it ends with its sender.
                let _ = runtime.block_on(ended);
            })
            .map_err(failed)?;
        let running = Arc::new(Running { _ends: ends });
        Ok(Self { handle, running, requests: Arc::new(Semaphore::new(REQUESTS as usize)) })
    }

    /// Runs something on the thread, to its end: also if whoever waits for it does not wait any more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.spawn(work).await.map_err(|e| {
            Error::new(ErrorKind::Internal, format!("a task of the aws driver broke: {e}"))
                .fix("report it; what it did is unknown")
        })
    }

    /// Starts something on the thread. It keeps the thread alive until it has ended.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        let running = Arc::clone(&self.running);
        self.handle.spawn(async move {
            let result = work.await;
            drop(running);
            result
        })
    }

    /// The right to one request.
    pub(crate) async fn request(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it; without a right it would go on all the same.
        Arc::clone(&self.requests).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_started_ends_though_nobody_waits_and_the_thread_is_given_up() {
        let (told, tells) = oneshot::channel();
        let io = Io::start().unwrap();
        drop(io.spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            told.send(7)
        }));
        drop(io);
        assert_eq!(tells.await, Ok(7));
    }
}
