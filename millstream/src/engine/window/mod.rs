//! The window: every message read and not yet settled, and the rules for what happens to each next.
//!
//! A plain state machine: no I/O, no clock, no tasks. The pump puts deliveries in, runners take jobs and bring
//! back results, the outbound tasks and the settlers take what must leave and report what became of it. All
//! of them hold the lock for a batch at a time. Time comes in as an argument.
//!
//! The life of an entry ([`Stage`]):
//!
//! ```text
//! arrive ─ Queued ─ (head of its lane) ─ Reserving ─ Ready ─ Running ─┬─ settled, gone
//!             │                              │          ▲             ├─ Leaving (emit, dead letter, park) ─ …
//!             └── parked behind its key      └ Waiting ─┘             └─ Settling (commits with its effects) ─ …
//! ```

mod batches;
mod counts;
mod finish;
mod lanes;
#[cfg(test)]
mod model;
mod outage;
mod partitions;
mod tracker;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, SystemTime};

use foldhash::{HashMap, HashMapExt};
use millstream_core::{
    ByteString, Delivery, Effects, Message, PartitionId, Position, ReadLimits, Reservation, Reserve,
    Settlement, Token, TokenId, names,
};
use slab::Slab;
use tokio::time::Instant;

pub(crate) use batches::BatchGate;
pub(crate) use counts::Counts;
pub(crate) use lanes::{Index, LaneId};
use lanes::{Lanes, NONE};
use outage::OutageWatch;
use partitions::MarkRequest;
use partitions::Partition;

use super::clock::Clock;
use crate::context::Item;
use crate::policy::{Next, Ordering, Policy};
use crate::{Failure, Outcome};

/// Which of a subscription's two inputs a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Input {
    /// The topic.
    Main = 0,
    /// The group's park of it.
    Park = 1,
}

impl Input {
    pub(crate) const ALL: [Self; 2] = [Self::Main, Self::Park];
}

/// How this driver parks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkMode {
    /// Not at all: long waits are spent here.
    None,
    /// By a verdict.
    Native,
    /// In a topic that the scheduler keeps.
    Topic,
    /// By a verdict that delivers again later, without a memory of the key.
    Redeliver(Duration),
}

/// What of capabilities and policy the window needs.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) cumulative: bool,
    pub(crate) partitions: bool,
    pub(crate) atomic_emit: bool,
    pub(crate) effects: bool,
    pub(crate) park: ParkMode,
    pub(crate) keyed_redelivery: bool,
    pub(crate) topic: ByteString,
    pub(crate) group: Option<ByteString>,
    /// How long a delivery is ours by our own clock, where it is for a time.
    pub(crate) lease: Option<Duration>,
    pub(crate) clock: Clock,
    pub(crate) seed: Option<u64>,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Behind others of its lane.
    Queued,
    /// Asking the deduplication store.
    Reserving,
    /// May run.
    Ready,
    /// Runs.
    Running,
    /// Until a time.
    Waiting,
    /// Being written elsewhere before it is settled.
    Leaving,
    /// Being settled with something that its lane must wait for.
    Settling,
}

/// What happens to an entry when it becomes the head of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Run,
    /// Redriven for another group.
    Skip,
    /// Delivered too often.
    CrashLoop,
}

/// What is remembered of a message that failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) first_failure: Option<SystemTime>,
    pub(crate) last_failure: Option<SystemTime>,
    /// The chain of the last error, cut at 8 KiB.
    pub(crate) error: String,
    pub(crate) error_type: String,
}

/// The longest chain of errors that is kept.
pub(crate) const ERROR_LIMIT: usize = 8 << 10;

