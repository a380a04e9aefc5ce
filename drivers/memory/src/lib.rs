//! The `memory://` driver of Millstream: logs inside this process, for tests and for fan-out within one
//! program.
//!
//! A [`MemoryBroker`] holds topics. Each topic is an append-only log; each group of readers gets every
//! message of it, and the members of a group share them, a key at one member at a time. Nothing of it
//! outlives the process.
//!
//! ```
//! # async fn example() -> millstream_core::Result<()> {
//! use millstream_core::{Message, OpenRequest, Read, ReadLimits, Reader, Settlement, Settler, Source, Writer};
//! use millstream_memory::MemoryBroker;
//!
//! let broker = MemoryBroker::new();
//! let mut opened = broker.reader().open(OpenRequest::new("orders").group("billing")).await?;
//! broker.writer().write(vec![Message::new("orders", "{}").with_key("customer-7")]).await?.into_result()?;
//!
//! let mut deliveries = Vec::new();
//! opened.source.read(&mut deliveries, ReadLimits::new(100, 1 << 20)).await?;
//! let acks = deliveries.drain(..).map(|d| Settlement::ack(d.token)).collect();
//! assert!(opened.settler.settle(acks).await[0].is_done());
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(example()).unwrap();
//! ```
//!
//! How it works inside, from the bottom up: `log` keeps messages by position, `lane` what waits of one key,
//! `group` who has got what, `topic` joins them under one lock, and `reader`, `writer` and `admin` are thin
//! shells around it. There is no background task: whoever waits sleeps until the next message is due.

mod admin;
mod broker;
mod driver;
mod group;
mod lane;
mod log;
mod positions;
mod reader;
mod sync;
mod topic;
mod writer;

pub use admin::MemoryAdmin;
pub use broker::{MemoryBroker, MemoryBrokerBuilder};
pub use driver::driver;
pub use reader::{MemoryReader, MemorySettler, MemorySource};
pub use writer::MemoryWriter;
