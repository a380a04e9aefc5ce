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
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
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

/// What SQS is to say of each message, beside what the sender said. What is not used costs both sides.
const ASKED: [System; 3] = [System::ApproximateReceiveCount, System::SentTimestamp, System::MessageGroupId];

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

/// How much is polled.
struct Pace {
    /// Polls beside each other.
    most: usize,
    /// How long nothing is asked after the next failure.
    pause: Duration,
    /// Nothing is asked before.
    not_before: Instant,
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
        let mut pace = Pace { most: 1, pause: PAUSE.0, not_before: Instant::now() };
        loop {
            if polling.is_empty() && self.shelf.is_closing() {
                break;
            }
            while polling.len() < pace.most && Instant::now() >= pace.not_before {
                let Some(count) = self.shelf.want() else { break };
                polling.push(self.poll(count));
            }
            tokio::select! {
                Some(first) = polling.next() => {
                    // Those that are back with it, too: the reader is on another thread, and is woken once.
                    let mut back = Some(first);
                    while let Some((asked, came)) = back {
                        self.arrive(asked, came, &mut pace);
                        back = polling.next().now_or_never().flatten();
                    }
                    self.shelf.arrived.notify_one();
                }
                // Where there are as many polls as may be, it is soon enough when one comes back.
                () = self.shelf.changed.notified(), if polling.len() < pace.most => {}
                () = sleep_until(pace.not_before), if Instant::now() < pace.not_before => {}
            }
        }
    }

    /// Takes what a poll brought that was to bring so many.
    fn arrive(&self, asked: usize, came: Result<Vec<Fetched>, Failure>, pace: &mut Pace) {
        match came {
            Ok(fetched) => {
                pace.pause = PAUSE.0;
                pace.most = match fetched.len() {
                    0 => 1,
                    full if full == asked => (pace.most + 1).min(POLLS),
                    some if some * 2 < asked => (pace.most - 1).max(1),
                    _ => pace.most,
                };
                self.shelf.arrive(asked, fetched, Instant::now());
            }
            Err(failure) => {
                self.shelf.arrive(asked, Vec::new(), Instant::now());
                self.shelf.fail(failure.error.topic(&*self.topic));
                pace.most = 1;
                pace.not_before = Instant::now() + pace.pause.mul_f32(fastrand::f32() + 0.5);
                pace.pause = (pace.pause * 2).min(PAUSE.1);
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
                    .set_message_system_attribute_names(Some(ASKED.to_vec()))
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
