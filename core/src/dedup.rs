//! Remembering which (group, message id) was handled: reserve, run, confirm; release on failure.
//!
//! A store never says "duplicate" of something whose effect is not confirmed: a reservation that is not
//! confirmed ends with its lease, so a crash frees it. A copy that meets a reservation is
//! [`Busy`](Reserve::Busy): it waits, it is never acknowledged while the first still runs.

use std::time::Duration;

use bytestring::ByteString;

use crate::{Effect, Result};

/// What is remembered: a group and a message's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DedupKey {
    /// The consumer group.
    pub group: ByteString,
    /// The message's id; for a redriven one with its redrive count, so that it passes once more.
    pub id: ByteString,
}

/// The right to run one message, until it is confirmed, released or its lease ends.
///
/// Moves and cannot be copied; the store knows it by its own number.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "confirm or release it, or the message waits for the lease to end"]
pub struct Reservation {
    /// What is reserved.
    pub key: DedupKey,
    /// The store's own number: two reservations of one key never share it.
    pub owner: u64,
}

/// The answer to a wish to run a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Run it.
    Reserved(Reservation),
    /// It was handled: acknowledge it as a duplicate.
    Duplicate,
    /// Another copy runs now; ask again, at the latest after this time.
    Busy(Duration),
}

/// How far a store's memory reaches. Start warns when a group can reach further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DedupScope {
    /// This process.
    Process,
    /// All processes of this host.
    Host,
    /// Every host.
    Cluster,
}

/// Remembers which messages were handled.
///
/// All methods take batches, since stores are often across a network; answers come in the batch's order.
pub trait DedupStore: Send + Sync + 'static {
    /// How far its memory reaches.
    fn scope(&self) -> DedupScope;

    /// How long a confirmed id is remembered at least; `None`: not bounded by time.
    fn window(&self) -> Option<Duration>;

    /// Reserves each key that is free, for `lease`.
    ///
    /// # Errors
    /// If the store cannot be asked: nothing is reserved, and the messages wait.
    fn reserve(
        &self,
        keys: Vec<DedupKey>,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<Reserve>>> + Send;

    /// Marks what was reserved as handled, for good. `false`: the reservation had ended, and another may
    /// have run the same message.
    ///
    /// # Errors
    /// If the store cannot be asked; asked again, confirming twice is fine.
    fn confirm(&self, done: &[Reservation]) -> impl Future<Output = Result<Vec<bool>>> + Send;

    /// Gives reservations back: the next copy may run.
    ///
    /// # Errors
    /// If the store cannot be asked; the lease frees them then.
    fn release(&self, failed: Vec<Reservation>) -> impl Future<Output = Result<()>> + Send;

    /// Whether a message was handled, and confirmed.
    ///
    /// # Errors
    /// If the store cannot be asked.
    fn contains(&self, key: &DedupKey) -> impl Future<Output = Result<bool>> + Send;

    /// The confirmation as an effect for the driver's own transaction, where store and driver share one.
    /// Then [`confirm`](Self::confirm) is not called.
    fn confirm_as_effect(&self, reservation: &Reservation) -> Option<Effect>;
}
