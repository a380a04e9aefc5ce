//! What `cargo xtask test` checks, a function a step.

use std::collections::BTreeSet;

use clap::ValueEnum;
use serde_json::Value;

use crate::command::Run;
use crate::counts::Counts;
use crate::data::{self, NoData};
use crate::{Result, fuzz, services, sim, storm, tools};

/// Cheap steps first; those that share build results next to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Step {
    Fmt,
    Deny,
    Tree,
    Clippy,
    Features,
    Doc,
    Tests,
    Flights,
    Demo,
    Sim,
    Fuzz,
    Storm,
}

/// What a step that did not fail has to say.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What was checked; `None` if nothing was.
    pub(crate) checked: Option<String>,
    /// What could not be checked here, and why.
    pub(crate) left_out: Option<String>,
}

impl Done {
    fn checked(what: impl Into<String>) -> Self {
        Self { checked: Some(what.into()), left_out: None }
    }
}

impl Step {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Deny => "deny",
            Self::Tree => "tree",
            Self::Clippy => "clippy",
            Self::Features => "features",
            Self::Doc => "doc",
            Self::Tests => "tests",
            Self::Flights => "flights",
            Self::Demo => "demo",
            Self::Sim => "sim",
            Self::Fuzz => "fuzz",
            Self::Storm => "storm",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Fmt => "the code is formatted",
            Self::Deny => "licences, banned crates, sources and (with a network) advisories",
            Self::Tree => {
                "core, toolkit and memory driver stay a small dependency; every lock file is up to date"
            }
            Self::Clippy => "no warning of rustc or clippy",
            Self::Features => "every feature of core, toolkit, object stores and AWS builds alone",
            Self::Doc => "the docs build without a warning",
            Self::Tests => "all tests, doc tests too",
            Self::Flights => "the flights example on its real data set, also with processes that are killed",
            Self::Demo => "the demo loses nothing",
            Self::Sim => "the engine on simulated brokers through a thousand seeds of faults",
            Self::Fuzz => "no bytes make a decoder of bytes from outside panic, hang or take too much memory",
            Self::Storm => {
                "nothing is lost when processes and files are broken on purpose, a tenth of the long form"
            }
        }
    }

    pub(crate) fn run(self) -> Result<Done> {
        match self {
            Self::Fmt => fmt(),
            Self::Deny => deny(),
            Self::Tree => tree(),
            Self::Clippy => clippy(),
            Self::Features => features(),
            Self::Doc => doc(),
            Self::Tests => tests(),
            Self::Flights => flights(),
            Self::Demo => demo(),
            Self::Sim => sim::ci().map(Done::checked),
            Self::Fuzz => fuzz::ci().map(Done::checked),
            Self::Storm => storm(),
        }
    }
}

/// What must not enter the tree of the product has a workspace and a lock file of its own, which has to follow what the
/// product's crates need.
const OTHER_WORKSPACES: [&str; 2] = ["bench", "fuzz"];

fn fmt() -> Result<Done> {
    tools::component("rustfmt", "fmt")?;
    Run::cargo("fmt --all -- --check").run()?;
    for workspace in OTHER_WORKSPACES {
        let manifest = format!("{workspace}/Cargo.toml");
        Run::cargo("fmt --all --check --manifest-path").arg(manifest).run()?;
    }
    Ok(Done::checked("formatted"))
}

const ADVISORIES: &str = "https://github.com/RustSec/advisory-db/info/refs?service=git-upload-pack";

fn deny() -> Result<Done> {
    let program = tools::cargo_deny()?.to_string_lossy().into_owned();
    let check = |what: &str| {
        Run::new(program.as_str())
            .args(["--workspace", "--all-features", "check"])
            .args(what.split(' '))
            .run()
    };
    check("licenses bans sources")?;
    // The advisories lie in a git repository of their own, which not every machine can reach.
    if Run::new("curl").args(["--fail", "--silent", "--location", "--max-time", "15", ADVISORIES]).succeeds()
    {
        check("advisories")?;
        return Ok(Done::checked("licences, bans, sources, advisories"));
    }
    Ok(Done {
        checked: Some("licences, bans, sources".into()),
        left_out: Some("advisories, their database cannot be reached".into()),
    })
}

/// The crates of others that a service on the memory driver compiles stay below this.
const TREE_LIMIT: usize = 40;

fn tree() -> Result<Done> {
    let output = Run::cargo("tree -p millstream-core -p millstream -p millstream-memory")
        .args(["--no-default-features", "--features", "millstream/memory"])
        .args(["--edges", "normal", "--prefix", "none"])
        .output()?;
    for workspace in OTHER_WORKSPACES {
        let manifest = format!("{workspace}/Cargo.toml");
        Run::cargo("metadata --locked --format-version 1 --manifest-path").arg(&manifest).output().map_err(
            |error| {
                format!(
                    "{error}; `cargo metadata --manifest-path {manifest}` brings its Cargo.lock up to date"
                )
            },
        )?;
    }
    let crates = crates(&output);
    if crates.len() < TREE_LIMIT {
        return Ok(Done::checked(format!("{} crates of others, fewer than {TREE_LIMIT}", crates.len())));
    }
    for name in &crates {
        println!("{name}");
    }
    Err(format!("{} crates of others, and fewer than {TREE_LIMIT} are wanted", crates.len()).into())
}

