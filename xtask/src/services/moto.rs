//! Moto: all services of Amazon in memory, slow and lax. SNS with its subscriptions to SQS is tested on it.

use std::path::Path;
use std::process::Command;

use super::process::{self, Process};
use super::python::Python;
use super::single::{Server, url};
use super::{Variable, http};
use crate::Result;

const PROGRAM: Python = Python {
    kind: "services",
    name: "moto",
    version: "5.2.5",
    packages: &["moto[server]==5.2.5"],
    probe: "import moto.server, flask",
};

pub(super) struct Moto;

impl Server for Moto {
    const NAME: &'static str = "moto";
    const PORTS: usize = 1;

    fn install(&self) -> Result {
        PROGRAM.install().map(drop)
    }

    fn command(&self, home: &Path, ports: &[u16]) -> Result<Command> {
        let mut command = process::program(PROGRAM.install()?);
        command
            // An option that Python takes and does not know.
            .args(["-X", &format!("millstream_home={}", Process::mark(home))])
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &ports[0].to_string()]);
        Ok(command)
    }

    fn answers(&self, ports: &[u16]) -> bool {
        let form = "Content-Type: application/x-www-form-urlencoded";
        let ask = "Action=ListTopics&Version=2010-03-31";
        http::ask(ports[0], "POST /", &[form, &http::signature("sns")], ask) == Some(200)
    }

    fn variables(&self, ports: &[u16]) -> Vec<Variable> {
        vec![("MILLSTREAM_MOTO", url(ports[0]))]
    }
}
