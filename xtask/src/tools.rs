//! Tools that checks need beside cargo, installed where they are missing.

use std::path::PathBuf;

use crate::command::Run;
use crate::{Result, cache};

/// Pinned, because a new version brings new checks: it is raised by hand, in a commit of its own.
const CARGO_DENY: &str = "0.20.2";

/// The path of cargo-deny, which is built into the cache first if it is not there.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let dir = cache::dir()?.join("tools").join(format!("cargo-deny-{CARGO_DENY}"));
    let program = dir.join("bin").join(format!("cargo-deny{}", std::env::consts::EXE_SUFFIX));
    if !program.exists() {
        Run::cargo("install --locked --quiet")
            .arg(format!("cargo-deny@{CARGO_DENY}"))
            .arg("--root")
            .arg(dir.to_string_lossy())
            .run()?;
    }
    Ok(program)
}

/// Makes sure that a part of the toolchain, such as `clippy`, is there; `probe` is how cargo calls it.
pub(crate) fn component(name: &str, probe: &str) -> Result {
    if Run::cargo(probe).arg("--version").succeeds() {
        return Ok(());
    }
    if !Run::new("rustup").arg("--version").succeeds() {
        return Err(format!("`cargo {probe}` is missing: install {name} for this toolchain").into());
    }
    Run::new("rustup").args(["component", "add", name]).run()
}

/// What builds the C and C++ that some drivers bring.
pub(crate) fn to_build_c() -> Result<(), String> {
    system("make", || Run::new("make").arg("--version").succeeds())?;
    system("g++", || Run::new("c++").arg("--version").succeeds())?;
    // Where OpenSSL's headers are, which the kafka driver's client is built with.
    system("pkg-config", || Run::new("pkg-config").arg("--version").succeeds())?;
    system("libssl-dev", || Run::new("pkg-config").args(["--exists", "openssl"]).succeeds())
}

/// Makes sure that a tool of the system is there, by the package manager where there is one that we may use. Says why it
/// is not.
pub(crate) fn system(package: &str, is_there: impl Fn() -> bool) -> Result<(), String> {
    if is_there() {
        return Ok(());
    }
    let apt = |args: &str| Run::new("apt-get").args(args.split(' ')).arg(package);
    let install = "install --yes --quiet --no-install-recommends";
    // The lists of packages may be old, or not there at all.
    if !apt(install).succeeds() {
        let _ = Run::new("apt-get").args(["update", "--quiet"]).succeeds();
        let _ = apt(install).succeeds();
    }
    if is_there() {
        Ok(())
    } else {
        Err(format!("{package} is not installed, and apt-get cannot install it"))
    }
}
