//! Ctrl-C and SIGTERM: the first asks a command to come to a good end, the second ends it now.

use std::future::pending;

use millstream::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::failed;

/// Whether the user asked to stop. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    asked: watch::Receiver<bool>,
}

impl Stop {
    /// Watches from now on.
    pub(crate) fn watch() -> Result<Self> {
        let mut signals = Signals::watch()
            .map_err(|error| Error::new(ErrorKind::Io, "signals cannot be watched").source(error))?;
        let (ask, asked) = watch::channel(false);
        tokio::spawn(async move {
            signals.next().await;
            // Nobody hears it if the command has just ended.
            let _ = ask.send(true);
            signals.next().await;
            // The command may be blocked in a write that nobody takes: it cannot be asked again.
            std::process::exit(failed::FAILED.into());
        });
        Ok(Self { asked })
    }

    /// One that is never asked, for tests.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self { asked: watch::channel(false).1 }
    }

    /// Whether it was asked.
    pub(crate) fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Ready when it is asked. Cancel safe.
    pub(crate) async fn asked(&mut self) {
        if self.asked.wait_for(|asked| *asked).await.is_err() {
            // Nothing can ask any more.
            pending::<()>().await;
        }
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn watch() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn watch() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // It can never come.
            pending::<()>().await;
        }
    }
}
