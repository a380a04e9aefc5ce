//! Millstream: typed events go in, handlers run, and every message ends in a known place.
//!
//! ```no_run
//! use millstream::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Event, Serialize, Deserialize)]
//! #[event(topic = "user.created", key = "user_id")]
//! struct UserCreated { user_id: String, display_name: String }
//!
//! async fn send_welcome_email(user: UserCreated, State(mailer): State<Mailer>) -> Outcome {
//!     mailer.send(&user).await?;              // an error is retried, then dead-lettered
//!     Ok(())                                  // only now is the message acknowledged
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), millstream::Error> {
//!     let bus = Bus::connect("sqlite://app.db").await?;      // one file, no server
//!     bus.publish(&UserCreated { user_id: "1".into(), display_name: "Ada".into() }).await?;
//!
//!     bus.with_state(Mailer::new())
//!         .subscribe(send_welcome_email.group("welcome-email")
//!             .concurrency(64)                // 64 in flight, at most one per key
//!             .retry(Retry::exponential(100.ms(), 30.s()).attempts(6))
//!             .deduplicate(EmbeddedDedupStore::new(1_000_000)))
//!         .run().await
//! }
//! # #[derive(Clone)]
//! # struct Mailer;
//! # impl Mailer {
//! #     fn new() -> Self { Self }
//! #     async fn send(&self, _: &UserCreated) -> std::io::Result<()> { Ok(()) }
//! # }
//! ```
//!
//! # Where to read on
//!
//! | for | see |
//! |---|---|
//! | events | [`Event`], `#[derive(Event)]`, [`AsKey`] for keys and headers, [`codec`] |
//! | publishing | [`Publisher`], [`PublishOptions`], [`IdFactory`], [`EventRegistry`] |
//! | handlers | [`handler`], [`extract`], [`Outcome`] and [`Failure`], [`layer`] |
//! | options of a subscription | [`Subscription`], [`Retry`], [`Outage`], [`EmbeddedDedupStore`] |
//! | running | [`Bus`], [`Running`], [`Control`], [`Health`], [`Report`] |
//! | what could not be handled | [`DeadLetters`], [`DeadLetter`] |
//! | drivers | [`Drivers`], and [`core`] to write one |
//!
//! Each part also stands alone: a [`Publisher`] needs only a [`Writer`], a [`Scheduler`] only a [`Reader`].
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `memory` (default) | the driver `memory://` |
//! | `sqlite` (default) | the driver `sqlite://`, and the extractor `sqlite::Transaction` |
//! | `kafka` | the driver `kafka://` |
//! | `aws`, or `sqs`, `sns` | the drivers `sqs://` and `sns://`, or one of them |
//! | `dynamodb` | a deduplication store for a whole cluster, `aws::DynamoDedupStore` |
//! | `objects`, and `s3`, `gcs`, `azure` | messages as objects, `folder://`, `s3://`, `gs://`, `az://`: where dead letters go |
//! | `msgpack`, `cbor`, `protobuf` | codecs beside JSON and raw bytes |
//! | `ksuid`, `ulid` | ids beside UUIDs |
//! | `anyhow` | handlers that return `anyhow::Result<()>` |
//! | `tower` | [`layer`]s made of `tower` ones |

mod bus;
pub mod context;
mod dead_letters;
mod dedup;
mod drivers;
mod engine;
pub mod extract;
mod failure;
pub mod handler;
mod ids;
pub mod layer;
pub mod policy;
mod publisher;
mod registry;
mod retry;
mod running;
mod scheduler;
mod signals;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod subscription;
mod sync;
mod text;
mod units;
mod uuid_v7;

pub use bus::Bus;
pub use context::Context;
pub use dead_letters::{DeadLetter, DeadLetters};
pub use dedup::EmbeddedDedupStore;
pub use drivers::Drivers;
pub use engine::{
    Control, Health, LeaseRenewal, Report, Settings, SubscriptionHealth, SubscriptionReport, TimeSource,
};
pub use extract::{Attempt, Deliveries, Extension, FromContext, FromRef, Key, MessageId, State, Topic};
pub use failure::{Failure, FailureKind, Outcome};
pub use handler::{Batch, Handler, IntoOutcome};
pub use ids::IdFactory;
pub use layer::Layer;
#[cfg(any(feature = "sqs", feature = "sns", feature = "dynamodb"))]
pub use millstream_aws as aws;
pub use millstream_core as core;
pub use millstream_core::{
    AsKey, ByteString, Bytes, Codec, Codecs, Connection, DedupStore, Driver, End, Error, ErrorKind, Event,
    Headers, Limits, Message, Origin, PartitionId, Position, Reader, Result, Start, WriteOutcome,
    WriteReport, Writer, codec, event, names,
};
#[cfg(feature = "kafka")]
pub use millstream_kafka as kafka;
pub use millstream_macros::Event;
#[cfg(feature = "objects")]
pub use millstream_objects as objects;
pub use policy::{Batching, DeadLetterTarget, Execution, MaxGap, Ordering, OtherTypes, Outage, Policy};
pub use publisher::{PublishOptions, Publisher};
pub use registry::EventRegistry;
pub use retry::{Jitter, Retry};
pub use running::Running;
pub use scheduler::Scheduler;
pub use subscription::{Subscribable, Subscribe, Subscription};
pub use units::Units;

/// What most programs use, to be imported whole.
pub mod prelude {
    pub use crate::{
        Attempt, Batch, Bus, EmbeddedDedupStore, Event, Failure, Headers, Key, Message, Outcome, Publisher,
        Retry, State, Subscribe, Units,
    };
}

#[cfg(all(doctest, feature = "memory"))]
#[doc = include_str!("../../README.md")]
struct Readme;