#[derive(Debug)]
struct Entry {
    /// Out while it runs.
    item: Option<Box<Item>>,
    /// Out once it is to be settled.
    token: Option<Token>,
    id: TokenId,
    input: Input,
    partition: PartitionId,
    stage: Stage,
    lane: Option<LaneId>,
    /// Before and behind it in its lane.
    previous: Index,
    next: Index,
    fate: Fate,
    /// In its partition's tracker.
    number: u64,
    size: usize,
    /// Runs of the handler that count.
    attempts: u32,
    /// Runs that did not count, since something was unavailable.
    excused: u32,
    /// Not before.
    due: Option<Instant>,
    /// Ours until then; `None`: for good.
    lease_until: Option<Instant>,
    /// Tells its timers from those of an earlier entry in this place.
    stamp: u32,
    /// Runs on its own: the batch it was in failed.
    single: bool,
    /// The suspicion that it kills processes is noted durably: it may run.
    marked: bool,
    history: Option<Box<History>>,
    reservation: Option<Reservation>,
    /// When that was made.
    reserved_at: Option<Instant>,
    extra: Option<Box<Extra>>,
}

/// What few entries have: effects that wait for a write, and others of a batch that end with it.
#[derive(Debug, Default)]
struct Extra {
    effects: Effects,
    followers: Vec<Index>,
}

/// A message for a runner; `rest` are the others of a batch.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) index: Index,
    pub(crate) item: Box<Item>,
    pub(crate) rest: Vec<(Index, Box<Item>)>,
}

/// What a runner brings back.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) index: Index,
    pub(crate) item: Box<Item>,
    pub(crate) rest: Vec<(Index, Box<Item>)>,
    pub(crate) outcome: Outcome,
    /// Published by the handler, to leave with its success.
    pub(crate) emit: Vec<Message>,
    pub(crate) effects: Effects,
}

/// What must be written, confirmed, before a message is settled.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) index: Index,
    /// Others of its batch, settled the same way with it.
    pub(crate) rest: Vec<Index>,
    pub(crate) lane: Option<LaneId>,
    pub(crate) load: Load,
    pub(crate) dedup: DedupStep,
    pub(crate) then: Then,
}

/// The ways out: each has a task of its own, so that a target that is down holds up only what goes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Emit = 0,
    Dead = 1,
    Park = 2,
}

#[cfg(test)]
impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Emit, Self::Dead, Self::Park];
}

impl Load {
    fn way(&self) -> Way {
        match self {
            Self::Nothing | Self::Emit(_) => Way::Emit,
            Self::Dead(_) => Way::Dead,
            Self::Park(_) => Way::Park,
        }
    }
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Load {
    /// Nothing: just the deduplication store.
    Nothing,
    /// A handler's messages.
    Emit(Vec<Message>),
    /// A dead letter.
    Dead(Box<DeadLoad>),
    /// A message to the park topic; due then, or behind its key.
    Park(Box<ParkLoad>),
}

/// A dead letter to be built and written.
#[derive(Debug)]
pub(crate) struct DeadLoad {
    pub(crate) message: Message,
    pub(crate) origin: millstream_core::Origin,
    pub(crate) class: &'static str,
    pub(crate) attempts: u32,
    pub(crate) deliveries: u32,
    pub(crate) history: History,
}

/// A message to be parked.
#[derive(Debug)]
pub(crate) struct ParkLoad {
    pub(crate) message: Message,
    pub(crate) origin: millstream_core::Origin,
    pub(crate) attempts: u32,
    pub(crate) due: Option<SystemTime>,
    pub(crate) history: History,
}

/// What the deduplication store is to be told.
#[derive(Debug)]
pub(crate) enum DedupStep {
    Confirm(Vec<Reservation>),
    Release(Vec<Reservation>),
}

/// How a message ends once what had to leave has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Ack,
    Release,
    Retry(Duration),
    ParkNative { after: Option<Duration> },
}

/// A settlement and what depends on it.
#[derive(Debug)]
pub(crate) struct Outward {
    pub(crate) settlement: Settlement,
    pub(crate) tag: Tag,
}

/// What depends on a settlement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tag {
    /// An entry that waits for it, with its lane.
    pub(crate) waits: Option<Index>,
    pub(crate) partition: PartitionId,
    /// Messages it settles; more than one for a cumulative settlement.
    pub(crate) count: usize,
    /// Too late after this.
    pub(crate) lease_until: Option<Instant>,
}

