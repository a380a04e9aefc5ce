//! The reading side: opening, reading, settling, extending.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;

use bytestring::ByteString;
use millstream_core::{
    Assignment, Capabilities, Delivery, Epoch, Error, ErrorKind, Exclusivity, LeasePlan, Leases, Message,
    OpenRequest, Opened, PartitionId, Read, ReadLimits, Reader, Result, Settled, Settlement, Settler, Source,
    Start, TokenId, Verdict,
};
use tokio::time::Instant;

use super::browse::Browse;
use super::control::SettleEntry;
use super::coordinator::{Coordinator, Turn};
use super::faults::Operation;
use super::pool::{Pool, PoolRules};
use super::shape::Shape;
use super::state::{Config, GroupKey, Shared, SimEffect, State, Suffered, injected};
use crate::ledger::Ending;

/// Reads from a [`SimBroker`](super::SimBroker).
#[derive(Debug)]
pub struct SimReader {
    shared: Arc<Shared>,
}

impl SimReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Reader for SimReader {
    type Source = SimSource;
    type Settler = SimSettler;
    type Leases = SimLeases;

    fn capabilities(&self) -> Capabilities {
        self.shared.config.shape.capabilities(&self.shared.config)
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<SimSource, SimSettler, SimLeases>> {
        request.args.only(&[])?;
        match self.shared.suffer(Operation::Open, &request.topic).await {
            Suffered::Failed(kind) | Suffered::Refused(kind) => return Err(injected(kind, &request.topic)),
            Suffered::Nothing => {}
            _ => return Err(injected(ErrorKind::Unknown, &request.topic)),
        }
        let topic = request.topic.clone();
        let (member, group, browse) =
            self.shared.change(|state, config, now| join(state, config, request, now))?;
        let client =
            Arc::new(Client { shared: Arc::clone(&self.shared), topic, group, member: MemberGuard(member) });
        let opened = Opened::new(
            SimSource { client: Arc::clone(&client), browse, gone: false },
            SimSettler { client: Arc::clone(&client) },
        );
        let Shape::LeaseQueue { visibility, .. } = self.shared.config.shape else { return Ok(opened) };
        let mut opened = opened;
        opened.leases = Some(LeasePlan { duration: visibility, leases: SimLeases { client } });
        Ok(opened)
    }
}

type Joined = (u32, Option<ByteString>, Option<Browse>);

/// Lets a new member in, making topic and group where that is allowed.
fn join(state: &mut State, config: &Config, request: OpenRequest, now: Instant) -> Result<Joined> {
    let shape = config.shape;
    let queue = matches!(shape, Shape::LeaseQueue { .. });
    let unsupported = |what: &str, fix: &str| {
        let error = Error::new(ErrorKind::Unsupported, what.to_owned()).topic(&*request.topic);
        Err(error.fix(fix))
    };
    if queue && request.start != Start::Earliest {
        return unsupported("a queue has no position to start from", "leave the start at earliest");
    }
    if queue && request.end != millstream_core::End::Never {
        return unsupported("a queue has no end", "leave the end at never");
    }
    let manual = match &request.assignment {
        Assignment::Manual(partitions) if matches!(shape, Shape::Partitioned { .. }) => {
            Some(partitions.clone())
        }
        Assignment::Group => None,
        _ => return unsupported("this broker has no partitions", "let the broker assign"),
    };
    let member = state.next_member;
    state.next_member += 1;
    let topic = state.topic(&request.topic, config)?;
    topic.ripen(now, (config.clock)());
    let starts: Vec<u64> = topic.logs.iter().map(|log| log.resolve(request.start)).collect();
    let ends: Option<Vec<u64>> = topic.logs.iter().map(|log| log.resolve_end(request.end)).collect();
    let group = if queue { Some(ByteString::new()) } else { request.group.clone() };
    let exclusive = request.exclusivity == Exclusivity::Exclusive;
    let Some(name) = group.clone() else {
        let partitioned = matches!(shape, Shape::Partitioned { .. });
        let browse = Browse::new(request, topic, partitioned, manual);
        return Ok((member, None, Some(browse)));
    };
    let key: GroupKey = (request.topic.clone(), name);
    match shape {
        Shape::Partitioned { .. } => state
            .coordinators
            .entry(key)
            .or_insert_with(|| Coordinator::new(starts, config.revoke_within))
            .join(member, exclusive, manual, ends, now),
        _ => state.pools.entry(key).or_insert_with(|| Pool::new(pool_rules(config), starts[0])).join(
            member,
            exclusive,
            ends.map(|e| e[0]),
        ),
    }
    Ok((member, group, None))
}

fn pool_rules(config: &Config) -> PoolRules {
    let can = config.shape.capabilities(config);
    PoolRules {
        order: can.order,
        lease: can.lease,
        counts: can.redelivery_count,
        max_read: config.shape.max_read(),
    }
}

/// What the parts of one subscription share.
#[derive(Debug)]
struct Client {
    shared: Arc<Shared>,
    topic: ByteString,
    group: Option<ByteString>,
    member: MemberGuard,
}

#[derive(Debug)]
struct MemberGuard(u32);

impl Client {
    fn key(&self) -> Option<GroupKey> {
        Some((self.topic.clone(), self.group.clone()?))
    }

