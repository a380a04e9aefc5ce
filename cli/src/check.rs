//! `millstream check`: whether a `sqlite://` file holds what was written.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use millstream::sqlite::{self, CheckReport};
use millstream::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::failed::{self, Ended, Form};
use crate::{output, text};

/// Reads a file of the sqlite driver from end to end, and says what is wrong with it
///
/// It changes nothing, and may run while programs use the file.
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    /// The file
    file: PathBuf,
}

pub(crate) async fn run(options: &Options, form: Form) -> Ended {
    let report = check(options.file.clone()).await?;
    match form {
        Form::Json => output::document(&document(options, &report)),
        Form::Text => output::line(&told(options, &report)),
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { failed::FAILED.into() })
}

/// Reading a file blocks.
async fn check(file: PathBuf) -> Result<CheckReport> {
    if let Some(path) = file.to_str().and_then(|file| file.strip_prefix("sqlite://")) {
        return Err(Error::new(ErrorKind::InvalidConfig, "this is a URL, and a file is wanted")
            .fix(format!("leave the scheme out: millstream check {path}")));
    }
    tokio::task::spawn_blocking(move || sqlite::check(&file)).await.map_err(|error| {
        Error::new(ErrorKind::Internal, "the check broke off").fix("report it").source(error)
    })?
}

fn document(options: &Options, report: &CheckReport) -> Value {
    let problems = report.problems.iter();
    json!({
        "file": options.file.display().to_string(),
        "ok": report.is_clean(),
        "topics": report.topics,
        "messages": report.messages,
        "groups": report.groups,
        "dead_letters": report.dead_letters,
        "parked": report.parked,
        "delayed": report.delayed,
        "problems": problems
            .map(|problem| {
                json!({ "topic": problem.topic, "position": problem.position, "what": problem.what })
            })
            .collect::<Vec<_>>(),
        "unlisted": report.unlisted,
    })
}

fn told(options: &Options, report: &CheckReport) -> String {
    let counted = [
        (report.topics, "topic"),
        (report.messages, "message"),
        (report.groups, "group"),
        (report.dead_letters, "dead letter"),
        (report.parked, "parked message"),
        (report.delayed, "delayed message"),
    ];
    // What there is none of is no news, but for an empty file.
    let counted = counted.into_iter().enumerate().filter(|(i, (number, _))| *i < 2 || *number > 0);
    let counted: Vec<_> = counted.map(|(_, (number, one))| text::count(number, one)).collect();
    let mut told = format!("{}: {}.", options.file.display(), counted.join(", "));
    if report.is_clean() {
        told.push_str("\nAll of it is as it was written.");
        return told;
    }
    for problem in &report.problems {
        told.push_str("\n  - ");
        told.push_str(&text::line(problem.to_string().as_bytes()));
    }
    if report.unlisted > 0 {
        told.push_str(&format!("\n  and {}", text::count(report.unlisted, "further problem")));
    }
    told
}
