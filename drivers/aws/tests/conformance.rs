//! The conformance suite on a server that speaks SQS, with standard and with FIFO queues; and on one that speaks SNS as well,
//! if `MILLSTREAM_SNS` names one whose queues keep what AWS promises.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use millstream_aws::{Aws, Queues};
use millstream_core::{BoxFuture, Connection, Result};
use millstream_testkit::conformance::{self, Harness, Named, Scale};

/// Names a server that speaks SNS and SQS.
#[cfg(feature = "sns")]
const SNS: &str = "MILLSTREAM_SNS";

/// Topics and queues, or queues alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sqs,
    #[cfg(feature = "sns")]
    Sns,
}

struct Server {
    endpoint: String,
    kind: Kind,
    queues: Queues,
}

fn server(kind: Kind, queues: Queues) -> Server {
    let variable = match kind {
        Kind::Sqs => "MILLSTREAM_SQS",
        #[cfg(feature = "sns")]
        Kind::Sns => SNS,
    };
    // Never skipped in silence: who has no server is told how to get one.
    let endpoint = std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "set {variable} to a server that speaks SQS: `cargo xtask services start elasticmq` starts one and prints it"
        )
    });
    Server { endpoint, kind, queues }
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
            let queues =
                aws.sqs().queues(self.queues).lease(Duration::from_secs(8)).wait(Duration::from_secs(1));
            Ok(match self.kind {
                Kind::Sqs => queues.open()?.connection(),
                #[cfg(feature = "sns")]
                Kind::Sns => queues.open_sns()?.connection(),
            })
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
    #[allow(unused_mut, reason = "there is no SNS without its feature")]
    let mut harnesses: Vec<Named<Server>> = vec![
        ("standard", || server(Kind::Sqs, Queues::Standard)),
        ("fifo", || server(Kind::Sqs, Queues::Fifo)),
    ];
    #[cfg(feature = "sns")]
    match std::env::var_os(SNS) {
        Some(_) => harnesses.extend::<[Named<Server>; 2]>([
            ("sns", || server(Kind::Sns, Queues::Standard)),
            ("sns-fifo", || server(Kind::Sns, Queues::Fifo)),
        ]),
        None => eprintln!("the suite is left out on SNS: {SNS} names no server (see docs/drivers/aws.md)"),
    }
    conformance::main_beside(BESIDE, harnesses)
}
