//! The driver `sqlite://`, and the extractor [`Transaction`]: a handler's own SQL, each effect once.
//!
//! ```
//! use millstream::sqlite::Transaction;
//! use millstream::{Event, Outcome};
//!
//! #[derive(Event, serde::Serialize, serde::Deserialize)]
//! #[event(topic = "payments", key = "account")]
//! struct Payment { account: String, cents: i64 }
//!
//! async fn book(payment: Payment, transaction: Transaction) -> Outcome {
//!     transaction.execute(
//!         "INSERT INTO balances VALUES(?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents",
//!         (payment.account, payment.cents),
//!     )?;
//!     Ok(())                          // the booking and the acknowledgement commit together, or neither does
//! }
//! ```
//!
//! The message's effects, its row in a deduplication store of the same file, the events that its handler published and
//! the acknowledgement are one transaction of the file. So each effect happens once, also if the process is killed at
//! any moment. This holds for effects in that file, and for nothing else: a mail that the handler sends is sent again.

use std::sync::Arc;

use millstream_core::{BoxError, Error, ErrorKind, Result};
pub use millstream_sqlite::*;

use crate::context::Held;
use crate::{Context, Failure, FromContext};

/// Queues SQL on the bus's own file, to commit with the acknowledgement of the handler's message.
///
/// What is queued runs after the handler returned `Ok`, in the order in which it was queued, on the driver's writing
/// thread: keep it short, nobody else writes meanwhile. If it fails, all of this message's part is undone and it
/// counts as a failed attempt. A handler that fails queues nothing.
///
/// On another driver than `sqlite://` the message is dead-lettered as unrecoverable, with the reason.
#[derive(Debug, Clone)]
pub struct Transaction {
    held: Arc<Held>,
}

impl Transaction {
    /// Queues one statement with its parameters: a tuple, an array or a `Vec` of values.
    ///
    /// # Errors
    /// [`InvalidMessage`](ErrorKind::InvalidMessage) if a parameter is no value of SQLite's, such as a `u64` above
    /// `i64::MAX`; [`BusIsShutdown`](ErrorKind::BusIsShutdown) once the handler has ended.
    pub fn execute(&self, sql: impl Into<String>, parameters: impl Parameters) -> Result<()> {
        let effect = SqlEffect::statement(sql, parameters).map_err(|e| {
            Error::new(ErrorKind::InvalidMessage, "a parameter of the handler's SQL is no value of SQLite's")
                .fix("use integers of 64 bits with a sign, text, bytes or floating point")
                .source(e)
        })?;
        self.held.effect(effect.into_effect())
    }

    /// Queues any work on the connection, to read and to write. It may run more than once, of which only the last run
    /// commits.
    ///
    /// # Errors
    /// [`BusIsShutdown`](ErrorKind::BusIsShutdown) once the handler has ended.
    pub fn run(
        &self,
        work: impl Fn(&rusqlite::Connection) -> Result<(), BoxError> + Send + 'static,
    ) -> Result<()> {
        self.held.effect(SqlEffect::new(work).into_effect())
    }
}

impl<S> FromContext<S> for Transaction {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self { held: Arc::clone(context.held()) })
    }
}
