//! The conformance suite on topics of SNS, whose groups have queues. Of few messages, since moto shows function and not
//! speed; with standard topics only, since moto gives messages of one FIFO group to two polls that wait at the same time.

use std::process::ExitCode;
use std::time::Duration;

use millstream_aws::Aws;
use millstream_core::{BoxFuture, Connection, Result};
use millstream_testkit::conformance::{self, Harness, Scale};

struct Server {
    endpoint: String,
}

fn server() -> Server {
    // Never skipped in silence: who has no server is told how to get one.
    let endpoint = std::env::var("MILLSTREAM_MOTO").expect(
        "set MILLSTREAM_MOTO to a moto server: `cargo xtask services start moto` starts one and prints it",
    );
    Server { endpoint }
}

impl Harness for Server {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            let aws = Aws::builder()
                .region("eu-west-1")
                .endpoint(self.endpoint.clone())
                .credentials("test", "test")
                .connect()
                .await?;
            // Long enough for a server that is slow when all cases ask it at once.
            let sqs = aws.sqs().lease(Duration::from_secs(10)).wait(Duration::from_secs(1));
            Ok(sqs.open_sns()?.connection())
        })
    }

    fn scale(&self) -> Scale {
        let mut scale = Scale::default();
        scale.messages = 30;
        scale.quiet = Duration::from_secs(1);
        scale.patience = Duration::from_secs(60);
        scale.case = Duration::from_secs(400);
        scale
    }
}

fn main() -> ExitCode {
    conformance::main(vec![("standard", server)])
}
