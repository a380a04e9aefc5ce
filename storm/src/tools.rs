//! The programs of others that some profiles need, and whether they can be used here.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Whether `strace` is there and may watch.
pub(crate) fn strace() -> Result<(), String> {
    let mut command = Command::new("strace");
    command.args([
        "--daemonize",
        "-f",
        "--seccomp-bpf",
        "-q",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "true",
    ]);
    succeeds(&mut command, "strace")
}

/// Where the library is that gives a process another wall clock.
pub(crate) fn faketime() -> Result<PathBuf, String> {
    let machine = std::env::consts::ARCH;
    let places = [
        format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"),
        "/usr/lib64/faketime/libfaketimeMT.so.1".into(),
        "/usr/lib/faketime/libfaketimeMT.so.1".into(),
        "/usr/local/lib/faketime/libfaketimeMT.so.1".into(),
    ];
    let found = places.into_iter().map(PathBuf::from).find(|path| path.is_file());
    found.ok_or_else(|| "libfaketime is not installed".into())
}

/// Whether a process can be given other clocks that count from the boot.
pub(crate) fn time_namespace() -> Result<(), String> {
    const SHIFT: f64 = 1_000_000.0;
    let mut command = Command::new("unshare");
    command.args(["--time", &format!("--boottime={SHIFT}"), "--", "cat", "/proc/uptime"]);
    let output =
        command.stdin(Stdio::null()).output().map_err(|e| format!("`unshare` did not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("`unshare --time` is refused: {}", first_line(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let uptime: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default();
    if uptime < SHIFT { Err("time namespaces do not take hold here".into()) } else { Ok(()) }
}

fn succeeds(command: &mut Command, name: &str) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("`{name}` did not start: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{name}` is refused: {}", first_line(&output.stderr)))
}

fn first_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().next().unwrap_or("it does not say why").to_owned()
}
