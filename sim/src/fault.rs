//! What can be broken, and on which brokers it can.

use std::fmt;

use millstream_testkit::sim::Shape;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in tables and traces.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

faults! {
    /// A process dies with all that it remembers, and starts again later.
    Crash = "crash",
    /// A process dies, and cannot open its subscriptions at first when it is back.
    CrashThenRefused = "crash, then refused",
    /// A shutdown is cut by a second signal.
    Abort = "second signal",
    /// A process and the broker do not hear each other for a while.
    Partition = "network partition",
    /// Nobody hears the broker for a while.
    BrokerUnreachable = "broker unreachable",
    /// Every answer takes long.
    Delay = "delay",
    /// A write is lost, and nobody is told.
    WriteLost = "write lost",
    /// A write happens, and its answer is lost.
    WriteAnswerLost = "write's answer lost",
    /// A write fails.
    WriteFails = "write fails",
    /// Of each batch only a part is written.
    TornBatch = "torn batch",
    /// A settlement is lost, and nobody is told.
    SettleLost = "settlement lost",
    /// A settlement happens, and its answer is lost.
    SettleAnswerLost = "settlement's answer",
    /// A settlement fails.
    SettleFails = "settlement fails",
    /// A read fails.
    ReadFails = "read fails",
    /// Reads take so long that most are cut and begun anew.
    ReadsCut = "reads cut",
    /// What is out with members is taken from them.
    LeasesLost = "leases lost",
    /// Leases cannot be extended.
    ExtendFails = "extension fails",
    /// Partitions are asked back, and move.
    Rebalance = "rebalance",
    /// Partitions are asked back, and gone before anybody can answer.
    ShortRevocation = "short revocation",
    /// Partitions are taken without asking.
    PartitionsLost = "partitions lost",
    /// Marks cannot be stored.
    MarkFails = "mark fails",
    /// The time of day jumps forwards.
    ClockForward = "clock forward",
    /// The time of day jumps backwards.
    ClockBack = "clock back",
    /// The deduplication store is down.
    StoreDown = "store down",
    /// The target of dead letters is down, while there are more of them.
    DeadLettersDown = "dead letters down",
    /// The park is down, while more fails.
    ParkDown = "park down",
    /// Where handlers publish to is down.
    EmitDown = "target of events down",
    /// Handlers panic.
    HandlerPanics = "handler panics",
    /// Handlers take long.
    HandlerSlow = "handler slow",
    /// Handlers fail.
    HandlerFails = "handler fails",
    /// Handlers find something unavailable.
    HandlerUnavailable = "handler unavailable",
}

impl Fault {
    /// Whether a broker of this shape can have it.
    #[must_use]
    pub fn fits(self, shape: Shape) -> bool {
        let partitioned = matches!(shape, Shape::Partitioned { .. });
        let queue = matches!(shape, Shape::LeaseQueue { .. });
        match self {
            Self::Rebalance
            | Self::ShortRevocation
            | Self::PartitionsLost
            | Self::MarkFails
            | Self::ParkDown => partitioned,
            Self::ExtendFails => queue,
            Self::LeasesLost => !partitioned,
            // A whole log stores dead letters, and what handlers publish, with the settlement.
            Self::DeadLettersDown | Self::EmitDown => partitioned || queue,
            _ => true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
