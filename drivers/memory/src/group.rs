//! A group: who has got which message, what came back, and what waits.
//!
//! Everything before the `cursor` was looked at once: it is settled, in flight at a member, or waits in the
//! lane of its key. Everything behind it is new. So the work for a message does not depend on how many there
//! are, and what is settled in order leaves nothing behind but a moved cursor.
//!
//! A reader without a group is a group of its own that the log does not know of: messages may be taken from
//! under it, so it keeps copies of those it has begun with.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use millstream_core::admin::GroupInfo;
use millstream_core::{
    ByteString, Delivery, Epoch, Message, ParkNote, PartitionId, Position, ReadLimits, Token, Verdict,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lane::{Lane, LaneId, Listed, Waiting};
use crate::log::{self, Log};
use crate::positions::Positions;

/// The progress of a group in a topic, and its members.
#[derive(Debug)]
pub(crate) struct Group {
    /// None: a reader without a group.
    name: Option<ByteString>,
    exclusive: bool,
    members: Vec<Member>,
    cursor: u64,
    /// Messages delivered at least once and not settled.
    begun: Positions<Begun>,
    lanes: HashMap<LaneId, Lane>,
    /// Heads of lanes that any member may have.
    free: BTreeMap<u64, LaneId>,
    /// Heads of lanes that are not due.
    timers: BTreeMap<(Instant, u64), LaneId>,
    /// Messages before the cursor that a reader without a group still needs.
    copies: HashMap<u64, Arc<Message>>,
    /// Messages of the log not settled; not counted without a name.
    unsettled: u64,
    in_flight: u64,
    /// Messages in the queues of all lanes.
    waiting: usize,
    parked: u64,
    /// Something new can be had since the members were last woken.
    news: bool,
}

#[derive(Debug)]
struct Member {
    generation: u32,
    wake: Arc<Notify>,
    /// It found nothing and waits to be woken.
    waits: bool,
    /// It still reads; one that does not only settles.
    reads: bool,
    /// Heads of lanes of which it has others in flight.
    own: BTreeMap<u64, LaneId>,
}

#[derive(Debug)]
struct Begun {
    lane: LaneId,
    /// The member that has it; 0: nobody, it waits in its lane.
    at: u32,
    deliveries: u32,
    /// It was parked.
    note: Option<Box<ParkNote>>,
}

/// What came of an attempt to take messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Some.
    Some,
    /// None; the next is due then, if one is known.
    Nothing(Option<Instant>),
    /// None, and nothing is to come before the end that was asked for.
    End,
    /// The member is no more.
    Gone,
}

impl Group {
    /// A group that starts at `cursor` and wants what lies behind it.
    pub(crate) fn new(name: Option<ByteString>, cursor: u64, log: &mut Log) -> Self {
        let mut group = Self {
            name,
            exclusive: false,
            members: Vec::new(),
            cursor,
            begun: Positions::new(),
            lanes: HashMap::new(),
            free: BTreeMap::new(),
            timers: BTreeMap::new(),
            copies: HashMap::new(),
            unsettled: 0,
            in_flight: 0,
            waiting: 0,
            parked: 0,
            news: false,
        };
        if group.name.is_some() {
            let wanted: Vec<u64> = log.iter(cursor).map(|(position, _)| position).collect();
            group.unsettled = wanted.len() as u64;
            wanted.into_iter().for_each(|position| log.claim(position));
        }
        group
    }

    pub(crate) fn name(&self) -> Option<&ByteString> {
        self.name.as_ref()
    }

    /// Messages that it holds in the log.
    pub(crate) fn unsettled(&self) -> u64 {
        self.unsettled
    }

    /// Whether it has members, reading or settling.
    pub(crate) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// Whether somebody may settle something some day.
    pub(crate) fn is_read(&self) -> bool {
        self.in_flight > 0 || self.members.iter().any(|m| m.reads)
    }

    /// Whether its members, if there are any, agree on who gets the messages.
    pub(crate) fn admits(&self, exclusive: bool) -> bool {
        self.members.is_empty() || self.exclusive == exclusive
    }

    /// Adds a member. It must be [admitted](Self::admits).
    pub(crate) fn join(&mut self, generation: u32, wake: Arc<Notify>, exclusive: bool, log: &Log) {
        if self.exclusive != exclusive {
            self.exclusive = exclusive;
            self.sort_into_lanes(log);
        }
        self.members.push(Member { generation, wake, waits: false, reads: true, own: BTreeMap::new() });
    }

    /// New messages are in the log.
    pub(crate) fn appended(&mut self, count: u64) {
        if self.name.is_some() {
            self.unsettled += count;
        }
        self.news = true;
    }

