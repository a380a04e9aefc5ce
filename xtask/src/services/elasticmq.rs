//! ElasticMQ: Amazon's SQS in memory.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::java::{self, Java};
use super::process::Process;
use super::single::{Server, url};
use super::{Variable, http};
use crate::Result;

const PROGRAM: Java = Java {
    name: "elasticmq",
    version: "1.6.14",
    jars: &[("org.elasticmq", "elasticmq-server_2.13", "1.6.14")],
};

/// The folder of its jars, which are brought into the cache if they are not there.
pub(super) fn jars() -> Result<PathBuf> {
    PROGRAM.install()
}

pub(super) struct ElasticMq {
    /// What Java is told.
    pub(super) options: [&'static str; 2],
}

impl Server for ElasticMq {
    const NAME: &'static str = "elasticmq";
    const PORTS: usize = 2;

    fn install(&self) -> Result {
        PROGRAM.install().map(drop)
    }

    fn command(&self, home: &Path, ports: &[u16]) -> Result<Command> {
        let mut command = java::command(&PROGRAM.install()?);
        command
            .args(self.options)
            .arg(format!("-Dmillstream.home={}", Process::mark(home)))
            // Unless told, it listens on every interface.
            .args(["-Drest-sqs.bind-hostname=127.0.0.1", "-Drest-stats.bind-hostname=127.0.0.1"])
            .arg(format!("-Drest-sqs.bind-port={}", ports[0]))
            .arg(format!("-Drest-stats.bind-port={}", ports[1]))
            // The URLs of queues carry it.
            .args(["-Dnode-address.host=127.0.0.1", &format!("-Dnode-address.port={}", ports[0])])
            .arg("org.elasticmq.server.Main");
        Ok(command)
    }

    fn answers(&self, ports: &[u16]) -> bool {
        http::ask(ports[0], "GET /?Action=ListQueues", &[], "") == Some(200)
    }

    fn variables(&self, ports: &[u16]) -> Vec<Variable> {
        vec![("MILLSTREAM_SQS", url(ports[0]))]
    }
}
