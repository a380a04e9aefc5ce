//! Servers that are Java programs, from jars whose folder a variable names.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder that a variable names, or why there is no such server.
pub(crate) fn jars(variable: &str, server: &str) -> Result<PathBuf, String> {
    let Some(folder) = std::env::var_os(variable).map(PathBuf::from) else {
        return Err(format!(
            "{variable} names no folder with its jars; `cargo xtask storm {server}` sets it"
        ));
    };
    let mut java = Command::new("java");
    java.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match java.status() {
        Ok(status) if status.success() => Ok(folder),
        _ => Err("`java` does not start: install a Java runtime, 17 or newer".to_owned()),
    }
}

/// Java with these jars; what is to be run is yet to be said. It dies with this program, also if this one is killed, where
/// that can be had.
pub(crate) fn on(jars: &Path) -> Command {
    let mut command = bound("java");
    command.arg("-cp").arg(jars.join("*"));
    command
}

fn bound(program: &str) -> Command {
    let mut probe = Command::new("setpriv");
    probe.args(["--pdeathsig", "KILL", "true"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}
