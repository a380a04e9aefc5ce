//! What a driver can do, as plain values: the scheduler emulates what is missing, or refuses at start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The order in which a driver delivers what was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// None.
    None,
    /// Messages of one key come in their order, one group member at a time.
    Key,
    /// Messages of one partition come in their order; a key lies in one partition.
    Partition,
    /// All messages of a topic come in their order to a reader that asked for
    /// [`Exclusivity::Exclusive`](crate::Exclusivity); otherwise those of one key do.
    Total,
}

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Nothing: it lives in this process.
    Process,
    /// A crash of the writing process; the server keeps it in memory or syncs later.
    Server,
    /// Power loss of the machine: it was synced to disk.
    Disk,
    /// Loss of a machine: others have it too.
    Replicated,
}

/// How tokens are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SettleMode {
    /// Each on its own, in any order, with any verdict.
    Individual,
    /// By position: settling a token settles all of its partition before it, and `Ack` is the only verdict.
    /// The scheduler settles in order and without a gap; what it gives back it just does not settle.
    Cumulative,
}

/// Whether messages can be set aside durably with their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parking {
    /// Not by the driver. With partitions the scheduler keeps a topic `<topic>.<group>.park`; without, a
    /// failing message waits by [`Verdict::Retry`](crate::Verdict::Retry) or in the process.
    None,
    /// By [`Verdict::Park`](crate::Verdict::Park).
    Native,
}

/// Where dead letters go unless the user names a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadLetters {
    /// To the topic `<topic>.dlq`, through the driver's own writer.
    Topic,
    /// To a store of the driver's, in one transaction with the acknowledgement, by
    /// [`Verdict::Dead`](crate::Verdict::Dead).
    Native,
}

/// Names what a connection writes to and reads from. A reader and a writer with the same one commit together, where the
/// driver can do that; two connections never have the same.
///
/// ```
/// use millstream_core::StoreId;
/// let store = StoreId::unique();
/// assert_eq!(store, store.clone());
/// assert_ne!(store, StoreId::unique());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(u64);

impl StoreId {
    /// One that nothing else in this process has.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// From where a subscription can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Starts {
    /// [`Start::Earliest`](crate::Start::Earliest) reads what was there before the group was.
    pub earliest: bool,
    /// [`Start::Position`](crate::Start::Position).
    pub position: bool,
    /// [`Start::Time`](crate::Start::Time).
    pub time: bool,
}

impl Starts {
    /// All of them.
    pub const ALL: Self = Self { earliest: true, position: true, time: true };
    /// Only what comes from now on.
    pub const NONE: Self = Self { earliest: false, position: false, time: false };
}

/// What a driver's reading side can do. Start from [`Capabilities::minimal`] and set what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The order of delivery.
    pub order: Order,
    /// How tokens are settled.
    pub settle: SettleMode,
    /// Whether partitions are assigned and revoked: assignment events come, pausing works by partition.
    pub partitions: bool,
    /// Whether groups share a topic's messages among their members, and each group gets all.
    pub groups: bool,
    /// Whether a group's name is needed because its progress outlives the process.
    pub group_required: bool,
    /// Whether a topic can be read without a group, from a position to an end: replay and tailing.
    pub browse: bool,
    /// From where a subscription can start.
    pub starts: Starts,
    /// What an acknowledgement survives.
    pub durability: Durability,
    /// Whether [`Delivery::deliveries`](crate::Delivery) counts, across restarts of the reader.
    pub redelivery_count: bool,
    /// The longest [`Verdict::Retry`](crate::Verdict::Retry) wait; `None`: it cannot wait at all.
    pub retry_after: Option<Duration>,
    /// Whether it parks by itself.
    pub parking: Parking,
    /// Where dead letters go by default.
    pub dead_letters: DeadLetters,
    /// Whether [`Along::emit`](crate::Along::emit) commits with the verdict, and for the messages of which writers: those
    /// whose [`WriterCapabilities::store`] is this one. What a handler sends by any other is written before its message is
    /// settled.
    pub atomic_emit: Option<StoreId>,
    /// Whether [`Along::effects`](crate::Along::effects) commit with the verdict.
    pub effects: bool,
    /// Whether [`Settler::mark`](crate::Settler::mark) stores notes that come back with an assignment.
    pub marks: bool,
    /// How long a delivery is ours before it is delivered again; `None`: as long as we are connected.
    pub lease: Option<Duration>,
}

impl Capabilities {
    /// The least a driver can do: unordered, ungrouped messages, settled one by one, in memory.
    #[must_use]
    pub fn minimal() -> Self {
        Self {
            order: Order::None,
            settle: SettleMode::Individual,
            partitions: false,
            groups: false,
            group_required: false,
            browse: false,
            starts: Starts::NONE,
            durability: Durability::Process,
            redelivery_count: false,
            retry_after: None,
            parking: Parking::None,
            dead_letters: DeadLetters::Topic,
            atomic_emit: None,
            effects: false,
            marks: false,
            lease: None,
        }
    }
}

/// What a writer can do. Start from [`WriterCapabilities::minimal`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriterCapabilities {
    /// What a confirmed write survives.
    pub durability: Durability,
    /// The longest wait of [`Message::deliver_at`](crate::Message); `None`: it cannot delay, and the
    /// publisher refuses.
    pub delay: Option<Duration>,
    /// Bytes of a message at most, all counted; `None`: no limit of its own.
    pub max_message: Option<usize>,
    /// Messages handed over in one call at most; the publisher splits what is more.
    pub max_batch: usize,
    /// Whether a batch is written whole or not at all.
    pub atomic_batch: bool,
    /// Where it writes to, if a reader of the same connection can commit what it writes with an acknowledgement.
    pub store: Option<StoreId>,
}

impl WriterCapabilities {
    /// The least: no delay, nothing survives, batches of at most 1,000 that are not atomic.
    #[must_use]
    pub fn minimal() -> Self {
        Self {
            durability: Durability::Process,
            delay: None,
            max_message: None,
            max_batch: 1_000,
            atomic_batch: false,
            store: None,
        }
    }
}
