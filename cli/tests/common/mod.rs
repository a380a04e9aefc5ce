//! Running the program on files of a temporary folder.
#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "each test file uses a part of it; a helper that fails fails its test"
)]

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the program runs, with a file of messages in it once something was published.
pub(crate) struct Place {
    folder: TempDir,
}

/// The broker of every test, in its own folder.
pub(crate) const URL: &str = "sqlite://app.db";

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path(file), text).unwrap();
    }

    /// The program, not yet started.
    pub(crate) fn program(&self, args: &[&str]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_millstream"));
        program.args(args).current_dir(self.folder.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        program
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran(self.program(args).output().unwrap())
    }

    /// Runs it with this input.
    pub(crate) fn feed(&self, args: &[&str], input: &str) -> Ran {
        let mut program = self.program(args);
        let mut child =
            program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may end without reading all.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Ran(child.wait_with_output().unwrap())
    }

    /// Starts it, with its output in a pipe.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.program(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Publishes so many documents `{"n":0,"customer":"c0"}`, … with their customers as keys.
    pub(crate) fn publish(&self, topic: &str, documents: usize) {
        self.feed(&["publish", URL, topic, "--key-field", "customer"], &documents_of(documents)).ok();
    }
}

/// So many lines of NDJSON.
pub(crate) fn documents_of(count: usize) -> String {
    (0..count).map(|n| format!("{{\"n\":{n},\"customer\":\"c{}\"}}\n", n % 7)).collect()
}

/// What a run of the program left.
pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).unwrap()
    }

    /// It ended with this code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "stdout: {}\nstderr: {}", self.stdout(), self.stderr());
        self
    }

    /// It went well, and had nothing to complain about.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        let ran = self.code(0);
        assert_eq!(ran.stderr(), "");
        ran
    }

    /// Its output is one document.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.0.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout()))
    }

    /// Its output is a document a line.
    #[track_caller]
    pub(crate) fn documents(&self) -> Vec<Value> {
        self.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The last parts of the lines that `tail` prints.
    #[track_caller]
    pub(crate) fn payloads(&self) -> Vec<&str> {
        self.stdout().lines().map(|line| line.split('\t').nth(3).unwrap()).collect()
    }
}

/// Asks a program to end.
#[cfg(unix)]
pub(crate) fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
