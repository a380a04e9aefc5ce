//! The `sqlite://` driver of Millstream: topics, groups and dead letters in one durable file, without a server.
//!
//! A [`SqliteStore`] is an open file. Each topic is an append-only log; each group of readers gets every message of it,
//! and its members, in one process or in several on the same machine, share them, a key at one member at a time. A
//! message is acknowledged to its publisher when it is on disk. Acknowledgements, a handler's own SQL
//! ([`SqlEffect`]), what it publishes and its deduplication row commit in one transaction.
//!
//! ```
//! # async fn example(folder: &std::path::Path) -> millstream_core::Result<()> {
//! use millstream_core::{Message, OpenRequest, ReadLimits, Reader, Settlement, Settler, Source, Writer};
//! use millstream_sqlite::SqliteStore;
//!
//! let store = SqliteStore::open(folder.join("app.db")).await?;
//! let mut opened = store.reader().open(OpenRequest::new("orders").group("billing")).await?;
//! store.writer().write(vec![Message::new("orders", "{}").with_key("customer-7")]).await?.into_result()?;
//!
//! let mut deliveries = Vec::new();
//! opened.source.read(&mut deliveries, ReadLimits::new(100, 1 << 20)).await?;
//! let acks = deliveries.drain(..).map(|d| Settlement::ack(d.token)).collect();
//! assert!(opened.settler.settle(acks).await[0].is_done());
//! # Ok(())
//! # }
//! # let folder = tempfile::tempdir().unwrap();
//! # let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
//! # runtime.block_on(example(folder.path())).unwrap();
//! ```
//!
//! How it works inside, from the bottom up:
//!
//! | module | holds |
//! |---|---|
//! | `schema`, `row`, `progress`, `topics` | the file's tables, and their rows under checksums |
//! | `open`, `errors`, `clock` | files, what SQLite says, and time that processes agree on |
//! | `publish`, `settle`, `balance`, `retention` | what happens inside a transaction |
//! | `member`, `ascending` | what a subscription holds in memory |
//! | `hub`, `commit`, `crowd`, `linger`, `turn`, `read`, `checkpoint`, `wake` | the threads of an open file |
//! | `reader`, `writer`, `admin`, `dedup`, `store`, `driver` | thin shells around them |

mod admin;
mod ascending;
mod balance;
mod check;
mod checkpoint;
mod clock;
mod commit;
mod crowd;
mod dedup;
mod driver;
mod effects;
mod errors;
mod handover;
mod hub;
mod linger;
mod member;
mod open;
mod progress;
mod publish;
mod read;
mod reader;
mod retention;
mod row;
mod schema;
mod settle;
mod store;
mod sync;
mod topics;
mod turn;
mod wake;
mod writer;

pub use admin::SqliteAdmin;
pub use check::{CheckReport, Problem, check};
pub use dedup::SqliteDedupStore;
pub use driver::driver;
pub use effects::{Parameters, SqlEffect};
pub use open::Create;
pub use reader::{SqliteReader, SqliteSettler, SqliteSource};
pub use retention::Retention;
pub use rusqlite;
pub use store::{SqliteStore, SqliteStoreBuilder};
pub use writer::{SqliteBound, SqliteWriter};
