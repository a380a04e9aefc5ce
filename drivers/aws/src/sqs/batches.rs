//! Sending messages in requests of ten, with an outcome for each: to a queue, or to a topic of SNS.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use millstream_core::{Error, ErrorKind, Message, Result, WriteOutcome, WriteReport, names as headers};

use crate::errors::{self, Failure, Fate};
use crate::io::Io;
use crate::retry::{Repeat, Tries};
use crate::sqs::names;
use crate::sqs::settings::{BATCH, LONGEST_DELAY, seconds};
use crate::sqs::wire::{self, Times, Wired};

/// Where messages are sent.
pub(crate) trait Target: Sync {
    /// Whether it keeps order, and drops what has a deduplication id that it knows.
    fn fifo(&self) -> bool;

    /// Whether it can hold a message back.
    fn delays(&self) -> bool;

    /// Bytes of a message, and of a request.
    fn limit(&self) -> usize;

    /// How times are written.
    fn times(&self) -> Times;

    /// Sends some, each under its place in the slice.
    fn send(
        &self,
        entries: &[Entry<'_>],
        tries: &mut Tries,
        repeat: Repeat,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// It is not there any more.
    fn gone(&self);
}

/// A message on its way.
pub(crate) struct Entry<'a> {
    /// Its place in the call.
    index: usize,
    pub(crate) wired: Wired<'a>,
    size: usize,
    /// Seconds that it is held back.
    pub(crate) delay: Option<i32>,
    /// On FIFO targets.
    pub(crate) order: Option<Ordered>,
}

/// What a FIFO target keeps order and drops duplicates by.
pub(crate) struct Ordered {
    pub(crate) group: String,
    pub(crate) dedup: String,
}

/// What became of the entries of a request, by the ids they had.
pub(crate) struct Answer {
    pub(crate) written: Vec<String>,
    pub(crate) refused: Vec<Refusal>,
}

/// An entry that was not taken.
pub(crate) struct Refusal {
    pub(crate) id: String,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) sender_fault: bool,
}

/// Outcomes, by the messages' places in the call.
pub(crate) type Ended = Vec<(usize, WriteOutcome)>;

/// The report of a call, from the outcomes of its parts.
pub(crate) fn report(ended: Ended, batch: &[Message]) -> WriteReport {
    let mut outcomes: Vec<Option<WriteOutcome>> = batch.iter().map(|_| None).collect();
    for (index, outcome) in ended {
        outcomes[index] = Some(outcome);
    }
    let outcomes = outcomes.into_iter().zip(batch).map(|(outcome, message)| match outcome {
        Some(WriteOutcome::Failed(error)) => WriteOutcome::Failed(message.locate(error)),
        Some(WriteOutcome::Unknown(error)) => WriteOutcome::Unknown(message.locate(error)),
        Some(written) => written,
        None => WriteOutcome::Unknown(message.locate(unanswered())),
    });
    WriteReport::each(outcomes.collect())
}

/// The outcomes of parts of a call that are beside each other.
pub(crate) async fn together(mut parts: Vec<impl Future<Output = Ended>>) -> Ended {
    // Nearly always it is one.
    if parts.len() == 1
        && let Some(one) = parts.pop()
    {
        return one.await;
    }
    let mut parts: FuturesUnordered<_> = parts.into_iter().collect();
    let mut ended = Ended::new();
    while let Some(some) = parts.next().await {
        ended.extend(some);
    }
    ended
}

/// All of these failed for the same reason.
pub(crate) fn none(which: Vec<usize>, error: &Error) -> Ended {
    which.into_iter().map(|index| (index, WriteOutcome::Failed(errors::copy(error)))).collect()
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Unknown, "the answer does not speak of this message")
        .fix("write it again with the same id")
}

