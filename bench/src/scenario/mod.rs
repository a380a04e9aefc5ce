//! What is measured of Millstream, one scenario in a process of its own: `millstream-bench child SCENARIO N`.

mod backlog;
mod bare;
mod event;
mod feed;
mod flow;
mod publish;
mod sink;

use bench_harness::{Latency, Took};
use clap::ValueEnum;

use crate::Result;
use backlog::Feed;
use flow::{Load, Shape};

/// What a child can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// One at a time, out of a reader that has the messages ready.
    SequentialReady,
    /// One at a time, out of `memory://`.
    SequentialMemory,
    /// Four at a time, without keys, out of a reader that has the messages ready.
    FourReady,
    /// Four at a time, without keys, out of `memory://`.
    FourMemory,
    /// 64 at a time over 10,000 keys, out of a reader that has the messages ready.
    LanesReady,
    /// 64 at a time over 10,000 keys, out of `memory://`.
    LanesMemory,
    /// Four at a time, published and handled on different threads.
    FourAcross,
    /// 64 at a time over 10,000 keys, published and handled on different threads.
    LanesAcross,
    /// As `sequential-ready`, with four layers around the handler.
    LayersReady,
    /// One typed event after the other into `memory://`.
    Publish,
    /// Published in batches of 64 and handled in order.
    Flow,
    /// The same by hand: id, encoding, a bounded channel of batches, decoding.
    FlowBare,
    /// Published one by one and handled in order.
    FlowSingly,
    /// Published one by one, 20,000 a second, and handled in order.
    FlowPaced,
    /// The same by hand.
    FlowPacedBare,
    /// Published in batches of 64, and handled by one group with the default settings.
    OneGroup,
    /// The same by each of four groups.
    FourGroups,
    /// A backlog in one topic, read by its subscription.
    OneSubscription,
    /// The same backlog spread over 1,000 topics, each read by a subscription.
    ThousandSubscriptions,
    /// Batches of 64 messages, to one topic and its subscription.
    OneSubscriptionLive,
    /// The same, each batch to the next of 1,000 topics and subscriptions.
    ThousandSubscriptionsByBatch,
    /// The same, each message to the next of them.
    ThousandSubscriptionsLive,
    /// All messages with one key.
    OneKey,
    /// 1,000,000 keys.
    MillionKeys,
}

impl Scenario {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Runs it here and prints the outcome.
    pub(crate) fn print(self, messages: usize) -> Result {
        let (took, latency) = self.run(messages)?;
        bench_harness::tell(took, latency)
    }

    fn run(self, messages: usize) -> Result<(Took, Option<Latency>)> {
        let silent = |took: Result<Took>| took.map(|took| (took, None));
        match self {
            Self::SequentialReady => silent(backlog::sequential(Feed::Ready, messages)),
            Self::SequentialMemory => silent(backlog::sequential(Feed::Memory, messages)),
            Self::FourReady => silent(backlog::four(Feed::Ready, messages)),
            Self::FourMemory => silent(backlog::four(Feed::Memory, messages)),
            Self::LanesReady => silent(backlog::lanes(Feed::Ready, messages)),
            Self::LanesMemory => silent(backlog::lanes(Feed::Memory, messages)),
            Self::FourAcross => silent(backlog::four_across(messages)),
            Self::LanesAcross => silent(backlog::lanes_across(messages)),
            Self::LayersReady => silent(backlog::layers(messages)),
            Self::Publish => silent(publish::ours(messages)),
            Self::Flow => flow::ordered(messages, Load::Batches),
            Self::FlowBare => bare::run(messages, Load::Batches),
            Self::FlowSingly => flow::ordered(messages, Load::Singly),
            Self::FlowPaced => flow::ordered(messages, Load::Paced),
            Self::FlowPacedBare => bare::run(messages, Load::Paced),
            Self::OneGroup => silent(flow::spread(messages, Shape::groups(1))),
            Self::FourGroups => silent(flow::spread(messages, Shape::groups(4))),
            Self::OneSubscription => silent(backlog::topics(1, messages)),
            Self::ThousandSubscriptions => silent(backlog::topics(1_000, messages)),
            Self::OneSubscriptionLive => silent(flow::spread(messages, Shape::topics(1))),
            Self::ThousandSubscriptionsByBatch => {
                silent(flow::spread(messages, Shape::topics_by_batch(1_000)))
            }
            Self::ThousandSubscriptionsLive => silent(flow::spread(messages, Shape::topics(1_000))),
            Self::OneKey => silent(flow::spread(messages, Shape::keys(1))),
            Self::MillionKeys => silent(flow::spread(messages, Shape::keys(1_000_000))),
        }
    }
}
