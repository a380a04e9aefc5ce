//! A group over partitions: who has which, the hand-over in a rebalance, and committed positions.
//!
//! Members change, so targets change: the partitions are divided anew, each staying where it is if it can. A
//! partition that has to move is asked back from its owner ([`Read::Revoking`]), who goes on settling until it
//! answers or the deadline passes; then it is given to its new owner under a higher epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use millstream_core::{
    Assigned, Delivery, Epoch, Lost, PartitionId, Position, Read, ReadLimits, Revoking, Token, TokenId,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::store::Log;

/// A partition as the group keeps it: this outlives every member.
#[derive(Debug)]
struct Slot {
    committed: u64,
    mark: Option<String>,
    epoch: u32,
    owner: Option<u32>,
    target: Option<u32>,
    /// To be asked back even if it stays with its owner.
    forced: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    epoch: u32,
    next: u64,
    announced: bool,
    revoking: bool,
    paused: bool,
}

#[derive(Debug)]
struct HandOver {
    partitions: Vec<(u32, u32)>,
    deadline: Instant,
    asked: Asked,
}

/// How far an owner is with giving back.
#[derive(Debug)]
enum Asked {
    NotYet,
    Waiting(oneshot::Receiver<()>),
    Answered,
}

impl HandOver {
    /// Whether the owner let go, or has to. Leaves the task alone that waits for the answer.
    fn is_over(&mut self, now: Instant) -> bool {
        if let Asked::Waiting(answer) = &mut self.asked
            && !matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
        {
            // Answered or dropped: both let go.
            self.asked = Asked::Answered;
        }
        matches!(self.asked, Asked::Answered) || self.deadline <= now
    }

    /// The same, and the answer wakes this task.
    fn poll_over(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        if let Asked::Waiting(answer) = &mut self.asked
            && Pin::new(answer).poll(cx).is_ready()
        {
            self.asked = Asked::Answered;
        }
        self.is_over(now)
    }
}

#[derive(Debug)]
struct Member {
    exclusive: bool,
    manual: bool,
    held: BTreeMap<u32, Held>,
    hand_overs: Vec<HandOver>,
    lost: Vec<(PartitionId, Epoch)>,
    /// The partition to read from next, for fairness.
    cursor: u32,
    ends: Option<Vec<u64>>,
}

/// What a member's read came to.
#[derive(Debug)]
pub(super) enum Turn {
    Ready(Read, Vec<Delivery>),
    Wait(Option<Instant>),
}

/// The state of one group.
#[derive(Debug)]
pub(super) struct Coordinator {
    slots: Vec<Slot>,
    members: BTreeMap<u32, Member>,
    revoke_within: Duration,
}

impl Coordinator {
    pub(super) fn new(starts: Vec<u64>, revoke_within: Duration) -> Self {
        let slot =
            |committed| Slot { committed, mark: None, epoch: 0, owner: None, target: None, forced: None };
        Self { slots: starts.into_iter().map(slot).collect(), members: BTreeMap::new(), revoke_within }
    }

