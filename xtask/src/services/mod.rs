//! The servers that drivers are tested against: real ones, on loopback, without containers. A driver that needs a
//! server adds it here, with how to install, start, stop and ask it.
//!
//! What is installed lies in the cache, what a server writes in the build folder: a clean checkout fetches nothing
//! again, and two checkouts do not share a server.
//!
//! | module | holds |
//! |---|---|
//! | `kafka` (with `listeners`, `certificates`), `elasticmq`, `moto`, `dynamodb`, `seaweedfs` | a server each |
//! | `single` | what all have in common that are one process |
//! | `process`, `ports`, `http`, `namespace` | starting, finding, asking and confining a process |
//! | `java`, `python` | bringing programs into the cache |
//! | `peers` | clients of other languages |

mod certificates;
mod dynamodb;
mod elasticmq;
mod http;
mod java;
mod kafka;
mod listeners;
mod moto;
mod namespace;
mod peers;
mod ports;
mod process;
mod python;
mod seaweedfs;
mod single;

use std::thread;

use clap::{Args, ValueEnum};

use self::single::Single;
use crate::Result;

pub(crate) use self::namespace::{Relay, relay};

/// What tests find a server by: the name of an environment variable, and its value.
pub(crate) type Variable = (&'static str, String);

/// A server, or several of a kind that belong together.
trait Service: Sync {
    fn name(&self) -> &'static str;

    /// Brings it into the cache if it is not there.
    fn install(&self) -> Result;

    /// Where it is, if it runs and answers. The first variable is its address.
    fn running(&self) -> Option<Vec<Variable>>;

    /// Starts what does not run, waits until it answers its protocol, and says where it is.
    fn start(&self) -> Result<Vec<Variable>>;

    /// Stops it; says whether it ran.
    fn stop(&self) -> Result<bool>;
}

/// Every service there is; Kafka with so many brokers.
fn services(brokers: u16) -> Result<Vec<Box<dyn Service>>> {
    Ok(vec![
        Box::new(kafka::Cluster::of(brokers)?),
        Box::new(Single::new(elasticmq::ElasticMq { options: java::SOONER })),
        Box::new(Single::new(moto::Moto)),
        Box::new(Single::new(dynamodb::DynamoDb { options: java::SOONER })),
        Box::new(Single::new(seaweedfs::SeaweedFs)),
    ])
}

#[derive(Args)]
pub(crate) struct Options {
    #[arg(value_enum, default_value_t = Action::Status)]
    action: Action,
    /// The services concerned; all if none is named.
    names: Vec<String>,
    /// How many brokers Kafka has. A cluster of each size is a server of its own.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    brokers: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Action {
    Install,
    Start,
    Stop,
    Status,
}

pub(crate) fn run(options: &Options) -> Result {
    let all = services(options.brokers)?;
    let names: Vec<_> = all.iter().map(|service| service.name()).collect();
    if let Some(name) = options.names.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("there is no service {name:?}; there are: {}", names.join(", ")).into());
    }
    let is_meant =
        |name: &str| options.names.is_empty() || options.names.iter().any(|wanted| *wanted == name);
    for service in all.iter().filter(|service| is_meant(service.name())) {
        act(options.action, &**service).map_err(|error| format!("{}: {error}", service.name()))?;
    }
    Ok(())
}

fn act(action: Action, service: &dyn Service) -> Result {
    let name = service.name();
    match action {
        Action::Install => {
            service.install()?;
            println!("{name} is installed{}", if peers(name)?.is_empty() { "" } else { ", and its clients" });
        }
        Action::Start => {
            let mut variables = service.start()?.into_iter();
            if let Some((variable, address)) = variables.next() {
                println!("{name} is ready: {variable}={address}");
            }
            for (variable, value) in variables.chain(peers(name)?) {
                println!("beside it: {variable}={value:?}");
            }
        }
        Action::Stop => {
            println!("{name} {}", if service.stop()? { "is stopped" } else { "was not running" });
        }
        Action::Status => match service.running().as_deref() {
            Some([(variable, address), ..]) => println!("{name} is running: {variable}={address}"),
            _ => println!("{name} is not running"),
        },
    }
    Ok(())
}

