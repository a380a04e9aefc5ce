//! The `kafka://` driver of Millstream, on librdkafka.
//!
//! A [`Kafka`] is a connection to a cluster. Its writer is idempotent and confirmed by all replicas in sync; its reader
//! is a member of a consumer group, commits contiguously and gives partitions back only once what runs has ended.
//!
//! ```no_run
//! # async fn example() -> millstream_core::Result<()> {
//! use millstream_core::{Message, OpenRequest, Read, ReadLimits, Reader, Settlement, Settler, Source, Writer};
//! use millstream_kafka::Kafka;
//!
//! let kafka = Kafka::builder("localhost:9092").connect().await?;
//! kafka.writer().write(vec![Message::new("orders", "{}").with_key("customer-7")]).await?.into_result()?;
//!
//! let mut opened = kafka.reader().open(OpenRequest::new("orders").group("billing")).await?;
//! let mut deliveries = Vec::new();
//! while deliveries.is_empty() {
//!     // First the assignment, then messages.
//!     opened.source.read(&mut deliveries, ReadLimits::new(100, 1 << 20)).await?;
//! }
//! let acks = deliveries.drain(..).map(|d| Settlement::ack(d.token)).collect();
//! assert!(opened.settler.settle(acks).await.iter().all(|settled| settled.is_done()));
//! # Ok(())
//! # }
//! ```
//!
//! How it works inside, from the bottom up:
//!
//! | module | holds |
//! |---|---|
//! | `security` | TLS, logins, tokens, and what a refusal means |
//! | `settings`, `errors`, `ears`, `serving` | what clients are told, and what they say |
//! | `wire`, `cloudevents`, `spring` | a message as a record, as a CloudEvent, and dead letters in Spring Kafka's words |
//! | `cluster`, `positions` | topics and groups, and where partitions stand |
//! | `batches`, `writer` | what is on its way to the brokers |
//! | `transactor`, `together`, `atomic` | transactions: with positions, and as a writer |
//! | `member`, `poll` | a subscription: its partitions and commits, and the thread that polls |
//! | `arguments` | what a subscription is told, and tells its handlers |
//! | `doctor` | what of a cluster's settings endangers messages |
//! | `reader`, `source`, `settler`, `admin`, `kafka`, `driver` | thin shells around them |

mod admin;
mod ages;
mod arguments;
mod atomic;
mod awake;
mod batches;
mod cloudevents;
mod cluster;
mod doctor;
mod driver;
mod ears;
mod errors;
mod kafka;
mod member;
mod poll;
mod positions;
mod reader;
mod security;
mod serving;
mod settings;
mod settler;
mod source;
mod spring;
mod together;
mod transactor;
mod wire;
mod writer;

pub use admin::KafkaAdmin;
pub use arguments::{
    GROUP_ID, HEADER_CLIENT_ID, HEADER_CURRENT_OFFSET, HEADER_GROUP_ID, HEADER_HWM_OFFSET,
    HEADER_INIT_OFFSET, HEADER_PARTITION_ID, INIT_OFFSET, METADATA, PARTITION_ID,
};
pub use atomic::KafkaAtomicWriter;
pub use driver::driver;
pub use kafka::{Kafka, KafkaBuilder};
pub use reader::KafkaReader;
pub use security::tokens::Token;
pub use security::{Sasl, Tls};
pub use settings::{Create, DeadLetterHeaders, Protocol, Transactions, Wire};
pub use settler::KafkaSettler;
pub use source::KafkaSource;
pub use wire::{CONTENT_TYPE, MESSAGE_ID, PARTITION};
pub use writer::KafkaWriter;
