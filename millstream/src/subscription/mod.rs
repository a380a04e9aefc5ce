//! A handler and how it is run: the options of a subscription.

mod prepare;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::erased::DynDedupStore;
use millstream_core::{Args, ByteString, DedupStore, End, Start, Writer};

pub(crate) use prepare::Prepared;
pub use prepare::Subscribable;

use crate::Retry;
use crate::handler::Shape;
use crate::layer::{Identity, Stack};
use crate::policy::{
    Batching, DeadLetterTarget, Execution, FailureReport, MaxGap, Ordering, OtherTypes, Outage, Policy,
};

/// A handler with its options, on its way to [`subscribe`](crate::Bus::subscribe).
///
/// Any of its methods can be called on the function itself, through [`Subscribe`]:
///
/// ```
/// use millstream::{Bytes, Outcome, Retry, Subscribe, Units};
/// async fn bill(order: Bytes) -> Outcome { Ok(()) }
///
/// let subscription = bill.group("billing").concurrency(16).retry(Retry::exponential(100.ms(), 30.s()));
/// ```
///
/// `F` is the function, `A` its arguments, `L` its layers.
pub struct Subscription<F, A, L = Identity> {
    function: F,
    layers: L,
    options: Options,
    arguments: PhantomData<fn() -> A>,
}

/// All options but the layers.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) group: Option<ByteString>,
    pub(crate) name: Option<ByteString>,
    pub(crate) policy: Policy,
    pub(crate) start: Start,
    pub(crate) end: End,
    pub(crate) args: Args,
}

impl<F: Shape<A>, A> Subscription<F, A> {
    /// This function with the default options.
    pub fn new(function: F) -> Self {
        Self { function, layers: Identity, options: Options::default(), arguments: PhantomData }
    }
}

