//! Writing: batches of ten, sent beside each other, with an outcome for each message.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_sqs::operation::send_message_batch::SendMessageBatchOutput;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use bytestring::ByteString;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use millstream_core::{
    Durability, Error, ErrorKind, Message, Result, WriteOutcome, WriteReport, Writer, WriterCapabilities,
    names as headers,
};
use tokio::sync::RwLock;

use crate::errors::{self, Failure, Fate};
use crate::names::{self, Queues};
use crate::queues::{Known, Queue};
use crate::retry::{Repeat, Tries};
use crate::settings::{BATCH, LONGEST_DELAY, seconds};
use crate::wire::{self, Times, Wired};

/// Messages of one call at most.
const MAX_BATCH: usize = 1_000;

/// Writes to queues. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SqsWriter {
    known: Arc<Known>,
    /// Whether it is closed. Whoever writes holds it for reading.
    closed: Arc<RwLock<bool>>,
}

impl SqsWriter {
    pub(crate) fn new(known: Arc<Known>) -> Self {
        Self { known, closed: Arc::new(RwLock::new(false)) }
    }
}

impl Writer for SqsWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = Durability::Replicated;
        // A FIFO queue delays all of its messages or none.
        can.delay = (self.known.settings.queues == Queues::Standard).then_some(LONGEST_DELAY);
        can.max_message = Some(self.known.settings.max_message);
        can.max_batch = MAX_BATCH;
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let open = Arc::clone(&self.closed).read_owned().await;
        if *open {
            return Err(closed());
        }
        let known = Arc::clone(&self.known);
        // It runs to its end even if the caller does not wait: no request is cut, and `close` waits for it.
        self.known
            .aws
            .io()
            .run(async move {
                let report = write(&known, batch).await;
                drop(open);
                report
            })
            .await
    }

    async fn close(&self) -> Result<()> {
        *self.closed.write().await = true;
        Ok(())
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::BusIsShutdown, "the writer is closed").fix("write before it is closed")
}

/// A message on its way.
struct Entry {
    /// Its place in the call.
    index: usize,
    entry: SendMessageBatchRequestEntry,
    size: usize,
    /// On a FIFO queue.
    group: Option<String>,
}

/// Writes to any number of queues, those beside each other.
pub(crate) async fn write(known: &Known, batch: Vec<Message>) -> WriteReport {
    let mut outcomes: Vec<Option<WriteOutcome>> = batch.iter().map(|_| None).collect();
    let mut topics: HashMap<&ByteString, Vec<usize>> = HashMap::new();
    for (index, message) in batch.iter().enumerate() {
        topics.entry(&message.topic).or_default().push(index);
    }
    let mut writing: FuturesUnordered<_> =
        topics.into_iter().map(|(topic, which)| write_topic(known, topic, which, &batch)).collect();
    while let Some(ended) = writing.next().await {
        for (index, outcome) in ended {
            outcomes[index] = Some(outcome);
        }
    }
    let outcomes = outcomes.into_iter().zip(&batch).map(|(outcome, message)| match outcome {
        Some(WriteOutcome::Failed(error)) => WriteOutcome::Failed(message.locate(error)),
        Some(WriteOutcome::Unknown(error)) => WriteOutcome::Unknown(message.locate(error)),
        Some(written) => written,
        None => WriteOutcome::Unknown(message.locate(unanswered())),
    });
    WriteReport::each(outcomes.collect())
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Unknown, "the answer does not speak of this message")
        .fix("write it again with the same id")
}

type Ended = Vec<(usize, WriteOutcome)>;

async fn write_topic(known: &Known, topic: &ByteString, which: Vec<usize>, batch: &[Message]) -> Ended {
    let queue = match known.queue(topic).await {
        Ok(queue) => queue,
        Err(error) => {
            return which.into_iter().map(|i| (i, WriteOutcome::Failed(errors::copy(&error)))).collect();
        }
    };
    let mut ended = Vec::with_capacity(which.len());
    let mut entries = Vec::with_capacity(which.len());
    for index in which {
        match entry(&batch[index], index, &queue) {
            Ok(entry) => entries.push(entry),
            Err(error) => ended.push((index, WriteOutcome::Failed(error))),
        }
    }
    let sending = Sending { known, queue: &queue, topic };
    match queue.fifo {
        false => ended.extend(sending.beside(entries).await),
        true => ended.extend(sending.in_turn(entries).await),
    }
    ended
}

