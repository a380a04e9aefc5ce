//! The drivers of Millstream for Amazon's services, on the AWS SDK.

#[cfg(feature = "sqs")]
mod admin;
mod aws;
#[cfg(feature = "sqs")]
mod batches;
#[cfg(feature = "sqs")]
mod client;
mod connections;
#[cfg(feature = "sqs")]
mod doctor;
#[cfg(feature = "sqs")]
mod driver;
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
#[cfg(feature = "sns")]
mod sns;
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
#[cfg(feature = "sns")]
pub use sns::{Sns, SnsAdmin, SnsReader, SnsWriter, Subscription};
#[cfg(feature = "sqs")]
pub use {
    admin::SqsAdmin,
    driver::driver,
    leases::SqsLeases,
    names::Queues,
    reader::SqsReader,
    settings::Create,
    settler::SqsSettler,
    source::SqsSource,
    sqs::{Sqs, SqsBuilder},
    wire::{BODY, CONTENT_TYPE, MESSAGE_ID, MESSAGE_TIME, REST, STREAM_KEY, STREAM_NAME},
    writer::SqsWriter,
};
