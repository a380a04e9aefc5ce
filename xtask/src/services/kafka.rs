//! Apache Kafka in KRaft mode: each broker a Java process that is controller as well, from the jars of Maven Central.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::java::{self, Java};
use super::listeners::{self, Ports, addresses};
use super::process::{self, Process, text};
use super::{Service, Variable, certificates, ports};
use crate::Result;

/// The variable by which tests find the brokers.
pub(super) const VARIABLE: &str = "MILLSTREAM_KAFKA";

const VERSION: &str = "4.3.0";

/// Broker and controller, the tools that format its folder, and a logger.
const PROGRAM: Java = Java {
    name: "kafka",
    version: VERSION,
    jars: &[
        ("org.apache.kafka", "kafka_2.13", VERSION),
        ("org.apache.kafka", "kafka-tools", VERSION),
        ("org.slf4j", "slf4j-simple", "1.7.36"),
    ],
};

/// Any 16 bytes in base64: a cluster's name, which all its brokers must share.
const CLUSTER_ID: &str = "bWlsbHN0cmVhbS10ZXN0cw";

const START_WITHIN: Duration = Duration::from_secs(90);

/// The jars, brought into the cache if they are not there.
pub(super) fn install() -> Result<PathBuf> {
    PROGRAM.install()
}

/// A cluster of so many brokers, with a folder of its own.
pub(crate) struct Cluster {
    folder: PathBuf,
    brokers: u16,
    /// It is measured, not tested against.
    bench: bool,
}

impl Cluster {
    pub(super) fn of(brokers: u16) -> Result<Self> {
        Ok(Self { folder: process::folder().join(format!("kafka-{brokers}")), brokers, bench: false })
    }

    /// One broker, which takes its time to start and is as fast then as it can be.
    pub(super) fn for_bench() -> Result<Self> {
        Ok(Self { folder: process::folder().join("kafka-bench"), brokers: 1, bench: true })
    }

    /// What tests need to know.
    fn variables(&self, ports: &[Ports]) -> Vec<Variable> {
        vec![
            (VARIABLE, addresses(ports, |ports| ports.clients)),
            ("MILLSTREAM_KAFKA_TLS", addresses(ports, |ports| ports.tls)),
            ("MILLSTREAM_KAFKA_MTLS", addresses(ports, |ports| ports.mtls)),
            ("MILLSTREAM_KAFKA_SASL", addresses(ports, |ports| ports.sasl)),
            ("MILLSTREAM_KAFKA_SASL_OPEN", addresses(ports, |ports| ports.sasl_open)),
            ("MILLSTREAM_KAFKA_CERTIFICATES", text(&self.certificates())),
            ("MILLSTREAM_KAFKA_KEY_PASSWORD", certificates::KEY_PASSWORD.to_owned()),
            ("MILLSTREAM_KAFKA_USER", listeners::USER.to_owned()),
            ("MILLSTREAM_KAFKA_PASSWORD", listeners::PASSWORD.to_owned()),
        ]
    }

    fn broker(&self, id: u16) -> Process {
        Process::of(self.home(id))
    }

    fn home(&self, id: u16) -> PathBuf {
        self.folder.join(format!("broker-{id}"))
    }

    fn certificates(&self) -> PathBuf {
        self.folder.join("certificates")
    }

    fn settings(&self, id: u16) -> PathBuf {
        self.home(id).join("server.properties")
    }

    fn ports(&self) -> Option<Vec<Ports>> {
        let ports = ports::chosen(&self.folder, Ports::COUNT * usize::from(self.brokers))?;
        Some(ports.as_chunks().0.iter().copied().map(Ports::new).collect())
    }

    fn choose_ports(&self) -> Result<Vec<Ports>> {
        let ports = ports::choose(&self.folder, Ports::COUNT * usize::from(self.brokers))?;
        Ok(ports.as_chunks().0.iter().copied().map(Ports::new).collect())
    }

    fn launch(&self, id: u16, lib: &Path, ports: &[Ports]) -> Result {
        let (home, settings) = (self.home(id), self.settings(id));
        fs::create_dir_all(&home)?;
        fs::write(&settings, self.properties(id, ports))?;
        if !home.join("data").join("meta.properties").exists() {
            let tool = java::command(lib)
                .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
                .arg(&settings)
                .args(listeners::users())
                .output()?;
            if !tool.status.success() {
                return Err(format!("kafka's folder: {}", String::from_utf8_lossy(&tool.stderr)).into());
            }
        }
        let mut broker = java::command(lib);
        if self.bench {
            broker.args(["-XX:+UseSerialGC", "-Xms1g", "-Xmx1g"]);
        } else {
            broker.args(java::SOONER).args(["-Xms256m", "-Xmx512m"]);
        }
        broker
            // Its log goes to standard error, which is a file: what is usual is not worth the lines.
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg("kafka.Kafka")
            .arg(&settings);
        self.broker(id).launch(broker)
    }