    /// Wakes the members that wait, if there is something new.
    pub(crate) fn wake(&mut self) {
        if !std::mem::take(&mut self.news) {
            return;
        }
        let only = if self.exclusive { self.leader() } else { None };
        for member in self.members.iter_mut().filter(|m| m.waits && only.is_none_or(|l| l == m.generation)) {
            member.waits = false;
            member.wake.notify_one();
        }
    }

    /// Wakes all members, whatever they do.
    pub(crate) fn wake_all(&self) {
        for member in &self.members {
            member.wake.notify_one();
        }
    }

    /// Hands messages before `end` to a member.
    pub(crate) fn take(
        &mut self,
        log: &Log,
        generation: u32,
        end: u64,
        limits: ReadLimits,
        room: usize,
        into: &mut Vec<Delivery>,
    ) -> Taken {
        let Some(index) = self.members.iter().position(|m| m.generation == generation && m.reads) else {
            return Taken::Gone;
        };
        self.fire();
        let before = into.len();
        if !self.exclusive || self.leader() == Some(generation) {
            let mut bytes = 0;
            while into.len() - before < limits.messages {
                let first = into.len() == before;
                let left = limits.bytes.saturating_sub(bytes);
                // What waits is older than what is new.
                if let Some((position, lane)) = self.first_waiting(index, end) {
                    let Some(message) = self.message(log, position) else {
                        self.take_out(position, lane);
                        continue;
                    };
                    let size = message.size();
                    if !first && size > left {
                        break;
                    }
                    bytes += size;
                    let message = Arc::clone(message);
                    into.push(self.take_waiting(position, lane, generation, message));
                } else if let Some((position, entry)) = self.first_new(log, end, room) {
                    if !first && entry.size > left {
                        break;
                    }
                    let lane = self.lane(entry.lane);
                    if self.claim(lane, generation) {
                        bytes += entry.size;
                        into.push(self.take_new(position, lane, generation, entry));
                    } else {
                        self.queue(position, lane, entry);
                    }
                } else {
                    break;
                }
            }
        }
        let Some(member) = self.members.get_mut(index) else { return Taken::Gone };
        member.waits = into.len() == before;
        if !member.waits {
            return Taken::Some;
        }
        if self.cursor >= end && !self.waits_before(end) {
            return Taken::End;
        }
        Taken::Nothing(self.timers.first_key_value().map(|((due, _), _)| *due))
    }

    /// Settles what a member has; says whether it had it.
    pub(crate) fn settle(&mut self, log: &mut Log, generation: u32, position: u64, verdict: Verdict) -> bool {
        if let Verdict::Ack = verdict {
            return self.acknowledge(log, generation, position);
        }
        let Some(begun) = self.begun.get_mut(position).filter(|b| b.at == generation) else { return false };
        match verdict {
            Verdict::Retry { after } if after.is_zero() => self.come_back(position, None),
            Verdict::Retry { after } => self.come_back(position, Some(from_now(after))),
            Verdict::Release => {
                // It was not started: as if it had not been delivered.
                begun.deliveries -= 1;
                self.come_back(position, None);
            }
            Verdict::Park(park) => {
                // Its last run ended in order: what is counted is deliveries since.
                begun.deliveries = 0;
                begun.note = Some(Box::new(park.note));
                self.come_back(position, park.after.map(from_now));
            }
            _ => return false,
        }
        true
    }

    /// Ends what a member has; says whether it had it.
    #[inline]
    pub(crate) fn acknowledge(&mut self, log: &mut Log, generation: u32, position: u64) -> bool {
        let Some(begun) = self.begun.remove_if(position, |b| b.at == generation) else { return false };
        self.in_flight -= 1;
        // Without keys there are lanes only while something waits.
        if !self.lanes.is_empty() {
            self.land(begun.lane, None);
        }
        self.finish(log, position);
        true
    }

    /// A member reads no more, but goes on settling.
    pub(crate) fn stop_reading(&mut self, generation: u32) {
        if let Some(member) = self.members.iter_mut().find(|m| m.generation == generation) {
            member.reads = false;
            self.news = true;
        }
    }

    /// A member is no more: what it had goes back.
    pub(crate) fn leave(&mut self, generation: u32) {
        let had: BTreeSet<u64> =
            self.begun.iter(0).filter(|(_, b)| b.at == generation).map(|(position, _)| position).collect();
        // From the last to the first: each is put in front of its queue.
        for position in had.into_iter().rev() {
            self.come_back(position, None);
        }
        if let Some(index) = self.members.iter().position(|m| m.generation == generation) {
            self.members.remove(index).wake.notify_one();
            self.news = true;
        }
    }

