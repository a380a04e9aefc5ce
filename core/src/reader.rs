//! The reading side of a driver: the contract with its authors.
//!
//! A driver moves bytes. It reads batches, settles tokens, and says what it can do in [`Capabilities`]. It
//! has no concurrency, retries, ordering of its own or dead letters: the scheduler has them, once, for all.
//!
//! [`Reader::open`] opens a subscription and gives its three parts, which never wait for each other:
//!
//! - the [`Source`] yields deliveries and changes of the assignment, polled by one task;
//! - the [`Settler`] takes verdicts in batches, called by another task;
//! - the [`Leases`], for brokers that take a message back after a while, are driven by a thread with a
//!   runtime of its own and open connections of their own on it, so that handlers which block every other
//!   thread lose no lease.
//!
//! # What must hold
//!
//! 1. **A message delivered is delivered again until it is settled.** `Ack` ends it for the group. A token
//!    that is dropped, a source that is dropped, a process that dies: the message comes again, to this
//!    member or another.
//! 2. **Reading is safe to cancel.** The future of [`Source::read`] is dropped at any await point, all the
//!    time. A message is either in `into` when the future is ready, or it will come with a later call.
//! 3. **An outcome is true.** [`Settled::Done`] means that the broker confirmed.
//!    A refusal is `Lost`, silence is `Unknown`. Where positions are settled and messages commit with them
//!    ([`Capabilities::atomic_emit`]), the next position would pass over what nobody knows: such a driver finds out how it
//!    ended before it says anything, or says `Failed` and finds out before it does it again. And after one that failed,
//!    none of its partition in the same call is done.
//! 4. **Order as declared**, also for what is delivered again: a message that comes back comes before the
//!    later ones of its key that were not yet delivered.
//! 5. **Bounded**: no more is held than was asked for by [`OpenRequest`] and [`ReadLimits`].
//! 6. **Nothing foreign stops it.** A message with no id, broken headers or no content type is delivered as
//!    it is.
//!
//! # Classic mistakes
//!
//! **Awaiting twice in a read, with the message in a local variable in between.** The future may be dropped
//! at the second await, and the message is gone until its lease ends:
//!
//! ```ignore
//! async fn read(&mut self, into: &mut Vec<Delivery>, _: ReadLimits) -> Result<Read> {
//!     let raw = self.client.receive().await?;       // taken from the broker …
//!     let body = self.blobs.fetch(&raw).await?;     // … and lost if dropped here
//!     into.push(decode(raw, body));
//!     Ok(Read::Deliveries)
//! }
//! ```
//!
//! Keep what was taken in `self` until it is handed over:
//!
//! ```ignore
//! async fn read(&mut self, into: &mut Vec<Delivery>, _: ReadLimits) -> Result<Read> {
//!     if self.taken.is_none() {
//!         self.taken = Some(self.client.receive().await?);
//!     }
//!     if let Some(raw) = &self.taken {
//!         let body = self.blobs.fetch(raw).await?;
//!         into.extend(self.taken.take().map(|raw| decode(raw, body)));
//!     }
//!     Ok(Read::Deliveries)
//! }
//! ```
//!
//! **A long poll inside the future.** A poll to a queue that is cut off hides the next message for its
//! visibility time, though nobody saw it. Run long polls in a task of their own that feeds a bounded
//! channel, and let `read` wait on the channel.
//!
//! **Acknowledging on a stale connection.** Tokens carry an epoch: after a reconnect, those of the old
//! connection are `Lost`. Sent on the new one they acknowledge somebody else's message.
//!
//! **Taking a batch's success for that of its parts.** Brokers answer 200 with a list of failed entries.
//!
//! **Waiting for the settler in the source, or the other way round.** The scheduler stops reading while it
//! settles what is full; a source that waits for settlements then waits for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use bytestring::ByteString;

use crate::{
    Assigned, Capabilities, Delivery, Lost, PartitionId, Position, Result, Revoking, Settled, Settlement,
    TokenId,
};

/// Opens subscriptions on a broker.
pub trait Reader: Send + Sync + 'static {
    /// Yields deliveries.
    type Source: Source;
    /// Takes verdicts.
    type Settler: Settler;
    /// Extends leases; [`NoLeases`] for brokers without.
    type Leases: Leases;

    /// What this driver can do. It does not change while the reader lives.
    fn capabilities(&self) -> Capabilities;

    /// Opens a subscription: checks that topic and group are what the request says, and joins.
    ///
    /// # Errors
    /// With the topic, the group and the fix: [`NotFound`](crate::ErrorKind::NotFound) for a topic that does
    /// not exist and is not made, [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for an argument it does
    /// not know, [`Unsupported`](crate::ErrorKind::Unsupported) for what its capabilities deny.
    fn open(
        &self,
        request: OpenRequest,
    ) -> impl Future<Output = Result<Opened<Self::Source, Self::Settler, Self::Leases>>> + Send;
}

