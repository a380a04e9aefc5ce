//! What a user sees of an error, and the exit code that goes with it.

use std::error::Error as _;
use std::process::ExitCode;

use millstream::{Error, ErrorKind};
use serde_json::{Value, json};

use crate::output;

/// It failed.
pub(crate) const FAILED: u8 = 1;
/// What was asked for makes no sense; clap ends with the same code.
const USAGE: u8 = 2;

/// How a command ends.
pub(crate) type Ended = Result<ExitCode, Failed>;

/// An error that ends a command, and what had been done before it.
#[derive(Debug)]
pub(crate) struct Failed {
    error: Error,
    done: Option<Value>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, done: None }
    }
}

impl Failed {
    /// Adds what had been done: goes into the document.
    pub(crate) fn having_done(error: Error, done: Value) -> Self {
        Self { error, done: Some(done) }
    }

    /// What failed.
    #[cfg(test)]
    pub(crate) fn error(&self) -> &Error {
        &self.error
    }

    /// What had been done.
    #[cfg(test)]
    pub(crate) fn done(&self) -> &Value {
        self.done.as_ref().unwrap_or(&Value::Null)
    }
}

/// How a command prints its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// As JSON, for programs.
    Json,
}

/// Prints an error with its causes on stderr, and as a document on stdout if that was asked for.
pub(crate) fn report(failed: &Failed, form: Form) -> ExitCode {
    let error = &failed.error;
    eprintln!("error: {}", text(error));
    if form == Form::Json {
        let mut document = json!({
            "error": { "kind": error.kind().name(), "message": error.to_string(), "causes": causes(error) }
        });
        if let Some(done) = &failed.done {
            document["done"] = done.clone();
        }
        output::document(&document);
    }
    ExitCode::from(exit_code(error.kind()))
}

fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::UnknownScheme | ErrorKind::InvalidConfig => USAGE,
        _ => FAILED,
    }
}

/// An error and its causes, a line each.
pub(crate) fn text(error: &Error) -> String {
    let mut text = error.to_string();
    for cause in causes(error) {
        text.push_str("\n  caused by: ");
        text.push_str(&cause);
    }
    text
}

fn causes(error: &Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_printed_with_its_fix_and_all_its_causes() {
        let io = std::io::Error::other("the disk is gone");
        let inner = Error::new(ErrorKind::Io, "the file cannot be read").source(io);
        let error =
            Error::new(ErrorKind::Unavailable, "no answer").topic("orders").fix("try later").source(inner);
        assert_eq!(
            text(&error),
            "no answer (topic \"orders\"): try later\n  \
             caused by: the file cannot be read\n  caused by: the disk is gone"
        );
    }

    #[test]
    fn what_the_user_must_mend_is_usage_and_the_rest_is_failure() {
        assert_eq!(exit_code(ErrorKind::UnknownScheme), USAGE);
        assert_eq!(exit_code(ErrorKind::Unavailable), FAILED);
    }
}