    /// A message is taken out of the log before all groups are done with it.
    pub(crate) fn forget(&mut self, position: u64, lane: LaneId) {
        if self.name.is_none() {
            return;
        }
        let lane = self.lane(lane);
        if position >= self.cursor || self.take_out(position, lane) {
            self.unsettled -= 1;
        }
    }

    /// Every message was taken out of the log.
    pub(crate) fn purged(&mut self, end: u64) {
        if self.name.is_some() {
            self.reset(end);
            self.news = true;
        }
    }

    /// Starts again at a position. There are no members.
    pub(crate) fn seek(&mut self, to: u64, log: &mut Log) {
        let mut wanted: BTreeSet<u64> = log.iter(self.cursor).map(|(position, _)| position).collect();
        wanted.extend(self.begun.iter(0).map(|(position, _)| position));
        wanted.extend(self.lanes.values().flat_map(Lane::queue).map(|w| w.position));
        let now: BTreeSet<u64> = log.iter(to).map(|(position, _)| position).collect();
        now.difference(&wanted).for_each(|position| log.claim(*position));
        wanted.difference(&now).for_each(|position| log.release(*position));
        self.reset(to);
        self.unsettled = now.len() as u64;
    }

    /// Its figures. Looks at what is in flight or waits.
    pub(crate) fn info(&self, log: &Log) -> GroupInfo {
        let begun = self.begun.next(0).map(|(position, _)| position).into_iter();
        let waiting = self.lanes.values().flat_map(Lane::queue).map(|w| w.position);
        let oldest = begun.chain(waiting).chain(log.next(self.cursor).map(|(position, _)| position)).min();
        let mut info = GroupInfo::new(self.name.clone().unwrap_or_default());
        info.members = self.members.iter().filter(|m| m.reads).count().try_into().unwrap_or(u32::MAX);
        info.lag = self.unsettled;
        info.in_flight = self.in_flight;
        info.parked = self.parked;
        info.oldest = oldest.and_then(|position| log.get(position)).map(|entry| entry.message.time);
        info.committed = vec![(PartitionId(0), Position(oldest.unwrap_or(log.end())))];
        info
    }

    /// The member that gets all messages of an exclusive group: the one that came first.
    fn leader(&self) -> Option<u32> {
        self.members.iter().find(|m| m.reads).map(|m| m.generation)
    }

    /// The lane of a message in this group.
    fn lane(&self, of_message: LaneId) -> LaneId {
        if self.exclusive { LaneId::TOTAL } else { of_message }
    }

    fn message<'a>(&'a self, log: &'a Log, position: u64) -> Option<&'a Arc<Message>> {
        log.get(position).map(|entry| &entry.message).or_else(|| self.copies.get(&position))
    }

    /// The oldest message that waits and may go to this member.
    fn first_waiting(&self, member: usize, end: u64) -> Option<(u64, LaneId)> {
        let own = self.members.get(member)?.own.first_key_value();
        let first = match (own, self.free.first_key_value()) {
            (Some(own), Some(free)) => Some(if own.0 < free.0 { own } else { free }),
            (own, free) => own.or(free),
        };
        first.map(|(position, lane)| (*position, *lane)).filter(|(position, _)| *position < end)
    }

