//! A server that is one process: all that the services have in common which are no cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::process::{self, Process};
use super::{Service, Variable, ports};
use crate::Result;

const START_WITHIN: Duration = Duration::from_secs(90);

/// What such a server is.
pub(super) trait Server: Sync {
    const NAME: &'static str;
    /// How many ports it listens on.
    const PORTS: usize;

    /// Brings it into the cache if it is not there.
    fn install(&self) -> Result;

    /// Runs it in this folder, on these ports. The command line names the folder: see [`Process::mark`].
    fn command(&self, home: &Path, ports: &[u16]) -> Result<Command>;

    /// Whether it answers in its own protocol.
    fn answers(&self, ports: &[u16]) -> bool;

    /// What has to be there before it is used, made if it is not.
    fn prepare(&self, _: &[u16]) -> Result {
        Ok(())
    }

    /// What tests need to know.
    fn variables(&self, ports: &[u16]) -> Vec<Variable>;
}

/// A server with its folder.
pub(super) struct Single<S> {
    server: S,
    home: PathBuf,
}

impl<S: Server> Single<S> {
    pub(super) fn new(server: S) -> Self {
        Self { server, home: process::folder().join(S::NAME) }
    }

    /// One of the bench's own, beside that of the tests.
    pub(super) fn for_bench(server: S) -> Self {
        Self { server, home: process::folder().join(format!("{}-bench", S::NAME)) }
    }

    fn process(&self) -> Process {
        Process::of(self.home.clone())
    }
}

impl<S: Server> Service for Single<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn install(&self) -> Result {
        self.server.install()
    }

    fn running(&self) -> Option<Vec<Variable>> {
        let ports = ports::chosen(&self.home, S::PORTS)?;
        let up = self.process().pid().is_some() && self.server.answers(&ports);
        up.then(|| self.server.variables(&ports))
    }

    fn start(&self) -> Result<Vec<Variable>> {
        if let Some(variables) = self.running() {
            return Ok(variables);
        }
        self.install()?;
        let process = self.process();
        let ports = match ports::chosen(&self.home, S::PORTS).filter(|_| process.pid().is_some()) {
            // Another of us is starting it.
            Some(ports) => ports,
            // The ports of the last time may be another's by now.
            None => {
                let ports = ports::choose(&self.home, S::PORTS)?;
                process.launch(self.server.command(&self.home, &ports)?)?;
                ports
            }
        };
        process.wait(Instant::now() + START_WITHIN, || self.server.answers(&ports))?;
        self.server.prepare(&ports)?;
        Ok(self.server.variables(&ports))
    }

    fn stop(&self) -> Result<bool> {
        let was_running = process::stop(&[self.process()]);
        // What tests wrote is nobody's any more, and would fill the disk.
        if self.home.exists() {
            fs::remove_dir_all(&self.home)?;
        }
        Ok(was_running)
    }
}

/// Where a server is that speaks HTTP.
pub(super) fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