    fn leave(&self) {
        let Some(key) = self.key() else { return };
        self.shared.change(|state, _, now| {
            if let Some(pool) = state.pools.get_mut(&key) {
                pool.leave(self.member.0, now);
            }
            if let Some(coordinator) = state.coordinators.get_mut(&key) {
                coordinator.leave(self.member.0, now);
            }
        });
    }
}

/// Yields deliveries. Dropping it leaves the group: what is unsettled comes again, in a queue when its lease
/// is over.
#[derive(Debug)]
pub struct SimSource {
    client: Arc<Client>,
    browse: Option<Browse>,
    gone: bool,
}

impl SimSource {
    /// The member's number, as [`Control`](super::Control) knows it.
    #[must_use]
    pub fn member(&self) -> super::MemberId {
        super::MemberId(self.client.member.0)
    }

    /// One look at the broker, without waiting. Nothing is taken that is not handed over.
    fn turn(&mut self, limits: ReadLimits) -> Turn {
        let Client { shared, topic, member, .. } = &*self.client;
        let now = Instant::now();
        let state = &mut *shared.lock();
        let Some(stored) = state.topics.get_mut(topic) else {
            // It was there when this was opened.
            return Turn::Ready(Read::End, Vec::new());
        };
        let ripe = stored.ripen(now, (shared.config.clock)());
        let turn = if let Some(browse) = &mut self.browse {
            browse.take(limits, stored)
        } else {
            let Some(key) = self.client.key() else { return Turn::Wait(None) };
            if let Some(coordinator) = state.coordinators.get_mut(&key) {
                coordinator.take(member.0, limits, &stored.logs, now)
            } else if let Some(pool) = state.pools.get_mut(&key) {
                take_from_pool(pool, member.0, limits, stored, &mut state.random, now)
            } else {
                Turn::Wait(None)
            }
        };
        match turn {
            Turn::Wait(wake) => Turn::Wait(wake.into_iter().chain(ripe).min()),
            ready @ Turn::Ready(..) => ready,
        }
    }
}

fn take_from_pool(
    pool: &mut Pool,
    member: u32,
    limits: ReadLimits,
    topic: &super::store::Topic,
    random: &mut fastrand::Rng,
    now: Instant,
) -> Turn {
    let log = &topic.logs[0];
    let mut taken = pool.take(member, limits, log, now);
    if !taken.deliveries.is_empty() {
        if pool.is_unordered() {
            random.shuffle(&mut taken.deliveries);
        }
        return Turn::Ready(Read::Deliveries, taken.deliveries);
    }
    if pool.is_at_end(member, log) {
        return Turn::Ready(Read::End, Vec::new());
    }
    Turn::Wait(taken.wake)
}

impl Source for SimSource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        let client = Arc::clone(&self.client);
        let shared = &client.shared;
        loop {
            match shared.suffer(Operation::Read, &client.topic).await {
                Suffered::Nothing => break,
                Suffered::Failed(kind) | Suffered::Refused(kind) => {
                    return Err(injected(kind, &client.topic));
                }
                // A read that nobody answers goes on waiting.
                Suffered::Unknown | Suffered::AnswerLost | Suffered::Lost => {}
            }
        }
        loop {
            let changed = shared.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let wake = match self.turn(limits) {
                Turn::Ready(read, mut deliveries) => {
                    into.append(&mut deliveries);
                    return Ok(read);
                }
                Turn::Wait(wake) => wake,
            };
            let answered = poll_fn(|cx| {
                let mut state = shared.lock();
                let coordinator = client.key().and_then(|key| state.coordinators.get_mut(&key));
                coordinator.map_or(std::task::Poll::Pending, |c| c.poll_answers(client.member.0, cx))
            });
            let due = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = answered => shared.change(|_, _, _| ()),
                () = due => {}
            }
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        self.set_paused(partitions, true);
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        self.set_paused(partitions, false);
    }

    fn assign(&mut self, partitions: Vec<PartitionId>) {
        let client = &self.client;
        client.shared.change(|state, _, _| {
            let Some(topic) = state.topics.get(&client.topic) else { return };
            if let Some(browse) = &mut self.browse {
                browse.assign(&partitions, topic);
            } else if let Some(c) = client.key().and_then(|key| state.coordinators.get_mut(&key)) {
                c.assign(client.member.0, &partitions);
            }
        });
    }

    async fn close(mut self) -> Result<()> {
        self.gone = true;
        self.client.leave();
        Ok(())
    }
}

