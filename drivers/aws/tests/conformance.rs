//! The conformance suite on a server that speaks SQS, with standard and with FIFO queues.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use millstream_aws::{Aws, Queues};
use millstream_core::{BoxFuture, Connection, Result};
use millstream_testkit::conformance::{self, Harness, Named, Scale};

struct Server {
    endpoint: String,
    queues: Queues,
}

fn server(queues: Queues) -> Server {
    // Never skipped in silence: who has no server is told how to get one.
    let endpoint = std::env::var("MILLSTREAM_SQS").expect(
        "set MILLSTREAM_SQS to a server that speaks SQS: `cargo xtask services start elasticmq` starts one and prints it",
    );
    Server { endpoint, queues }
}

impl Harness for Server {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            let aws = match &*self.endpoint {
                // An account, as the environment says.
                "aws" => Aws::builder(),
                local => Aws::builder().region("eu-west-1").endpoint(local).credentials("test", "test"),
            };
            let aws = aws.connect().await?;
            // Polls of one second: cases close their members all the time, and each waits for its polls to come back. Leases
            // as long as a machine that does much else may take to settle what was read: no case extends them meanwhile.
            let sqs =
                aws.sqs().queues(self.queues).lease(Duration::from_secs(8)).wait(Duration::from_secs(1));
            Ok(sqs.open()?.connection())
        })
    }

    fn scale(&self) -> Scale {
        let mut scale = Scale::default();
        scale.quiet = Duration::from_millis(500);
        scale.patience = Duration::from_secs(20);
        scale.case = Duration::from_secs(120);
        scale
    }
}

/// Cases beside each other: most wait for polls, for leases and for silence.
const BESIDE: NonZeroUsize = NonZeroUsize::new(6).unwrap();

fn main() -> ExitCode {
    let queues: [Named<Server>; 2] =
        [("standard", || server(Queues::Standard)), ("fifo", || server(Queues::Fifo))];
    conformance::main_beside(BESIDE, queues.into())
}
