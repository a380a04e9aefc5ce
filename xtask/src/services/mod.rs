//! The servers that drivers are tested against: real ones, on loopback, without containers. A driver that needs a
//! server adds it here, with how to install, start, stop and ask it.
//!
//! What is installed lies in the cache, what a server writes in the build folder: a clean checkout fetches nothing
//! again, and two checkouts do not share a server.

mod certificates;
mod kafka;
mod listeners;
mod peers;

use clap::{Args, ValueEnum};

use crate::Result;

/// Every service there is.
const SERVICES: [&str; 1] = ["kafka"];

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
    if let Some(name) = options.names.iter().find(|name| !SERVICES.contains(&name.as_str())) {
        return Err(format!("there is no service {name:?}; there are: {}", SERVICES.join(", ")).into());
    }
    let kafka = kafka::Cluster::of(options.brokers)?;
    match options.action {
        Action::Install => {
            kafka::install()?;
            peers::of_kafka()?;
            println!("kafka is installed, and so are the clients of other languages");
        }
        Action::Start => {
            let address = kafka.start()?;
            println!("kafka is ready: {}={address}", kafka::VARIABLE);
            for (name, value) in kafka.variables().into_iter().chain(peers::of_kafka()?) {
                println!("beside it: {name}={value:?}");
            }
        }
        Action::Stop => println!("kafka {}", if kafka.stop()? { "is stopped" } else { "was not running" }),
        Action::Status => match kafka.address() {
            Some(address) => println!("kafka is running: {}={address}", kafka::VARIABLE),
            None => println!("kafka is not running"),
        },
    }
    Ok(())
}

/// The folder of Kafka's jars, for who starts brokers by himself; they are brought into the cache if they are not there.
pub(crate) fn kafka_jars() -> Result<std::path::PathBuf> {
    kafka::install()
}

/// The servers that tests need, running as long as this lives.
pub(crate) struct Servers {
    kafka: kafka::Cluster,
    /// Where tests find them: a variable and its value.
    pub(crate) variables: Vec<(&'static str, String)>,
    was_running: bool,
}

impl Servers {
    /// Starts what is not running yet.
    pub(crate) fn start() -> Result<Self> {
        let kafka = kafka::Cluster::of(1)?;
        let was_running = kafka.address().is_some();
        let address = kafka.start()?;
        let mut variables = vec![(kafka::VARIABLE, address)];
        variables.extend(kafka.variables());
        variables.extend(peers::of_kafka()?);
        Ok(Self { kafka, variables, was_running })
    }
}

impl Drop for Servers {
    /// Whoever started a server by hand keeps it.
    fn drop(&mut self) {
        if !self.was_running
            && let Err(error) = self.kafka.stop()
        {
            eprintln!("kafka could not be stopped: {error}");
        }
    }
}

/// A broker of the bench's own, running as long as this lives.
pub(crate) struct BenchBroker {
    kafka: kafka::Cluster,
    pub(crate) address: String,
}

impl BenchBroker {
    pub(crate) const VARIABLE: &str = kafka::VARIABLE;

    pub(crate) fn start() -> Result<Self> {
        let kafka = kafka::Cluster::for_bench()?;
        let address = kafka.start()?;
        Ok(Self { kafka, address })
    }
}

impl Drop for BenchBroker {
    fn drop(&mut self) {
        if let Err(error) = self.kafka.stop() {
            eprintln!("kafka could not be stopped: {error}");
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