    /// The first message that nobody looked at.
    fn first_new<'l>(&mut self, log: &'l Log, end: u64, room: usize) -> Option<(u64, &'l log::Entry)> {
        if self.copies.len() >= room {
            return None;
        }
        let next = log.next(self.cursor);
        self.cursor = next.map_or(log.end(), |(position, _)| position);
        next.filter(|(position, _)| *position < end)
    }

    /// Counts a new message of this lane to what this member has in flight, unless it cannot go there now.
    #[inline]
    fn claim(&mut self, id: LaneId, generation: u32) -> bool {
        if !id.is_shared() {
            return true;
        }
        match self.lanes.entry(id) {
            Entry::Vacant(place) => {
                place.insert(Lane::new(generation, 1));
            }
            Entry::Occupied(lane) if !lane.get().is_open_to(generation) => return false,
            Entry::Occupied(mut lane) => lane.get_mut().in_flight += 1,
        }
        true
    }

    /// Puts a new message behind those of its lane.
    fn queue(&mut self, position: u64, id: LaneId, entry: &log::Entry) {
        self.cursor = position + 1;
        self.copy(position, entry);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.insert(Waiting { position, due: None, parked: false });
            self.waiting += 1;
            self.list(id);
        }
    }

    fn take_new(&mut self, position: u64, id: LaneId, generation: u32, entry: &log::Entry) -> Delivery {
        self.cursor = position + 1;
        self.copy(position, entry);
        self.begun.insert(position, Begun { lane: id, at: generation, deliveries: 1, note: None });
        self.in_flight += 1;
        delivery(position, generation, Arc::clone(&entry.message)).delivered(1)
    }

    fn take_waiting(
        &mut self,
        position: u64,
        id: LaneId,
        generation: u32,
        message: Arc<Message>,
    ) -> Delivery {
        if let Some(lane) = self.lanes.get_mut(&id)
            && let Some(head) = lane.pop()
        {
            lane.owner = generation;
            lane.in_flight += 1;
            lane.solo = head.parked;
            self.waiting -= 1;
            self.parked -= u64::from(head.parked);
            self.list(id);
        }
        self.in_flight += 1;
        if self.begun.get(position).is_none() {
            self.begun.insert(position, Begun { lane: id, at: 0, deliveries: 0, note: None });
        }
        let delivery = delivery(position, generation, message);
        let Some(begun) = self.begun.get_mut(position) else { return delivery };
        begun.at = generation;
        begun.deliveries += 1;
        let delivery = delivery.delivered(begun.deliveries);
        match &begun.note {
            Some(note) => delivery.parked((**note).clone()),
            None => delivery,
        }
    }

    /// A message in flight goes back to its lane.
    fn come_back(&mut self, position: u64, due: Option<Instant>) {
        let Some(begun) = self.begun.get_mut(position) else { return };
        begun.at = 0;
        let (lane, parked) = (begun.lane, begun.note.is_some());
        if begun.deliveries == 0 && !parked {
            self.begun.remove(position);
        }
        self.in_flight -= 1;
        self.parked += u64::from(parked);
        self.waiting += 1;
        self.land(lane, Some(Waiting { position, due, parked }));
    }

    /// A message of a lane is in flight no more; it is settled, or it is back.
    fn land(&mut self, id: LaneId, back: Option<Waiting>) {
        let mut entry = match self.lanes.entry(id) {
            Entry::Occupied(entry) => entry,
            // An unkeyed message has a lane only while it waits or is delivered again.
            Entry::Vacant(_) if back.is_none() => return,
            Entry::Vacant(entry) => entry.insert_entry(Lane::new(0, 0)),
        };
        let lane = entry.get_mut();
        lane.in_flight = lane.in_flight.saturating_sub(1);
        lane.solo &= lane.in_flight > 0;
        match back {
            Some(waiting) => lane.insert(waiting),
            None if lane.is_idle() => {
                entry.remove();
                return;
            }
            // Nothing waits, so nothing is listed.
            None if lane.is_listed_nowhere() => return,
            None => {}
        }
        self.list(id);
    }

    /// This group is done with a message.
    fn finish(&mut self, log: &mut Log, position: u64) {
        if self.name.is_some() {
            self.unsettled -= 1;
            log.release(position);
        } else {
            self.copies.remove(&position);
            self.news = true;
        }
    }

    fn copy(&mut self, position: u64, entry: &log::Entry) {
        if self.name.is_none() {
            self.copies.insert(position, Arc::clone(&entry.message));
        }
    }

    /// Takes a message that was begun with out of all tables; says whether it was there.
    fn take_out(&mut self, position: u64, id: LaneId) -> bool {
        let begun = self.begun.remove(position);
        let queued = self.lanes.get_mut(&id).and_then(|lane| lane.forget(position));
        if let Some(queued) = queued {
            self.waiting -= 1;
            self.parked -= u64::from(queued.parked);
            self.list(id);
        } else if begun.is_some() {
            self.in_flight -= 1;
            self.land(id, None);
        }
        self.copies.remove(&position);
        begun.is_some() || queued.is_some()
    }

    /// Lists the head of a lane where it belongs, and forgets a lane of which nothing is left.
    fn list(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let place = lane.place();
        let before = std::mem::replace(&mut lane.listed, place);
        if lane.is_idle() {
            self.lanes.remove(&id);
        }
        if before == place {
            return;
        }
        match before {
            Listed::Nowhere => None,
            Listed::Free(position) => self.free.remove(&position),
            Listed::Own(member, position) => self.own(member).and_then(|own| own.remove(&position)),
            Listed::Timer(due, position) => self.timers.remove(&(due, position)),
        };
        match place {
            Listed::Nowhere => return,
            Listed::Free(position) => self.free.insert(position, id),
            Listed::Own(member, position) => self.own(member).and_then(|own| own.insert(position, id)),
            Listed::Timer(due, position) => self.timers.insert((due, position), id),
        };
        self.news = true;
    }

    fn own(&mut self, generation: u32) -> Option<&mut BTreeMap<u64, LaneId>> {
        self.members.iter_mut().find(|m| m.generation == generation).map(|m| &mut m.own)
    }

    /// Lists anew what is due by now.
    fn fire(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(((due, _), id)) = self.timers.first_key_value()
            && *due <= now
        {
            let id = *id;
            if let Some(head) = self.lanes.get_mut(&id).and_then(Lane::head_mut) {
                head.due = None;
            }
            self.list(id);
        }
    }

    fn waits_before(&self, end: u64) -> bool {
        self.waiting > 0 && self.lanes.values().flat_map(Lane::queue).any(|w| w.position < end)
    }

    /// Sorts what waits into lanes anew, after the group became exclusive or shared. Nothing is in flight.
    fn sort_into_lanes(&mut self, log: &Log) {
        let mut waiting: Vec<Waiting> = self.lanes.drain().flat_map(|(_, lane)| lane.into_queue()).collect();
        waiting.sort_unstable_by_key(|w| w.position);
        self.free.clear();
        self.timers.clear();
        for waiting in waiting {
            let Some(entry) = log.get(waiting.position) else { continue };
            let id = self.lane(entry.lane);
            if let Some(begun) = self.begun.get_mut(waiting.position) {
                begun.lane = id;
            }
            self.lanes.entry(id).or_insert_with(|| Lane::new(0, 0)).insert(waiting);
        }
        let ids: Vec<LaneId> = self.lanes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.list(id));
    }

    /// Forgets all progress and starts at a position.
    fn reset(&mut self, cursor: u64) {
        self.begun.clear();
        self.lanes.clear();
        self.free.clear();
        self.timers.clear();
        self.copies.clear();
        self.members.iter_mut().for_each(|m| m.own.clear());
        self.cursor = cursor;
        (self.unsettled, self.in_flight, self.waiting, self.parked) = (0, 0, 0, 0);
    }
}

