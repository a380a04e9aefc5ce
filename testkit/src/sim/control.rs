//! The handle by which a test breaks the broker and looks into it.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::{ErrorKind, Message, TokenId};

use super::coordinator::Coordinator;
use super::faults::{FaultId, Injury, Operation, Trigger};
use super::state::{GroupKey, Shared};
use crate::ledger::{Ending, Outcome};

/// A member of a group: one opened subscription. Numbers grow in the order of opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub(super) u32);

/// One settlement, as the broker saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettleEntry {
    /// The topic.
    pub topic: ByteString,
    /// The group; empty for a queue and without a group.
    pub group: ByteString,
    /// Who settled.
    pub member: MemberId,
    /// What was settled.
    pub token: TokenId,
    /// The id of its message, if the token still stood for one.
    pub id: ByteString,
    /// How.
    pub verdict: Ending,
    /// What became of it.
    pub outcome: Outcome,
}

/// Breaks a [`SimBroker`](super::SimBroker) and looks into it. Cloning shares it.
///
/// Every method takes effect before it returns, and wakes whoever waits for what it changed. A queue's only
/// group is `""`.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Hurts calls from now on.
    pub fn inject(&self, operation: Operation, trigger: Trigger, injury: Injury) -> FaultId {
        self.shared.change(|state, _, _| state.faults.inject(operation, trigger, injury))
    }

    /// Ends one fault; calls that hang on it go on.
    pub fn heal(&self, fault: FaultId) {
        self.shared.change(|state, _, _| state.faults.heal(fault));
    }

    /// Ends every fault.
    pub fn heal_all(&self) {
        self.shared.change(|state, _, _| state.faults.heal_all());
    }

    /// How many calls or messages a fault has hurt, healed or not.
    #[must_use]
    pub fn struck(&self, fault: FaultId) -> u64 {
        self.shared.lock().faults.struck(fault)
    }

    /// Makes every write to one topic fail as unavailable until it is healed: a dead-letter target that is
    /// down.
    pub fn take_down(&self, topic: &str) -> FaultId {
        let always = Trigger::always().on(topic.to_owned());
        self.inject(Operation::Write, always, Injury::Fail(ErrorKind::Unavailable))
    }

    /// Kills a member as signal 9 does: it gets nothing more, its settlements are `Lost`, and what it held
    /// comes again, in a queue when its leases are over.
    pub fn kill(&self, member: MemberId) {
        self.shared.change(|state, _, now| {
            state.pools.values_mut().for_each(|pool| pool.kill(member.0, now));
            state.coordinators.values_mut().for_each(|c| c.leave(member.0, now));
        });
    }

    /// Kills every member of every group.
    pub fn kill_all(&self) {
        let state = self.shared.lock();
        let pools = state.pools.values().flat_map(|p| p.members().collect::<Vec<_>>());
        let others = state.coordinators.values().flat_map(|c| c.members().collect::<Vec<_>>());
        let all: Vec<u32> = pools.chain(others).collect();
        drop(state);
        all.into_iter().for_each(|member| self.kill(MemberId(member)));
    }

    /// Ends every lease of a group now. Without leases: as after a broken connection, what is unsettled
    /// comes again, and the old tokens are `Lost`.
    pub fn expire_leases(&self, topic: &str, group: &str) {
        self.shared.change(|state, _, now| {
            if let Some(pool) = state.pools.get_mut(&key(topic, group)) {
                pool.expire_all(now);
            }
        });
    }

    /// Asks partitions (none: all) back from their owners, to be answered within this time, and moves each
    /// to the next member; one that is alone gets them again under a new epoch.
    pub fn revoke(&self, topic: &str, group: &str, partitions: Option<&[u32]>, within: Duration) {
        self.shared.change(|state, _, now| {
            if let Some(coordinator) = state.coordinators.get_mut(&key(topic, group)) {
                coordinator.revoke(partitions, within, now);
            }
        });
    }

    /// A rebalance: every partition moves to the next member, within
    /// [`revoke_within`](super::Builder::revoke_within).
    pub fn rebalance(&self, topic: &str, group: &str) {
        self.revoke(topic, group, None, self.shared.config.revoke_within);
    }

    /// Takes partitions (none: all) away without asking, as after a session that timed out. Their owners are
    /// told with `Read::Lost`, and they are given out again under a new epoch.
    pub fn lose(&self, topic: &str, group: &str, partitions: Option<&[u32]>) {
        self.shared.change(|state, _, now| {
            if let Some(coordinator) = state.coordinators.get_mut(&key(topic, group)) {
                coordinator.lose(partitions, now);
            }
        });
    }

    /// What a member of a broker without leases sent was lost with its connection: what it held of these messages' lanes,
    /// from each of them on, comes again.
    pub fn forget(&self, topic: &str, group: &str, tokens: &[TokenId]) {
        self.shared.change(|state, _, now| {
            if let Some(pool) = state.pools.get_mut(&key(topic, group)).filter(|pool| !pool.has_leases()) {
                tokens.iter().for_each(|token| pool.give_back_lane(token.id, now));
            }
        });
    }

    /// The members of a group.
    #[must_use]
    pub fn members(&self, topic: &str, group: &str) -> Vec<MemberId> {
        let (key, state) = (key(topic, group), self.shared.lock());
        let pool = state.pools.get(&key).into_iter().flat_map(super::pool::Pool::members);
        let others = state.coordinators.get(&key);
        pool.chain(others.into_iter().flat_map(|c| c.members().collect::<Vec<_>>())).map(MemberId).collect()
    }

    /// Who has each partition.
    #[must_use]
    pub fn owners(&self, topic: &str, group: &str) -> Vec<Option<MemberId>> {
        let state = self.shared.lock();
        let owners = state.coordinators.get(&key(topic, group)).map(Coordinator::owners);
        owners.unwrap_or_default().into_iter().map(|o| o.map(MemberId)).collect()
    }

    /// The committed position of each partition: the first that would be read again. For a whole log and a
    /// queue one number: the lowest message not done.
    #[must_use]
    pub fn committed(&self, topic: &str, group: &str) -> Vec<u64> {
        let (key, state) = (key(topic, group), self.shared.lock());
        let coordinator = state.coordinators.get(&key).map(Coordinator::committed);
        coordinator.or_else(|| state.pools.get(&key).map(|p| vec![p.committed()])).unwrap_or_default()
    }

    /// The marks of each partition.
    #[must_use]
    pub fn marks(&self, topic: &str, group: &str) -> Vec<Option<String>> {
        let state = self.shared.lock();
        state.coordinators.get(&key(topic, group)).map(Coordinator::marks).unwrap_or_default()
    }

    /// Messages out with members of a whole log's or queue's group; of a partitioned one, those read and not
    /// committed.
    #[must_use]
    pub fn in_flight(&self, topic: &str, group: &str) -> usize {
        let (key, state) = (key(topic, group), self.shared.lock());
        let pool = state.pools.get(&key).map_or(0, super::pool::Pool::in_flight);
        pool + state.coordinators.get(&key).map_or(0, |c| c.in_flight() as usize)
    }

    /// Messages parked natively.
    #[must_use]
    pub fn parked(&self, topic: &str, group: &str) -> usize {
        self.shared.lock().pools.get(&key(topic, group)).map_or(0, super::pool::Pool::parked)
    }

    /// Messages not settled.
    #[must_use]
    pub fn lag(&self, topic: &str, group: &str) -> u64 {
        let (key, state) = (key(topic, group), self.shared.lock());
        let Some(stored) = state.topics.get(topic) else { return 0 };
        let behind = |committed: Vec<u64>| {
            stored.logs.iter().zip(committed).map(|(log, c)| log.end().saturating_sub(c)).sum()
        };
        let coordinator = state.coordinators.get(&key).map(|c| behind(c.committed()));
        coordinator.or_else(|| state.pools.get(&key).map(|p| p.lag(&stored.logs[0]))).unwrap_or(0)
    }

    /// Every message of a topic that is not delayed, handled or not, by partition.
    #[must_use]
    pub fn messages(&self, topic: &str) -> Vec<Message> {
        super::reader::stored(&self.shared.lock(), topic)
    }

    /// The dead letters a whole log keeps for a topic.
    #[must_use]
    pub fn dead_letters(&self, topic: &str) -> Vec<Message> {
        let state = self.shared.lock();
        state.topics.get(topic).map(|t| t.dead.values().cloned().collect()).unwrap_or_default()
    }

    /// The last 100,000 settlements, oldest first.
    #[must_use]
    pub fn settle_log(&self) -> Vec<SettleEntry> {
        self.shared.lock().settled.iter().cloned().collect()
    }

    /// How often an effect of this name is among the last 100,000 that committed.
    #[must_use]
    pub fn effect_count(&self, name: &str) -> u64 {
        self.shared.lock().effect_counts.get(name).copied().unwrap_or(0)
    }

    /// The names of those [`SimEffect`](super::SimEffect)s that committed after the first so many, in order; of no more
    /// than 100,000 in all.
    #[must_use]
    pub fn effects_since(&self, first: usize) -> Vec<String> {
        self.shared.lock().effects.iter().skip(first).cloned().collect()
    }

    /// The names of the last 100,000 [`SimEffect`](super::SimEffect)s that committed, in order.
    #[must_use]
    pub fn effects(&self) -> Vec<String> {
        self.shared.lock().effects.iter().cloned().collect()
    }
}

fn key(topic: &str, group: &str) -> GroupKey {
    (topic.into(), group.into())
}