impl SimSource {
    fn set_paused(&mut self, partitions: &[PartitionId], paused: bool) {
        let client = &self.client;
        client.shared.change(|state, _, _| {
            if let Some(browse) = &mut self.browse {
                browse.pause(partitions, paused);
            } else if let Some(c) = client.key().and_then(|key| state.coordinators.get_mut(&key)) {
                c.pause(client.member.0, partitions, paused);
            }
        });
    }
}

impl Drop for SimSource {
    fn drop(&mut self) {
        if !self.gone {
            self.client.leave();
        }
    }
}

/// Takes verdicts.
#[derive(Debug)]
pub struct SimSettler {
    client: Arc<Client>,
}

impl SimSettler {
    /// Writes messages outside of any settlement: what no driver should do, for one that has this bug.
    pub(crate) fn write_beside(&self, messages: Vec<Message>) {
        self.client.shared.change(|state, config, now| {
            for message in messages {
                // A bug does not care whether it fits.
                let _ = state.append(message, config, now);
            }
        });
    }

    async fn settle_one(&self, settlement: Settlement) -> Settled {
        let Client { shared, topic, member, .. } = &*self.client;
        let (token, ending) = (settlement.token.id(), Ending::from(&settlement.verdict));
        let suffered = shared.suffer(Operation::Settle, topic).await;
        let key = self.client.key();
        shared.change(|state, config, now| {
            let id = key.as_ref().and_then(|key| id_of(state, key, member.0, token));
            let settled = self.apply(state, config, settlement, suffered, now);
            state.remember(SettleEntry {
                topic: topic.clone(),
                group: self.client.group.clone().unwrap_or_default(),
                member: super::MemberId(member.0),
                token,
                id: id.unwrap_or_default(),
                verdict: ending,
                outcome: (&settled).into(),
            });
            settled
        })
    }

    fn apply(
        &self,
        state: &mut State,
        config: &Config,
        settlement: Settlement,
        suffered: Suffered,
        now: Instant,
    ) -> Settled {
        let topic = &self.client.topic;
        let Some(key) = self.client.key() else {
            // Without a group nothing is kept, so nothing can fail.
            return Settled::Done;
        };
        let (token, member) = (settlement.token.id(), self.client.member.0);
        match suffered {
            Suffered::Failed(kind) | Suffered::Refused(kind) => {
                let error = injected(kind, topic);
                return Settled::Failed { error, settlement: Box::new(settlement) };
            }
            Suffered::Unknown => {
                // The connection broke before it arrived: without leases what it held of the lane comes again at once.
                if let Some(pool) = state.pools.get_mut(&key)
                    && config.shape.capabilities(config).lease.is_none()
                    && pool.held(member, token).is_some()
                {
                    pool.give_back_lane(token.id, now);
                }
                return Settled::Unknown(injected(ErrorKind::Unknown, topic));
            }
            Suffered::Lost => {
                if let Some(pool) = state.pools.get_mut(&key)
                    && pool.held(member, token).is_some()
                {
                    pool.give_back(token.id, now);
                }
                if let Some(coordinator) = state.coordinators.get_mut(&key) {
                    coordinator.lose(Some(&[token.partition.0]), now);
                }
                return Settled::Lost;
            }
            Suffered::Nothing | Suffered::AnswerLost => {}
        }
        let settled = if state.coordinators.contains_key(&key) {
            commit(state, config, &key, member, settlement, now)
        } else {
            settle_in_pool(state, config, &key, member, settlement, now)
        };
        match settled {
            Settled::Done if suffered == Suffered::AnswerLost => {
                Settled::Unknown(injected(ErrorKind::Unknown, topic))
            }
            settled => settled,
        }
    }
}

