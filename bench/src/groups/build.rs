//! What a clean release build of core, toolkit and memory driver costs whoever depends on them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::Result;
use crate::row::{Goal, Row};

/// The program's own name for the group, in its rows.
const GROUP: &str = "build";

/// What is built: the toolkit brings core and the derive macro along.
const WHAT: [&str; 7] = [
    "-p",
    "millstream",
    "-p",
    "millstream-memory",
    "--no-default-features",
    "--features",
    "millstream/memory",
];

pub(crate) fn run() -> Result<Vec<Row>> {
    Ok(vec![seconds()?, crates()?])
}

fn seconds() -> Result<Row> {
    // Downloading is not building.
    cargo(&["fetch", "--quiet"])?;
    let target = tempfile::tempdir()?;
    let begun = Instant::now();
    let before = cpu_seconds()?;
    let folder = target.path().to_string_lossy();
    cargo(&[&["build", "--release", "--quiet", "--target-dir", &folder][..], &WHAT].concat())?;
    let cpu = cpu_seconds()? - before;
    Ok(Row::new(GROUP, "clean release build of core, toolkit and memory driver", cpu, "CPU-seconds")
        .goal(Goal::AtMost(60.0))
        .detail(format!(
            "user and system time of cargo and all its children, in a fresh target folder; {:.0} s on the wall",
            begun.elapsed().as_secs_f64()
        )))
}

fn crates() -> Result<Row> {
    let tree = cargo(&[&["tree", "--edges", "normal", "--prefix", "none"][..], &WHAT].concat())?;
    let names = of_others(&tree);
    Ok(Row::new(GROUP, "crates of others in its tree", names.len() as f64, "crates").goal(Goal::AtMost(39.0)))
}

/// Each once: a line of `cargo tree` is `name v1.2.3` and remarks; ours say the folder they are in.
fn of_others(tree: &str) -> BTreeSet<&str> {
    tree.lines()
        .filter(|line| !line.contains(" (/"))
        .filter_map(|line| line.split(" (").next())
        .filter(|line| !line.is_empty())
        .collect()
}

/// User and system time of all children that have ended, theirs included.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
}

/// Runs cargo in the workspace that is measured, and gives its output.
fn cargo(args: &[&str]) -> Result<String> {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("cargo")
        .args(args)
        .current_dir(bench.parent().unwrap_or(bench))
        // A cache of results would measure itself, and flags of ours are not those of others.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("`cargo {}` ended with {}", args.join(" "), output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_counts_once_and_ours_do_not() {
        let tree = "ours v1.0.0 (/src/ours)\na v1.0.0\nb v2.0.0 (proc-macro)\nb v2.0.0 (*)\n\nb v3.0.0\n";
        assert_eq!(of_others(tree).into_iter().collect::<Vec<_>>(), ["a v1.0.0", "b v2.0.0", "b v3.0.0"]);
    }
}