/// The crates of others in `cargo tree`'s output, each once: a line is `name v1.2.3`, then remarks; ours say
/// the folder they are in.
fn crates(tree: &str) -> BTreeSet<String> {
    tree.lines()
        .filter(|line| !line.contains(" (/"))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(format!("{} {}", words.next()?, words.next()?))
        })
        .collect()
}

fn clippy() -> Result<Done> {
    tools::component("clippy", "clippy")?;
    Run::cargo("clippy --workspace --all-targets --all-features -- -D warnings").run()?;
    Ok(Done::checked("no warnings"))
}

fn features() -> Result<Done> {
    tools::component("clippy", "clippy")?;
    let metadata = metadata()?;
    let mut builds = 0;
    for package in ["millstream-core", "millstream", "millstream-objects", "millstream-aws"] {
        let features = features_of(&metadata, package)?;
        for feature in std::iter::once(None).chain(features.iter().map(Some)) {
            let mut run = Run::cargo("clippy --quiet --no-default-features -p").arg(package);
            if let Some(feature) = feature {
                run = run.arg("--features").arg(feature);
            }
            run.args(["--", "-D", "warnings"]).run()?;
            builds += 1;
        }
    }
    Ok(Done::checked(format!("{builds} builds")))
}

fn metadata() -> Result<Value> {
    let text = Run::cargo("metadata --no-deps --format-version 1").output()?;
    Ok(serde_json::from_str(&text)?)
}

fn features_of(metadata: &Value, package: &str) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let found = packages.iter().find(|p| p["name"] == package);
    let features = found
        .and_then(|p| p["features"].as_object())
        .ok_or_else(|| format!("there is no package {package} in this workspace"))?;
    Ok(features.keys().filter(|name| *name != "default").cloned().collect())
}

fn doc() -> Result<Done> {
    // Libraries only: the program's name is that of the toolkit, and rustdoc gives both the same page.
    Run::cargo("doc --workspace --lib --all-features --no-deps").env("RUSTDOCFLAGS", "-D warnings").run()?;
    Ok(Done::checked("no warnings"))
}

fn tests() -> Result<Done> {
    let servers = services::Servers::start()?;
    let mut counts = Counts::default();
    let mut run = Run::cargo("test --workspace --all-features --no-fail-fast");
    for (name, value) in &servers.variables {
        run = run.env(name, value);
    }
    let outcome = run.lines(|line| {
        println!("{line}");
        counts.add(line);
    });
    println!("\n{counts} in total");
    // A program that died prints no closing line: cargo's exit code counts as well as our sum.
    outcome.map_err(|error| format!("{counts}; {error}"))?;
    if counts.passed == 0 || counts.failed > 0 {
        return Err(counts.to_string().into());
    }
    Ok(Done::checked(counts.to_string()))
}

fn flights() -> Result<Done> {
    let path = match data::flights() {
        Ok(path) => path,
        Err(NoData::Unreachable(why)) => return Ok(Done { checked: None, left_out: Some(why) }),
        Err(broken) => return Err(broken.into()),
    };
    let flights = || {
        Run::cargo("run --release -p millstream-examples --example flights --").arg(path.to_string_lossy())
    };
    flights().run()?;
    flights().args(["--kills", "10"]).run()?;
    Run::cargo("build --release --bin millstream").run()?;
    let folder = metadata()?["target_directory"].as_str().map(str::to_owned);
    let folder = folder.ok_or("cargo metadata names no target_directory")?;
    flights().args(["--kills", "10", "--program"]).arg(format!("{folder}/release/millstream")).run()?;
    Ok(Done::checked(
        "the sums are right, in memory and through two processes that are killed 10 times each, published by the \
         example and by the program",
    ))
}

fn demo() -> Result<Done> {
    let output = Run::cargo("run --release --bin millstream -- demo --events 100000 --json").output()?;
    let report = last_json(&output).ok_or("the demo printed no JSON report")?;
    match report["lost"].as_u64() {
        Some(0) => Ok(Done::checked(format!("published {}, lost 0", report["published"]))),
        Some(lost) => Err(format!("the demo lost {lost}: {report}").into()),
        None => Err(format!("the demo's report does not say what was lost: {report}").into()),
    }
}

fn storm() -> Result<Done> {
    let storm::Outcome { checked, left_out } = storm::ci()?;
    Ok(Done { checked: Some(checked), left_out })
}

/// The last JSON value of an output that is JSON throughout, in one line or several.
fn last_json(output: &str) -> Option<Value> {
    serde_json::Deserializer::from_str(output).into_iter().last()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_of_others_are_counted_once_whatever_stands_behind_them() {
        let tree = "ours v1.0.0 (/src/ours)\na v1.0.0\nb v2.0.0 (proc-macro)\nb v2.0.0 (*)\n\nb v3.0.0\n";
        assert_eq!(crates(tree).into_iter().collect::<Vec<_>>(), ["a v1.0.0", "b v2.0.0", "b v3.0.0"]);
    }

    #[test]
    fn the_default_feature_is_no_feature_to_build_alone() {
        let metadata = serde_json::json!({
            "packages": [{ "name": "x", "features": { "default": ["json"], "json": [] } }]
        });
        assert_eq!(features_of(&metadata, "x").unwrap(), ["json"]);
        assert!(features_of(&metadata, "y").is_err());
    }

    #[test]
    fn the_report_is_the_last_json_value() {
        assert_eq!(last_json("{\"done\": 5}\n{\n  \"lost\": 0\n}\n").unwrap()["lost"], 0);
        assert_eq!(last_json("not json"), None);
        assert_eq!(last_json(""), None);
    }
}