/// A message as an entry, or why it cannot be one.
fn entry(message: &Message, index: usize, queue: &Queue) -> Result<Entry> {
    let wired = wire::wire(message, Times::Millis);
    let size = wired.size();
    if size > queue.limit {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the message has {size} bytes as SQS counts them, the limit is {}", queue.limit),
        )
        .fix(
            "send less: what is not text takes a third more; or raise MaximumMessageSize of the queue and max_message in \
             the URL",
        ));
    }
    let delay = delay(message, queue)?;
    // The ids of entries are their indexes, here within their request: set there.
    let mut entry = SendMessageBatchRequestEntry::builder().id("0").set_delay_seconds(delay);
    let mut group = None;
    if queue.fifo {
        let unique = match message.id.is_empty() {
            true => format!("{:032x}", fastrand::u128(..)),
            false => message.id.to_string(),
        };
        let of = message.lane_key().map_or_else(|| names::group_of_its_own(&unique), |key| names::group(key));
        // What is sent again after a redrive is no duplicate, though its id is the same.
        let dedup = match message.headers.get_str(headers::DL_REDRIVE_COUNT) {
            Some(count) => names::id(format!("{unique}:{count}").as_bytes()),
            None => names::id(unique.as_bytes()),
        };
        entry = entry.message_group_id(&of).message_deduplication_id(dedup);
        group = Some(of);
    }
    let Wired { body, attributes } = wired;
    entry = entry.message_body(body);
    for (name, value) in attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
        entry = entry.message_attributes(name, value.map_err(|e| unbuilt(&e))?);
    }
    Ok(Entry { index, entry: entry.build().map_err(|e| unbuilt(&e))?, size, group })
}

fn unbuilt(error: &dyn std::error::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("a request could not be built: {error}")).fix("report it")
}

/// Whole seconds until the message may be delivered, none if it may be now.
fn delay(message: &Message, queue: &Queue) -> Result<Option<i32>> {
    let wait = message.deliver_at.and_then(|at| at.duration_since(SystemTime::now()).ok());
    let Some(wait) = wait.filter(|wait| !wait.is_zero()) else { return Ok(None) };
    let refused = |what: &str, fix: &str| Err(Error::new(ErrorKind::Unsupported, what).fix(fix));
    if queue.fifo {
        return refused(
            "a FIFO queue cannot delay a single message",
            "leave out deliver_at, or write to a standard queue",
        );
    }
    if wait > LONGEST_DELAY + Duration::from_secs(1) {
        return refused(
            "SQS delays a message by 15 minutes at most",
            "deliver it sooner, or publish it later",
        );
    }
    Ok(Some(seconds(wait.min(LONGEST_DELAY))))
}

struct Sending<'a> {
    known: &'a Known,
    queue: &'a Queue,
    topic: &'a ByteString,
}

