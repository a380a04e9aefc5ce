//! Clients of other languages that speak to the servers beside Millstream: each is a small program of the tests, with a
//! public client of its language.

use std::path::{Path, PathBuf};

use super::Variable;
use super::process::text;
use super::python::Python;
use crate::command::{Run, root};
use crate::{Result, tools};

/// The Python client of Kafka, and the SDK of CloudEvents. Go's is pinned in its own `go.mod`.
const PYTHON: Python = Python {
    kind: "peers",
    name: "confluent-kafka",
    version: "2.16.1",
    packages: &["confluent-kafka==2.16.1", "cloudevents==1.12.0"],
    probe: "import confluent_kafka, cloudevents.kafka",
};

/// The Python client of Amazon's services.
const BOTO: Python = Python {
    kind: "peers",
    name: "boto3",
    version: "1.43.11",
    packages: &["boto3==1.43.11"],
    probe: "import boto3",
};

/// Those of all services.
pub(super) fn all() -> Result<Vec<Variable>> {
    Ok([of_kafka()?, of_aws()?].concat())
}

/// A Python that speaks to SQS, SNS and DynamoDB.
pub(super) fn of_aws() -> Result<Vec<Variable>> {
    Ok(vec![("MILLSTREAM_PEER_BOTO", text(&BOTO.install()?))])
}

/// Where tests find each: Go's program, a Python that has the client, the jars of Java's.
pub(super) fn of_kafka() -> Result<Vec<Variable>> {
    Ok(vec![
        ("MILLSTREAM_PEER_GO", text(&kafka_go()?)),
        ("MILLSTREAM_PEER_PYTHON", text(&PYTHON.install()?)),
        ("MILLSTREAM_PEER_JAVA", text(&super::kafka::install()?)),
    ])
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
