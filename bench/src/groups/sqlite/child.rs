//! Other processes on the same file: this program again, with another command.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use clap::Subcommand;

use super::{backlog, processes, wake};
use crate::Result;

/// What another process does.
#[derive(Debug, Subcommand)]
pub(crate) enum Child {
    /// Publishes and tells how often and how long it waited.
    Publish { file: PathBuf, publishers: usize, millis: u64 },
    /// Handles what comes and tells when it came.
    Wait { file: PathBuf },
    /// Has a handler that never ends, and tells its memory.
    Stall { file: PathBuf },
}

impl Child {
    pub(crate) fn run(self) -> Result {
        bench_harness::two_threads()?.block_on(async {
            match self {
                Self::Publish { file, publishers, millis } => {
                    processes::publish(file, publishers, Duration::from_millis(millis)).await
                }
                Self::Wait { file } => wake::wait(file).await,
                Self::Stall { file } => backlog::stall(file).await,
            }
        })
    }
}

/// Another process, which says each thing in a line. It ends with this.
#[derive(Debug)]
pub(super) struct Process {
    child: std::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one of the commands above.
    pub(super) fn start(command: &str, file: &Path, arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["sqlite-child", command])
            .arg(file)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the process has no output")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its next line.
    pub(super) fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().ok_or("the process ended early")??)
    }

    /// Lets it go on.
    pub(super) fn go(&mut self) -> Result {
        let input = self.child.stdin.as_mut().ok_or("the process has no input")?;
        Ok(input.write_all(b"go\n")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the other process: waits until it may go on.
pub(super) fn await_go() -> Result {
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