/// The clients of other languages that speak to a service in tests.
fn peers(name: &str) -> Result<Vec<Variable>> {
    match name {
        "kafka" => peers::of_kafka(),
        "elasticmq" | "moto" | "dynamodb" => peers::of_aws(),
        _ => Ok(Vec::new()),
    }
}

/// The folder of Kafka's jars, for who starts brokers by himself; they are brought into the cache if they are not there.
pub(crate) fn kafka_jars() -> Result<std::path::PathBuf> {
    kafka::install()
}

/// The same of ElasticMQ.
pub(crate) fn elasticmq_jars() -> Result<std::path::PathBuf> {
    elasticmq::jars()
}

/// The servers that tests need, running as long as this lives.
pub(crate) struct Servers {
    /// Where tests find them.
    pub(crate) variables: Vec<Variable>,
    /// Those that did not run before. Whoever started a server by hand keeps it.
    ours: Vec<Box<dyn Service>>,
}

impl Servers {
    /// Starts what is not running yet, all at the same time.
    pub(crate) fn start() -> Result<Self> {
        let all = services(1)?;
        // One after the other: they share package managers, which let in one at a time.
        all.iter().try_for_each(|service| service.install())?;
        let (running, ours): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|service| service.running().is_some());
        let mut servers = Self { variables: peers::all()?, ours };
        servers.variables.extend(running.iter().filter_map(|service| service.running()).flatten());
        let started: Vec<Result<Vec<Variable>, String>> = thread::scope(|scope| {
            let start = |service: &dyn Service| {
                service.start().map_err(|error| format!("{}: {error}", service.name()))
            };
            let starting: Vec<_> =
                servers.ours.iter().map(|service| scope.spawn(move || start(&**service))).collect();
            let died = |_| Err("starting it panicked".to_owned());
            starting.into_iter().map(|started| started.join().unwrap_or_else(died)).collect()
        });
        for variables in started {
            servers.variables.extend(variables?);
        }
        Ok(servers)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for service in &self.ours {
            if let Err(error) = service.stop() {
                eprintln!("{} could not be stopped: {error}", service.name());
            }
        }
    }
}

/// Servers of the bench's own, running as long as this lives.
pub(crate) struct BenchServers {
    /// Where the bench finds them.
    pub(crate) variables: Vec<Variable>,
    services: Vec<Box<dyn Service>>,
}

impl BenchServers {
    /// Starts those that these groups need.
    pub(crate) fn start(groups: &[String]) -> Result<Self> {
        let mut servers = Self { variables: Vec::new(), services: Vec::new() };
        for group in groups {
            match group.as_str() {
                "kafka" => servers.add(kafka::Cluster::for_bench()?)?,
                "aws" => {
                    let options = java::QUICKER;
                    servers.add(Single::for_bench(elasticmq::ElasticMq { options }))?;
                    servers.add(Single::for_bench(dynamodb::DynamoDb { options }))?;
                }
                _ => {}
            }
        }
        Ok(servers)
    }

    fn add(&mut self, service: impl Service + 'static) -> Result {
        let variables = service.start();
        self.services.push(Box::new(service));
        self.variables.extend(variables?);
        Ok(())
    }
}

impl Drop for BenchServers {
    fn drop(&mut self) {
        for service in &self.services {
            if let Err(error) = service.stop() {
                eprintln!("{} could not be stopped: {error}", service.name());
            }
        }
    }
}

/// Builds a package of a Go module of this checkout.
pub(crate) fn go_program(module: &str, package: &str, program: &std::path::Path) -> Result {
    peers::go(&crate::command::root().join(module), package, program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_does_not_exist_is_refused_by_name() {
        let options = Options { action: Action::Start, names: vec!["rabbitmq".into()], brokers: 1 };
        assert!(run(&options).unwrap_err().to_string().contains("\"rabbitmq\""));
    }
}
