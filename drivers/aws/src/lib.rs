//! The `sqs://` and `sns://` drivers of Millstream, and its deduplication store in DynamoDB, on the AWS SDK.
//!
//! An [`Aws`] is where AWS is and as whom it is called. `Aws::sqs` describes queues, `SqsBuilder::open` gives their reader,
//! writer and admin; with the feature `sns`, `SqsBuilder::open_sns` gives those of topics, each group of which has a queue.
//! With the feature `dynamodb`, `DynamoDedupStore` remembers for a whole cluster what was handled.
//!
#![cfg_attr(
    feature = "sqs",
    doc = r#"
```no_run
# async fn example() -> millstream_core::Result<()> {
use millstream_aws::Aws;
use millstream_core::{Message, OpenRequest, ReadLimits, Reader, Settlement, Settler, Source, Writer};

let sqs = Aws::builder().region("eu-west-1").connect().await?.sqs().open()?;
sqs.writer().write(vec![Message::new("orders", "{}").with_key("customer-7")]).await?.into_result()?;

let mut opened = sqs.reader().open(OpenRequest::new("orders").group("billing")).await?;
let mut deliveries = Vec::new();
opened.source.read(&mut deliveries, ReadLimits::new(100, 1 << 20)).await?;
let acks = deliveries.drain(..).map(|d| Settlement::ack(d.token)).collect();
assert!(opened.settler.settle(acks).await.iter().all(|settled| settled.is_done()));
# Ok(())
# }
```
"#
)]
//!
//! | module | holds |
//! |---|---|
//! | `aws`, `url` | where AWS is and as whom it is called, in code and in a URL |
//! | `io`, `connections` | the thread that calls it, and its connections |
//! | `errors`, `retry` | what AWS says, and what is asked again |
//! | `sqs` | queues |
//! | `sns` | topics whose groups have queues |
//! | `driver` | both by URL |
//! | `dynamodb` | the deduplication store |

#![cfg_attr(not(feature = "sqs"), allow(dead_code, reason = "the connection serves what is turned off, too"))]

mod aws;
mod connections;
mod create;
#[cfg(feature = "sqs")]
mod driver;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod errors;
mod io;
mod retry;
#[cfg(feature = "sns")]
mod sns;
#[cfg(feature = "sqs")]
mod sqs;
mod url;

pub use aws::{Aws, AwsBuilder};
pub use create::Create;
#[cfg(feature = "dynamodb")]
pub use dynamodb::{DynamoDedupStore, DynamoDedupStoreBuilder};
#[cfg(feature = "sns")]
pub use sns::{Sns, SnsAdmin, SnsReader, SnsWriter, Subscription};
#[cfg(feature = "sqs")]
pub use {
    driver::driver,
    sqs::admin::SqsAdmin,
    sqs::leases::SqsLeases,
    sqs::names::Queues,
    sqs::reader::SqsReader,
    sqs::settler::SqsSettler,
    sqs::source::SqsSource,
    sqs::wire::{BODY, CONTENT_TYPE, MESSAGE_ID, MESSAGE_TIME, REST, STREAM_KEY, STREAM_NAME},
    sqs::writer::SqsWriter,
    sqs::{Sqs, SqsBuilder},
};