    /// Lets a member in; with partitions of its own choice it takes no part in the division.
    pub(super) fn join(
        &mut self,
        member: u32,
        exclusive: bool,
        manual: Option<Vec<PartitionId>>,
        ends: Option<Vec<u64>>,
        now: Instant,
    ) {
        let new = Member {
            exclusive,
            manual: manual.is_some(),
            held: BTreeMap::new(),
            hand_overs: Vec::new(),
            lost: Vec::new(),
            cursor: 0,
            ends,
        };
        self.members.insert(member, new);
        match manual {
            Some(partitions) => self.assign(member, &partitions),
            None => self.divide(now),
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = u32> {
        self.members.keys().copied()
    }

    /// The member is gone, with or without a word.
    pub(super) fn leave(&mut self, member: u32, now: Instant) {
        if self.members.remove(&member).is_none() {
            return;
        }
        for slot in &mut self.slots {
            if slot.owner == Some(member) {
                (slot.owner, slot.forced) = (None, None);
            }
        }
        self.divide(now);
    }

    /// Replaces the partitions of a member that chooses them itself.
    pub(super) fn assign(&mut self, member: u32, partitions: &[PartitionId]) {
        let Some(m) = self.members.get_mut(&member).filter(|m| m.manual) else { return };
        let wanted: BTreeSet<u32> = partitions.iter().map(|p| p.0).collect();
        m.held.retain(|p, _| wanted.contains(p));
        for p in wanted {
            if let Some(slot) = self.slots.get_mut(p as usize)
                && !m.held.contains_key(&p)
            {
                slot.epoch += 1;
                m.held.insert(p, Held::new(slot));
            }
        }
    }

    /// Takes partitions away without asking; whoever had them is told, and they are given out again.
    pub(super) fn lose(&mut self, partitions: Option<&[u32]>, now: Instant) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let p = index as u32;
            if partitions.is_some_and(|only| !only.contains(&p)) {
                continue;
            }
            slot.forced = None;
            if let Some(owner) = slot.owner.take() {
                take_away(&mut self.members, owner, p);
            }
            let manual: Vec<u32> = self.members.iter().filter(|(_, m)| m.manual).map(|(id, _)| *id).collect();
            manual.into_iter().for_each(|id| take_away(&mut self.members, id, p));
        }
        self.give_out(now);
    }

