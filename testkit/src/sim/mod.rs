//! A simulated broker: leases, partitions and rebalances without a server, and faults on demand.
//!
//! One [`SimBroker`] has one of three shapes, each a module on the same store of logs:
//!
//! | shape | like | module |
//! |---|---|---|
//! | [`Shape::WholeLog`] | an embedded SQL file | `pool` |
//! | [`Shape::LeaseQueue`] | SQS, standard or FIFO | `pool`, with leases |
//! | [`Shape::Partitioned`] | Kafka | `coordinator` |
//!
//! What a real broker keeps (messages, progress, marks, parks, dead letters) outlives the members that read:
//! drop their parts, or [kill](Control::kill) them, and open again. All waiting goes through `tokio::time`, so
//! that a paused clock works; all randomness comes from a seed. Everything is bounded: a topic by
//! [`Builder::capacity`], histories by a fixed length.
//!
//! ```
//! # use millstream_core::{Message, OpenRequest, Read, ReadLimits, Reader, Settlement, Settler, Source, Writer};
//! # use millstream_testkit::sim::{Shape, SimBroker};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> millstream_core::Result<()> {
//! let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 4 }).build();
//! broker.writer().write(vec![Message::new("orders", "{}").with_key("7")]).await?;
//!
//! let mut opened = broker.reader().open(OpenRequest::new("orders").group("mail")).await?;
//! let (mut batch, limits) = (Vec::new(), ReadLimits::new(10, 1 << 20));
//! while batch.is_empty() {
//!     opened.source.read(&mut batch, limits).await?;      // first the assignment, then messages
//! }
//! let acks = batch.into_iter().map(|d| Settlement::ack(d.token)).collect();
//! assert!(opened.settler.settle(acks).await[0].is_done());
//! # Ok(())
//! # }
//! ```

mod admin;
mod browse;
mod control;
mod coordinator;
mod faults;
mod pool;
mod reader;
mod shape;
mod state;
mod store;
mod writer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use millstream_core::Connection;

pub use admin::SimAdmin;
pub use control::{Control, MemberId, SettleEntry};
pub use faults::{FaultId, Injury, Operation, Trigger};
pub use reader::{SimLeases, SimReader, SimSettler, SimSource};
pub use shape::Shape;
pub use state::SimEffect;
pub use writer::SimWriter;

use state::{Config, Shared};

/// A simulated broker. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SimBroker {
    shared: Arc<Shared>,
}

impl SimBroker {
    /// Starts to describe one.
    pub fn builder() -> Builder {
        Builder { config: Config::default() }
    }

    /// A broker of this shape with every default.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self::builder().shape(shape).build()
    }

    /// A reader.
    #[must_use]
    pub fn reader(&self) -> SimReader {
        SimReader::new(Arc::clone(&self.shared))
    }

    /// A writer; closing it closes no other.
    #[must_use]
    pub fn writer(&self) -> SimWriter {
        SimWriter::new(Arc::clone(&self.shared))
    }

    /// Administration.
    #[must_use]
    pub fn admin(&self) -> SimAdmin {
        SimAdmin::new(Arc::clone(&self.shared))
    }

    /// All three, as a driver gives them for a URL.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(self.reader(), self.writer()).with_admin(self.admin())
    }

    /// The handle by which a test breaks it and looks into it.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }
}

/// Describes a [`SimBroker`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct Builder {
    config: Config,
}

impl Builder {
    /// Its shape. Default: [`Shape::WholeLog`].
    pub fn shape(mut self, shape: Shape) -> Self {
        self.config.shape = shape;
        self
    }

    /// Messages a topic takes before writes fail with `Full`. Default 1,000,000.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.config.capacity = messages;
        self
    }

    /// Bytes of a message at most, as [`Message::size`](millstream_core::Message::size) counts. Default: no
    /// limit.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.config.max_message = Some(bytes);
        self
    }

    /// How long members have to answer a revocation in a rebalance. Default 10 s.
    pub fn revoke_within(mut self, deadline: Duration) -> Self {
        self.config.revoke_within = deadline;
        self
    }

    /// How long a writer or settler waits for a broker that [hangs](Injury::Hang) before it says `Unknown`.
    /// Default 10 s.
    pub fn answer_within(mut self, timeout: Duration) -> Self {
        self.config.answer_within = timeout;
        self
    }

    /// Whether writing to, or reading from, a topic that is not there makes it. Default: yes.
    pub fn create_topics(mut self, create: bool) -> Self {
        self.config.create_topics = create;
        self
    }

    /// Whether a whole log counts deliveries; other shapes do as their model does. Default: yes.
    pub fn count_deliveries(mut self, count: bool) -> Self {
        self.config.count_deliveries = count;
        self
    }

    /// A log in partitions commits messages together with a position, as a whole log does anyway.
    pub fn transactions(mut self) -> Self {
        self.config.transactions = true;
        self
    }

    /// The seed of all randomness: the order in which an unordered queue delivers. Default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Where its time of day comes from. Default: the system.
    pub fn clock(mut self, now: fn() -> SystemTime) -> Self {
        self.config.clock = now;
        self
    }

    /// Builds it.
    #[must_use]
    pub fn build(self) -> SimBroker {
        SimBroker { shared: Arc::new(Shared::new(self.config)) }
    }
}

#[cfg(test)]
mod tests;
