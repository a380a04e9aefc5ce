//! Commits positions: of each partition the highest that was acknowledged. What counts is the broker's answer, and
//! while a group rebalances it may refuse for a moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Epoch, Error, ErrorKind, PartitionId, Result, Settled, Settlement, Settler, Verdict};
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout_at};

use crate::cluster::Cluster;
use crate::errors;
use crate::member::{Finished, Member, number};
use crate::settings::ANSWER_WITHIN;

/// How long to wait before a commit is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// How long it takes until one more commit may be sent: under load each carries the messages of such a time. A commit is a
/// request to the broker however few it carries, and back to back they would take as much of both sides as the messages
/// do.
const PACE: Duration = Duration::from_millis(20);

/// So many commits may follow each other at once, after a pause.
const AT_ONCE: u32 = 8;

/// Takes the verdicts of one subscription.
#[derive(Debug)]
pub struct KafkaSettler {
    member: Arc<Member>,
    cluster: Arc<Cluster>,
    /// When as many commits may follow each other at once as at most.
    rested: Instant,
}

/// How the commit of one partition ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Done,
    Lost,
    /// Refused, or not known, because of this.
    Refused(Code),
    Unknown,
}

impl KafkaSettler {
    pub(crate) fn new(member: Arc<Member>, cluster: Arc<Cluster>) -> Self {
        Self { member, cluster, rested: Instant::now() }
    }

    fn locate(&self, error: Error) -> Error {
        let error = error.topic(&*self.member.topic);
        match &self.member.group {
            Some(group) => error.group(&**group),
            None => error,
        }
    }

    /// Waits until a commit may be sent.
    async fn pace(&mut self) {
        let now = Instant::now();
        let wait = self.rested.saturating_duration_since(now).saturating_sub(PACE * (AT_ONCE - 1));
        if !wait.is_zero() {
            sleep(wait).await;
        }
        self.rested = self.rested.max(now) + PACE;
    }

    /// Commits until the broker has confirmed, or will not.
    async fn commit(&self, mut open: Finished) -> BTreeMap<(i32, u32), End> {
        let until = Instant::now() + ANSWER_WITHIN;
        let mut ended: BTreeMap<_, _> = open.keys().map(|part| (*part, End::Lost)).collect();
        while !open.is_empty() {
            let (member, cluster) = (Arc::clone(&self.member), Arc::clone(&self.cluster));
            let wanted = open.clone();
            let sent = spawn_blocking(move || member.commit(&cluster, &wanted));
            let Ok(Ok((ours, sent))) = timeout_at(until, sent).await else {
                ended.extend(open.into_keys().map(|part| (part, End::Unknown)));
                break;
            };
            let end = match sent {
                Ok(()) => End::Done,
                Err(error) => {
                    let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                    // The group is between two assignments: either they become ours again, or they are lost.
                    if errors::kind_of(code).is_retryable() && Instant::now() + AGAIN < until {
                        for part in open.keys().filter(|part| !ours.contains_key(part)) {
                            ended.insert(*part, End::Lost);
                        }
                        open = ours;
                        sleep(AGAIN).await;
                        continue;
                    }
                    End::Refused(code)
                }
            };
            ended.extend(ours.into_keys().map(|part| (part, end)));
            break;
        }
        ended
    }

    fn settled(&self, end: End, settlement: Settlement) -> Settled {
        match end {
            End::Done => Settled::Done,
            End::Lost => Settled::Lost,
            End::Refused(code) => {
                let error = self.locate(errors::of_code(code, "the position was not committed"));
                Settled::Failed { error, settlement: Box::new(settlement) }
            }
            End::Unknown => Settled::Unknown(
                self.locate(
                    Error::new(
                        ErrorKind::Unknown,
                        format!("the broker did not confirm a position within {ANSWER_WITHIN:?}"),
                    )
                    .fix("look whether the brokers run; the messages may come again"),
                ),
            ),
        }
    }
}

/// How far each partition is finished. Tokens come in runs of a partition: of each run only the end is looked up.
fn finished(batch: &[Settlement]) -> Finished {
    let part = |settlement: &Settlement| {
        let token = settlement.token.id();
        ((number(token.partition), token.epoch.0), i64::try_from(token.id).unwrap_or(i64::MAX - 1))
    };
    let mut finished = Finished::new();
    let mut acks = batch.iter().filter(|s| matches!(s.verdict, Verdict::Ack)).map(part).peekable();
    while let Some((part, mut last)) = acks.next() {
        while let Some((_, next)) = acks.next_if(|(next, _)| *next == part) {
            last = last.max(next);
        }
        let highest = finished.entry(part).or_insert(last);
        *highest = last.max(*highest);
    }
    finished
}

impl Settler for KafkaSettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        let finished = finished(&batch);
        // Without a group nothing is kept, so nothing can fail.
        let ended = match self.member.group {
            Some(_) => {
                self.pace().await;
                self.commit(finished).await
            }
            None => finished.into_keys().map(|part| (part, End::Done)).collect(),
        };
        if batch.iter().all(|s| matches!(s.verdict, Verdict::Ack))
            && ended.values().all(|end| matches!(end, End::Done))
        {
            return batch.iter().map(|_| Settled::Done).collect();
        }
        let settle = |settlement: Settlement| {
            let token = settlement.token.id();
            if !matches!(settlement.verdict, Verdict::Ack) {
                let error =
                    Error::new(ErrorKind::Unsupported, "a log settles by position, with nothing but Ack");
                let error = self.locate(error.fix("let the scheduler park, retry and bury messages"));
                return Settled::Failed { error, settlement: Box::new(settlement) };
            }
            let end = ended.get(&(number(token.partition), token.epoch.0)).copied();
            self.settled(end.unwrap_or(End::Lost), settlement)
        };
        batch.into_iter().map(settle).collect()
    }

    async fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> Result<()> {
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            let (member, cluster) = (Arc::clone(&self.member), Arc::clone(&self.cluster));
            let note = note.clone();
            let sent = spawn_blocking(move || member.mark(&cluster, partition, epoch, note));
            let Ok(Ok(sent)) = timeout_at(until, sent).await else {
                let error = Error::new(ErrorKind::Unknown, "the broker did not confirm the note");
                return Err(self.locate(error.fix("look whether the brokers run")));
            };
            match sent {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    let error = Error::new(ErrorKind::LeaseLost, "the partition is another member's");
                    return Err(self.locate(error.fix("nothing: its note is the other's")));
                }
                Err(error) => {
                    let error = self.locate(errors::of(&error, "the note was not stored"));
                    if !error.is_retryable() || Instant::now() + AGAIN >= until {
                        return Err(error);
                    }
                    sleep(AGAIN).await;
                }
            }
        }
    }

    async fn close(self) -> Result<()> {
        // Each settlement waited for its confirmation.
        Ok(())
    }
}
