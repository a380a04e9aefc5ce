//! DynamoDB Local: Amazon's own DynamoDB in memory. It listens on every interface and has no option to bind, so it gets a
//! network of its own where that is allowed; where it is not, it listens everywhere, and starting it says so.

use std::path::Path;
use std::process::Command;

use super::java::{self, Java};
use super::namespace;
use super::process::Process;
use super::single::{Server, url};
use super::{Variable, http};
use crate::Result;

const PROGRAM: Java =
    Java { name: "dynamodb", version: "2.6.1", jars: &[("com.amazonaws", "DynamoDBLocal", "2.6.1")] };

pub(super) struct DynamoDb {
    /// What Java is told.
    pub(super) options: [&'static str; 2],
}

impl Server for DynamoDb {
    const NAME: &'static str = "dynamodb";
    const PORTS: usize = 1;

    fn install(&self) -> Result {
        PROGRAM.install().map(drop)
    }

    fn command(&self, home: &Path, ports: &[u16]) -> Result<Command> {
        let lib = PROGRAM.install()?;
        let mut command = java::command(&lib);
        command
            .args(self.options)
            .arg(format!("-Dmillstream.home={}", Process::mark(home)))
            // Its SQLite lies beside the jars.
            .arg(format!("-Djava.library.path={}", lib.display()))
            .arg("com.amazonaws.services.dynamodbv2.local.main.ServerRunner")
            .args(["-inMemory", "-disableTelemetry", "-port", &ports[0].to_string()]);
        if namespace::is_allowed() {
            return namespace::confine(&command, ports[0]);
        }
        eprintln!(
            "dynamodb listens on every interface: this machine allows no network of its own (unshare --net)"
        );
        Ok(command)
    }

    fn answers(&self, ports: &[u16]) -> bool {
        let headers = [
            "X-Amz-Target: DynamoDB_20120810.ListTables",
            "Content-Type: application/x-amz-json-1.0",
            &http::signature("dynamodb"),
        ];
        http::ask(ports[0], "POST /", &headers, "{}") == Some(200)
    }

    fn variables(&self, ports: &[u16]) -> Vec<Variable> {
        vec![("MILLSTREAM_DYNAMODB", url(ports[0]))]
    }
}
