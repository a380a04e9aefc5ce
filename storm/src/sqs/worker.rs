//! A worker on SQS: a process that writes to two queues and reads from them.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use millstream::Connection;
use millstream::aws::{Aws, Queues, Sqs};

use crate::Result;
use crate::labour::{self, Duty};
use crate::watched::Watched;
use crate::watched_writer::WatchedWriter;

/// How long its polls wait: closing waits as long.
const WAIT: Duration = Duration::from_secs(2);

/// Who a worker is and which queues it uses.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Where the server is.
    #[arg(long)]
    pub(crate) endpoint: String,
    #[arg(long)]
    pub(crate) lease_s: u64,
    #[arg(long, value_enum)]
    pub(crate) queues: Sort,
    #[command(flatten)]
    pub(crate) duty: Duty,
}

/// The sorts of queues there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    Standard,
    Fifo,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Fifo => "fifo",
        }
    }

    fn queues(self) -> Queues {
        match self {
            Self::Standard => Queues::Standard,
            Self::Fifo => Queues::Fifo,
        }
    }
}

impl Options {
    /// The command line that starts it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let words = [
            "sqs-worker",
            "--endpoint",
            &self.endpoint,
            "--lease-s",
            &self.lease_s.to_string(),
            "--queues",
            self.queues.name(),
        ];
        words.into_iter().map(str::to_owned).chain(self.duty.arguments()).collect()
    }
}

/// The queues behind an endpoint.
pub(crate) async fn open(endpoint: &str, sort: Sort, lease: Duration) -> millstream::Result<Sqs> {
    let aws =
        Aws::builder().region("eu-west-1").endpoint(endpoint).credentials("storm", "storm").connect().await?;
    aws.sqs().queues(sort.queues()).lease(lease).wait(WAIT).open()
}

/// Runs until SIGTERM.
pub(crate) async fn run(options: Options) -> Result {
    let name = options.duty.name();
    labour::work(options.duty, async |journal| {
        let lease = Duration::from_secs(options.lease_s);
        let sqs = open(&options.endpoint, options.queues, lease).await?;
        let reader = Watched::new(sqs.reader(), Arc::clone(&journal), name.clone().into());
        let writer = WatchedWriter::new(sqs.writer(), journal);
        Ok(Connection::new(reader, writer).with_admin(sqs.admin()))
    })
    .await
}
