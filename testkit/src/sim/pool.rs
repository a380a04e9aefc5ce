//! A group whose messages are settled one by one: the whole log, and the queue with leases.
//!
//! A message is in one of five places: not yet taken from the log (`fresh` on), waiting (`waiting`: given
//! back, or held up by its key), out with a member (`out`), parked with its key (`parks`), or done. Lanes say
//! who may have what next: messages of a lane go out in order, to one member at a time.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use millstream_core::{
    Bytes, Delivery, Epoch, Message, Order, ParkNote, PartitionId, Position, ReadLimits, Token, TokenId,
};
use tokio::time::Instant;

use super::store::Log;

/// Messages held up by their keys that are remembered; beyond that the log is not read further.
const WAITING: usize = 100_000;

/// What must stay in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Lane {
    /// Nothing but itself.
    Alone(u64),
    /// Its key.
    Key(Bytes),
    /// Everything.
    All,
}

#[derive(Debug)]
struct Out {
    offset: u64,
    member: u32,
    lane: Lane,
    until: Option<Instant>,
    /// Whether it came out of the park.
    parked: Option<ParkNote>,
}

#[derive(Debug, Default)]
struct ParkLane {
    waiting: BTreeMap<u64, Parked>,
    out: usize,
}

#[derive(Debug)]
struct Parked {
    due: Option<Instant>,
    note: ParkNote,
}

#[derive(Debug)]
struct Busy {
    member: u32,
    count: usize,
}

#[derive(Debug)]
struct Member {
    /// Asked to be alone.
    exclusive: bool,
    /// Reads up to here only.
    end: Option<u64>,
}

/// How a pool behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolRules {
    pub(super) order: Order,
    pub(super) lease: Option<Duration>,
    pub(super) counts: bool,
    pub(super) max_read: usize,
}

/// The state of one group.
#[derive(Debug)]
pub(super) struct Pool {
    rules: PoolRules,
    members: BTreeMap<u32, Member>,
    fresh: u64,
    waiting: BTreeMap<u64, Instant>,
    out: BTreeMap<u64, Out>,
    expiries: BTreeSet<(Instant, u64)>,
    busy: BTreeMap<Lane, Busy>,
    parks: BTreeMap<Lane, ParkLane>,
    counts: BTreeMap<u64, u32>,
    done: BTreeSet<u64>,
    committed: u64,
    next_token: u64,
}

/// What a member may be given, and when to look again.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) wake: Option<Instant>,
}

impl Taken {
    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// What one read has taken so far.
struct Taking<'a> {
    member: u32,
    alone: bool,
    left: ReadLimits,
    end: u64,
    log: &'a Log,
    now: Instant,
    taken: Taken,
    blocked: HashSet<Lane>,
    mine: HashSet<Lane>,
}

impl Pool {
    pub(super) fn new(rules: PoolRules, start: u64) -> Self {
        Self {
            rules,
            members: BTreeMap::new(),
            fresh: start,
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
            expiries: BTreeSet::new(),
            busy: BTreeMap::new(),
            parks: BTreeMap::new(),
            counts: BTreeMap::new(),
            done: BTreeSet::new(),
            committed: start,
            next_token: 1,
        }
    }

    pub(super) fn join(&mut self, member: u32, exclusive: bool, end: Option<u64>) {
        self.members.insert(member, Member { exclusive, end });
    }

    pub(super) fn is_unordered(&self) -> bool {
        self.rules.order == Order::None
    }

    pub(super) fn members(&self) -> impl Iterator<Item = u32> {
        self.members.keys().copied()
    }

    /// The member is gone. Without leases its messages come back now; a queue does not know that it went.
    pub(super) fn leave(&mut self, member: u32, now: Instant) {
        self.members.remove(&member);
        if self.rules.lease.is_none() {
            let theirs: Vec<u64> =
                self.out.iter().filter(|(_, o)| o.member == member).map(|(t, _)| *t).collect();
            theirs.into_iter().for_each(|token| self.give_back(token, now));
        }
    }

