//! The conformance suite on a real broker, with the group protocols that members can speak.

mod common;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream_core::{BoxFuture, Connection, Result};
use millstream_kafka::{Kafka, Protocol, Transactions};
use millstream_testkit::conformance::{self, Harness, Scale};

struct Broker {
    address: String,
    protocol: Protocol,
    transactions: Transactions,
    /// Of this case.
    number: usize,
}

fn broker(protocol: Protocol, transactions: Transactions) -> Broker {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    Broker { address: common::broker(), protocol, transactions, number: NEXT.fetch_add(1, Ordering::Relaxed) }
}

impl Harness for Broker {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            let builder =
                Kafka::builder(self.address.clone()).protocol(self.protocol).transactions(self.transactions);
            // Some cases have members that nobody reads for a while, where the contract wants every member read: in a
            // protocol that asks all of them back at each change, one such holds up the others that long.
            let builder = builder.lease(Duration::from_secs(6)).revoke_within(Duration::from_secs(3));
            Ok(builder.connect().await?.connection())
        })
    }

    // A group of Kafka spans topics: members of another case would take part in this one's rebalances.
    fn group(&self, name: &str) -> String {
        format!("{name}.{}.{}", std::process::id(), self.number)
    }

    fn scale(&self) -> Scale {
        let mut scale = Scale::default();
        scale.quiet = Duration::from_millis(500);
        scale.patience = Duration::from_secs(20);
        scale.case = Duration::from_secs(120);
        scale
    }
}

/// Cases beside each other: most wait for the broker, for leases and for silence.
const BESIDE: NonZeroUsize = NonZeroUsize::new(6).unwrap();

fn main() -> ExitCode {
    conformance::main_beside(
        BESIDE,
        vec![
            ("range", || broker(Protocol::Range, Transactions::None)),
            ("cooperative", || broker(Protocol::Cooperative, Transactions::None)),
            ("consumer", || broker(Protocol::Consumer, Transactions::None)),
            ("transactions", || broker(Protocol::Range, Transactions::Handlers)),
        ],
    )
}