    /// Asks partitions back from their owners, and gives them to whoever is next.
    pub(super) fn revoke(&mut self, partitions: Option<&[u32]>, within: Duration, now: Instant) {
        let sharing = self.sharing();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if partitions.is_some_and(|only| !only.contains(&(index as u32))) {
                continue;
            }
            if let Some(owner) = slot.owner {
                let next = sharing.iter().copied().find(|m| *m > owner).or(sharing.first().copied());
                (slot.target, slot.forced) = (next, Some(now + within));
            }
        }
        self.give_out(now);
    }

    /// Lets time pass: hand-overs that are answered or overdue come to their end.
    pub(super) fn advance(&mut self, now: Instant) -> Option<Instant> {
        let mut released = false;
        for (&id, member) in &mut self.members {
            let mut at = 0;
            while at < member.hand_overs.len() {
                if !member.hand_overs[at].is_over(now) {
                    at += 1;
                    continue;
                }
                let hand_over = member.hand_overs.swap_remove(at);
                for (p, epoch) in hand_over.partitions {
                    if member.held.get(&p).is_none_or(|held| held.epoch != epoch) {
                        continue;
                    }
                    member.held.remove(&p);
                    if matches!(hand_over.asked, Asked::NotYet) {
                        // It never came to ask: from its view they are just gone.
                        member.lost.push((PartitionId(p), Epoch(epoch)));
                    }
                    let slot = &mut self.slots[p as usize];
                    if slot.owner == Some(id) {
                        (slot.owner, slot.forced) = (None, None);
                        released = true;
                    }
                }
            }
        }
        if released {
            self.give_out(now);
        }
        self.members.values().flat_map(|m| m.hand_overs.iter().map(|h| h.deadline)).min()
    }

    /// Registers to be woken when the member answers a hand-over.
    pub(super) fn poll_answers(&mut self, member: u32, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        let member = self.members.get_mut(&member);
        let answered = member.is_some_and(|m| m.hand_overs.iter_mut().any(|h| h.poll_over(now, cx)));
        if answered { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What a member gets now.
    pub(super) fn take(&mut self, member: u32, limits: ReadLimits, logs: &[Log], now: Instant) -> Turn {
        let wake = self.advance(now);
        let Some(m) = self.members.get_mut(&member) else { return Turn::Wait(None) };
        if !m.lost.is_empty() {
            let partitions = std::mem::take(&mut m.lost);
            return Turn::Ready(Read::Lost(Lost { partitions }), Vec::new());
        }
        if let Some(hand_over) = m.hand_overs.iter_mut().find(|h| matches!(h.asked, Asked::NotYet)) {
            let partitions =
                hand_over.partitions.iter().map(|&(p, epoch)| (PartitionId(p), Epoch(epoch))).collect();
            let (revoking, answer) = Revoking::new(partitions, hand_over.deadline);
            hand_over.asked = Asked::Waiting(answer);
            return Turn::Ready(Read::Revoking(revoking), Vec::new());
        }
        let news: Vec<Assigned> = m
            .held
            .iter_mut()
            .filter(|(_, held)| !held.announced)
            .map(|(&p, held)| {
                held.announced = true;
                let mut assigned = Assigned::new(PartitionId(p), Epoch(held.epoch));
                assigned.start = Some(Position(held.next));
                assigned.end = Some(Position(logs[p as usize].end()));
                assigned.mark.clone_from(&self.slots[p as usize].mark);
                assigned
            })
            .collect();
        if !news.is_empty() {
            return Turn::Ready(Read::Assigned(news), Vec::new());
        }
        let deliveries = m.fetch(limits, logs);
        if !deliveries.is_empty() {
            return Turn::Ready(Read::Deliveries, deliveries);
        }
        let divided = self.slots.iter().all(|s| s.owner.is_some());
        let idle = m.held.is_empty() && (m.manual || !divided);
        if !idle && m.is_at_end() {
            return Turn::Ready(Read::End, Vec::new());
        }
        Turn::Wait(wake)
    }

    /// Commits up to and with a token; says whether it was still the member's.
    pub(super) fn commit(&mut self, member: u32, token: TokenId) -> bool {
        if !self.holds(member, token.partition, token.epoch) {
            return false;
        }
        let slot = &mut self.slots[token.partition.0 as usize];
        slot.committed = slot.committed.max(token.id + 1);
        true
    }

    /// Whether a partition is the member's under this epoch.
    pub(super) fn holds(&self, member: u32, partition: PartitionId, epoch: Epoch) -> bool {
        let held = self.members.get(&member).and_then(|m| m.held.get(&partition.0));
        held.is_some_and(|held| held.epoch == epoch.0)
    }

    pub(super) fn pause(&mut self, member: u32, partitions: &[PartitionId], paused: bool) {
        let Some(member) = self.members.get_mut(&member) else { return };
        for p in partitions {
            if let Some(held) = member.held.get_mut(&p.0) {
                held.paused = paused;
            }
        }
    }

    pub(super) fn mark(&mut self, partition: PartitionId, note: String) {
        if let Some(slot) = self.slots.get_mut(partition.0 as usize) {
            slot.mark = Some(note).filter(|n| !n.is_empty());
        }
    }

    pub(super) fn marks(&self) -> Vec<Option<String>> {
        self.slots.iter().map(|s| s.mark.clone()).collect()
    }

    pub(super) fn committed(&self) -> Vec<u64> {
        self.slots.iter().map(|s| s.committed).collect()
    }

    pub(super) fn owners(&self) -> Vec<Option<u32>> {
        self.slots.iter().map(|s| s.owner).collect()
    }

    /// Messages read by members and not committed.
    pub(super) fn in_flight(&self) -> u64 {
        let held = self.members.values().flat_map(|m| m.held.iter());
        held.map(|(p, held)| held.next.saturating_sub(self.slots[*p as usize].committed)).sum()
    }

    pub(super) fn seek(&mut self, to: &[u64]) {
        for (slot, to) in self.slots.iter_mut().zip(to) {
            slot.committed = *to;
        }
    }

    /// The members that share the partitions.
    fn sharing(&self) -> Vec<u32> {
        let mut group = self.members.iter().filter(|(_, m)| !m.manual);
        if let Some((&first, _)) = group.clone().find(|(_, m)| m.exclusive) {
            return vec![first];
        }
        group.by_ref().map(|(id, _)| *id).collect()
    }

    /// Divides the partitions anew, each staying where it is if it can.
    fn divide(&mut self, now: Instant) {
        let sharing = self.sharing();
        let mut shares: BTreeMap<u32, Vec<usize>> = sharing.iter().map(|m| (*m, Vec::new())).collect();
        for (p, slot) in self.slots.iter_mut().enumerate() {
            slot.target = slot.owner.or(slot.target).filter(|m| shares.contains_key(m));
            if let Some(share) = slot.target.and_then(|m| shares.get_mut(&m)) {
                share.push(p);
            }
        }
        if sharing.is_empty() {
            return;
        }
        let (floor, extra) = (self.slots.len() / sharing.len(), self.slots.len() % sharing.len());
        let mut largest: Vec<u32> = sharing.clone();
        largest.sort_by_key(|m| (std::cmp::Reverse(shares[m].len()), *m));
        let quota = |rank: usize| floor + usize::from(rank < extra);
        for (rank, m) in largest.iter().enumerate() {
            for p in shares.get_mut(m).into_iter().flat_map(|s| s.split_off(s.len().min(quota(rank)))) {
                self.slots[p].target = None;
            }
        }
        let room: Vec<u32> = largest
            .iter()
            .enumerate()
            .flat_map(|(rank, m)| std::iter::repeat_n(*m, quota(rank) - shares[m].len()))
            .collect();
        let free = self.slots.iter_mut().filter(|s| s.target.is_none());
        free.zip(room).for_each(|(slot, m)| slot.target = Some(m));
        self.give_out(now);
    }

    /// Gives free partitions to those they are meant for, and asks back what is in the wrong hands.
    fn give_out(&mut self, now: Instant) {
        let mut asked: BTreeMap<(u32, Instant), Vec<(u32, u32)>> = BTreeMap::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let p = index as u32;
            match (slot.owner, slot.target) {
                (None, Some(target)) => {
                    if let Some(member) = self.members.get_mut(&target) {
                        slot.epoch += 1;
                        slot.owner = Some(target);
                        member.held.insert(p, Held::new(slot));
                    }
                }
                (Some(owner), target) if target != Some(owner) || slot.forced.is_some() => {
                    let held = self.members.get_mut(&owner).and_then(|m| m.held.get_mut(&p));
                    if let Some(held) = held.filter(|held| !held.revoking) {
                        held.revoking = true;
                        let deadline = slot.forced.unwrap_or(now + self.revoke_within);
                        asked.entry((owner, deadline)).or_default().push((p, held.epoch));
                    }
                }
                _ => {}
            }
        }
        for ((owner, deadline), partitions) in asked {
            if let Some(member) = self.members.get_mut(&owner) {
                member.hand_overs.push(HandOver { partitions, deadline, asked: Asked::NotYet });
            }
        }
    }
}

