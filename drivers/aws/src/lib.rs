//! The drivers of Millstream for Amazon's services, on the AWS SDK.

#![cfg_attr(not(feature = "sqs"), allow(dead_code, reason = "the connection serves what is turned off, too"))]

#[cfg(feature = "sqs")]
mod admin;
mod aws;
#[cfg(feature = "sqs")]
mod client;
mod connections;
#[cfg(any(feature = "sqs", feature = "dynamodb"))]
mod create;
#[cfg(feature = "sqs")]
mod doctor;
#[cfg(feature = "sqs")]
mod driver;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod errors;
mod io;
#[cfg(feature = "sqs")]
mod leases;
#[cfg(feature = "sqs")]
mod names;
#[cfg(feature = "sqs")]
mod pump;
#[cfg(feature = "sqs")]
mod queues;
#[cfg(feature = "sqs")]
mod reader;
#[cfg(feature = "sqs")]
mod receipts;
mod retry;
#[cfg(feature = "sqs")]
mod settings;
#[cfg(feature = "sqs")]
mod settler;
#[cfg(feature = "sqs")]
mod shelf;
#[cfg(feature = "sqs")]
mod source;
#[cfg(feature = "sqs")]
mod sqs;
mod url;
#[cfg(feature = "sqs")]
mod wire;
#[cfg(feature = "sqs")]
mod writer;

pub use aws::{Aws, AwsBuilder};
#[cfg(any(feature = "sqs", feature = "dynamodb"))]
pub use create::Create;
#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoDedupStore, DynamoDedupStoreBuilder};
#[cfg(feature = "sqs")]
pub use {
    admin::SqsAdmin,
    driver::driver,
    leases::SqsLeases,
    names::Queues,
    reader::SqsReader,
    settler::SqsSettler,
    source::SqsSource,
    sqs::{Sqs, SqsBuilder},
    wire::{BODY, CONTENT_TYPE, MESSAGE_ID, MESSAGE_TIME, REST, STREAM_KEY, STREAM_NAME},
    writer::SqsWriter,
};
