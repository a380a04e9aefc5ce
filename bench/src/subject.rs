//! Who is measured: a scenario of ours, or a program of a peer. Each run is a process of its own.

use std::ffi::OsStr;
use std::process::{Command, Output};

use crate::Result;
use crate::scenario::Scenario;

/// What can be run, counted and timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A child of this program.
    Ours(Scenario),
    /// A program that lies beside this one.
    Peer(&'static str),
}

impl From<Scenario> for Subject {
    fn from(scenario: Scenario) -> Self {
        Self::Ours(scenario)
    }
}

impl Subject {
    /// Runs it with so many messages.
    pub(crate) fn run(self, messages: usize) -> Result<Output> {
        self.run_under::<&str>(&[], messages)
    }

    /// Runs it as the last arguments of another program.
    pub(crate) fn run_under<S: AsRef<OsStr>>(self, under: &[S], messages: usize) -> Result<Output> {
        let mut words = under.iter().map(|word| word.as_ref().to_owned()).collect::<Vec<_>>();
        let ours = std::env::current_exe()?;
        match self {
            Self::Ours(scenario) => {
                words.extend([ours.into_os_string(), "child".into(), scenario.name().into()]);
            }
            Self::Peer(name) => {
                let program = ours.with_file_name(name);
                if !program.exists() {
                    let why =
                        format!("{} is missing: build the whole workspace of bench/", program.display());
                    return Err(why.into());
                }
                words.push(program.into_os_string());
            }
        }
        let output = Command::new(&words[0]).args(&words[1..]).arg(messages.to_string()).output()?;
        if output.status.success() {
            return Ok(output);
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("{self:?} with {messages} messages ended with {}: {why}", output.status).into())
    }
}
