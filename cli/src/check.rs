//! `millstream check`: whether a `sqlite://` file is sound.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use millstream::{Error, ErrorKind};

use crate::failed::{Ended, Form};

/// Checks a file of the sqlite driver, and says what is wrong with it
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    /// The file
    file: PathBuf,
}

pub(crate) async fn run(options: &Options, _: Form) -> Ended {
    Err(Error::new(ErrorKind::Unsupported, format!("{} cannot be checked", options.file.display())).into())
}
