//! A member of a group as the cases use it: reads, settles, and writes down what it sees.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::erased::{DynLeases, DynSettler, DynSource};
use millstream_core::{
    Assigned, Connection, Delivery, LeasePlan, Message, OpenRequest, PartitionId, Read, ReadLimits, Settled,
    Settlement, Token, Verdict,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Checked, Failure, World, ensure};
use crate::ledger::{Ending, Record};

/// As much as a case ever wants at once.
pub(super) const PLENTY: usize = 64 << 20;

/// What a read came to.
#[derive(Debug)]
pub(super) enum Event {
    Deliveries(Vec<Delivery>),
    Assigned(Vec<Assigned>),
    Revoking(millstream_core::Revoking),
    Lost,
    End,
}

pub(super) struct Member {
    pub(super) world: World,
    pub(super) group: ByteString,
    pub(super) name: ByteString,
    pub(super) source: Box<dyn DynSource>,
    pub(super) settler: Box<dyn DynSettler>,
    pub(super) leases: Option<LeasePlan<Box<dyn DynLeases>>>,
    epochs: BTreeMap<PartitionId, u32>,
}

impl Member {
    pub(super) async fn open(
        world: World,
        connection: &Connection,
        request: OpenRequest,
        number: usize,
    ) -> Checked<Self> {
        let group = request.group.clone().unwrap_or_default();
        let opening = timeout(world.scale().patience, connection.reader.open(request));
        let opened =
            opening.await.map_err(|_| Failure::from("opening a subscription did not end".to_owned()))??;
        Ok(Self {
            world,
            group,
            name: format!("member {number}").into(),
            source: opened.source,
            settler: opened.settler,
            leases: opened.leases,
            epochs: BTreeMap::new(),
        })
    }

    /// One read, without a time limit. Writes deliveries down, and checks what holds for every read.
    pub(super) async fn next(&mut self, limits: ReadLimits) -> Checked<Event> {
        let mut into = Vec::new();
        let read = self.source.read(&mut into, limits).await?;
        self.event(read, into, limits)
    }

    /// Checks and writes down what a read came back with.
    pub(super) fn event(&mut self, read: Read, into: Vec<Delivery>, limits: ReadLimits) -> Checked<Event> {
        ensure!(
            into.len() <= limits.messages,
            "a read limited to {} messages brought {}",
            limits.messages,
            into.len()
        );
        let bytes: usize = into.iter().map(|d| d.message.size()).sum();
        ensure!(
            bytes <= limits.bytes || into.len() <= 1,
            "a read limited to {} bytes brought {bytes} in {} messages",
            limits.bytes,
            into.len()
        );
        ensure!(
            into.is_empty() || matches!(read, Read::Deliveries),
            "deliveries came with {read:?}, and would be overlooked"
        );
        for delivery in &into {
            self.world.ledger().write(Record::delivered(delivery, self.group.clone(), self.name.clone()));
        }
        Ok(match read {
            Read::Assigned(assigned) => {
                for a in &assigned {
                    let before = self.epochs.insert(a.partition, a.epoch.0);
                    ensure!(
                        before.is_none_or(|b| b < a.epoch.0),
                        "partition {} was assigned under epoch {} after epoch {before:?}",
                        a.partition,
                        a.epoch.0
                    );
                }
                Event::Assigned(assigned)
            }
            Read::Revoking(revoking) => Event::Revoking(revoking),
            Read::Lost(_) => Event::Lost,
            Read::End => Event::End,
            _ => Event::Deliveries(into),
        })
    }

    /// Reads until so many deliveries came, each within the suite's patience. Nothing is settled.
    pub(super) async fn take(&mut self, count: usize) -> Checked<Vec<Delivery>> {
        self.take_within(count, self.world.scale().patience).await
    }

    /// The same for messages that come again.
    pub(super) async fn take_again(&mut self, count: usize) -> Checked<Vec<Delivery>> {
        self.take_within(count, self.world.again_within()).await
    }

    /// The same for messages that have to wait so long first.
    pub(super) async fn take_within_of(&mut self, count: usize, wait: Duration) -> Checked<Vec<Delivery>> {
        self.take_within(count, self.world.scale().patience + wait).await
    }

