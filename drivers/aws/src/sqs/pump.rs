//! The long polls of a subscription, and the leases of what waits to be handed over.
//!
//! A poll that is cut takes the next message with it: hidden for a whole lease, seen by nobody. So all of them live in one
//! task that is never cancelled. There are more of them while they come back full, and one when the queue is empty. At the
//! end they come back by themselves, and what they bring is given back.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{Message as Raw, MessageSystemAttributeName as System};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use crate::errors::Failure;
use crate::retry::{Repeat, Tries};
use crate::sqs::client::Sqs;
use crate::sqs::queues::Queue;
use crate::sqs::receipts;
use crate::sqs::settings::seconds;
use crate::sqs::shelf::{Fetched, Shelf};
use crate::sqs::wire::{self, Came};

/// Polls beside each other. More bring nothing.
const POLLS: usize = 16;

/// How long nothing is asked after a failure, in the mean, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the polls of a subscription need.
pub(crate) struct Pump {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) topic: ByteString,
    pub(crate) polls: Sqs,
    pub(crate) calls: Sqs,
    pub(crate) wait: Duration,
}

impl Pump {
    /// Runs until the shelf is closed and the last poll has come back.
    pub(crate) async fn run(self) {
        // Beside each other: while leases are renewed, what a poll brings is not overlooked, since its own time runs.
        tokio::join!(self.poll_on(), self.keep());
        receipts::give_back(&self.calls, &self.queue.url, &self.shelf, self.shelf.clear()).await;
    }

    /// Polls, as much as is wanted.
    async fn poll_on(&self) {
        let mut polling = FuturesUnordered::new();
        let (mut most, mut pause, mut not_before) = (1, PAUSE.0, Instant::now());
        loop {
            if polling.is_empty() && self.shelf.is_closing() {
                break;
            }
            while polling.len() < most && Instant::now() >= not_before {
                let Some(count) = self.shelf.want() else { break };
                polling.push(self.poll(count));
            }
            tokio::select! {
                Some((asked, came)) = polling.next() => match came {
                    Ok(fetched) => {
                        pause = PAUSE.0;
                        most = match fetched.len() {
                            0 => 1,
                            full if full == asked => (most + 1).min(POLLS),
                            some if some * 2 < asked => (most - 1).max(1),
                            _ => most,
                        };
                        self.shelf.arrive(asked, fetched, Instant::now());
                    }
                    Err(failure) => {
                        self.shelf.arrive(asked, Vec::new(), Instant::now());
                        self.shelf.fail(failure.error.topic(&*self.topic));
                        most = 1;
                        not_before = Instant::now() + pause.mul_f32(fastrand::f32() + 0.5);
                        pause = (pause * 2).min(PAUSE.1);
                    }
                },
                () = self.shelf.changed.notified() => {}
                () = sleep_until(not_before), if Instant::now() < not_before => {}
            }
        }
    }

    /// Keeps what waits here, until nothing more is wanted.
    async fn keep(&self) {
        let beat = self.shelf.lease / 16;
        while tokio::time::timeout(beat, self.shelf.closed.notified()).await.is_err() {
            self.renew().await;
        }
    }

    /// Extends what waits here, and gives back what waited behind a message whose lease is over.
    async fn renew(&self) {
        let (calls, url) = (&self.calls, &self.queue.url);
        let behind = self.shelf.expire();
        receipts::give_back(calls, url, &self.shelf, behind).await;
        let aging = self.shelf.aging();
        if !aging.is_empty() {
            receipts::extend(calls, url, &self.shelf, aging).await;
        }
    }

    /// One poll for so many messages.
    async fn poll(&self, count: usize) -> (usize, Result<Vec<Fetched>, Failure>) {
        let most = i32::try_from(count).unwrap_or(1);
        // Tried once: the pump waits between polls.
        let mut tries = Tries::within(Duration::ZERO);
        let came = self
            .polls
            .ask(&mut tries, Repeat::Undone, "the queue was not read", |client| {
                client
                    .receive_message()
                    .queue_url(&self.queue.url)
                    .max_number_of_messages(most)
                    .wait_time_seconds(seconds(self.wait))
                    .visibility_timeout(seconds(self.shelf.lease))
                    .message_attribute_names("All")
                    .message_system_attribute_names(System::All)
                    .send()
            })
            .await;
        let came = came.map(|answer| {
            answer.messages.unwrap_or_default().into_iter().map(|raw| self.fetched(raw)).collect()
        });
        (count, came)
    }

    fn fetched(&self, raw: Raw) -> Fetched {
        let mut system = raw.attributes.unwrap_or_default();
        let mut number = |name| system.remove(&name).and_then(|value: String| value.parse::<u64>().ok());
        let count = number(System::ApproximateReceiveCount).unwrap_or(0);
        let sent =
            number(System::SentTimestamp).map(|millis| std::time::UNIX_EPOCH + Duration::from_millis(millis));
        let group = system.remove(&System::MessageGroupId);
        let attributes = raw.message_attributes.unwrap_or_default().into_iter();
        let attributes = attributes.filter_map(|(name, value)| {
            let binary = value.binary_value.map(|blob| Bytes::from(blob.into_inner()));
            Some((name, binary.or(value.string_value.map(Bytes::from))?))
        });
        let id = raw.message_id.unwrap_or_default();
        let came = Came {
            body: raw.body.unwrap_or_default(),
            attributes: attributes.collect(),
            id: id.clone(),
            sent,
            group: group.clone(),
        };
        Fetched {
            message: wire::message(came, &self.topic),
            receipt: raw.receipt_handle.unwrap_or_default(),
            id,
            // On a standard queue a group is only a hint for fairness.
            group: group.filter(|_| self.queue.fifo),
            count: u32::try_from(count).unwrap_or(u32::MAX),
        }
    }
}
