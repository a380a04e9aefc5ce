//! The conformance suite on every shape of the simulated broker, and on the memory driver.

use std::process::ExitCode;

use millstream_core::{BoxFuture, Connection, Result};
use millstream_memory::MemoryBroker;
use millstream_testkit::conformance::{self, Harness, Scale};
use millstream_testkit::sim::{Shape, SimBroker};

enum Broker {
    Sim(SimBroker),
    Memory(MemoryBroker),
}

impl Harness for Broker {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            Ok(match self {
                Self::Sim(broker) => broker.connection(),
                Self::Memory(broker) => broker.connection(),
            })
        })
    }

    fn scale(&self) -> Scale {
        Scale::paused()
    }
}

fn sim(shape: Shape) -> Broker {
    // A limit, so that the cases about limits apply.
    Broker::Sim(SimBroker::builder().shape(shape).max_message(2 << 20).build())
}

fn main() -> ExitCode {
    conformance::main(vec![
        ("whole-log", || sim(Shape::WholeLog)),
        ("standard-queue", || sim(Shape::standard_queue())),
        ("fifo-queue", || sim(Shape::fifo_queue())),
        ("partitioned", || sim(Shape::Partitioned { partitions: 4 })),
        ("memory", || Broker::Memory(MemoryBroker::builder().bytes(32 << 20).build())),
    ])
}