    /// The member was killed: as gone, and what it settles late is not its own any more.
    pub(super) fn kill(&mut self, member: u32, now: Instant) {
        self.leave(member, now);
        // A queue goes on hiding them; but nobody is left to hold their tokens.
        self.out.values_mut().filter(|o| o.member == member).for_each(|o| o.member = 0);
        self.busy.values_mut().filter(|b| b.member == member).for_each(|b| b.member = 0);
    }

    /// Ends every lease now, also where there are none: all that is out comes back.
    pub(super) fn expire_all(&mut self, now: Instant) {
        let tokens: Vec<u64> = self.out.keys().copied().collect();
        tokens.into_iter().for_each(|token| self.give_back(token, now));
    }

    /// Takes back what is overdue.
    pub(super) fn reap(&mut self, now: Instant) {
        while let Some(&(until, token)) = self.expiries.first()
            && until <= now
        {
            self.give_back(token, now);
        }
    }

    /// Gives a member what it may have.
    pub(super) fn take(&mut self, member: u32, limits: ReadLimits, log: &Log, now: Instant) -> Taken {
        self.reap(now);
        let alone = self.members.iter().find(|(_, m)| m.exclusive).map(|(id, _)| *id);
        let Some(end) = self.members.get(&member).map(|m| m.end) else { return Taken::default() };
        if alone.is_some_and(|first| first != member) {
            return Taken { wake: self.expiries.first().map(|e| e.0), ..Taken::default() };
        }
        let messages = limits.messages.min(self.rules.max_read);
        let mut taking = Taking {
            member,
            alone: alone.is_some(),
            left: ReadLimits::new(messages, limits.bytes),
            end: end.unwrap_or(u64::MAX),
            log,
            now,
            taken: Taken::default(),
            blocked: HashSet::new(),
            mine: HashSet::new(),
        };
        self.take_parked(&mut taking);
        self.take_waiting(&mut taking);
        self.take_fresh(&mut taking);
        let mut taken = taking.taken;
        if let Some(&(until, _)) = self.expiries.first() {
            taken.wake_at(until);
        }
        taken
    }

    fn take_parked(&mut self, taking: &mut Taking<'_>) {
        let lanes: Vec<Lane> = self.parks.keys().cloned().collect();
        for lane in lanes {
            let Some(park) = self.parks.get(&lane) else { continue };
            // The key is closed to newer messages for as long as it has a park.
            taking.blocked.insert(lane.clone());
            let Some((&offset, head)) = park.waiting.first_key_value() else { continue };
            if park.out > 0 || self.busy.get(&lane).is_some_and(|b| b.member != taking.member) {
                continue;
            }
            if let Some(due) = head.due.filter(|due| *due > taking.now) {
                taking.taken.wake_at(due);
                continue;
            }
            let message = taking.log.get(offset).filter(|m| offset < taking.end && taking.fits(m));
            let Some(message) = message else { continue };
            let Some(park) = self.parks.get_mut(&lane) else { continue };
            let Some(parked) = park.waiting.remove(&offset) else { continue };
            park.out += 1;
            self.hand_out(offset, lane, Some(parked.note), message.clone(), taking);
        }
    }

    fn take_waiting(&mut self, taking: &mut Taking<'_>) {
        let waiting: Vec<(u64, Instant)> = self.waiting.iter().map(|(o, d)| (*o, *d)).collect();
        for (offset, due) in waiting {
            if taking.left.messages == 0 || offset >= taking.end {
                return;
            }
            let Some(message) = taking.log.get(offset) else {
                // Purged.
                self.waiting.remove(&offset);
                self.finish(offset);
                continue;
            };
            let lane = self.lane(offset, message, taking.alone);
            if due > taking.now {
                taking.taken.wake_at(due);
                taking.blocked.insert(lane);
            } else if self.may_go(&lane, offset, message, taking) {
                self.waiting.remove(&offset);
                self.hand_out(offset, lane, None, message.clone(), taking);
            }
        }
    }

