//! A worker as a child process: started, watched, stopped, ended, and always waited for.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::launch::Launch;
use crate::{Result, journal};

/// How far a worker says it is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) publishing: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) handled: AtomicU64,
}

impl Progress {
    /// Takes a line such as `publishing 4 acknowledged 100`.
    fn take(&self, line: &str) {
        let mut words = line.split(' ');
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            let (Ok(value), Some(figure)) = (value.parse(), self.figure(name)) else { continue };
            figure.store(value, Ordering::Release);
        }
    }

    fn figure(&self, name: &str) -> Option<&AtomicU64> {
        match name {
            "publishing" => Some(&self.publishing),
            "acknowledged" => Some(&self.acknowledged),
            "refused" => Some(&self.refused),
            "handled" => Some(&self.handled),
            _ => None,
        }
    }
}

/// A running worker. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    ready: Receiver<()>,
    is_ready: bool,
    pub(crate) name: String,
    pub(crate) progress: Arc<Progress>,
}

impl Running {
    /// Starts a worker of this name and with so many publishers; what it says on stderr goes to a file.
    pub(crate) fn start(
        launch: &Launch,
        name: String,
        publishers: u32,
        arguments: Vec<String>,
        stderr: PathBuf,
    ) -> Result<Self> {
        let mut child = launch
            .command(&std::env::current_exe()?, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(stderr)?)
            .spawn()?;
        let progress = Arc::new(Progress::default());
        progress.publishing.store(u64::from(publishers), Ordering::Release);
        let (tell, ready) = sync_channel(1);
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            let progress = Arc::clone(&progress);
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if line == "ready" {
                        let _ = tell.try_send(());
                    } else {
                        progress.take(&line);
                    }
                }
            });
        }
        Ok(Self { child, stdin, ready, is_ready: false, name, progress })
    }

    /// Waits until it reads and publishes, or has ended; says whether it does.
    pub(crate) fn wait_ready(&mut self, limit: Duration) -> bool {
        // It says so once.
        if !self.is_ready {
            self.is_ready = self.ready.recv_timeout(limit).is_ok();
        }
        self.is_ready
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Tells it to publish no more.
    pub(crate) fn drain(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            // One that is dying hears nothing, and is told of by its end.
            let _ = stdin.write_all(b"drain\n").and_then(|()| stdin.flush());
        }
    }

    /// Kills it with signal 9 and waits for its end; gives when the signal was sent.
    pub(crate) fn kill(&mut self) -> Result<u64> {
        let at = journal::now();
        self.child.kill()?;
        self.child.wait()?;
        Ok(at)
    }

    /// Stops it and waits until it stands still.
    pub(crate) fn stop(&self) -> Result {
        let pid = self.pid();
        kill_process(pid, Signal::STOP)?;
        // Also comes back if it died: it is left to be waited for.
        let seen = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), seen)?;
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) -> Result {
        Ok(kill_process(self.pid(), Signal::CONT)?)
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) -> Result {
        Ok(kill_process(self.pid(), Signal::TERM)?)
    }

    /// Waits for its end; none if it does not come within the limit.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > end {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_is_taken_figure_by_figure() {
        let progress = Progress::default();
        progress.take("publishing 4 acknowledged 100 nonsense x handled 7");
        let of = |figure: &AtomicU64| figure.load(Ordering::Acquire);
        assert_eq!((of(&progress.publishing), of(&progress.acknowledged)), (4, 100));
        assert_eq!((of(&progress.handled), of(&progress.refused)), (7, 0));
    }
}
