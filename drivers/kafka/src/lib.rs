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
//! | `wire` | a message as a record |
//! | `cluster`, `positions` | topics and groups, and where partitions stand |
//! | `batches`, `writer` | what is on its way to the brokers |
//! | `member`, `poll` | a subscription: its partitions and commits, and the thread that polls |
//! | `reader`, `source`, `settler`, `admin`, `kafka`, `driver` | thin shells around them |

mod admin;
mod batches;
mod cluster;
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
mod wire;
mod writer;

pub use admin::KafkaAdmin;
pub use driver::driver;
pub use kafka::{Kafka, KafkaBuilder};
pub use reader::KafkaReader;
pub use security::tokens::Token;
pub use security::{Sasl, Tls};
pub use settings::{Create, Protocol};
pub use settler::KafkaSettler;
pub use source::KafkaSource;
pub use wire::{CONTENT_TYPE, MESSAGE_ID};
pub use writer::KafkaWriter;