    fn take_fresh(&mut self, taking: &mut Taking<'_>) {
        self.fresh = self.fresh.max(taking.log.start());
        while taking.left.messages > 0 && self.waiting.len() < WAITING {
            let offset = self.fresh;
            let Some(message) = taking.log.get(offset).filter(|_| offset < taking.end) else { return };
            let lane = self.lane(offset, message, taking.alone);
            if self.may_go(&lane, offset, message, taking) {
                self.fresh += 1;
                self.hand_out(offset, lane, None, message.clone(), taking);
            } else if taking.fits(message) {
                self.fresh += 1;
                self.waiting.insert(offset, taking.now);
            } else {
                return;
            }
        }
    }

    /// Whether a message may go out now. One that may not holds up its lane.
    fn may_go(&self, lane: &Lane, offset: u64, message: &Message, taking: &mut Taking<'_>) -> bool {
        let park = self.park_lane(offset, message);
        let parked = self.parks.contains_key(&park);
        let busy = self.busy.get(lane).is_some_and(|busy| {
            // A queue's key gives nothing more while messages of it are out, but for those of this read.
            busy.member != taking.member || (self.rules.lease.is_some() && !taking.mine.contains(lane))
        });
        let goes = !parked && !busy && !taking.blocked.contains(lane) && taking.fits(message);
        // A parked key under total order steps aside: it holds up itself, not the rest.
        let steps_aside = parked && *lane == Lane::All;
        if !goes && !steps_aside {
            taking.blocked.insert(lane.clone());
        }
        goes
    }

    fn hand_out(
        &mut self,
        offset: u64,
        lane: Lane,
        parked: Option<ParkNote>,
        message: Message,
        taking: &mut Taking<'_>,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        let until = self.rules.lease.map(|lease| taking.now + lease);
        if let Some(until) = until {
            self.expiries.insert((until, token));
        }
        let busy = self.busy.entry(lane.clone()).or_insert(Busy { member: taking.member, count: 0 });
        busy.count += 1;
        let count = self.counts.entry(offset).or_default();
        *count += 1;
        taking.left.messages -= 1;
        taking.left.bytes = taking.left.bytes.saturating_sub(message.size());
        taking.mine.insert(lane.clone());
        let mut delivery = Delivery::new(message, Token::new(PartitionId(0), Epoch(taking.member), token));
        if self.rules.counts {
            delivery = delivery.delivered(*count);
        }
        if self.rules.lease.is_none() {
            delivery = delivery.at(Position(offset));
        }
        if let Some(note) = &parked {
            delivery = delivery.parked(note.clone());
        }
        taking.taken.deliveries.push(delivery);
        self.out.insert(token, Out { offset, member: taking.member, lane, until, parked });
    }

    /// The offset a token stands for, if it is still the member's.
    pub(super) fn held(&self, member: u32, token: TokenId) -> Option<u64> {
        let out = self.out.get(&token.id)?;
        (out.member == member && token.epoch == Epoch(member)).then_some(out.offset)
    }

    /// It is done.
    pub(super) fn ack(&mut self, token: u64) {
        if let Some(out) = self.remove(token) {
            self.finish(out.offset);
        }
    }

    /// It comes again, not before `due`.
    pub(super) fn give_back(&mut self, token: u64, due: Instant) {
        let Some(out) = self.remove(token) else { return };
        match out.parked {
            Some(note) => self.park_at(out.offset, out.lane, Some(due), note),
            None => {
                self.waiting.insert(out.offset, due);
            }
        }
    }

    /// It comes again at once, and before those of its lane that were handed out after it: what these settle is lost.
    pub(super) fn give_back_lane(&mut self, token: u64, now: Instant) {
        let Some(out) = self.out.get(&token) else { return };
        let (offset, member, lane) = (out.offset, out.member, out.lane.clone());
        let behind =
            self.out.iter().filter(|(_, o)| o.member == member && o.lane == lane && o.offset >= offset);
        let tokens: Vec<u64> = behind.map(|(token, _)| *token).collect();
        tokens.into_iter().for_each(|token| self.give_back(token, now));
    }

    /// It comes again at once and was not started.
    pub(super) fn release(&mut self, token: u64, now: Instant) {
        // A queue counts receives, whatever became of them.
        if self.rules.lease.is_none()
            && let Some(out) = self.out.get(&token)
            && let Some(count) = self.counts.get_mut(&out.offset)
        {
            *count = count.saturating_sub(1);
        }
        self.give_back(token, now);
    }

