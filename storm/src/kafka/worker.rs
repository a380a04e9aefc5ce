//! A worker on Kafka: a process that is a member of the cluster's groups.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use millstream::Connection;
use millstream::kafka::{Kafka, Protocol};

use crate::Result;
use crate::labour::{self, Duty};
use crate::watched::Watched;
use crate::watched_writer::WatchedWriter;

/// Who a worker is and how it is a member.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Where the brokers are.
    #[arg(long)]
    pub(crate) brokers: String,
    #[arg(long)]
    pub(crate) lease_ms: u64,
    #[arg(long, value_enum)]
    pub(crate) protocol: Sharing,
    #[command(flatten)]
    pub(crate) duty: Duty,
}

/// How members share partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sharing {
    Range,
    Cooperative,
    Consumer,
}

impl Sharing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Cooperative => "cooperative",
            Self::Consumer => "consumer",
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Range => Protocol::Range,
            Self::Cooperative => Protocol::Cooperative,
            Self::Consumer => Protocol::Consumer,
        }
    }
}

impl Options {
    /// The command line that starts it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let words = [
            "kafka-worker",
            "--brokers",
            &self.brokers,
            "--lease-ms",
            &self.lease_ms.to_string(),
            "--protocol",
            self.protocol.name(),
        ];
        words.into_iter().map(str::to_owned).chain(self.duty.arguments()).collect()
    }
}

/// Runs until SIGTERM.
pub(crate) async fn run(options: Options) -> Result {
    let name = options.duty.name();
    labour::work(options.duty, async |journal| {
        let kafka = Kafka::builder(options.brokers.clone())
            .lease(Duration::from_millis(options.lease_ms))
            .protocol(options.protocol.protocol())
            .client_id(name.clone())
            .connect()
            .await?;
        let reader = Watched::new(kafka.reader(), Arc::clone(&journal), name.clone().into());
        let writer = WatchedWriter::new(kafka.writer(), journal);
        Ok(Connection::new(reader, writer).with_admin(kafka.admin()))
    })
    .await
}
