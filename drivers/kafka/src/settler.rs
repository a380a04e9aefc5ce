//! Commits positions: of each partition the highest that was acknowledged. What counts is the broker's answer, and
//! while a group rebalances it may refuse for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream_core::{
    Epoch, Error, ErrorKind, Message, PartitionId, Result, Settled, Settlement, Settler, Verdict,
};
use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout_at};

use crate::cluster::Cluster;
use crate::errors;
use crate::member::{Finished, Member, number};
use crate::settings::{ANSWER_WITHIN, Transactions};
use crate::together::{Happened, Together};
use crate::transactor::{Ended, Transactor};
use crate::writer::again;

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
    /// Where what handlers send commits with their messages' positions.
    transactor: Option<Arc<Mutex<Transactor>>>,
    /// Partitions of which a transaction ended in a way that is not known.
    doubtful: BTreeSet<(i32, u32)>,
}

/// A message that commits with another's position: whose partition and offset those are.
type Sent = ((i32, u32), i64, Message);

fn sent_with(settlement: &Settlement) -> impl Iterator<Item = Sent> {
    let token = settlement.token.id();
    let part = (number(token.partition), token.epoch.0);
    let offset = i64::try_from(token.id).unwrap_or(i64::MAX - 1);
    settlement.emit().iter().map(move |message| (part, offset, message.clone()))
}

/// How the commit of one partition ended.
#[derive(Debug, Clone)]
enum End {
    Done,
    Lost,
    /// Refused, because of this.
    Refused(Code),
    /// Neither it nor what was to be written with it was done.
    TakenBack(Arc<Error>),
    Unknown,
}

impl KafkaSettler {
    pub(crate) fn new(member: Arc<Member>, cluster: Arc<Cluster>) -> Self {
        let settings = &cluster.settings;
        let id = |group: &str| match &settings.instance {
            Some(instance) => format!("{instance}.{group}.{}", member.topic),
            // Any that nobody else has: the group's generation, which goes with each commit, keeps others away.
            None => format!("{}.{group}.{}.{:016x}", settings.client_id, member.topic, fastrand::u64(..)),
        };
        let transactor = match (settings.transactions, &member.group) {
            (Transactions::Handlers, Some(group)) => {
                Some(Arc::new(Mutex::new(Transactor::new(Arc::clone(&cluster), id(group)))))
            }
            _ => None,
        };
        Self { member, cluster, rested: Instant::now(), transactor, doubtful: BTreeSet::new() }
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
            ended.extend(ours.into_keys().map(|part| (part, end.clone())));
            break;
        }
        ended
    }

    /// Commits together with what handlers sent.
    async fn transact(
        &mut self,
        transactor: Arc<Mutex<Transactor>>,
        finished: Finished,
        emits: Vec<Sent>,
    ) -> (BTreeMap<(i32, u32), End>, BTreeSet<((i32, u32), i64)>) {
        let parts: Vec<_> = finished.keys().copied().collect();
        let all = |end: End| parts.iter().map(|part| (*part, end.clone())).collect::<BTreeMap<_, _>>();
        let mut emitted = Vec::with_capacity(emits.len());
        for (part, last, message) in emits {
            match self.cluster.target(&message.topic).await {
                Ok(topic) => emitted.push((part, last, message, topic.partitions)),
                Err(error) => return (all(End::TakenBack(Arc::new(error))), BTreeSet::new()),
            }
        }
        let together = Together { finished, emitted, doubtful: !self.doubtful.is_empty() };
        let (member, cluster) = (Arc::clone(&self.member), Arc::clone(&self.cluster));
        let ran = spawn_blocking(move || member.transact(&cluster, &transactor, &together)).await;
        let Happened { ours, stale, ended } = match ran {
            Ok(happened) => happened,
            // Never unknown: the next position would pass over what was to be written with this one.
            Err(error) => {
                self.doubtful.extend(parts.iter().copied());
                return (all(End::TakenBack(Arc::new(errors::broken(&error)))), BTreeSet::new());
            }
        };
        let end = match ended {
            Ended::Committed => End::Done,
            Ended::Aborted(error) => End::TakenBack(Arc::new(error)),
            Ended::Unknown(error) => {
                self.doubtful.extend(ours.keys().copied());
                End::TakenBack(Arc::new(error))
            }
        };
        if matches!(end, End::Done) {
            // Those that are not ours any more are none of our business.
            self.doubtful.retain(|part| !parts.contains(part));
        }
        let mut ended = all(End::Lost);
        ended.extend(ours.into_keys().map(|part| (part, end.clone())));
        (ended, stale)
    }

    fn settled(&self, end: End, settlement: Settlement) -> Settled {
        match end {
            End::Done => Settled::Done,
            End::Lost => Settled::Lost,
            End::Refused(code) => {
                let error = self.locate(errors::of_code(code, "the position was not committed"));
                Settled::Failed { error, settlement: Box::new(settlement) }
            }
            End::TakenBack(error) => {
                let error = self.locate(again(&error));
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
        let sent: Vec<Sent> = batch.iter().flat_map(sent_with).collect();
        let emits = !sent.is_empty();
        let transactor = self.transactor.clone().filter(|_| emits || !self.doubtful.is_empty());
        let refused = emits && transactor.is_none();
        let (ended, stale) = match (transactor, &self.member.group) {
            (Some(transactor), _) => self.transact(transactor, finished, sent).await,
            (None, Some(_)) if !emits => {
                self.pace().await;
                (self.commit(finished).await, BTreeSet::new())
            }
            // Without a group nothing is kept, so nothing can fail.
            _ => (finished.into_keys().map(|part| (part, End::Done)).collect(), BTreeSet::new()),
        };
        if batch.iter().all(|s| matches!(s.verdict, Verdict::Ack))
            && ended.values().all(|end| matches!(end, End::Done))
            && stale.is_empty()
            && !refused
        {
            return batch.iter().map(|_| Settled::Done).collect();
        }
        let settle = |settlement: Settlement| {
            let token = settlement.token.id();
            if refused {
                let error = Error::new(ErrorKind::Unsupported, "nothing commits with a position here");
                let error = self.locate(error.fix("connect with transactions=handlers"));
                return Settled::Failed { error, settlement: Box::new(settlement) };
            }
            if !matches!(settlement.verdict, Verdict::Ack) {
                let error =
                    Error::new(ErrorKind::Unsupported, "a log settles by position, with nothing but Ack");
                let error = self.locate(error.fix("let the scheduler park, retry and bury messages"));
                return Settled::Failed { error, settlement: Box::new(settlement) };
            }
            let part = (number(token.partition), token.epoch.0);
            if stale.contains(&(part, i64::try_from(token.id).unwrap_or(i64::MAX - 1))) {
                return Settled::Lost;
            }
            let end = ended.get(&part).cloned();
            self.settled(end.unwrap_or(End::Lost), settlement)
        };
        batch.into_iter().map(settle).collect()
    }

    async fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> Result<()> {
        if self.doubtful.contains(&(number(partition), epoch.0)) {
            // A note goes with a position, and the one we know may be behind.
            let error = Error::new(ErrorKind::Unavailable, "how the last transaction ended is not known yet");
            return Err(self.locate(error.fix("nothing: it is asked for again")));
        }
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