/// Who has something to do now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wants {
    pub(crate) runners: bool,
    pub(crate) reserver: bool,
    pub(crate) outbound: [bool; 3],
    pub(crate) settlers: [bool; 2],
    pub(crate) pump: bool,
    pub(crate) reports: bool,
}

pub(crate) struct Window {
    rules: Rules,
    entries: Slab<Entry>,
    /// Boxes of messages that are done: no more than the window ever held.
    spare: Vec<Box<Item>>,
    lanes: Lanes,
    ready: VecDeque<Index>,
    reserving: Vec<Index>,
    /// Reservations that are too old to run on, to be released before they are asked for again.
    outworn: Vec<Reservation>,
    timers: BinaryHeap<Reverse<(Instant, Index, u32)>>,
    stamp: u32,
    running: usize,
    leaving: usize,
    /// Handed to the settlers and not yet answered.
    unsettled: usize,
    bytes: usize,
    park_entries: usize,
    partitions: HashMap<(Input, PartitionId), Partition>,
    /// By [`Way`].
    outgoing: [Vec<Outgoing>; 3],
    settlements: [Vec<Outward>; 2],
    marks: Vec<MarkRequest>,
    /// Notes taken by the settler and not yet stored.
    marking: usize,
    reports: Vec<Report>,
    outage: OutageWatch,
    batch: BatchGate,
    /// Attempts of messages that a broker without a memory for them will deliver again.
    remembered: Remembered,
    paused: bool,
    closing: bool,
    pump_waits_for_room: bool,
    wake_pump: bool,
    pub(crate) counts: Counts,
    rng: fastrand::Rng,
}

impl Window {
    pub(crate) fn new(rules: Rules, counts: Counts) -> Self {
        let rng = rules.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self {
            entries: Slab::new(),
            spare: Vec::new(),
            lanes: Lanes::new(rules.seed),
            ready: VecDeque::new(),
            reserving: Vec::new(),
            outworn: Vec::new(),
            timers: BinaryHeap::new(),
            stamp: 0,
            running: 0,
            leaving: 0,
            unsettled: 0,
            bytes: 0,
            park_entries: 0,
            partitions: HashMap::new(),
            outgoing: Default::default(),
            settlements: [Vec::new(), Vec::new()],
            marks: Vec::new(),
            marking: 0,
            reports: Vec::new(),
            outage: OutageWatch::new(rules.policy.outage.clone()),
            batch: BatchGate::default(),
            remembered: Remembered::default(),
            paused: false,
            closing: false,
            pump_waits_for_room: false,
            wake_pump: false,
            counts,
            rng,
            rules,
        }
    }

    // ---- What the tasks ask ------------------------------------------------------------------------------

    /// Who has something to do. Asked at the end of every use.
    pub(crate) fn wants(&mut self, now: Instant) -> Wants {
        if self.pump_waits_for_room && self.has_room() {
            self.pump_waits_for_room = false;
            self.wake_pump = true;
        }
        Wants {
            runners: !self.ready.is_empty() && self.may_start(now) > 0 && self.batch_is_due(now),
            reserver: !self.reserving.is_empty(),
            outbound: [0, 1, 2].map(|way: usize| !self.outgoing[way].is_empty()),
            settlers: [
                !self.settlements[0].is_empty() || !self.marks.is_empty(),
                !self.settlements[1].is_empty(),
            ],
            reports: !self.reports.is_empty(),
            pump: std::mem::take(&mut self.wake_pump),
        }
    }