    fn properties(&self, id: u16, ports: &[Ports]) -> String {
        let at = &ports[usize::from(id) - 1];
        let voters: Vec<_> =
            (1..).zip(ports).map(|(n, p): (u16, _)| format!("{n}@127.0.0.1:{}", p.controller)).collect();
        let replicas = self.brokers.min(3);
        let in_sync = if replicas > 1 { 2 } else { 1 };
        format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             {listeners}\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             num.partitions=1\n\
             default.replication.factor={replicas}\n\
             min.insync.replicas={in_sync}\n\
             offsets.topic.replication.factor={replicas}\n\
             offsets.topic.num.partitions=8\n\
             transaction.state.log.replication.factor={replicas}\n\
             transaction.state.log.min.isr={in_sync}\n\
             transaction.state.log.num.partitions=8\n\
             share.coordinator.state.topic.replication.factor={replicas}\n\
             share.coordinator.state.topic.min.isr={in_sync}\n\
             share.coordinator.state.topic.num.partitions=8\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n\
             group.consumer.min.session.timeout.ms=1000\n\
             group.consumer.session.timeout.ms=6000\n\
             group.consumer.min.heartbeat.interval.ms=200\n\
             group.consumer.heartbeat.interval.ms=500\n\
             log.retention.check.interval.ms=1000\n",
            voters = voters.join(","),
            listeners = at.properties(&self.certificates()),
            data = self.home(id).join("data").display(),
        )
    }
}

impl Service for Cluster {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn install(&self) -> Result {
        install().map(drop)
    }

    fn running(&self) -> Option<Vec<Variable>> {
        let ports = self.ports()?;
        let up = (1..=self.brokers).all(|id| self.broker(id).pid().is_some())
            && ports.iter().all(|ports| answers(ports.clients));
        up.then(|| self.variables(&ports))
    }

    /// Starts those brokers that are not running, and waits until each answers.
    fn start(&self) -> Result<Vec<Variable>> {
        if let Some(variables) = self.running() {
            return Ok(variables);
        }
        let lib = install()?;
        let ports = match self.ports() {
            Some(ports) if (1..=self.brokers).any(|id| self.broker(id).pid().is_some()) => ports,
            // None is running: the ports of the last time may be another's by now.
            last => {
                if last.is_none() {
                    // What an older version of us started knows neither these listeners nor their users.
                    self.stop()?;
                }
                certificates::make(&self.certificates())?;
                self.choose_ports()?
            }
        };
        for id in 1..=self.brokers {
            if self.broker(id).pid().is_none() {
                self.launch(id, &lib, &ports)?;
            }
        }
        let until = Instant::now() + START_WITHIN;
        for (id, port) in (1..).zip(&ports) {
            let up = self.broker(id).wait(until, || answers(port.clients));
            up.map_err(|error| format!("broker {id}: {error}"))?;
        }
        Ok(self.variables(&ports))
    }

    fn stop(&self) -> Result<bool> {
        let brokers: Vec<_> = (1..=self.brokers).map(|id| self.broker(id)).collect();
        let was_running = process::stop(&brokers);
        // What tests wrote is nobody's any more, and would fill the disk.
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        Ok(was_running)
    }
}

/// Whether a broker answers `ApiVersions`, which it does once it serves clients; an open port alone says nothing.
fn answers(port: u16) -> bool {
    // Length, key 18, version 0, number 1, no client id.
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let within = Duration::from_secs(1);
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), within)?;
        stream.set_read_timeout(Some(within))?;
        stream.write_all(&REQUEST)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        // Our number, and no error.
        Ok(answer[4..] == [0, 0, 0, 1, 0, 0])
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn each_broker_knows_all_controllers_and_its_own_ports() {
        let cluster = Cluster { folder: "services".into(), brokers: 3, bench: false };
        let ports: Vec<_> =
            (1..=3).map(|n| Ports::new([100, 200, 300, 400, 500, 600].map(|from| from + n))).collect();
        let text = cluster.properties(2, &ports);
        assert!(text.contains("voters=1@127.0.0.1:201,2@127.0.0.1:202,3@127.0.0.1:203\n"), "{text}");
        assert!(text.contains("\nlisteners=PLAINTEXT://127.0.0.1:102,TLS://127.0.0.1:302,"), "{text}");
        assert!(text.contains("min.insync.replicas=2\n"), "{text}");
        assert_eq!(addresses(&ports, |ports| ports.clients), "127.0.0.1:101,127.0.0.1:102,127.0.0.1:103");
    }

    #[test]
    fn a_port_where_nobody_speaks_kafka_does_not_answer() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!answers(silent.local_addr().unwrap().port()));
    }
}
