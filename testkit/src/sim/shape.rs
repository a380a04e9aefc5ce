//! The three shapes and what each can do.

use std::time::Duration;

use millstream_core::{
    Capabilities, DeadLetters, Durability, Order, Parking, SettleMode, Starts, WriterCapabilities,
};

use super::state::Config;

/// What kind of broker is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shape {
    /// One log a topic, read as a whole: individual settlement, order by key and in total, native park and
    /// dead letters, messages and effects that commit with the acknowledgement.
    WholeLog,
    /// A queue with leases: a message comes back when its visibility time is over. No groups (all who read
    /// a topic share it), no park; dead letters go to a topic. At most ten messages a read.
    LeaseQueue {
        /// [`Order::None`]: any order, shuffled by the seed. [`Order::Key`]: FIFO by key; a key with
        /// unsettled messages gives no more.
        order: Order,
        /// How long a lease lasts.
        visibility: Duration,
    },
    /// A log in partitions by key, groups whose members share them, cumulative settlement, marks.
    Partitioned {
        /// Partitions of a topic, unless it was made with another number.
        partitions: u32,
    },
}

impl Shape {
    /// An unordered queue with a visibility time of 30 s.
    #[must_use]
    pub fn standard_queue() -> Self {
        Self::LeaseQueue { order: Order::None, visibility: Duration::from_secs(30) }
    }

    /// A queue that keeps the order of each key, with a visibility time of 30 s.
    #[must_use]
    pub fn fifo_queue() -> Self {
        Self::LeaseQueue { order: Order::Key, visibility: Duration::from_secs(30) }
    }

    /// Messages one read brings at most.
    pub(super) fn max_read(self) -> usize {
        if matches!(self, Self::LeaseQueue { .. }) { 10 } else { usize::MAX }
    }

    pub(super) fn partitions(self) -> u32 {
        if let Self::Partitioned { partitions } = self { partitions.max(1) } else { 1 }
    }

    pub(super) fn capabilities(self, config: &Config) -> Capabilities {
        let mut can = Capabilities::minimal();
        // The broker outlives its members, as a server does.
        can.durability = Durability::Server;
        match self {
            Self::WholeLog => {
                can.order = Order::Total;
                can.groups = true;
                can.group_required = true;
                can.browse = true;
                can.starts = Starts::ALL;
                can.redelivery_count = config.count_deliveries;
                can.retry_after = Some(Duration::from_secs(7 * 24 * 3600));
                can.parking = Parking::Native;
                can.dead_letters = DeadLetters::Native;
                can.atomic_emit = Some(config.store);
                can.effects = true;
            }
            Self::LeaseQueue { order, visibility } => {
                can.order = if order == Order::None { Order::None } else { Order::Key };
                can.starts.earliest = true;
                can.redelivery_count = true;
                // As SQS: a visibility time is at most 12 hours.
                can.retry_after = Some(Duration::from_secs(12 * 3600));
                can.lease = Some(visibility);
            }
            Self::Partitioned { .. } => {
                can.order = Order::Partition;
                can.settle = SettleMode::Cumulative;
                can.partitions = true;
                can.groups = true;
                can.group_required = true;
                can.browse = true;
                can.starts = Starts::ALL;
                can.marks = true;
                can.atomic_emit = config.transactions.then_some(config.store);
            }
        }
        can
    }

    pub(super) fn writer_capabilities(self, config: &Config) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = Durability::Server;
        can.max_message = config.max_message;
        can.store = Some(config.store);
        can.delay = match self {
            Self::WholeLog => Some(Duration::from_secs(366 * 24 * 3600)),
            Self::LeaseQueue { .. } => Some(Duration::from_secs(900)),
            Self::Partitioned { .. } => None,
        };
        can
    }
}
