//! `cargo xtask bench`: builds the programs that measure Millstream and its peers, and runs them.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::Result;
use crate::command::Run;

/// A workspace of its own.
const MANIFEST: &str = "bench/Cargo.toml";

#[derive(Args)]
pub(crate) struct Options {
    /// Which groups, such as consume; all of them by default.
    groups: Vec<String>,
    /// How much of sqlite: quick or full.
    #[arg(long)]
    scale: Option<String>,
    /// Which parts of sqlite, such as acknowledged; all of them by default.
    #[arg(long = "step", value_name = "STEP")]
    steps: Vec<String>,
    /// Writes a row for each figure to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result {
    install_valgrind();
    Run::cargo("build --release --locked --workspace --manifest-path").arg(MANIFEST).run()?;
    let mut run = Run::new(program()?);
    if let Some(json) = &options.json {
        // It runs in the root, and the file is named from where we are.
        run = run.arg("--json").arg(std::path::absolute(json)?.to_string_lossy());
    }
    if let Some(scale) = &options.scale {
        run = run.args(["--scale", scale.as_str()]);
    }
    for step in &options.steps {
        run = run.args(["--step", step.as_str()]);
    }
    for group in &options.groups {
        run = run.arg(group.as_str());
    }
    run.run()
}

/// The program beside which the peers' lie.
fn program() -> Result<String> {
    let metadata =
        Run::cargo("metadata --no-deps --format-version 1 --manifest-path").arg(MANIFEST).output()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let folder = metadata["target_directory"].as_str().ok_or("cargo metadata names no target_directory")?;
    Ok(format!("{folder}/release/millstream-bench"))
}

/// Instructions and allocations are counted with valgrind. Where it cannot be had, the bench says which figures it
/// leaves out.
fn install_valgrind() {
    if Run::new("valgrind").arg("--version").succeeds() {
        return;
    }
    if let Err(error) = Run::new("apt-get").args(["install", "--yes", "--quiet", "valgrind"]).run() {
        eprintln!("valgrind is missing and could not be installed: {error}");
    }
}
