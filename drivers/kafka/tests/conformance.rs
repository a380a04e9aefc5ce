//! The conformance suite on a real broker, with the group protocols that members can speak.

use std::process::ExitCode;
use std::time::Duration;

use millstream_core::{BoxFuture, Connection, Result};
use millstream_kafka::{Kafka, Protocol};
use millstream_testkit::conformance::{self, Harness, Scale};

struct Broker {
    address: String,
    protocol: Protocol,
}

fn broker(protocol: Protocol) -> Broker {
    // Never skipped in silence: who has no broker is told how to get one.
    let address = std::env::var("MILLSTREAM_KAFKA").expect(
        "set MILLSTREAM_KAFKA to a broker: `cargo xtask services start kafka` starts one and prints it",
    );
    Broker { address, protocol }
}

impl Harness for Broker {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            let builder = Kafka::builder(self.address.clone()).protocol(self.protocol);
            Ok(builder.lease(Duration::from_secs(6)).connect().await?.connection())
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

fn main() -> ExitCode {
    conformance::main(vec![
        ("range", || broker(Protocol::Range)),
        ("cooperative", || broker(Protocol::Cooperative)),
        ("consumer", || broker(Protocol::Consumer)),
    ])
}
