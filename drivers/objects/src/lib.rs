//! Messages as objects: dead letters and archives in a local folder, in S3, Google Cloud Storage or Azure.
//!
//! An [`Objects`] is a connection to such a place. Its writer stores each message as an object of one line of JSON,
//! confirmed before it says so and never in place of another; its admin lists, reads and removes dead letters. Nobody
//! subscribes to objects: dead letters go back to the broker that they came from.
//!
//! ```
//! # async fn example() -> millstream_core::Result<()> {
//! use millstream_core::{Admin, Message, Writer};
//! use millstream_objects::{Folder, Objects};
//!
//! # let folder = std::env::temp_dir().join("millstream-objects-example");
//! let objects = Objects::builder(Folder::new(&folder)).open().await?;
//! objects.writer().write(vec![Message::new("orders.dlq", "{}").with_id("7")]).await?.into_result()?;
//!
//! let letters = objects.admin().dead_letters("orders", None, 100).await?;
//! assert_eq!(letters[0].message.id, "7");
//! # std::fs::remove_dir_all(folder).ok();
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```
//!
//! How it works inside, from the bottom up:
//!
//! | module | holds |
//! |---|---|
//! | `wire` | a message as a line |
//! | `names`, `identity` | what an object is called, and whether two lines are the same message |
//! | `places`, `errors` | folders and buckets, and what they say |
//! | `store` | putting, listing, reading and removing, each within its time |
//! | `writer`, `admin`, `reader`, `objects`, `driver` | thin shells around it |

mod admin;
mod driver;
mod errors;
mod identity;
mod names;
mod objects;
mod places;
mod reader;
mod store;
mod wire;
mod writer;

pub use admin::ObjectsAdmin;
pub use driver::driver;
pub use objects::{Objects, ObjectsBuilder, Per};
#[cfg(feature = "azure")]
pub use places::Azure;
#[cfg(feature = "gcs")]
pub use places::Gcs;
#[cfg(feature = "s3")]
pub use places::S3;
pub use places::{Create, Folder, Place};
pub use reader::{NoReader, NoSubscription};
pub use writer::ObjectsWriter;