fn id_of(state: &State, key: &GroupKey, member: u32, token: TokenId) -> Option<ByteString> {
    let topic = state.topics.get(&key.0)?;
    let offset = match state.pools.get(key) {
        Some(pool) => pool.held(member, token)?,
        None => token.id,
    };
    let log = topic.logs.get(token.partition.0 as usize)?;
    log.get(offset).map(|m| m.id.clone())
}

fn refuse(settlement: Settlement, what: &str, key: &GroupKey) -> Settled {
    let error = Error::new(ErrorKind::Unsupported, what.to_owned()).topic(&*key.0).group(&*key.1);
    Settled::Failed { error: error.fix("look at the capabilities first"), settlement: Box::new(settlement) }
}

/// Settling by position.
fn commit(
    state: &mut State,
    config: &Config,
    key: &GroupKey,
    member: u32,
    mut settlement: Settlement,
    now: Instant,
) -> Settled {
    if !matches!(settlement.verdict, Verdict::Ack) {
        return refuse(settlement, "a partitioned log knows no verdict but Ack", key);
    }
    let emits = config.transactions && settlement.others().is_empty() && settlement.effects().is_empty();
    if settlement.takes_along() && !emits {
        return refuse(settlement, "a partitioned log commits nothing along with a position", key);
    }
    if let Err(error) = room_for(state, config, settlement.emit()) {
        return Settled::Failed { error, settlement: Box::new(settlement) };
    }
    let coordinator = state.coordinators.get_mut(key);
    if !coordinator.is_some_and(|c| c.commit(member, settlement.token.id())) {
        return Settled::Lost;
    }
    if settlement.takes_along() {
        for message in std::mem::take(&mut settlement.along_mut().emit) {
            // Checked above.
            let _ = state.append(message, config, now);
        }
    }
    Settled::Done
}

/// Whether all of these can be appended.
fn room_for(state: &mut State, config: &Config, messages: &[Message]) -> Result<()> {
    let mut more = std::collections::BTreeMap::<ByteString, usize>::new();
    messages.iter().for_each(|m| *more.entry(m.topic.clone()).or_default() += 1);
    more.iter().try_for_each(|(topic, count)| {
        state.room(topic, *count, config)?;
        state.topic(topic, config).map(|_| ())
    })
}

/// Settling one by one.
fn settle_in_pool(
    state: &mut State,
    config: &Config,
    key: &GroupKey,
    member: u32,
    mut settlement: Settlement,
    now: Instant,
) -> Settled {
    let can = config.shape.capabilities(config);
    let token = settlement.token.id();
    if let Some(pool) = state.pools.get_mut(key) {
        pool.reap(now);
    }
    let others: Vec<TokenId> = settlement.others().iter().map(millstream_core::Token::id).collect();
    let pool = state.pools.get(key);
    let held = |token: TokenId| pool.is_some_and(|pool| pool.held(member, token).is_some());
    if !held(token) || !others.iter().all(|other| held(*other)) {
        return Settled::Lost;
    }
    if !others.is_empty()
        && (can.atomic_emit.is_none() && !can.effects || !matches!(settlement.verdict, Verdict::Ack))
    {
        return refuse(
            settlement,
            "only acknowledgements of a broker with transactions take others along",
            key,
        );
    }
    if can.atomic_emit.is_none() && !settlement.emit().is_empty()
        || !can.effects && !settlement.effects().is_empty()
    {
        return refuse(settlement, "this broker commits nothing along with a verdict", key);
    }
    match &settlement.verdict {
        Verdict::Retry { after } if can.retry_after.is_none_or(|longest| *after > longest) => {
            return refuse(settlement, "this broker does not wait so long", key);
        }
        Verdict::Park(_) | Verdict::Dead(_) if can.lease.is_some() => {
            return refuse(settlement, "a queue does not park or bury", key);
        }
        _ => {}
    }
    // Everything that can fail comes first, so that all of it happens or nothing.
    let effects: Vec<SimEffect> =
        settlement.effects().iter().filter_map(|e| e.downcast_ref().cloned()).collect();
    if let Some(bad) = effects.iter().find(|e| e.fails) {
        let what = format!("the effect {:?} failed", bad.name);
        return Settled::EffectsFailed(Error::new(ErrorKind::Handler, what).topic(&*key.0).group(&*key.1));
    }
    if let Err(error) = room_for(state, config, settlement.emit()) {
        return Settled::Failed { error, settlement: Box::new(settlement) };
    }
    for message in std::mem::take(&mut settlement.along_mut().emit) {
        // Checked above.
        let _ = state.append(message, config, now);
    }
    effects.into_iter().for_each(|e| state.happened(e.name));
    let (Some(pool), Some(topic)) = (state.pools.get_mut(key), state.topics.get_mut(&key.0)) else {
        return Settled::Lost;
    };
    match settlement.verdict {
        Verdict::Retry { after } => pool.give_back(token.id, now + after),
        Verdict::Release => pool.release(token.id, now),
        Verdict::Park(park) => pool.park(token.id, &topic.logs[0], park.after.map(|a| now + a), park.note),
        Verdict::Dead(message) => {
            topic.bury(*message);
            pool.ack(token.id);
        }
        _ => pool.ack(token.id),
    }
    others.iter().for_each(|other| pool.ack(other.id));
    Settled::Done
}