/// Writes each option twice: on a subscription, and on the bare function.
macro_rules! options {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($self:ident $(, $argument:ident: $type:ty)*) $body:block
    )*) => {
        impl<F: Shape<A>, A, L> Subscription<F, A, L> {
            $(
                $(#[$meta])*
                #[must_use]
                pub fn $name(mut $self $(, $argument: $type)*) -> Self {
                    $body
                    $self
                }
            )*

            /// Adds a layer around the handler and the layers there are: the last one added is the outermost.
            #[must_use]
            pub fn layer<New>(self, layer: New) -> Subscription<F, A, Stack<L, New>> {
                Subscription {
                    function: self.function,
                    layers: Stack { inner: self.layers, outer: layer },
                    options: self.options,
                    arguments: PhantomData,
                }
            }
        }

        /// The options of a [`Subscription`], on any function that has the shape of a handler.
        pub trait Subscribe<A>: Shape<A> {
            $(
                $(#[$meta])*
                #[must_use]
                fn $name(self $(, $argument: $type)*) -> Subscription<Self, A> {
                    Subscription::new(self).$name($($argument),*)
                }
            )*

            /// Adds a layer around the handler.
            #[must_use]
            fn layer<New>(self, layer: New) -> Subscription<Self, A, Stack<Identity, New>> {
                Subscription::new(self).layer(layer)
            }
        }

        impl<F: Shape<A>, A> Subscribe<A> for F {}
    };
}

options! {
    /// The group: its members share the messages, and each group gets all of them. Its progress is kept under
    /// this name, so it is never made up from code, where a rename would start it anew. Required on a durable
    /// driver.
    fn group(self, group: impl Into<ByteString>) {
        self.options.group = Some(group.into());
    }

    /// The handler's name in metrics, logs and dead letters. Default: the function's.
    fn named(self, name: impl Into<ByteString>) {
        self.options.name = Some(name.into());
    }

    /// Handlers running at the same time at most, one a key. Default 64.
    fn concurrency(self, handlers: usize) {
        self.options.policy.concurrency = handlers;
    }

    /// When and how often a failed message runs again. Default: 10 attempts over about 15 minutes.
    fn retry(self, retry: Retry) {
        self.options.policy.retry = retry;
    }

    /// One message at a time, in the topic's order. Start refuses it where the driver has no such order.
    fn sequential(self) {
        self.options.policy.ordering = Ordering::Sequential;
    }

    /// The handler blocks or burns CPU: it runs on threads of its own.
    fn blocking(self) {
        self.options.policy.execution = Execution::Blocking;
    }

    /// Suppresses messages that were handled before, by group and id.
    fn deduplicate(self, store: impl DedupStore) {
        self.options.policy.dedup = Some(Arc::new(store));
    }

    /// The same with a store that others use, too.
    fn deduplicate_shared(self, store: Arc<dyn DynDedupStore>) {
        self.options.policy.dedup = Some(store);
    }

    /// How long a deduplication reservation lasts without being renewed; above the handler's longest run.
    /// Default 5 min.
    fn dedup_lease(self, lease: Duration) {
        self.options.policy.dedup_lease = lease;
    }

    /// Writes dead letters with this writer, as messages of the topic `<topic>.dlq`.
    fn dead_letter_to(self, writer: impl Writer) {
        self.options.policy.dead_letters = DeadLetterTarget::Writer(Arc::new(writer));
    }

    /// Writes dead letters to this topic instead of `<topic>.dlq`.
    fn dead_letter_topic(self, topic: impl Into<ByteString>) {
        self.options.policy.dead_letters = DeadLetterTarget::Topic(topic.into());
    }

    /// Drops what cannot be handled. It is counted as discarded, and gone.
    fn discard_failures(self) {
        self.options.policy.dead_letters = DeadLetterTarget::Discard;
    }

    /// How long a handler may run; then its future is dropped and an attempt is used. Default: no limit.
    fn timeout(self, limit: Duration) {
        self.options.policy.timeout = Some(limit);
    }

    /// A key whose next run is further away than this is parked. Default 60 s.
    fn park_after(self, wait: Duration) {
        self.options.policy.park_after = wait;
    }

    /// When failures count as an outage, which pauses the subscription. Default: 20 in a row over 5 keys.
    fn outage(self, outage: Outage) {
        self.options.policy.outage = outage;
    }

    /// Deliveries after which a message is taken for one that kills its process. Default: attempts + 10.
    fn max_deliveries(self, deliveries: u32) {
        self.options.policy.max_deliveries = Some(deliveries);
    }

    /// Messages read and not yet settled at most. Default 1,024. Where a position settles all before it, those that are
    /// finished and wait for the broker's answer are counted apart, up to 64 times as many.
    fn max_in_flight(self, messages: usize) {
        self.options.policy.max_in_flight = messages;
    }

    /// Bytes of those at most. Default 64 MiB.
    fn memory(self, bytes: usize) {
        self.options.policy.memory = bytes;
    }

    /// How far finished messages may run ahead of the committed position. Default 100,000 or 10 min.
    fn max_gap(self, gap: MaxGap) {
        self.options.policy.max_gap = gap;
    }

    /// Runners that share the handlers' work, each a task of its own, at most; one works alone while it keeps up. Default: the
    /// cores.
    fn workers(self, workers: usize) {
        self.options.policy.workers = Some(workers);
    }

    /// How a batch handler's batches are made: at most `max` messages, the first one waiting `within` for others.
    /// Default 100 and 10 ms. Only for handlers that take a [`Batch`](crate::Batch).
    fn batch(self, max: usize, within: Duration) {
        self.options.policy.batch = Some(Batching::new(max, within));
    }

    /// Sets an argument of the driver's own. One that it does not know is refused at start.
    fn arg(self, key: impl Into<String>, value: impl Into<String>) {
        self.options.args.set(key, value);
    }

    /// Where to start if the group has no progress yet. Default: at the earliest message.
    fn start_from(self, start: Start) {
        self.options.start = start;
    }

    /// Where to end. Default: never.
    fn until(self, end: End) {
        self.options.end = end;
    }

    /// Called at every failure, on a runner: it must not block.
    fn on_error(self, report: impl Fn(&FailureReport<'_>) + Send + Sync + 'static) {
        self.options.policy.on_error = Some(Arc::new(report));
    }

    /// What happens to messages whose `millstream-type` is not the handler's. Default: they are dead-lettered.
    fn other_types(self, other: OtherTypes) {
        self.options.policy.other_types = other;
    }
}

impl<F, A, L> fmt::Debug for Subscription<F, A, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("function", &std::any::type_name::<F>())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