fn take_away(members: &mut BTreeMap<u32, Member>, id: u32, p: u32) {
    if let Some(member) = members.get_mut(&id)
        && let Some(held) = member.held.remove(&p)
        && held.announced
    {
        member.lost.push((PartitionId(p), Epoch(held.epoch)));
    }
}

impl Held {
    fn new(slot: &Slot) -> Self {
        Self { epoch: slot.epoch, next: slot.committed, announced: false, revoking: false, paused: false }
    }
}

impl Member {
    /// Messages of its partitions, one of each in turn.
    fn fetch(&mut self, limits: ReadLimits, logs: &[Log]) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let mut bytes = limits.bytes;
        let mut idle = 0;
        while deliveries.len() < limits.messages && idle < self.held.len() {
            let next = self.held.range(self.cursor..).next().or_else(|| self.held.first_key_value());
            let Some((&p, _)) = next else { break };
            self.cursor = p + 1;
            let Some(held) = self.held.get_mut(&p) else { break };
            let log = &logs[p as usize];
            held.next = held.next.max(log.start());
            let end = self.ends.as_ref().map_or(u64::MAX, |ends| ends[p as usize]);
            let open = held.announced && !held.revoking && !held.paused && held.next < end;
            let Some(message) = log.get(held.next).filter(|_| open) else {
                idle += 1;
                continue;
            };
            if !deliveries.is_empty() && message.size() > bytes {
                break;
            }
            idle = 0;
            bytes = bytes.saturating_sub(message.size());
            let token = Token::new(PartitionId(p), Epoch(held.epoch), held.next);
            deliveries.push(Delivery::new(message.clone(), token).at(Position(held.next)));
            held.next += 1;
        }
        deliveries
    }

    fn is_at_end(&self) -> bool {
        let Some(ends) = &self.ends else { return false };
        self.held.iter().all(|(p, held)| held.next >= ends[*p as usize])
    }
}
