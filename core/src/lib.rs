//! The contract of Millstream: what a message is, what a driver must do, and what may go wrong.
//!
//! This crate holds types and traits, no behaviour of delivery: retries, order, deduplication and dead
//! letters live in the `millstream` toolkit, so that every driver gets the same ones. Depend on this crate
//! alone to write a driver or a codec; depend on `millstream` to write a service.
//!
//! | to write | implement | start reading at |
//! |---|---|---|
//! | an event by hand | [`Event`] | [`event`] |
//! | a codec | [`Codec`] | [`codec`] |
//! | a driver | [`Reader`], [`Source`], [`Settler`], [`Writer`] and a [`Driver`] | [`reader`], [`writer`] |
//! | a deduplication store | [`DedupStore`] | [`dedup`] |
//!
//! The traits are static (`impl Future + Send` in traits); the toolkit holds their `Dyn…` twins from
//! [`erased`], which every implementor gets for free. One box is paid per *batch*, never per message.

pub mod admin;
mod capabilities;
#[cfg(feature = "cloudevents")]
pub mod cloudevents;
pub mod codec;
pub mod dedup;
mod delivery;
pub mod driver;
mod effects;
pub mod erased;
mod error;
pub mod event;
mod headers;
mod key;
mod message;
pub mod reader;
mod settle;
pub mod writer;

pub use admin::Admin;
pub use bytes::Bytes;
pub use bytestring::ByteString;
pub use capabilities::{
    Capabilities, DeadLetters, Durability, Order, Parking, SettleMode, Starts, StoreId, WriterCapabilities,
};
pub use codec::{Codec, Codecs};
pub use dedup::{DedupKey, DedupScope, DedupStore, Reservation, Reserve};
pub use delivery::{
    Assigned, Delivery, Epoch, Lost, Origin, ParkNote, PartitionId, Position, Revoking, Token, TokenId,
};
pub use driver::{Connection, Driver, Endpoint};
pub use effects::{Effect, Effects};
pub use error::{BoxError, Error, ErrorContext, ErrorKind, Result};
pub use event::{Event, Format};
pub use headers::{Headers, names};
pub use key::AsKey;
pub use message::{Limits, Message};
pub use reader::{
    Args, Assignment, End, Exclusivity, LeasePlan, Leases, NoLeases, OpenRequest, Opened, Read, ReadLimits,
    Reader, Settler, Source, Start,
};
pub use settle::{Along, Park, Settled, Settlement, Verdict};
pub use writer::{Bind, BoundWriter, WriteNow, WriteOutcome, WriteReport, Writer};

/// A boxed future, as the `Dyn…` twins return.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