impl Settler for SimSettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut failed = BTreeSet::new();
        let in_turn = self.client.shared.config.transactions;
        for settlement in batch {
            let partition = settlement.token.id().partition;
            // A position takes those before it along, and what belongs to them would be passed over.
            let settled = match in_turn && failed.contains(&partition) {
                true => {
                    let error = injected(ErrorKind::Unavailable, &self.client.topic);
                    Settled::Failed { error, settlement: Box::new(settlement) }
                }
                false => self.settle_one(settlement).await,
            };
            if matches!(settled, Settled::Failed { .. }) {
                failed.insert(partition);
            }
            outcomes.push(settled);
        }
        outcomes
    }

    async fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> Result<()> {
        let Client { shared, topic, member, .. } = &*self.client;
        match shared.suffer(Operation::Mark, topic).await {
            Suffered::Nothing => {}
            Suffered::Failed(kind) | Suffered::Refused(kind) => return Err(injected(kind, topic)),
            _ => return Err(injected(ErrorKind::Unknown, topic)),
        }
        let refuse = |kind, what: &str, fix: &str| {
            let group = self.client.group.clone().unwrap_or_default();
            Err(Error::new(kind, what.to_owned()).topic(topic).group(group).fix(fix))
        };
        if note.len() > 1024 {
            return refuse(ErrorKind::TooLarge, "a mark has at most 1 KiB", "note less");
        }
        let key = self.client.key();
        let kept = shared.change(|state, _, _| {
            let coordinator = key.and_then(|key| state.coordinators.get_mut(&key))?;
            let ours = coordinator.holds(member.0, partition, epoch);
            if ours {
                coordinator.mark(partition, note);
            }
            Some(ours)
        });
        match kept {
            Some(true) => Ok(()),
            Some(false) => refuse(ErrorKind::LeaseLost, "the partition is no longer ours", "wait for it"),
            None => refuse(ErrorKind::Unsupported, "this broker keeps no marks", "look at the capabilities"),
        }
    }

    async fn close(self) -> Result<()> {
        // Every settlement was confirmed before it was answered.
        Ok(())
    }
}

/// Extends the leases of a queue.
#[derive(Debug)]
pub struct SimLeases {
    client: Arc<Client>,
}

impl Leases for SimLeases {
    async fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    async fn extend(&mut self, held: &[TokenId]) -> Result<Vec<bool>> {
        let Client { shared, topic, member, .. } = &*self.client;
        match shared.suffer(Operation::Extend, topic).await {
            Suffered::Nothing => {}
            Suffered::Failed(kind) | Suffered::Refused(kind) => return Err(injected(kind, topic)),
            Suffered::Lost => return Ok(vec![false; held.len()]),
            Suffered::Unknown | Suffered::AnswerLost => return Err(injected(ErrorKind::Unknown, topic)),
        }
        let key = self.client.key();
        Ok(shared.change(|state, _, now| {
            let Some(pool) = key.and_then(|key| state.pools.get_mut(&key)) else {
                return vec![false; held.len()];
            };
            pool.reap(now);
            held.iter().map(|token| pool.extend(member.0, *token, now)).collect()
        }))
    }
}

/// A message that another member of the crate looks at without reading it.
pub(super) fn stored(state: &State, topic: &str) -> Vec<Message> {
    let logs = state.topics.get(topic).map(|t| &t.logs);
    logs.into_iter().flatten().flat_map(|log| log.iter().cloned()).collect()
}