    /// It is set aside with its key.
    pub(super) fn park(&mut self, token: u64, log: &Log, due: Option<Instant>, note: ParkNote) {
        let Some(out) = self.remove(token) else { return };
        match log.get(out.offset) {
            Some(message) => {
                // Its last run ended in order: what is counted is deliveries since.
                self.counts.remove(&out.offset);
                let lane = self.park_lane(out.offset, message);
                self.park_at(out.offset, lane, due, note);
            }
            None => self.finish(out.offset),
        }
    }

    /// Extends a lease; says whether it was still the member's.
    pub(super) fn extend(&mut self, member: u32, token: TokenId, now: Instant) -> bool {
        if self.held(member, token).is_none() {
            return false;
        }
        let (Some(lease), Some(out)) = (self.rules.lease, self.out.get_mut(&token.id)) else { return false };
        if let Some(old) = out.until.replace(now + lease) {
            self.expiries.remove(&(old, token.id));
        }
        self.expiries.insert((now + lease, token.id));
        true
    }

    /// Moves the group; what was parked or waiting is forgotten.
    pub(super) fn seek(&mut self, to: u64) {
        *self = Self { members: std::mem::take(&mut self.members), ..Self::new(self.rules, to) };
    }

    /// Whether the member has an end, and nothing below it is left to be delivered.
    pub(super) fn is_at_end(&self, member: u32, log: &Log) -> bool {
        let Some(end) = self.members.get(&member).and_then(|m| m.end) else { return false };
        let below = |offset: Option<&u64>| offset.is_some_and(|o| *o < end);
        self.fresh >= end.max(log.start())
            && !below(self.waiting.keys().next())
            && !self.parks.values().any(|p| below(p.waiting.keys().next()))
    }

    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    pub(super) fn in_flight(&self) -> usize {
        self.out.len()
    }

    pub(super) fn parked(&self) -> usize {
        self.parks.values().map(|p| p.waiting.len() + p.out).sum()
    }

    /// Messages not settled.
    pub(super) fn lag(&self, log: &Log) -> u64 {
        log.end().saturating_sub(self.committed.max(log.start())) - self.done.len() as u64
    }

    fn remove(&mut self, token: u64) -> Option<Out> {
        let out = self.out.remove(&token)?;
        if let Some(until) = out.until {
            self.expiries.remove(&(until, token));
        }
        if let Some(busy) = self.busy.get_mut(&out.lane) {
            busy.count -= 1;
            if busy.count == 0 {
                self.busy.remove(&out.lane);
            }
        }
        if out.parked.is_some()
            && let Some(park) = self.parks.get_mut(&out.lane)
        {
            park.out -= 1;
            if park.out == 0 && park.waiting.is_empty() {
                self.parks.remove(&out.lane);
            }
        }
        Some(out)
    }

    fn park_at(&mut self, offset: u64, lane: Lane, due: Option<Instant>, note: ParkNote) {
        self.parks.entry(lane).or_default().waiting.insert(offset, Parked { due, note });
    }

    fn finish(&mut self, offset: u64) {
        self.counts.remove(&offset);
        self.done.insert(offset);
        while self.done.remove(&self.committed) {
            self.committed += 1;
        }
    }

    fn lane(&self, offset: u64, message: &Message, alone: bool) -> Lane {
        match (self.rules.order, alone) {
            (Order::Total, true) => Lane::All,
            (Order::None, _) => Lane::Alone(offset),
            _ => self.park_lane(offset, message),
        }
    }

    fn park_lane(&self, offset: u64, message: &Message) -> Lane {
        match message.lane_key() {
            Some(key) if self.rules.order != Order::None => Lane::Key(key.clone()),
            _ => Lane::Alone(offset),
        }
    }
}

impl Taking<'_> {
    /// Whether it is within the limits; one message always fits.
    fn fits(&self, message: &Message) -> bool {
        self.left.messages > 0 && (self.taken.deliveries.is_empty() || message.size() <= self.left.bytes)
    }
}
