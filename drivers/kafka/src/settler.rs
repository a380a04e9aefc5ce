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

/// Takes the verdicts of one subscription.
#[derive(Debug)]
pub struct KafkaSettler {
    member: Arc<Member>,
    cluster: Arc<Cluster>,
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
        Self { member, cluster }
    }

    fn locate(&self, error: Error) -> Error {
        let error = error.topic(&*self.member.topic);
        match &self.member.group {
            Some(group) => error.group(&**group),
            None => error,
        }
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

impl Settler for KafkaSettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        let mut finished = Finished::new();
        for settlement in batch.iter().filter(|s| matches!(s.verdict, Verdict::Ack)) {
            let token = settlement.token.id();
            let last = i64::try_from(token.id).unwrap_or(i64::MAX - 1);
            let highest = finished.entry((number(token.partition), token.epoch.0)).or_insert(last);
            *highest = last.max(*highest);
        }
        // Without a group nothing is kept, so nothing can fail.
        let ended = match self.member.group {
            Some(_) => self.commit(finished).await,
            None => finished.into_keys().map(|part| (part, End::Done)).collect(),
        };
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
