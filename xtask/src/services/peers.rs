//! Clients of other languages that speak to the servers beside Millstream: each is a small program of the tests, with a
//! public client of its language.

use std::path::{Path, PathBuf};

use crate::command::{Run, root};
use crate::{Result, cache, tools};

/// The Python client, and the SDK of CloudEvents. Go's is pinned in its own `go.mod`.
const CONFLUENT_KAFKA: &str = "2.16.1";
const CLOUDEVENTS: &str = "1.12.0";

/// Where tests find each: Go's program, a Python that has the client, the jars of Java's.
pub(super) fn of_kafka() -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("MILLSTREAM_PEER_GO", text(&kafka_go()?)),
        ("MILLSTREAM_PEER_PYTHON", text(&python()?)),
        ("MILLSTREAM_PEER_JAVA", text(&super::kafka::install()?)),
    ])
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The program, built where cargo builds.
fn kafka_go() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let program = root().join(target).join("peers").join("kafka-go");
    go(&root().join("drivers/kafka/tests/peers/go"), ".", &program)?;
    Ok(program)
}

/// Builds a package of a Go module.
pub(super) fn go(module: &Path, package: &str, program: &Path) -> Result {
    tools::system("golang-go", || Run::new("go").arg("version").succeeds())?;
    let package = if package == "." { package.to_owned() } else { format!("./{package}") };
    Run::new("go").arg("-C").arg(text(module)).args(["build", "-o"]).arg(text(program)).arg(package).run()
}

/// An interpreter with the client, in the cache.
fn python() -> Result<PathBuf> {
    let folder = cache::dir()?.join("peers").join(format!("confluent-kafka-{CONFLUENT_KAFKA}"));
    let python = folder.join("bin/python");
    let has_client =
        || Run::new(text(&python)).args(["-c", "import confluent_kafka, cloudevents.kafka"]).succeeds();
    if has_client() {
        return Ok(python);
    }
    let venv = |with: &str| Run::new("python3").args(["-m", "venv", with]).arg(text(&folder));
    tools::system("python3-venv", || Run::new("python3").args(["-c", "import ensurepip"]).succeeds())?;
    venv("--clear").run()?;
    Run::new(text(&python))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("confluent-kafka=={CONFLUENT_KAFKA}"))
        .arg(format!("cloudevents=={CLOUDEVENTS}"))
        .run()?;
    Ok(python)
}
