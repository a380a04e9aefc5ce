//! Apache Kafka in KRaft mode: each broker a Java process that is controller as well, from the jars of Maven Central.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::certificates;
use super::listeners::{self, Ports, addresses};
use crate::command::{Run, root};
use crate::{Result, cache, tools};

/// The variable by which tests find the brokers.
pub(super) const VARIABLE: &str = "MILLSTREAM_KAFKA";

const VERSION: &str = "4.3.0";

/// Broker and controller, the tools that format its folder, and a logger.
const JARS: [(&str, &str, &str); 3] = [
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
];

/// Any 16 bytes in base64: a cluster's name, which all its brokers must share.
const CLUSTER_ID: &str = "bWlsbHN0cmVhbS10ZXN0cw";

const START_WITHIN: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// The jars, brought into the cache if they are not there.
pub(super) fn install() -> Result<PathBuf> {
    let folder = cache::dir()?.join("services").join(format!("kafka-{VERSION}"));
    let (lib, pom, done) = (folder.join("lib"), folder.join("pom.xml"), folder.join("complete"));
    tools::system("default-jre-headless", || Run::new("java").arg("-version").succeeds())?;
    if done.exists() {
        return Ok(lib);
    }
    tools::system("maven", || Run::new("mvn").arg("--version").succeeds())?;
    fs::create_dir_all(&folder)?;
    fs::write(&pom, self::pom())?;
    Run::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(text(&pom))
        .arg("dependency:copy-dependencies")
        .arg(format!("-DoutputDirectory={}", lib.display()))
        .run()?;
    fs::write(done, "")?;
    Ok(lib)
}