    /// How much may be read from an input now. Nothing means: ask for events only; the pump is woken when
    /// there is room.
    pub(crate) fn limits(&mut self, input: Input) -> ReadLimits {
        let room = self.room();
        let room = match input {
            Input::Main => room,
            // The park may fill half of the window, so that it never stops the topic.
            Input::Park => {
                room.min((self.rules.policy.max_in_flight / 2).max(1).saturating_sub(self.park_entries))
            }
        };
        let bytes = self.rules.policy.memory.saturating_sub(self.bytes);
        // Room for a few is not worth a read while more is about to come free.
        if self.closing || room == 0 || bytes == 0 || (room < self.worth() && self.held() > 0) {
            self.pump_waits_for_room = true;
            return ReadLimits::NOTHING;
        }
        ReadLimits::new(room, bytes)
    }

    fn held(&self) -> usize {
        self.entries.len() + self.unsettled
    }

    fn room(&self) -> usize {
        self.rules.policy.max_in_flight.saturating_sub(self.held())
    }

    /// Room enough to be worth a read: an eighth of the window.
    fn has_room(&self) -> bool {
        !self.closing && self.room() >= self.worth() && self.bytes < self.rules.policy.memory
    }

    fn worth(&self) -> usize {
        (self.rules.policy.max_in_flight / 8).clamp(1, 64)
    }