/// The parts of a subscription. Dropping them leaves the group; nothing unsettled is lost.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened<S, T, L> {
    /// Yields deliveries.
    pub source: S,
    /// Takes verdicts.
    pub settler: T,
    /// Extends leases, where there are any.
    pub leases: Option<LeasePlan<L>>,
}

impl<S, T, L> Opened<S, T, L> {
    /// A subscription without leases.
    pub fn new(source: S, settler: T) -> Self {
        Self { source, settler, leases: None }
    }

    /// Adds leases.
    #[must_use]
    pub fn with_leases(mut self, duration: Duration, leases: L) -> Self {
        self.leases = Some(LeasePlan { duration, leases });
        self
    }
}

/// Leases and how long each lasts from its delivery or last extension.
#[derive(Debug)]
pub struct LeasePlan<L> {
    /// How long a lease lasts; extended at a third of it.
    pub duration: Duration,
    /// Extends them.
    pub leases: L,
}

/// Yields deliveries of one subscription.
pub trait Source: Send + 'static {
    /// Waits for deliveries or for a change of the assignment. Deliveries are pushed behind what is in
    /// `into`, at most as many as `limits` allow, and `Read::Deliveries` returned.
    ///
    /// It is called again and again, also while the subscription drains: then with
    /// [`ReadLimits::NOTHING`], on which it must go on serving the connection and yield only changes of the
    /// assignment.
    ///
    /// Cancel safe: a dropped future has taken nothing out of the source.
    ///
    /// # Errors
    /// Retryable ones are logged and read again with backoff; others end the subscription and turn health
    /// red. A message that cannot be read is not an error here: deliver its bytes.
    fn read(
        &mut self,
        into: &mut Vec<Delivery>,
        limits: ReadLimits,
    ) -> impl Future<Output = Result<Read>> + Send;

    /// Stops yielding messages of these partitions, without losing what was fetched. Takes effect with the
    /// next read. Without partitions, never called.
    fn pause(&mut self, partitions: &[PartitionId]);

    /// Goes on yielding them.
    fn resume(&mut self, partitions: &[PartitionId]);

    /// Replaces the partitions of a subscription opened with [`Assignment::Manual`]. Answered by an
    /// [`Read::Assigned`] for the new ones, nothing for those that are gone.
    fn assign(&mut self, partitions: Vec<PartitionId>);

    /// Leaves the group and gives back what was fetched and not yielded. The scheduler closes the settler
    /// first; what is unsettled by then comes again.
    ///
    /// # Errors
    /// If leaving failed; what was not settled still comes again.
    fn close(self) -> impl Future<Output = Result<()>> + Send;
}

/// What a [`Source::read`] came back with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Read {
    /// Deliveries were added; possibly none.
    Deliveries,
    /// Partitions are ours now.
    Assigned(Vec<Assigned>),
    /// Partitions are to be given back; the driver waits for the answer.
    Revoking(Revoking),
    /// Partitions are gone without having been asked back.
    Lost(Lost),
    /// The end that was asked for is reached, or the topic is no more.
    End,
}

/// How much one read may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadLimits {
    /// Messages at most.
    pub messages: usize,
    /// Bytes, as [`Message::size`](crate::Message::size) counts, at most; but one message always fits.
    pub bytes: usize,
}

impl ReadLimits {
    /// No messages: only changes of the assignment.
    pub const NOTHING: Self = Self { messages: 0, bytes: 0 };

    /// At most so many messages and bytes.
    #[must_use]
    pub fn new(messages: usize, bytes: usize) -> Self {
        Self { messages, bytes }
    }
}

/// Takes the verdicts of one subscription.
pub trait Settler: Send + 'static {
    /// Settles a batch; gives one outcome for each, in the batch's order. Within the batch, settlements of
    /// one partition take effect in order.
    ///
    /// It is not cancelled, except when the process ends. It must come back: a broker that does not answer
    /// is `Unknown` after a while.
    fn settle(&mut self, batch: Vec<Settlement>) -> impl Future<Output = Vec<Settled>> + Send;

    /// Stores a short note (at most 1 KiB) for the group and partition, durably, to come back in
    /// [`Assigned::mark`]; an empty one removes it. Called only with
    /// [`Capabilities::marks`](crate::Capabilities).
    ///
    /// # Errors
    /// If it is not stored.
    fn mark(
        &mut self,
        partition: PartitionId,
        epoch: crate::Epoch,
        note: String,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Waits until everything settled is confirmed, and closes.
    ///
    /// # Errors
    /// If that is not known.
    fn close(self) -> impl Future<Output = Result<()>> + Send;
}

