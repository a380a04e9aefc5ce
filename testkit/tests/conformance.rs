//! The conformance suite on every shape of the simulated broker, and on the memory driver.

use std::process::ExitCode;
use std::time::Duration;

use millstream_core::{BoxFuture, Connection, Result};
use millstream_memory::MemoryBroker;
use millstream_testkit::conformance::{self, Harness, Scale};
use millstream_testkit::sim::{Shape, SimBroker};

enum Broker {
    Sim(SimBroker),
    Memory(MemoryBroker),
    /// In real time, on several threads.
    MemoryOnThreads(MemoryBroker),
}

impl Harness for Broker {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async {
            Ok(match self {
                Self::Sim(broker) => broker.connection(),
                Self::Memory(broker) | Self::MemoryOnThreads(broker) => broker.connection(),
            })
        })
    }

    fn restart(&self) -> Option<BoxFuture<'_, Result<()>>> {
        // What the simulated broker keeps outlives its connections, as a server's disk does.
        let Self::Sim(broker) = self else { return None };
        Some(Box::pin(async {
            broker.control().kill_all();
            Ok(())
        }))
    }

    fn scale(&self) -> Scale {
        match self {
            Self::Sim(_) | Self::Memory(_) => Scale::paused(),
            Self::MemoryOnThreads(_) => {
                let mut scale = Scale::default();
                scale.quiet = Duration::from_millis(40);
                scale
            }
        }
    }
}

fn memory() -> MemoryBroker {
    MemoryBroker::builder().bytes(32 << 20).build()
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
        ("memory", || Broker::Memory(memory())),
        ("memory-on-threads", || Broker::MemoryOnThreads(memory())),
    ])
}
