//! Programs that run one loop on a broker and tell what it took, and rounds of them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use bench_harness::Outcome;

use crate::Result;
use crate::rounds::Runs;

/// A program with its arguments.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// One that lies beside this one.
    pub(super) fn beside(name: &str) -> Result<Self> {
        Ok(Self::at(std::env::current_exe()?.with_file_name(name)))
    }

    /// One anywhere.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, arguments: Vec::new() }
    }

    /// The same with arguments.
    pub(super) fn of<'a>(name: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let path = std::env::current_exe().unwrap_or_default().with_file_name(name);
        Self { path, arguments: arguments.into_iter().map(OsString::from).collect() }
    }

    pub(super) fn arg(mut self, argument: impl ToString) -> Self {
        self.arguments.push(argument.to_string().into());
        self
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Runs it; gives what it printed.
    fn output(&self) -> Result<Vec<u8>> {
        let path = self.path.display();
        if !self.exists() {
            return Err(format!("{path} is missing: `cargo xtask bench` builds it for its group").into());
        }
        let output = Command::new(&self.path).args(&self.arguments).output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("{path} {:?} ended with {}: {why}", self.arguments, output.status).into())
    }

    /// Runs it, for what it does.
    pub(super) fn quiet(&self) -> Result {
        self.output().map(drop)
    }

    /// Runs it, for what it tells.
    pub(super) fn outcome(&self) -> Result<Outcome> {
        Ok(serde_json::from_slice(&self.output()?)?)
    }
}

/// Runs them in turn: `round` runs each once, always in the same order.
pub(super) fn interleaved<const N: usize>(
    messages: [usize; N],
    rounds: usize,
    mut round: impl FnMut() -> Result<[Outcome; N]>,
) -> Result<[Runs; N]> {
    let mut all = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (outcome, runs) in round()?.into_iter().zip(&mut all) {
            runs.push(outcome);
        }
    }
    let mut messages = messages.into_iter();
    Ok(all.map(|outcomes| Runs::of(messages.next().unwrap_or(1), outcomes)))
}

/// A subject's rounds, in words.
pub(super) fn told(who: &str, runs: &Runs) -> String {
    let latency = runs.latency();
    let latency = if latency.is_empty() { latency } else { format!(", latency {latency}") };
    format!(
        "{who} {:.0} messages a second (best/median/worst {}), CPU {}, {}{latency}",
        runs.rate(),
        runs.spread(),
        runs.cpu_spread(),
        runs.memory()
    )
}

/// A payload's size, in words.
pub(super) fn bytes(size: usize) -> String {
    if size.is_multiple_of(1 << 10) { format!("{} KiB", size >> 10) } else { format!("{size} B") }
}