    /// When something is due that nobody else will bring about.
    pub(crate) fn next_timer(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, index, stamp))) = self.timers.peek() {
            let live = self
                .entries
                .get(*index as usize)
                .is_some_and(|e| e.stamp == *stamp && e.stage == Stage::Waiting);
            if live {
                let at = *at;
                return Some(self.soonest(at));
            }
            self.timers.pop();
        }
        self.other_timers()
    }

    fn soonest(&self, at: Instant) -> Instant {
        self.other_timers().map_or(at, |other| at.min(other))
    }

    fn other_timers(&self) -> Option<Instant> {
        let probe = self.outage.next_probe().filter(|_| !self.ready.is_empty());
        let batch = self.batch.due().filter(|_| !self.ready.is_empty());
        probe.into_iter().chain(batch).min()
    }

    /// Makes ready what is due.
    pub(crate) fn fire(&mut self, now: Instant) {
        while let Some(Reverse((at, index, stamp))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            if let Some(entry) = self.entries.get_mut(index as usize)
                && entry.stamp == stamp
                && entry.stage == Stage::Waiting
            {
                entry.due = None;
                self.make_ready(index, now);
            }
        }
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn outage_for(&self, now: Instant) -> Option<Duration> {
        self.outage.down_for(now)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.held()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    pub(crate) fn parked_keys(&self) -> usize {
        self.lanes.parked_keys()
    }

    /// Tokens of everything that is ours now, for the lease thread.
    pub(crate) fn held_tokens(&self, input: Input, into: &mut Vec<TokenId>) {
        let entries = self.entries.iter().filter(|(_, e)| e.input == input);
        into.extend(entries.filter_map(|(_, e)| e.token.as_ref().map(Token::id)));
        // What is finished stays ours until it is settled, however long the settler has to wait for its turn.
        into.extend(self.settlements[input as usize].iter().map(|o| o.settlement.token.id()));
    }

    // ---- Arriving ----------------------------------------------------------------------------------------

    /// Takes deliveries in. The vector is emptied.
    pub(crate) fn arrive(&mut self, input: Input, deliveries: &mut Vec<Delivery>, now: Instant) {
        for delivery in deliveries.drain(..) {
            self.arrive_one(input, delivery, now);
        }
    }

    fn arrive_one(&mut self, input: Input, delivery: Delivery, now: Instant) {
        let origin = delivery.origin();
        let Some(number) = self.admit(input, &origin, now) else {
            // Of an assignment that is over: whoever has the partition now reads it.
            self.counts.stale += 1;
            drop(delivery.token);
            return;
        };
        self.counts.read(1);
        let Delivery { mut message, token, position, deliveries, parked, .. } = delivery;
        if message.id.is_empty() {
            message.id = foreign_id(&message, origin.partition, position, &token);
        }
        let size = message.size();
        let mut entry = Entry {
            item: None,
            id: token.id(),
            token: Some(token),
            input,
            partition: origin.partition,
            stage: Stage::Queued,
            lane: None,
            previous: NONE,
            next: NONE,
            fate: Fate::Run,
            number,
            size,
            attempts: 0,
            excused: 0,
            due: None,
            lease_until: self.rules.lease.map(|l| now + l),
            stamp: 0,
            single: false,
            marked: false,
            history: None,
            reservation: None,
            reserved_at: None,
            extra: None,
        };
        if let Some(note) = &parked {
            entry.attempts = note.attempts;
            entry.history = Some(Box::new(History {
                first_failure: note.first_failure,
                last_failure: note.first_failure,
                error: note.error.clone(),
                error_type: String::new(),
            }));
        } else if let Some(attempts) = self.remembered.take(&message.id) {
            entry.attempts = attempts;
        }
        if input == Input::Park {
            let note = super::park::unpark(&mut message, &self.rules.topic, self.rules.clock);
            entry.attempts = note.attempts;
            entry.due = note.due.filter(|at| *at > now);
            entry.history = note.history.map(Box::new);
            self.park_entries += 1;
        }
        entry.lane = match self.rules.policy.ordering {
            Ordering::Sequential => Some(0),
            Ordering::PerKey => message.lane_key().map(|key| self.lanes.id(key)),
        };
        let for_another = message
            .headers
            .get_str(names::REDRIVE_GROUP)
            .is_some_and(|group| Some(group) != self.rules.group.as_deref());
        if for_another {
            entry.fate = Fate::Skip;
        } else if deliveries > self.rules.policy.delivery_limit() {
            entry.fate = Fate::CrashLoop;
        }
        entry.item = Some(self.boxed(Item { message, origin, attempt: 0, deliveries }));
        self.bytes += size;
        let lane = entry.lane;
        let index = self.insert(entry);
        let is_head = self.enter_lane(index);
        match (lane, self.rules.park) {
            (Some(lane), ParkMode::Topic) if input == Input::Main && self.lanes.parked(lane) > 0 => {
                self.park_to_topic(index, None);
            }
            (Some(lane), ParkMode::Native) if self.lanes.parked(lane) > 0 && parked.is_none() => {
                self.park_natively(index, None, now);
            }
            (Some(lane), ParkMode::Native) if parked.is_some() => {
                // The park gave its head back: from here on the driver keeps the key's order.
                self.lanes.unpark(lane, u32::MAX);
                if is_head {
                    self.become_head(index, now);
                }
            }
            _ if is_head => self.become_head(index, now),
            _ => {}
        }
    }

    /// Puts an item into a box of an earlier one.
    fn boxed(&mut self, item: Item) -> Box<Item> {
        match self.spare.pop() {
            Some(mut spare) => {
                *spare = item;
                spare
            }
            None => Box::new(item),
        }
    }

    /// Keeps the box of a message that is done, and lets its bytes go.
    fn recycle(&mut self, mut item: Box<Item>) {
        item.message = Message::new("", bytes::Bytes::new());
        self.spare.push(item);
    }

    fn insert(&mut self, mut entry: Entry) -> Index {
        self.stamp = self.stamp.wrapping_add(1);
        entry.stamp = self.stamp;
        // A window holds at most `max_in_flight` and what the park adds: far below four thousand million.
        Index::try_from(self.entries.insert(entry)).unwrap_or(NONE)
    }

    /// Queues an entry in its lane; says whether it is the head.
    fn enter_lane(&mut self, index: Index) -> bool {
        let Some(lane) = self.entries[index as usize].lane else { return true };
        match self.lanes.push(lane, index) {
            None => true,
            Some(before) => {
                self.entries[before as usize].next = index;
                self.entries[index as usize].previous = before;
                false
            }
        }
    }

    /// The head of a lane gets its turn.
    fn become_head(&mut self, index: Index, now: Instant) {
        let entry = &self.entries[index as usize];
        match (entry.fate, entry.due) {
            (Fate::Skip, _) => {
                self.counts.skipped(1);
                self.complete(index, Then::Ack, now);
            }
            (Fate::CrashLoop, _) => self.crash_loop(index, now),
            (Fate::Run, Some(due)) if due > now => self.wait_until(index, due),
            (Fate::Run, _) => self.make_ready(index, now),
        }
    }

    fn wait_until(&mut self, index: Index, due: Instant) {
        let earliest = self.timers.peek().is_none_or(|Reverse((at, _, _))| due < *at);
        let entry = &mut self.entries[index as usize];
        entry.stage = Stage::Waiting;
        entry.due = Some(due);
        self.timers.push(Reverse((due, index, entry.stamp)));
        self.wake_pump |= earliest;
    }

    fn make_ready(&mut self, index: Index, now: Instant) {
        if self.is_suspect(index) {
            self.suspect(index, now);
            return;
        }
        let dedup = self.rules.policy.dedup.is_some();
        let entry = &mut self.entries[index as usize];
        if dedup && entry.reservation.is_none() {
            entry.stage = Stage::Reserving;
            self.reserving.push(index);
            return;
        }
        entry.stage = Stage::Ready;
        self.ready.push_back(index);
        if let Some(batching) = &self.rules.policy.batch {
            self.wake_pump |= self.batch.opened(now, batching.within);
        }
        // While an outage lasts, a probe may be due that only the pump's timer starts.
        self.wake_pump |= self.outage.is_down();
    }

    /// The window is full and does not move: lanes that hold more than their share of it go to the park, all
    /// but their first few, so that a slow or failing key does not keep the others out.
    pub(crate) fn relieve(&mut self, now: Instant) {
        const KEPT: usize = 8;
        if self.rules.policy.ordering == Ordering::Sequential || self.room() > 0 || self.closing {
            return;
        }
        for (lane, ends) in self.lanes.crowded(self.share()) {
            let excess: Vec<Index> = self.behind(ends.head).into_iter().skip(KEPT).collect();
            match self.rules.park {
                ParkMode::Topic => {
                    for index in excess {
                        if self.entries[index as usize].input == Input::Main {
                            self.park_to_topic(index, None);
                        }
                    }
                }
                ParkMode::Native => {
                    let Some(head) = self.entries.get(ends.head as usize) else { continue };
                    self.mark_parked(lane, head.partition);
                    for (i, index) in excess.into_iter().enumerate() {
                        self.park_natively(index, (i == 0).then_some(Duration::from_secs(1)), now);
                    }
                }
                ParkMode::None | ParkMode::Redeliver(_) => {}
            }
        }
    }

    /// Whether a window that does not move can be relieved.
    pub(crate) fn can_park(&self) -> bool {
        matches!(self.rules.park, ParkMode::Topic | ParkMode::Native)
    }

    /// The most messages of one key that may wait here while others find no room.
    fn share(&self) -> u32 {
        u32::try_from(self.rules.policy.max_in_flight / 4).unwrap_or(u32::MAX).max(8)
    }

    // ---- Deduplication -----------------------------------------------------------------------------------

    /// What wants a reservation: its index and its key; and those to be released before.
    pub(crate) fn take_reserving(
        &mut self,
        into: &mut Vec<(Index, millstream_core::DedupKey)>,
        outworn: &mut Vec<Reservation>,
    ) {
        outworn.append(&mut self.outworn);
        let group = self.rules.group.clone().unwrap_or_default();
        for index in self.reserving.drain(..) {
            let Some(entry) = self.entries.get(index as usize).filter(|e| e.stage == Stage::Reserving) else {
                continue;
            };
            let Some(item) = &entry.item else { continue };
            into.push((index, dedup_key(group.clone(), &item.message)));
        }
    }

    /// The store's answers, in order. `None`: it could not be asked; ask again after a while.
    pub(crate) fn reserved(&mut self, index: Index, answer: Option<Reserve>, now: Instant) {
        let stale = self.entries.get(index as usize).is_none_or(|e| e.stage != Stage::Reserving);
        match answer {
            Some(Reserve::Reserved(reservation)) => {
                if stale {
                    // Purged in the meantime: the lease frees it.
                    drop(reservation);
                    return;
                }
                let entry = &mut self.entries[index as usize];
                entry.reservation = Some(reservation);
                entry.reserved_at = Some(now);
                self.make_ready(index, now);
            }
            _ if stale => {}
            Some(Reserve::Duplicate) => {
                self.counts.duplicate(1);
                self.complete(index, Then::Ack, now);
            }
            Some(Reserve::Busy(wait)) => {
                // Not for the whole lease: the first copy may end at any time.
                let wait = wait.clamp(Duration::from_millis(5), Duration::from_millis(250));
                self.wait_until(index, now + wait);
            }
            None => self.wait_until(index, now + Duration::from_millis(500)),
        }
    }

    // ---- Running -----------------------------------------------------------------------------------------

    /// How many handlers may start.
    fn may_start(&self, now: Instant) -> usize {
        if self.paused || self.closing {
            return 0;
        }
        let free = self.concurrency().saturating_sub(self.running);
        if self.outage.is_down() {
            return free.min(self.outage.allowed(now));
        }
        free
    }

    fn concurrency(&self) -> usize {
        match self.rules.policy.ordering {
            Ordering::Sequential => 1,
            Ordering::PerKey => self.rules.policy.concurrency,
        }
    }

    /// Hands out jobs, at most `max`, leaving some of a short queue to other runners.
    pub(crate) fn take(&mut self, max: usize, runners: usize, now: Instant, jobs: &mut Vec<Job>) {
        let mut allowed = self.may_start(now).min(max);
        if allowed == 0 || self.ready.is_empty() {
            return;
        }
        if let Some(batching) = self.rules.policy.batch {
            self.take_batches(allowed, batching, now, jobs);
            return;
        }
        if runners > 1 {
            allowed = allowed.min(self.ready.len().div_ceil(runners * 2));
        }
        while allowed > 0 {
            let Some(index) = self.ready.pop_front() else { break };
            if let Some(item) = self.start(index, now) {
                allowed -= 1;
                jobs.push(Job { index, item, rest: Vec::new() });
            }
        }
    }

    /// Starts an entry, unless it was taken away since it became ready.
    fn start(&mut self, index: Index, now: Instant) -> Option<Box<Item>> {
        let half = self.rules.policy.dedup_lease / 2;
        let entry = self.entries.get_mut(index as usize).filter(|e| e.stage == Stage::Ready)?;
        if entry.reserved_at.is_some_and(|at| now.duration_since(at) > half) {
            // It waited too long, for an outage or a pause: its lease might end while the handler runs.
            entry.reserved_at = None;
            self.outworn.extend(entry.reservation.take());
            self.make_ready(index, now);
            return None;
        }
        let mut item = entry.item.take()?;
        item.attempt = entry.attempts + 1;
        entry.stage = Stage::Running;
        self.running += 1;
        self.outage.started();
        Some(item)
    }

    /// Takes results in.
    pub(crate) fn finished(&mut self, done: &mut Vec<Done>, now: Instant) {
        for one in done.drain(..) {
            self.running -= 1;
            self.finish_one(one, now);
        }
    }

    // ---- Ending ------------------------------------------------------------------------------------------

    /// Stops starting anything and gives back what was not started. Running handlers go on.
    pub(crate) fn close(&mut self, now: Instant) {
        self.closing = true;
        let idle: Vec<Index> = self
            .entries
            .iter()
            .filter(|(_, e)| {
                matches!(e.stage, Stage::Queued | Stage::Reserving | Stage::Ready | Stage::Waiting)
            })
            .map(|(i, _)| Index::try_from(i).unwrap_or(NONE))
            .collect();
        self.counts.given_back += idle.len() as u64;
        for index in idle {
            self.give_back(index, now);
        }
        self.ready.clear();
        self.timers.clear();
    }

    /// Whether nothing runs, leaves or waits for the broker.
    pub(crate) fn is_drained(&self) -> bool {
        self.running == 0 && self.leaving == 0 && self.unsettled == 0
    }

    /// Whether there is nothing at all: for subscriptions with an end.
    pub(crate) fn is_empty(&self) -> bool {
        self.held() == 0
    }

    /// Takes what must leave one way.
    pub(crate) fn take_outgoing(&mut self, way: Way, into: &mut Vec<Outgoing>) {
        into.append(&mut self.outgoing[way as usize]);
    }

    /// Takes the failures to be reported.
    pub(crate) fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// Takes what is to be settled of an input. What is past its lease by our own clock is lost, whatever the
    /// broker would say.
    pub(crate) fn take_settlements(&mut self, input: Input, now: Instant, into: &mut Vec<Outward>) {
        if self.rules.lease.is_none() {
            into.append(&mut self.settlements[input as usize]);
            return;
        }
        for outward in std::mem::take(&mut self.settlements[input as usize]) {
            if outward.tag.lease_until.is_some_and(|until| until < now) {
                self.settled(input, outward.tag, millstream_core::Settled::Lost, now);
            } else {
                into.push(outward);
            }
        }
    }

    /// What the lease thread heard of the deliveries it asked for; `asked` is when it did.
    pub(crate) fn extended(&mut self, held: &[TokenId], kept: &[bool], asked: Instant) {
        let Some(lease) = self.rules.lease else { return };
        let kept: HashMap<TokenId, bool> = held.iter().copied().zip(kept.iter().copied()).collect();
        let queued = self.settlements.iter_mut().flatten();
        let queued = queued.map(|o| (o.settlement.token.id(), &mut o.tag.lease_until));
        let held = self.entries.iter_mut().map(|(_, e)| (e.id, &mut e.lease_until));
        for (id, lease_until) in held.chain(queued) {
            match kept.get(&id) {
                Some(true) => *lease_until = Some(asked + lease),
                // Lost already: whatever it comes to is too late.
                Some(false) => *lease_until = Some(asked),
                None => {}
            }
        }
    }
}

/// A failure, for logs and the user's own hook.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) message: Message,
    pub(crate) attempt: u32,
    pub(crate) failure: Failure,
    pub(crate) next: Next,
}