impl Sending<'_> {
    /// Requests of at most ten entries and at most the limit's bytes, beside each other.
    async fn beside(&self, entries: Vec<Entry>) -> Ended {
        let mut requests: Vec<Vec<Entry>> = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            match requests
                .last_mut()
                .filter(|last| last.len() < BATCH && bytes + entry.size <= self.queue.limit)
            {
                Some(last) => {
                    bytes += entry.size;
                    last.push(entry);
                }
                None => {
                    bytes = entry.size;
                    requests.push(vec![entry]);
                }
            }
        }
        let mut sending: FuturesUnordered<_> =
            requests.into_iter().map(|request| self.request(request)).collect();
        let mut ended = Vec::new();
        while let Some(some) = sending.next().await {
            ended.extend(some);
        }
        ended
    }

    /// One entry of a group at a time: of a batch some entries may be refused, and what is sent again is behind those that
    /// were not. Where one is not written, those after it of its group are not sent.
    async fn in_turn(&self, entries: Vec<Entry>) -> Ended {
        let mut turns: Vec<Vec<Entry>> = Vec::new();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for entry in entries {
            let turn = counts.entry(entry.group.clone().unwrap_or_default()).or_default();
            if turns.len() <= *turn {
                turns.push(Vec::new());
            }
            turns[*turn].push(entry);
            *turn += 1;
        }
        let mut ended: Ended = Vec::new();
        let mut stopped: HashSet<String> = HashSet::new();
        for turn in turns {
            let (skipped, sent): (Vec<_>, Vec<_>) = turn
                .into_iter()
                .partition(|entry| entry.group.as_ref().is_some_and(|group| stopped.contains(group)));
            ended.extend(skipped.into_iter().map(|entry| (entry.index, WriteOutcome::Failed(behind()))));
            let groups: HashMap<usize, Option<String>> =
                sent.iter().map(|entry| (entry.index, entry.group.clone())).collect();
            for (index, outcome) in self.beside(sent).await {
                // One that is refused for itself leaves no gap that a later attempt would fill.
                let later = matches!(&outcome, WriteOutcome::Failed(e) if e.is_retryable())
                    || matches!(&outcome, WriteOutcome::Unknown(_));
                if later && let Some(Some(group)) = groups.get(&index) {
                    stopped.insert(group.clone());
                }
                ended.push((index, outcome));
            }
        }
        ended
    }

    /// Sends one request, and what of it is refused for the moment again, until the time is up.
    async fn request(&self, entries: Vec<Entry>) -> Ended {
        let _right = self.known.aws.io().request().await;
        let mut tries = Tries::within(self.known.settings.write_within);
        self.tried(entries, &mut tries).await
    }

    async fn tried(&self, mut entries: Vec<Entry>, tries: &mut Tries) -> Ended {
        let mut ended: Ended = Vec::with_capacity(entries.len());
        // What has a deduplication id may be sent again though it may be there.
        let repeat = if self.queue.fifo { Repeat::Anything } else { Repeat::Undone };
        loop {
            for (id, entry) in entries.iter_mut().enumerate() {
                entry.entry.id = id.to_string();
            }
            let request: Vec<_> = entries.iter().map(|entry| entry.entry.clone()).collect();
            let what = "the message was not written";
            let asked = self
                .known
                .calls
                .ask(tries, repeat, what, |client| {
                    client
                        .send_message_batch()
                        .queue_url(&self.queue.url)
                        .set_entries(Some(request.clone()))
                        .send()
                })
                .await;
            match asked {
                Ok(answer) => {
                    let (left, error) = sort(entries, answer, &mut ended);
                    let Some(error) = error else { return ended };
                    entries = left;
                    if !tries.again(Fate::Throttled).await {
                        return failed(
                            entries,
                            &Failure { fate: Fate::Throttled, error, silent: false },
                            tries,
                            ended,
                        );
                    }
                }
                // One of them is why all are refused: they are tried in halves.
                Err(failure)
                    if failure.fate == Fate::Refused && entries.len() > 1 && is_about_one(&failure) =>
                {
                    let other = entries.split_off(entries.len() / 2);
                    ended.extend(Box::pin(self.tried(entries, tries)).await);
                    ended.extend(Box::pin(self.tried(other, tries)).await);
                    return ended;
                }
                Err(failure) => {
                    if failure.error.kind() == ErrorKind::NotFound {
                        self.known.forget(self.topic);
                    }
                    return failed(entries, &failure, tries, ended);
                }
            }
        }
    }
}

fn behind() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "an earlier message of its key was not written, so this one was not sent",
    )
    .fix("write both again, in their order")
}

fn is_about_one(failure: &Failure) -> bool {
    matches!(failure.error.kind(), ErrorKind::TooLarge | ErrorKind::InvalidMessage | ErrorKind::InvalidConfig)
}

/// Those that were not written, all for the same reason.
fn failed(entries: Vec<Entry>, failure: &Failure, tries: &Tries, mut ended: Ended) -> Ended {
    let unknown = failure.fate == Fate::Unknown || tries.unknown;
    ended.extend(entries.into_iter().map(|entry| {
        let error = errors::copy(&failure.error);
        (entry.index, if unknown { WriteOutcome::Unknown(error) } else { WriteOutcome::Failed(error) })
    }));
    ended
}

/// Sorts the entries of a request by what the answer says: gives those that may be sent again, and why.
fn sort(
    entries: Vec<Entry>,
    answer: SendMessageBatchOutput,
    ended: &mut Ended,
) -> (Vec<Entry>, Option<Error>) {
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let mut take = |id: &str| entries.get_mut(id.parse::<usize>().ok()?)?.take();
    for written in &answer.successful {
        if let Some(entry) = take(&written.id) {
            ended.push((entry.index, WriteOutcome::Written(None)));
        }
    }
    let (mut left, mut why) = (Vec::new(), None);
    for refused in answer.failed {
        let Some(entry) = take(&refused.id) else { continue };
        let message = refused.message.unwrap_or_default();
        if refused.sender_fault {
            let failure = errors::said_by(&refused.code, &message, 400, "the message was refused");
            let error = match failure.error.kind() {
                ErrorKind::InvalidConfig => errors::as_kind(&failure.error, ErrorKind::InvalidMessage),
                _ => failure.error,
            };
            ended.push((entry.index, WriteOutcome::Failed(error)));
        } else {
            // It says that this one was not taken, and that it is not the sender's fault.
            let said = errors::said_by(&refused.code, &message, 503, "the message was not written");
            why = Some(errors::as_kind(&said.error, ErrorKind::Unavailable));
            left.push(entry);
        }
    }
    ended.extend(
        entries.into_iter().flatten().map(|entry| (entry.index, WriteOutcome::Unknown(unanswered()))),
    );
    (left, why)
}
