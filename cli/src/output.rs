//! Writing to stdout without dying of a reader that went away.

use std::io::{self, Write};

use serde::Serialize;

/// Prints one JSON document, indented, with a line end.
pub(crate) fn document(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("error: the report does not encode as JSON\n  caused by: {error}"),
    }
}

/// Prints a line or several. A closed pipe (`| head`) is no error of ours.
pub(crate) fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}")
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("error: stdout cannot be written\n  caused by: {error}");
    }
}