    async fn take_within(&mut self, count: usize, patience: Duration) -> Checked<Vec<Delivery>> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let limits = ReadLimits::new(count - taken.len(), PLENTY);
            let Some(mut more) = self.some(limits, patience).await? else {
                let what = format!("{} of {count} messages came, then nothing for {patience:?}", taken.len());
                return Err(what.into());
            };
            taken.append(&mut more);
        }
        Ok(taken)
    }

    /// Takes at least one and at most so many, as they come without a pause.
    pub(super) async fn take_up_to(&mut self, count: usize) -> Checked<Vec<Delivery>> {
        let mut taken = self.take(1).await?;
        while taken.len() < count {
            let limits = ReadLimits::new(count - taken.len(), PLENTY);
            let Some(mut more) = self.some(limits, self.world.scale().quiet).await? else { break };
            taken.append(&mut more);
        }
        Ok(taken)
    }

    /// The next deliveries, past changes of the assignment; none if they do not come in time.
    async fn some(&mut self, limits: ReadLimits, patience: Duration) -> Checked<Option<Vec<Delivery>>> {
        loop {
            match timeout(patience, self.next(limits)).await {
                Ok(Ok(Event::Deliveries(some))) if !some.is_empty() => return Ok(Some(some)),
                Ok(Ok(Event::Revoking(revoking))) => revoking.done(),
                Ok(Ok(Event::End)) => return Err("the end came, and none was asked for".to_owned().into()),
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Reads for a while, and wants no message.
    pub(super) async fn quiet(&mut self, time: Duration) -> Checked {
        let until = tokio::time::Instant::now() + time;
        loop {
            let read = self.next(ReadLimits::new(100, PLENTY));
            match tokio::time::timeout_at(until, read).await {
                Ok(Ok(Event::Deliveries(unwanted))) => {
                    let ids: Vec<_> = unwanted.iter().map(|d| &*d.message.id).collect();
                    ensure!(ids.is_empty(), "nothing was to be delivered, but {ids:?} came");
                }
                Ok(Ok(Event::Revoking(revoking))) => revoking.done(),
                Ok(Ok(_)) => {}
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Settles, and writes it down; gives the outcomes, one for each.
    pub(super) async fn settle(&mut self, batch: Vec<(Delivery, Verdict)>) -> Checked<Vec<Settled>> {
        let about: Vec<(ByteString, Ending)> =
            batch.iter().map(|(d, v)| (d.message.id.clone(), Ending::from(v))).collect();
        let batch = batch.into_iter().map(|(d, v)| Settlement::new(d.token, v)).collect();
        self.settle_all(about, batch).await
    }

    pub(super) async fn settle_all(
        &mut self,
        about: Vec<(ByteString, Ending)>,
        batch: Vec<Settlement>,
    ) -> Checked<Vec<Settled>> {
        let patience = self.world.scale().patience * 3;
        let outcomes = timeout(patience, self.settler.settle(batch))
            .await
            .map_err(|_| Failure::from(format!("a settle did not come back within {patience:?}")))?;
        ensure!(
            outcomes.len() == about.len(),
            "a settle of {} gave {} outcomes",
            about.len(),
            outcomes.len()
        );
        for ((id, ending), outcome) in about.into_iter().zip(&outcomes) {
            self.world.ledger().write(Record::settled(id, self.group.clone(), ending, outcome));
        }
        Ok(outcomes)
    }

    /// Settles one, and wants it done.
    pub(super) async fn settle_done(&mut self, delivery: Delivery, verdict: Verdict) -> Checked {
        let outcome = self.settle(vec![(delivery, verdict)]).await?.pop();
        ensure!(outcome.as_ref().is_some_and(Settled::is_done), "a settlement ended with {outcome:?}");
        Ok(())
    }

    /// Handles messages: their effects happen, then they are acknowledged.
    pub(super) async fn handle(&mut self, deliveries: Vec<Delivery>) -> Checked {
        for delivery in &deliveries {
            let (id, group) = (delivery.message.id.clone(), self.group.clone());
            self.world.ledger().write(Record::Effect { id, group });
        }
        let batch = deliveries.into_iter().map(|d| (d, Verdict::Ack)).collect();
        let outcomes = self.settle(batch).await?;
        let bad = outcomes.iter().find(|o| !o.is_done());
        ensure!(bad.is_none(), "an acknowledgement of a message that is ours ended with {bad:?}");
        Ok(())
    }

    /// Takes and handles so many, each batch before the next is read.
    pub(super) async fn work(&mut self, count: usize) -> Checked<Vec<Message>> {
        self.work_within(count, self.world.scale().patience).await
    }

    /// The same for messages that come again.
    pub(super) async fn work_again(&mut self, count: usize) -> Checked<Vec<Message>> {
        self.work_within(count, self.world.again_within()).await
    }

    async fn work_within(&mut self, count: usize, patience: Duration) -> Checked<Vec<Message>> {
        let mut seen = Vec::with_capacity(count);
        while seen.len() < count {
            // A batch as it comes: waiting for more while some are held could outlast their leases.
            let limits = ReadLimits::new((count - seen.len()).min(8), PLENTY);
            let Some(some) = self.some(limits, patience).await? else {
                let what = format!("{} of {count} messages came, then nothing for {patience:?}", seen.len());
                return Err(what.into());
            };
            seen.extend(some.iter().map(|d| (*d.message).clone()));
            self.handle(some).await?;
        }
        Ok(seen)
    }

    /// Closes both halves, which must not take long.
    pub(super) async fn close(self) -> Checked {
        let Self { source, settler, leases, world, .. } = self;
        drop(leases);
        let patience = world.again_within();
        let closing = async {
            settler.close().await?;
            source.close().await
        };
        let closed = timeout(patience, closing).await;
        Ok(closed.map_err(|_| Failure::from(format!("closing did not end within {patience:?}")))??)
    }

    /// Closes with messages unsettled, which then come again, and says so in the ledger.
    pub(super) async fn close_early(self) -> Checked {
        let world = self.world.clone();
        self.close().await?;
        world.ledger().write(Record::fault("a member closed with messages unsettled"));
        Ok(())
    }

    /// Vanishes without a word, as a process does that is killed.
    pub(super) fn vanish(self) {
        let world = self.world.clone();
        drop((self.source, self.settler, self.leases));
        world.ledger().write(Record::fault("a member vanished"));
    }

    /// The right to settle what a token stood for, once more: for tests of what is stale.
    pub(super) fn token_again(delivery: &Delivery) -> Token {
        let id = delivery.token.id();
        Token::new(id.partition, id.epoch, id.id)
    }
}

/// Several members share the work until so many different messages are handled; gives the members back.
pub(super) async fn share(members: Vec<Member>, count: usize) -> Checked<Vec<Member>> {
    let seen = Arc::new((Mutex::new(HashSet::<ByteString>::new()), Notify::new()));
    let mut tasks = tokio::task::JoinSet::<Checked<Member>>::new();
    for mut member in members {
        let seen = Arc::clone(&seen);
        tasks.spawn(async move {
            let patience = member.world.again_within();
            loop {
                let done = seen.1.notified();
                tokio::pin!(done);
                done.as_mut().enable();
                let so_far = seen.0.lock().unwrap_or_else(PoisonError::into_inner).len();
                if so_far >= count {
                    return Ok(member);
                }
                let event = tokio::select! {
                    event = member.next(ReadLimits::new(16, PLENTY)) => event?,
                    // Somebody made progress: look again whether all is done.
                    () = done => continue,
                    () = tokio::time::sleep(patience) => {
                        return Err(format!("{so_far} of {count} messages came, then nothing for {patience:?}").into());
                    }
                };
                match event {
                    Event::Deliveries(deliveries) => {
                        let ids: Vec<_> = deliveries.iter().map(|d| d.message.id.clone()).collect();
                        member.handle(deliveries).await?;
                        seen.0.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
                        seen.1.notify_waiters();
                    }
                    // All that was delivered is settled already.
                    Event::Revoking(revoking) => revoking.done(),
                    _ => {}
                }
            }
        });
    }
    let mut back = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        back.push(ended.map_err(|e| Failure::from(format!("a member panicked: {e}")))??);
    }
    Ok(back)
}
