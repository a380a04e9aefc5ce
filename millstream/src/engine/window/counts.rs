//! What a subscription did, counted once: for the report and for the metrics.

use metrics::{Counter, counter};

use crate::context::SubscriptionInfo;

macro_rules! counts {
    ($($(#[$meta:meta])* $name:ident / $by:ident => $metric:literal),* $(,)?) => {
        /// The counts of a subscription.
        #[derive(Debug)]
        pub(crate) struct Counts {
            $($(#[$meta])* pub(crate) $name: u64,)*
            /// Completions and deliveries of an assignment that was over.
            pub(crate) stale: u64,
            /// Read and not started, given back when it closed.
            pub(crate) given_back: u64,
            /// Still running when it was aborted.
            pub(crate) abandoned: u64,
            metrics: Metrics,
        }

        #[derive(Debug)]
        struct Metrics { $($name: Counter,)* }

        impl Counts {
            pub(crate) fn new(info: &SubscriptionInfo) -> Self {
                let labels = [
                    ("topic", info.topic.to_string()),
                    ("group", info.group.as_deref().unwrap_or_default().to_owned()),
                    ("handler", info.handler.to_string()),
                ];
                Self {
                    $($name: 0,)*
                    stale: 0,
                    given_back: 0,
                    abandoned: 0,
                    metrics: Metrics { $($name: counter!($metric, &labels),)* },
                }
            }

            $($(#[$meta])* pub(crate) fn $by(&mut self, count: u64) {
                self.$name += count;
                self.metrics.$name.increment(count);
            })*
        }
    };
}

counts! {
    /// Messages read.
    reads / read => "millstream_messages_in_total",
    /// Messages written by handlers, confirmed.
    emitted / emit => "millstream_messages_out_total",
    /// Messages handled.
    handled_total / handled => "millstream_handled_total",
    /// Runs of the handler that failed.
    failed_total / failed => "millstream_failed_total",
    /// Runs that failed and were to be run again.
    retried_total / retried => "millstream_retried_total",
    /// Messages parked.
    parked_total / parked => "millstream_parked_total",
    /// Messages dead-lettered.
    dead_total / dead => "millstream_dead_lettered_total",
    /// Messages suppressed as duplicates.
    duplicates / duplicate => "millstream_duplicates_total",
    /// Messages discarded on purpose.
    discarded_total / discarded => "millstream_discarded_total",
    /// Messages redriven for another group.
    skipped_total / skipped => "millstream_skipped_total",
    /// Settlements that came too late.
    leases_lost / lease_lost => "millstream_leases_lost_total",
    /// Settlements of which nobody knows.
    unknown_total / unknown => "millstream_settle_unknown_total",
}
