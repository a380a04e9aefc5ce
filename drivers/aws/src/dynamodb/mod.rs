//! Remembering in a table of DynamoDB which messages were handled.
//!
//! | module | holds |
//! |---|---|
//! | `item` | an id in the table: what it says, and how it is changed under a condition |
//! | `client` | changing items, singly and in transactions |
//! | `table` | finding the table, or making it |
//! | `store` | the store |

mod client;
mod item;
mod store;
mod table;

pub use store::{DynamoDedupStore, DynamoDedupStoreBuilder};