/// Extends the leases of one subscription, on a thread and runtime of their own.
pub trait Leases: Send + 'static {
    /// Opens the connections this uses, on the runtime it is called on. Called before any other method, and
    /// again after an error.
    ///
    /// # Errors
    /// If the broker cannot be reached; tried again.
    fn connect(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Extends the leases of these deliveries to their full duration from now; says for each whether the
    /// broker confirmed. Called at every third of the duration, also with an empty slice, for drivers whose
    /// leases belong to the member and not to the message.
    ///
    /// # Errors
    /// If the call failed as a whole; tried again while the leases last.
    fn extend(&mut self, held: &[TokenId]) -> impl Future<Output = Result<Vec<bool>>> + Send;
}

/// For brokers without leases.
#[derive(Debug, Clone, Copy)]
pub enum NoLeases {}

impl Leases for NoLeases {
    async fn connect(&mut self) -> Result<()> {
        match *self {}
    }
    async fn extend(&mut self, _: &[TokenId]) -> Result<Vec<bool>> {
        match *self {}
    }
}

/// What to open.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenRequest {
    /// The topic.
    pub topic: ByteString,
    /// The consumer group; none to browse without leaving a trace: what is read then need not be settled, and is not in
    /// flight.
    pub group: Option<ByteString>,
    /// Where to start if the group has no progress yet; always, without a group.
    pub start: Start,
    /// Where to end; [`Read::End`] says that it is reached.
    pub end: End,
    /// Who divides the partitions.
    pub assignment: Assignment,
    /// Whether other members of the group may read at the same time.
    pub exclusivity: Exclusivity,
    /// Messages in flight at most, for prefetch limits.
    pub max_in_flight: usize,
    /// Bytes held at most, fetched ones included.
    pub max_bytes: usize,
    /// The driver's own arguments; one it does not know is an error.
    pub args: Args,
}

impl OpenRequest {
    /// The topic without a group, from the earliest message on, never ending; 1,000 messages and 64 MiB.
    pub fn new(topic: impl Into<ByteString>) -> Self {
        Self {
            topic: topic.into(),
            group: None,
            start: Start::Earliest,
            end: End::Never,
            assignment: Assignment::Group,
            exclusivity: Exclusivity::Shared,
            max_in_flight: 1_000,
            max_bytes: 64 << 20,
            args: Args::default(),
        }
    }

    /// Sets the group.
    #[must_use]
    pub fn group(mut self, group: impl Into<ByteString>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Sets the start.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Sets the end.
    #[must_use]
    pub fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// The oldest message there is.
    #[default]
    Earliest,
    /// Only what comes from now on.
    Latest,
    /// This position, in every partition.
    Position(Position),
    /// The first message of this time or later.
    Time(SystemTime),
}

/// Where to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum End {
    /// Nowhere: wait for more.
    #[default]
    Never,
    /// Behind the last message there is when it is opened.
    Latest,
    /// Before this position.
    Position(Position),
}

/// Who divides the partitions among the members of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Assignment {
    /// The broker, or there are none.
    #[default]
    Group,
    /// The caller, with these at first and [`Source::assign`] later. Progress is still the group's.
    Manual(Vec<PartitionId>),
}

/// Whether other members of the group may read at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Exclusivity {
    /// They may, and share the messages.
    #[default]
    Shared,
    /// One member gets all, the others stand by: for total order.
    Exclusive,
}

/// A driver's own arguments by name, as `.arg(key, value)` collects them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Args(BTreeMap<String, String>);

impl Args {
    /// Sets one.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Looks one up.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Refuses every argument that is not in the list, naming those that are.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig).
    pub fn only(&self, known: &[&str]) -> Result<()> {
        let Some(unknown) = self.0.keys().find(|k| !known.contains(&k.as_str())) else {
            return Ok(());
        };
        let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(crate::Error::new(
            crate::ErrorKind::InvalidConfig,
            format!("the driver has no argument {unknown:?}"),
        )
        .fix(format!("remove it; there are: {list}")))
    }
}

impl fmt::Debug for Args {
    // Values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