/// The longest that anything can be put off: ten years.
pub(crate) const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// This long from now; what the clock cannot reach is as good as never.
pub(crate) fn from_now(wait: Duration) -> Instant {
    Instant::now() + wait.min(FAR)
}

fn delivery(position: u64, generation: u32, message: Arc<Message>) -> Delivery {
    Delivery::new(message, Token::new(PartitionId(0), Epoch(generation), position)).at(Position(position))
}

#[cfg(test)]
mod tests {
    use millstream_core::Park;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_keys_whose_messages_are_settled() {
        // Given 100 keys of which every way to wait was used
        let mut log = Log::new();
        let mut group = Group::new(Some("g".into()), 0, &mut log);
        let wake = Arc::new(Notify::new());
        (1..=2).for_each(|generation| group.join(generation, Arc::clone(&wake), false, &log));
        for i in 0..1_000 {
            log.push(Arc::new(Message::new("t", "x")), 1, (i % 10 != 0).then(|| LaneId::of_key(i % 100)), 1);
        }
        group.appended(1_000);
        let second = Duration::from_secs(1);
        let note = ParkNote { attempts: 1, first_failure: None, error: String::new() };
        let mut turn = 0;
        let mut take = |group: &mut Group, log: &Log| {
            let mut into = Vec::new();
            turn += 1;
            group.take(log, turn % 2 + 1, u64::MAX, ReadLimits::new(7, 1_000), usize::MAX, &mut into);
            into
        };

        // when all is settled in the end,
        for round in 0..10_000 {
            for delivery in take(&mut group, &log) {
                let id = delivery.token.id();
                let verdict = match (delivery.deliveries, (round + id.id) % 4) {
                    (1, 0) => Verdict::Release,
                    (1, 1) => Verdict::Retry { after: second },
                    (1, 2) => Verdict::Park(Box::new(Park { after: Some(second), note: note.clone() })),
                    _ => Verdict::Ack,
                };
                assert!(group.settle(&mut log, id.epoch.0, id.id, verdict));
            }
            if round % 10 == 0 {
                tokio::time::advance(second).await;
            }
        }

        // then neither log nor group hold anything.
        assert_eq!(log.live(), 0);
        assert_eq!((group.unsettled, group.in_flight, group.parked, group.waiting), (0, 0, 0, 0));
        assert!(group.begun.len() == 0 && group.lanes.is_empty());
        assert!(group.free.is_empty() && group.timers.is_empty());
        assert!(group.members.iter().all(|m| m.own.is_empty()));
    }
}
