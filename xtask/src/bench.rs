//! `cargo xtask bench`: builds the programs that measure Millstream and its peers, and runs them.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::Result;
use crate::command::Run;
use crate::services::{self, BenchServers};

/// A workspace of its own.
const MANIFEST: &str = "bench/Cargo.toml";

/// Where the bench finds peers in Go, and their packages.
const GO_PEERS: [(&str, &str); 2] =
    [("MILLSTREAM_BENCH_WATERMILL", "watermill"), ("MILLSTREAM_BENCH_KAFKA_GO", "kafkago")];

#[derive(Args)]
pub(crate) struct Options {
    /// Which groups, such as consume; all of them but kafka and aws by default.
    groups: Vec<String>,
    /// How much of sqlite, kafka and aws: quick or full.
    #[arg(long)]
    scale: Option<String>,
    /// Which parts of sqlite, kafka and aws, such as acknowledged; all of them by default.
    #[arg(long = "step", value_name = "STEP")]
    steps: Vec<String>,
    /// Writes a row for each figure to this file, as a JSON array.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result {
    install_valgrind();
    Run::cargo("build --release --locked --manifest-path").arg(MANIFEST).run()?;
    let program = program()?;
    let mut run = Run::new(program.as_str());
    let with = |name: &str| options.groups.iter().any(|group| group == name);
    if with("kafka") {
        for (name, value) in build_for_kafka(&program)? {
            run = run.env(name, value);
        }
    }
    if with("aws") {
        build("bench-aws")?;
    }
    // They run as long as this lives.
    let servers = BenchServers::start(&options.groups)?;
    for (name, value) in &servers.variables {
        run = run.env(name, value.as_str());
    }
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

/// Builds what only some group needs.
fn build(package: &str) -> Result {
    Run::cargo("build --release --locked --manifest-path").arg(MANIFEST).args(["-p", package]).run()
}

/// Builds what only the group `kafka` needs, and says where the programs in Go are. A peer that cannot be built is left
/// out by the bench, which says so.
fn build_for_kafka(program: &str) -> Result<Vec<(&'static str, String)>> {
    build("bench-kafka")?;
    if let Err(error) = build("bench-ruststream-rdkafka") {
        eprintln!("{error}");
    }
    let mut variables = Vec::new();
    for (variable, package) in GO_PEERS {
        let target = format!("{program}-{package}");
        match services::go_program("bench/go", package, Path::new(&target)) {
            Ok(()) => variables.push((variable, target)),
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(variables)
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