fn pom() -> String {
    let mut dependencies = String::new();
    for (group, artifact, version) in JARS {
        let _ = write!(
            dependencies,
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        );
    }
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>millstream</groupId><artifactId>kafka</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>\n"
    )
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
        Ok(Self { folder: services().join(format!("kafka-{brokers}")), brokers, bench: false })
    }

    /// One broker, which takes its time to start and is as fast then as it can be.
    pub(super) fn for_bench() -> Result<Self> {
        Ok(Self { folder: services().join("kafka-bench"), brokers: 1, bench: true })
    }

    /// Where its brokers are, if all of them are running.
    pub(super) fn address(&self) -> Option<String> {
        let ports = self.ports()?;
        let up = (1..=self.brokers).all(|id| self.pid(id).is_some())
            && ports.iter().all(|ports| answers(ports.clients));
        up.then(|| addresses(&ports, |ports| ports.clients))
    }

    /// What tests need to know of its other listeners: a variable and its value each.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let Some(ports) = self.ports() else { return Vec::new() };
        vec![
            ("MILLSTREAM_KAFKA_TLS", addresses(&ports, |ports| ports.tls)),
            ("MILLSTREAM_KAFKA_MTLS", addresses(&ports, |ports| ports.mtls)),
            ("MILLSTREAM_KAFKA_SASL", addresses(&ports, |ports| ports.sasl)),
            ("MILLSTREAM_KAFKA_SASL_OPEN", addresses(&ports, |ports| ports.sasl_open)),
            ("MILLSTREAM_KAFKA_CERTIFICATES", text(&self.certificates())),
            ("MILLSTREAM_KAFKA_KEY_PASSWORD", certificates::KEY_PASSWORD.to_owned()),
            ("MILLSTREAM_KAFKA_USER", listeners::USER.to_owned()),
            ("MILLSTREAM_KAFKA_PASSWORD", listeners::PASSWORD.to_owned()),
        ]
    }

    /// Starts those brokers that are not running, waits until each answers, and says where they are.
    pub(super) fn start(&self) -> Result<String> {
        if let Some(address) = self.address() {
            return Ok(address);
        }
        let lib = install()?;
        let ports = match self.ports() {
            Some(ports) if (1..=self.brokers).any(|id| self.pid(id).is_some()) => ports,
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
            if self.pid(id).is_none() {
                self.launch(id, &lib, &ports)?;
            }
        }
        let until = Instant::now() + START_WITHIN;
        for (id, port) in (1..).zip(&ports) {
            while !answers(port.clients) {
                if self.pid(id).is_none() || Instant::now() > until {
                    let log = self.home(id).join("log");
                    let end = fs::read_to_string(&log).unwrap_or_default();
                    let end: Vec<_> = end.lines().rev().take(20).collect();
                    let end: Vec<_> = end.into_iter().rev().collect();
                    return Err(format!(
                        "broker {id} did not come up; the end of {}:\n{}",
                        log.display(),
                        end.join("\n")
                    )
                    .into());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(addresses(&ports, |ports| ports.clients))
    }

    /// Stops what is running; says whether anything was.
    pub(super) fn stop(&self) -> Result<bool> {
        let running: Vec<_> = (1..=self.brokers).filter(|id| self.pid(*id).is_some()).collect();
        for id in &running {
            self.signal(*id, "TERM");
        }
        let until = Instant::now() + STOP_WITHIN;
        for id in &running {
            while self.pid(*id).is_some() {
                if Instant::now() > until {
                    self.signal(*id, "KILL");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        // What tests wrote is nobody's any more, and would fill the disk.
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        Ok(!running.is_empty())
    }

    fn signal(&self, id: u16, signal: &str) {
        if let Some(pid) = self.pid(id) {
            let _ = Run::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).succeeds();
        }
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

    /// The process of a broker, if it lives: one that got its number later does not have our settings.
    fn pid(&self, id: u16) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.home(id).join("pid")).ok()?.trim().parse().ok()?;
        let ps =
            Command::new("ps").args(["-ww", "-o", "stat=,command=", "-p", &pid.to_string()]).output().ok()?;
        let line = String::from_utf8_lossy(&ps.stdout).into_owned();
        (line.contains(&text(&self.settings(id))) && !line.trim_start().starts_with('Z')).then_some(pid)
    }

    fn ports(&self) -> Option<Vec<Ports>> {
        let lines = fs::read_to_string(self.folder.join("ports")).ok()?;
        let ports: Option<Vec<_>> = lines.lines().map(Ports::parse).collect();
        ports.filter(|ports| ports.len() == usize::from(self.brokers))
    }

    fn choose_ports(&self) -> Result<Vec<Ports>> {
        // All are held until all are chosen, so that no two are the same.
        let held: Vec<_> = (0..Ports::COUNT * usize::from(self.brokers))
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let free: Vec<_> = held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?;
        let ports: Vec<_> = free.as_chunks().0.iter().copied().map(Ports::new).collect();
        let lines: String = ports.iter().map(|ports| format!("{ports}\n")).collect();
        fs::write(self.folder.join("ports"), lines)?;
        Ok(ports)
    }

    fn launch(&self, id: u16, lib: &Path, ports: &[Ports]) -> Result {
        let (home, settings) = (self.home(id), self.settings(id));
        fs::create_dir_all(&home)?;
        fs::write(&settings, self.properties(id, ports))?;
        let classes = format!("{}/*", lib.display());
        if !home.join("data").join("meta.properties").exists() {
            let tool = Command::new("java")
                .args(["-cp", &classes, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
                .arg(&settings)
                .args(listeners::users())
                .output()?;
            if !tool.status.success() {
                return Err(format!("kafka's folder: {}", String::from_utf8_lossy(&tool.stderr)).into());
            }
        }
        let log = File::create(home.join("log"))?;
        // Half compiled it starts sooner.
        let how: &[&str] = if self.bench {
            &["-Xms1g", "-Xmx1g"]
        } else {
            &["-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1"]
        };
        let broker = Command::new("java")
            .args(how)
            .arg("-XX:+UseSerialGC")
            // Its log goes to standard error, which is a file: what is usual is not worth the lines.
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .args(["-cp", &classes, "kafka.Kafka"])
            .arg(&settings)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // An interrupt at the terminal is for us, not for it.
            .process_group(0)
            .spawn()?;
        fs::write(home.join("pid"), broker.id().to_string())?;
        Ok(())
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

/// Where servers have their folders.
fn services() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target).join("services")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
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
