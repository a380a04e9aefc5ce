//! What of a driver's capabilities and a subscription's policy the window goes by.

use std::time::Duration;

use millstream_core::ByteString;

use crate::engine::clock::Clock;
use crate::policy::Policy;

/// How this driver parks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkMode {
    /// Not at all: long waits are spent here.
    None,
    /// By a verdict.
    Native,
    /// In a topic that the scheduler keeps.
    Topic,
    /// By a verdict that delivers again later, without a memory of the key.
    Redeliver(Duration),
}

/// What of capabilities and policy the window needs.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) cumulative: bool,
    pub(crate) partitions: bool,
    pub(crate) atomic_emit: bool,
    pub(crate) effects: bool,
    pub(crate) park: ParkMode,
    pub(crate) keyed_redelivery: bool,
    pub(crate) topic: ByteString,
    pub(crate) group: Option<ByteString>,
    /// How long a delivery is ours by our own clock, where it is for a time.
    pub(crate) lease: Option<Duration>,
    pub(crate) clock: Clock,
    pub(crate) seed: Option<u64>,
}
