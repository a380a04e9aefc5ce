//! ElasticMQ, in a process of our own that can be stopped.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Result, java};

/// The variable with the folder of ElasticMQ's jars.
pub(crate) const JARS: &str = "MILLSTREAM_ELASTICMQ_JARS";

const START_WITHIN: Duration = Duration::from_secs(60);

/// The folder of its jars, or why there is none.
pub(crate) fn jars() -> Result<PathBuf, String> {
    java::jars(JARS, "aws")
}

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Starts it and waits until it answers; what it says goes to a file in the folder.
    pub(crate) fn start(folder: &Path, jars: &Path) -> Result<Self> {
        let held = [0; 2].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let [port, statistics] = held.map(|held| held.and_then(|held| held.local_addr()).map(|at| at.port()));
        let (port, statistics) = (port?, statistics?);
        let log = File::create(folder.join("elasticmq.log"))?;
        let child = java::on(jars)
            .args(["-Xms256m", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Drest-sqs.bind-hostname=127.0.0.1", "-Drest-stats.bind-hostname=127.0.0.1"])
            .arg(format!("-Drest-sqs.bind-port={port}"))
            .arg(format!("-Drest-stats.bind-port={statistics}"))
            .args(["-Dnode-address.host=127.0.0.1", &format!("-Dnode-address.port={port}")])
            .arg("org.elasticmq.server.Main")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Self { child, port };
        let until = Instant::now() + START_WITHIN;
        while !server.answers() {
            if server.child.try_wait()?.is_some() || Instant::now() > until {
                return Err(format!("ElasticMQ did not come up: see {}", folder.display()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Makes it stand still.
    pub(crate) fn stop(&self) -> Result {
        Ok(kill_process(Pid::from_child(&self.child), Signal::STOP)?)
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) -> Result {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    /// Whether it answers a request; an open port alone says nothing.
    fn answers(&self) -> bool {
        let within = Duration::from_secs(1);
        let ask = || -> std::io::Result<bool> {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let mut stream = TcpStream::connect_timeout(&at, within)?;
            stream.set_read_timeout(Some(within))?;
            stream.write_all(
                b"GET /?Action=ListQueues HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            )?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(answer == *b"HTTP/1.1 200")
        };
        ask().unwrap_or(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
