//! Millstream: typed events go in, handlers run, and every message ends in a known place.

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
mod key;
pub mod layer;
pub mod policy;
mod publisher;
mod registry;
mod retry;
mod running;
mod scheduler;
mod signals;
mod subscription;
mod text;
mod units;

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
pub use key::AsKey;
pub use layer::Layer;
pub use millstream_core as core;
pub use millstream_core::{
    ByteString, Bytes, Codec, Codecs, Connection, DedupStore, Driver, End, Error, ErrorKind, Event, Headers,
    Limits, Message, Origin, PartitionId, Position, Reader, Result, Start, WriteOutcome, WriteReport, Writer,
    codec, event, names,
};
pub use millstream_macros::Event;
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