/// The id of a message that came without one: from its place, so that it is the same at each delivery.
fn foreign_id(
    message: &Message,
    partition: PartitionId,
    position: Option<Position>,
    token: &Token,
) -> ByteString {
    let place = position.map_or(token.id().id, |p| p.0);
    format!("{}-{partition}-{place}", message.topic).into()
}

/// What a message is remembered by: a redriven one passes once more.
fn dedup_key(group: ByteString, message: &Message) -> millstream_core::DedupKey {
    let id = match message.headers.get_str(names::DL_REDRIVE_COUNT) {
        Some(count) if message.headers.contains(names::REDRIVE_GROUP) => {
            format!("{}#redrive-{count}", message.id).into()
        }
        _ => message.id.clone(),
    };
    millstream_core::DedupKey { group, id }
}

/// Attempts of messages given back to a broker that remembers none: bounded, the oldest forgotten first. One
/// that is forgotten starts from zero, and the delivery limit ends it.
#[derive(Debug, Default)]
struct Remembered {
    attempts: HashMap<ByteString, u32>,
    order: VecDeque<ByteString>,
}

impl Remembered {
    const LIMIT: usize = 10_000;

    fn put(&mut self, id: ByteString, attempts: u32) {
        if self.attempts.insert(id.clone(), attempts).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > Self::LIMIT {
            if let Some(oldest) = self.order.pop_front() {
                self.attempts.remove(&oldest);
            }
        }
    }

    fn take(&mut self, id: &ByteString) -> Option<u32> {
        if self.attempts.is_empty() { None } else { self.attempts.get(id).copied() }
    }
}
