//! Three brokers, in processes of our own that can be killed and stopped. Each is controller as well, and keeps its logs
//! in a folder that outlives its process.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::proxy::Proxy;
use crate::{Result, java};

/// How many there are. All that is written lies on each, and two must have it.
pub(crate) const BROKERS: usize = 3;

/// The variable with the folder of Kafka's jars.
pub(crate) const JARS: &str = "MILLSTREAM_KAFKA_JARS";

/// Any 16 bytes in base64: the cluster's name, which all its brokers share.
const CLUSTER_ID: &str = "bWlsbHN0cmVhbS1zdG9ybQ";

const START_WITHIN: Duration = Duration::from_secs(90);

/// The folder of Kafka's jars, or why there is no Kafka.
pub(crate) fn jars() -> Result<PathBuf, String> {
    java::jars(JARS, "kafka")
}

/// The cluster.
#[derive(Debug)]
pub(crate) struct Brokers {
    folder: PathBuf,
    jars: PathBuf,
    ports: Vec<Ports>,
    running: Vec<Option<Child>>,
    /// To each broker, for the member that lives behind them.
    pub(crate) proxies: Vec<Proxy>,
}

/// Where one broker listens.
#[derive(Debug, Clone, Copy)]
struct Ports {
    clients: u16,
    behind_proxy: u16,
    controller: u16,
}

impl Brokers {
    /// Makes the brokers' folders, starts all of them, and waits until they answer.
    pub(crate) fn start(folder: &Path, jars: &Path) -> Result<Self> {
        // All are held until all are chosen, so that no two are the same.
        let held: Vec<TcpListener> = (0..3 * BROKERS)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<_, _>>()?;
        let free: Vec<u16> =
            held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?;
        drop(held);
        let (triples, _) = free.as_chunks::<3>();
        let ports: Vec<Ports> = triples
            .iter()
            .map(|[clients, behind_proxy, controller]| Ports {
                clients: *clients,
                behind_proxy: *behind_proxy,
                controller: *controller,
            })
            .collect();
        let proxies = ports.iter().map(|p| Proxy::listen(p.behind_proxy)).collect::<Result<Vec<_>>>()?;
        let running = ports.iter().map(|_| None).collect();
        let mut brokers = Self { folder: folder.to_owned(), jars: jars.to_owned(), ports, running, proxies };
        let formats: Vec<Child> = (0..BROKERS).map(|n| brokers.format(n)).collect::<Result<_>>()?;
        for format in formats {
            let output = format.wait_with_output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(format!("a broker's folder could not be made: {said}").into());
            }
        }
        (0..BROKERS).try_for_each(|broker| brokers.launch(broker))?;
        (0..BROKERS).try_for_each(|broker| brokers.wait_for(broker))?;
        Ok(brokers)
    }

    /// Where clients find them.
    pub(crate) fn address(&self) -> String {
        addresses(self.ports.iter().map(|p| p.clients))
    }

    /// Where the member behind the proxies finds them.
    pub(crate) fn address_behind_proxies(&self) -> String {
        addresses(self.proxies.iter().map(|p| p.port))
    }

    /// Kills a broker with signal 9.
    pub(crate) fn kill(&mut self, broker: usize) -> Result {
        if let Some(mut child) = self.running[broker].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a broker that was killed, on what it left.
    pub(crate) fn launch(&mut self, broker: usize) -> Result {
        let home = self.home(broker);
        let log = File::options().create(true).append(true).open(home.join("log"))?;
        let child = self
            .java(&["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            // What is usual is not worth the lines.
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg("kafka.Kafka")
            .arg(home.join("server.properties"))
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.running[broker] = Some(child);
        Ok(())
    }

    /// Makes a broker stand still.
    pub(crate) fn stop(&self, broker: usize) -> Result {
        self.signal(broker, Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self, broker: usize) -> Result {
        self.signal(broker, Signal::CONT)
    }

    /// Whether a broker serves its clients.
    pub(crate) fn answers(&self, broker: usize) -> bool {
        answers(self.ports[broker].clients)
    }

    /// Waits until it does.
    pub(crate) fn wait_for(&mut self, broker: usize) -> Result {
        let until = Instant::now() + START_WITHIN;
        while !self.answers(broker) {
            let ended = match &mut self.running[broker] {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if ended || Instant::now() > until {
                return Err(format!("broker {broker} did not come up: {}", self.last_words(broker)).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The end of what a broker says in its log.
    fn last_words(&self, broker: usize) -> String {
        let text = fs::read(self.home(broker).join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    fn signal(&self, broker: usize, signal: Signal) -> Result {
        if let Some(child) = &self.running[broker] {
            kill_process(Pid::from_child(child), signal)?;
        }
        Ok(())
    }

    fn home(&self, broker: usize) -> PathBuf {
        self.folder.join(format!("broker-{broker}"))
    }

    fn java(&self, options: &[&str]) -> Command {
        let mut java = java::on(&self.jars);
        java.args(options);
        java
    }

    fn format(&self, broker: usize) -> Result<Child> {
        let home = self.home(broker);
        fs::create_dir_all(&home)?;
        let properties = home.join("server.properties");
        fs::write(&properties, self.properties(broker))?;
        let child = self
            .java(&["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(properties)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(child)
    }

    fn properties(&self, broker: usize) -> String {
        let at = self.ports[broker];
        let voters: Vec<String> =
            (1..).zip(&self.ports).map(|(n, p)| format!("{n}@127.0.0.1:{}", p.controller)).collect();
        format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             listeners=PLAINTEXT://127.0.0.1:{clients},PROXIED://127.0.0.1:{behind_proxy},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{clients},PROXIED://127.0.0.1:{proxy}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             num.partitions=1\n\
             default.replication.factor=3\n\
             min.insync.replicas=2\n\
             offsets.topic.replication.factor=3\n\
             offsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=3\n\
             transaction.state.log.min.isr=2\n\
             transaction.state.log.num.partitions=4\n\
             share.coordinator.state.topic.replication.factor=3\n\
             share.coordinator.state.topic.min.isr=2\n\
             share.coordinator.state.topic.num.partitions=4\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n\
             broker.session.timeout.ms=3000\n\
             broker.heartbeat.interval.ms=500\n\
             replica.lag.time.max.ms=5000\n\
             num.network.threads=2\n\
             num.io.threads=4\n",
            id = broker + 1,
            voters = voters.join(","),
            clients = at.clients,
            behind_proxy = at.behind_proxy,
            controller = at.controller,
            proxy = self.proxies[broker].port,
            data = self.home(broker).join("data").display(),
        )
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn addresses(ports: impl Iterator<Item = u16>) -> String {
    ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
}

/// Whether a broker answers `ApiVersions`, which it does once it serves clients; an open port alone says nothing.
fn answers(port: u16) -> bool {
    // Length, key 18, version 0, number 1, no client id.
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let within = Duration::from_secs(1);
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), within)?;
        stream.set_read_timeout(Some(within))?;
        stream.write_all(&REQUEST)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        // Our number, and no error.
        Ok(answer[4..] == [0, 0, 0, 1, 0, 0])
    };
    ask().unwrap_or(false)
}