/// A message as an entry, or why it cannot be one.
fn entry<'a>(message: &'a Message, index: usize, target: &impl Target) -> Result<Entry<'a>> {
    let wired = wire::wire(message, target.times());
    let size = wired.size();
    if size > target.limit() {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the message has {size} bytes as AWS counts them, the limit is {}", target.limit()),
        )
        .fix(
            "send less: what is not text takes a third more; or raise MaximumMessageSize of the queue and max_message in \
             the URL",
        ));
    }
    let delay = delay(message, target)?;
    let order = target.fifo().then(|| {
        let unique = match message.id.is_empty() {
            true => format!("{:032x}", fastrand::u128(..)),
            false => message.id.to_string(),
        };
        let group =
            message.lane_key().map_or_else(|| names::group_of_its_own(&unique), |key| names::group(key));
        // What is sent again after a redrive is no duplicate, though its id is the same.
        let dedup = match message.headers.get_str(headers::DL_REDRIVE_COUNT) {
            Some(count) => names::id(format!("{unique}:{count}").as_bytes()),
            None => names::id(unique.as_bytes()),
        };
        Ordered { group, dedup }
    });
    Ok(Entry { index, wired, size, delay, order })
}

/// Whole seconds until the message may be delivered, none if it may be now.
fn delay(message: &Message, target: &impl Target) -> Result<Option<i32>> {
    let wait = message.deliver_at.and_then(|at| at.duration_since(SystemTime::now()).ok());
    let Some(wait) = wait.filter(|wait| !wait.is_zero()) else { return Ok(None) };
    let refused = |what: &str, fix: &str| Err(Error::new(ErrorKind::Unsupported, what).fix(fix));
    if !target.delays() {
        return refused(
            "only a standard queue can delay a single message",
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

/// Sends messages to one target.
pub(crate) struct Sending<'a, T> {
    pub(crate) target: &'a T,
    pub(crate) io: &'a Io,
    /// How long what is refused for the moment is sent again.
    pub(crate) within: Duration,
}

impl<T: Target> Sending<'_, T> {
    /// Sends those of a call that are for this target.
    pub(crate) async fn all(&self, which: Vec<usize>, batch: &[Message]) -> Ended {
        let mut ended = Vec::with_capacity(which.len());
        let mut entries = Vec::with_capacity(which.len());
        for index in which {
            match entry(&batch[index], index, self.target) {
                Ok(entry) => entries.push(entry),
                Err(error) => ended.push((index, WriteOutcome::Failed(error))),
            }
        }
        match self.target.fifo() {
            false => ended.extend(self.beside(entries).await),
            true => ended.extend(self.in_turn(entries).await),
        }
        ended
    }

    /// Requests of at most ten entries and at most the limit's bytes, beside each other.
    async fn beside(&self, entries: Vec<Entry<'_>>) -> Ended {
        let limit = self.target.limit();
        let mut requests: Vec<Vec<Entry<'_>>> = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            match requests.last_mut().filter(|last| last.len() < BATCH && bytes + entry.size <= limit) {
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
        together(requests.into_iter().map(|request| self.request(request)).collect()).await
    }

    /// One entry of a group at a time: of a batch some entries may be refused, and what is sent again is behind those that
    /// were not. Where one is not written, those after it of its group are not sent.
    async fn in_turn(&self, entries: Vec<Entry<'_>>) -> Ended {
        let group = |entry: &Entry<'_>| entry.order.as_ref().map(|o| o.group.clone()).unwrap_or_default();
        let mut turns: Vec<Vec<Entry<'_>>> = Vec::new();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for entry in entries {
            let turn = counts.entry(group(&entry)).or_default();
            if turns.len() <= *turn {
                turns.push(Vec::new());
            }
            turns[*turn].push(entry);
            *turn += 1;
        }
        let mut ended: Ended = Vec::new();
        let mut stopped: HashSet<String> = HashSet::new();
        for turn in turns {
            let (skipped, sent): (Vec<_>, Vec<_>) =
                turn.into_iter().partition(|entry| stopped.contains(&group(entry)));
            ended.extend(skipped.into_iter().map(|entry| (entry.index, WriteOutcome::Failed(behind()))));
            let groups: HashMap<usize, String> = sent.iter().map(|e| (e.index, group(e))).collect();
            for (index, outcome) in self.beside(sent).await {
                // One that is refused for itself leaves no gap that a later attempt would fill.
                let later = match &outcome {
                    WriteOutcome::Failed(error) => error.is_retryable(),
                    WriteOutcome::Unknown(_) => true,
                    _ => false,
                };
                stopped.extend(groups.get(&index).filter(|_| later).cloned());
                ended.push((index, outcome));
            }
        }
        ended
    }

    /// Sends one request, and what of it is refused for the moment again, until the time is up.
    async fn request(&self, entries: Vec<Entry<'_>>) -> Ended {
        let _right = self.io.request().await;
        self.tried(entries, &mut Tries::within(self.within)).await
    }

    async fn tried(&self, mut entries: Vec<Entry<'_>>, tries: &mut Tries) -> Ended {
        let mut ended: Ended = Vec::with_capacity(entries.len());
        // What has a deduplication id may be sent again though it may be there.
        let repeat = if self.target.fifo() { Repeat::Anything } else { Repeat::Undone };
        loop {
            match self.target.send(&entries, tries, repeat).await {
                Ok(answer) => {
                    let (left, error) = sort(entries, answer, &mut ended);
                    let Some(error) = error else { return ended };
                    entries = left;
                    if !tries.again(Fate::Throttled).await {
                        let failure = Failure { fate: Fate::Throttled, error, silent: false };
                        ended.extend(failed(entries, &failure, tries));
                        return ended;
                    }
                }
                // One of them is why all are refused: they are tried in halves.
                Err(failure) if entries.len() > 1 && is_about_one(&failure) => {
                    let other = entries.split_off(entries.len() / 2);
                    ended.extend(Box::pin(self.tried(entries, tries)).await);
                    ended.extend(Box::pin(self.tried(other, tries)).await);
                    return ended;
                }
                Err(failure) => {
                    if failure.error.kind() == ErrorKind::NotFound {
                        self.target.gone();
                    }
                    ended.extend(failed(entries, &failure, tries));
                    return ended;
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
    let about_one = matches!(
        failure.error.kind(),
        ErrorKind::TooLarge | ErrorKind::InvalidMessage | ErrorKind::InvalidConfig
    );
    failure.fate == Fate::Refused && about_one
}

/// Those that were not written, all for the same reason.
fn failed(entries: Vec<Entry<'_>>, failure: &Failure, tries: &Tries) -> Ended {
    let unknown = failure.fate == Fate::Unknown || tries.unknown;
    let outcome = |entry: Entry<'_>| {
        let error = errors::copy(&failure.error);
        (entry.index, if unknown { WriteOutcome::Unknown(error) } else { WriteOutcome::Failed(error) })
    };
    entries.into_iter().map(outcome).collect()
}

/// Sorts the entries of a request by what the answer says: gives those that may be sent again, and why.
fn sort<'a>(entries: Vec<Entry<'a>>, answer: Answer, ended: &mut Ended) -> (Vec<Entry<'a>>, Option<Error>) {
    let mut entries: Vec<Option<Entry<'a>>> = entries.into_iter().map(Some).collect();
    let mut take = |id: &str| entries.get_mut(id.parse::<usize>().ok()?)?.take();
    for written in answer.written {
        if let Some(entry) = take(&written) {
            ended.push((entry.index, WriteOutcome::Written(None)));
        }
    }
    let (mut left, mut why) = (Vec::new(), None);
    for refused in answer.refused {
        let Some(entry) = take(&refused.id) else { continue };
        if refused.sender_fault {
            let said = errors::said_by(&refused.code, &refused.message, 400, "the message was refused").error;
            let error = match said.kind() {
                ErrorKind::InvalidConfig => errors::as_kind(&said, ErrorKind::InvalidMessage),
                _ => said,
            };
            ended.push((entry.index, WriteOutcome::Failed(error)));
        } else {
            // It says that this one was not taken, and that it is not the sender's fault.
            let said = errors::said_by(&refused.code, &refused.message, 503, "the message was not written");
            why = Some(errors::as_kind(&said.error, ErrorKind::Unavailable));
            left.push(entry);
        }
    }
    ended.extend(
        entries.into_iter().flatten().map(|entry| (entry.index, WriteOutcome::Unknown(unanswered()))),
    );
    (left, why)
}
