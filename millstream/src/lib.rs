//! Millstream: typed events go in, handlers run, and every message ends in a known place.

pub mod context;
mod dead_letters;
mod engine;
pub mod extract;
mod failure;
pub mod handler;
mod ids;
mod key;
pub mod policy;
mod publisher;
mod registry;
mod retry;

pub use context::Context;
pub use engine::{Control, Health, LeaseRenewal, Report, Running, Settings, SubscriptionHealth, SubscriptionReport, TimeSource};
pub use extract::{
    Attempt, Deliveries, Extension, FromContext, FromRef, Key, MessageId, State, Topic,
};
pub use failure::{Failure, FailureKind, Outcome};
pub use handler::{Batch, Handler, IntoOutcome};
pub use ids::IdFactory;
pub use key::AsKey;
pub use millstream_core as core;
pub use millstream_core::event;
pub use millstream_core::{Bytes, ByteString, Error, ErrorKind, Event, Headers, Limits, Message, Origin, PartitionId, Position, Result};
pub use millstream_macros::Event;
pub use policy::{Batching, DeadLetterTarget, Execution, MaxGap, Ordering, OtherTypes, Outage, Policy};
pub use publisher::{PublishOptions, Publisher};
pub use registry::EventRegistry;
pub use retry::{Jitter, Retry};
