//! What a member of a group holds in memory: its slots, what was read ahead, what is with the scheduler, what is
//! parked. Plain code: no SQL, no threads.
//!
//! A message of a slot that is ours is in one of these places:
//!
//! ```text
//! log ── read ──► ready ── yielded ──► out ── settled ──► done
//!   │              ▲                    │
//!   │              └── again ◄── given back
//!   └── its key is parked ──► lane ── due, one at a time ──► ready (out of the park) …
//! ```
//!
//! `pending` has all that were read and are not done: they are the holes of the slot's progress.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::{HashMapExt, HashSet};
use millstream_core::{
    ByteString, Bytes, Delivery, Epoch, Error, Message, ParkNote, PartitionId, Position, ReadLimits, Token,
    TokenId,
};
use tokio::sync::Notify;

use crate::ascending::Ascending;
use crate::clock;
use crate::progress::Progress;
use crate::row::system_time;
use crate::schema::SLOTS;

/// A topic as this process knows it.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) id: i64,
    pub(crate) name: ByteString,
    /// The highest number that is known to be committed.
    pub(crate) last: AtomicU64,
}

/// A group by name and row.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) id: i64,
    pub(crate) name: ByteString,
}

/// A subscription.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) topic: Arc<Topic>,
    /// None: it browses, and leaves no trace in the file.
    pub(crate) group: Option<Group>,
    pub(crate) exclusive: bool,
    pub(crate) bounds: Bounds,
    /// Messages from this number on are not wanted.
    pub(crate) end: Option<u64>,
    state: Mutex<State>,
    /// Something changed, so that it may want something of the reading thread.
    changed: AtomicBool,
    /// The source waits here.
    pub(crate) news: Notify,
}

/// What a subscription may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct State {
    /// What the members' table knows this member as; a new one after each loss.
    pub(crate) owner: i64,
    /// When it joined, for the order of members.
    pub(crate) joined: i64,
    /// Until when nobody else may take its slots: milliseconds since boot.
    pub(crate) valid_until: i64,
    pub(crate) slots: Vec<Option<Slot>>,
    ready: Ascending<Ready>,
    ready_bytes: usize,
    out: foldhash::HashMap<u64, Out>,
    out_bytes: usize,
    /// Of these, how many may be what kills processes.
    suspects_out: usize,
    /// What is out counts against the bounds: somebody settles it.
    settles: bool,
    next_token: u64,
    /// No lower one is out, of a subscription that nobody has to settle.
    first_token: u64,
    /// To be read once more: given back, or begun by somebody who is gone.
    again: BTreeSet<u64>,
    /// Messages whose key is parked, to be parked behind it durably.
    pub(crate) to_park: Vec<Behind>,
    /// Parked messages that cannot be read, to be taken out of the park.
    pub(crate) unreadable: Vec<Unreadable>,
    /// Slots were claimed, or could not be: before, the end cannot be told.
    pub(crate) settled_in: bool,
    /// What reading failed with, for the source to give.
    pub(crate) failure: Option<Error>,
    pub(crate) phase: Phase,
}

/// How much of a subscription is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It reads and settles.
    Open,
    /// Its source is closed: it only settles.
    Settling,
    /// It is about to leave, or has left.
    Left,
}

/// A part of the group's progress that is ours.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) epoch: i64,
    /// All up to here were looked at.
    pub(crate) seen: u64,
    pub(crate) pending: BTreeMap<u64, Pending>,
    lanes: HashMap<LaneKey, ParkLane>,
    /// Messages parked, as the file counts them.
    pub(crate) parked: u32,
    /// Others are to have it, once nothing of it is out.
    pub(crate) wanted: bool,
    /// It was given back in a transaction that is not committed yet: until then it is nobody's.
    leaving: bool,
    out: usize,
    /// Up to here its messages may have been with a process that died: their deliveries are stored before they are
    /// yielded.
    pub(crate) careful_until: u64,
    /// The front that the file knows.
    pub(crate) stored_front: u64,
}

/// A message that was read and is not done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pending {
    pub(crate) deliveries: u32,
}

/// What parks together: a key, or a message without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum LaneKey {
    Key(Bytes),
    Alone(u64),
}

impl LaneKey {
    pub(crate) fn of(key: Option<&Bytes>, seq: u64) -> Self {
        match key {
            Some(key) if !key.is_empty() => Self::Key(key.clone()),
            _ => Self::Alone(seq),
        }
    }
}

/// The parked messages of a key, in order.
#[derive(Debug, Default)]
struct ParkLane {
    queue: BTreeMap<u64, Parked>,
    /// When the first may come; none: now.
    due: Option<Instant>,
    /// The first is read or out.
    busy: bool,
}

#[derive(Debug, Clone)]
struct Parked {
    note: ParkNote,
    deliveries: u32,
}

/// A message whose key is parked.
#[derive(Debug, Clone)]
pub(crate) struct Behind {
    pub(crate) slot: usize,
    pub(crate) epoch: i64,
    pub(crate) seq: u64,
    pub(crate) key: Option<Bytes>,
}

#[derive(Debug)]
struct Ready {
    message: Message,
    slot: usize,
    epoch: i64,
    park: Option<Box<ParkNote>>,
    /// Its next delivery is counted already.
    counted: bool,
    /// And that is stored.
    stored: bool,
}

/// A message that the scheduler has, as its token stands for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    token: u64,
    pub(crate) seq: u64,
    pub(crate) slot: usize,
    pub(crate) epoch: i64,
    pub(crate) from_park: bool,
}

impl Held {
    /// The token's own number.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }
}

/// A message that the scheduler has.
#[derive(Debug)]
struct Out {
    seq: u64,
    slot: usize,
    epoch: i64,
    key: Option<Bytes>,
    from_park: bool,
    /// It was begun again and again without an end.
    suspect: bool,
    size: usize,
}

/// A parked message whose bytes are not what was written, or that is gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unreadable {
    pub(crate) slot: usize,
    pub(crate) epoch: i64,
    pub(crate) seq: u64,
}

/// What the reading thread is to fetch for a member.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Single messages: given back, begun before, or due out of the park.
    pub(crate) single: Vec<Single>,
    /// From behind here on, if anything new is wanted.
    pub(crate) from: Option<u64>,
    /// Not beyond.
    pub(crate) until: u64,
    /// How many at most.
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// The epoch of each slot that is ours.
    pub(crate) slots: Vec<Option<i64>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Single {
    pub(crate) seq: u64,
    pub(crate) slot: usize,
    pub(crate) epoch: i64,
    pub(crate) park: Option<Box<ParkNote>>,
}

/// A delivery that was counted before it happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) slot: usize,
    pub(crate) epoch: i64,
    pub(crate) seq: u64,
    pub(crate) deliveries: u32,
    pub(crate) parked: bool,
}

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Deliveries; and whether the reading thread has something to do now.
    Some {
        wants: bool,
    },
    Nothing,
    End,
    Failed,
}

impl Member {
    pub(crate) fn new(
        topic: Arc<Topic>,
        group: Option<Group>,
        exclusive: bool,
        bounds: Bounds,
        end: Option<u64>,
    ) -> Self {
        let settles = group.is_some();
        Self {
            topic,
            group,
            exclusive,
            bounds,
            end,
            state: Mutex::new(State {
                owner: 0,
                joined: clock::wall(),
                valid_until: 0,
                slots: (0..SLOTS).map(|_| None).collect(),
                ready: Ascending::new(),
                ready_bytes: 0,
                out: foldhash::HashMap::new(),
                out_bytes: 0,
                suspects_out: 0,
                settles,
                next_token: 0,
                first_token: 1,
                again: BTreeSet::new(),
                to_park: Vec::new(),
                unreadable: Vec::new(),
                settled_in: false,
                failure: None,
                phase: Phase::Open,
            }),
            changed: AtomicBool::new(true),
            news: Notify::new(),
        }
    }

    /// The reading thread is to look at it, once its bell is rung.
    pub(crate) fn set_changed(&self) {
        self.changed.store(true, Ordering::Release);
    }

    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds topic and group to an error.
    pub(crate) fn locate(&self, error: Error) -> Error {
        let error = error.topic(&*self.topic.name);
        match &self.group {
            Some(group) => error.group(&*group.name),
            None => error,
        }
    }

    /// All slots from behind `front` on, of nobody's group.
    pub(crate) fn browse_from(&self, front: u64) {
        let mut state = self.lock();
        for slot in 0..SLOTS {
            state.claimed(slot, 0, &Progress { front, ..Progress::default() }, Vec::new(), 0);
        }
        state.valid_until = i64::MAX;
        state.settled_in = true;
    }

    /// What is to be read, if anything is wanted.
    pub(crate) fn wanted(&self, now: Instant) -> Option<Wanted> {
        self.lock().wanted(self.bounds, self.end, self.topic.last.load(Ordering::Acquire), now)
    }

    /// Takes deliveries, at most as many as the limits say.
    pub(crate) fn take(&self, limits: ReadLimits, into: &mut Vec<Delivery>) -> Taken {
        let mut state = self.lock();
        if state.failure.is_some() {
            return Taken::Failed;
        }
        let whole = !self.exclusive || state.owned() == SLOTS;
        if state.phase == Phase::Open
            && limits.messages > 0
            && whole
            && state.valid_until > clock::since_boot()
        {
            let taken = state.take(limits, into);
            if self.group.is_none() {
                state.forget_all_but(self.bounds.messages);
            }
            if taken > 0 {
                return Taken::Some { wants: state.wants(self.bounds) };
            }
        }
        if state.at_end(self.end) { Taken::End } else { Taken::Nothing }
    }
}

impl State {
    // ---- Slots -------------------------------------------------------------------------------------------

    pub(crate) fn owned(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn owns(&self, out: &Out) -> bool {
        self.slots[out.slot].as_ref().is_some_and(|slot| slot.epoch == out.epoch)
    }

    /// A slot is ours now, with what is parked in it.
    pub(crate) fn claimed(
        &mut self,
        slot: usize,
        epoch: i64,
        progress: &Progress,
        parked: Vec<ParkedMessage>,
        careful_until: u64,
    ) {
        let mut pending = BTreeMap::new();
        for (seq, deliveries) in &progress.holes {
            pending.insert(*seq, Pending { deliveries: *deliveries });
            self.again.insert(*seq);
        }
        let mut ours = Slot {
            epoch,
            seen: progress.front,
            pending,
            lanes: HashMap::new(),
            parked: progress.parked,
            wanted: false,
            leaving: false,
            out: 0,
            careful_until,
            stored_front: progress.front,
        };
        for message in parked {
            let lane = ours.lanes.entry(LaneKey::of(message.key.as_ref(), message.seq)).or_default();
            if lane.queue.keys().next().is_none_or(|first| message.seq < *first) {
                lane.due = message.due;
            }
            lane.queue.insert(message.seq, Parked { note: message.note, deliveries: message.deliveries });
        }
        self.slots[slot] = Some(ours);
    }

    /// A slot is no longer ours: what was read of it is forgotten, its tokens are lost.
    pub(crate) fn drop_slot(&mut self, slot: usize) {
        let Some(gone) = self.slots[slot].take() else { return };
        self.forget_ready(|ready| ready.slot == slot);
        for seq in gone.pending.keys() {
            self.again.remove(seq);
        }
        self.to_park.retain(|behind| behind.slot != slot);
        self.unreadable.retain(|one| one.slot != slot);
        let lost: Vec<u64> = self.out.iter().filter(|(_, out)| out.slot == slot).map(|(t, _)| *t).collect();
        for token in lost {
            self.end_out(token);
        }
    }

    /// All slots are lost.
    pub(crate) fn drop_all(&mut self) {
        for slot in 0..SLOTS {
            self.drop_slot(slot);
        }
        self.ready.clear();
        self.ready_bytes = 0;
        self.again.clear();
        self.to_park.clear();
    }

    fn forget_ready(&mut self, which: impl Fn(&Ready) -> bool) {
        let bytes = &mut self.ready_bytes;
        self.ready.retain(|_, ready| {
            let goes = which(ready);
            if goes {
                *bytes -= ready.message.size();
            }
            !goes
        });
    }

    /// Slots to be given to others, as many as `excess`: those with the least in work first.
    pub(crate) fn want_back(&mut self, excess: usize) {
        let mut ours: Vec<(usize, usize)> =
            self.slots.iter().enumerate().filter_map(|(i, slot)| slot.as_ref().map(|s| (s.out, i))).collect();
        ours.sort_unstable();
        for (place, (_, slot)) in ours.into_iter().enumerate() {
            self.set_wanted(slot, place < excess);
        }
    }

    /// Nothing new of a slot that others are to have is yielded. What was read of it stays pending, for them.
    fn set_wanted(&mut self, index: usize, wanted: bool) {
        let changes = |slot: &&mut Slot| slot.wanted != wanted && !slot.leaving;
        let Some(slot) = self.slots[index].as_mut().filter(changes) else { return };
        slot.wanted = wanted;
        if wanted {
            for seq in slot.pending.keys() {
                self.again.remove(seq);
            }
            for lane in slot.lanes.values_mut() {
                // The head is out, or was only read.
                let out = |seq: &u64| self.out.values().any(|out| out.seq == *seq);
                lane.busy &= lane.queue.keys().next().is_some_and(out);
            }
            self.forget_ready(|ready| ready.slot == index);
        } else {
            let out: HashSet<u64> = self.out.values().map(|out| out.seq).collect();
            let parked: HashSet<u64> = self.to_park.iter().map(|behind| behind.seq).collect();
            let waiting = slot.pending.keys().filter(|seq| !out.contains(seq) && !parked.contains(seq));
            self.again.extend(waiting);
        }
    }

    /// Slots that can be given back now.
    pub(crate) fn to_give_back(&self) -> Vec<usize> {
        let free = |slot: &Slot| slot.wanted && !slot.leaving && slot.out == 0;
        (0..SLOTS).filter(|i| self.slots[*i].as_ref().is_some_and(free)).collect()
    }

    /// Slots were given back in a transaction, or that was undone. Till it is committed they stay as they are, whoever
    /// wants them meanwhile: what is yielded of them would be lost with the commit.
    pub(crate) fn set_leaving(&mut self, slots: &[usize], leaving: bool) {
        for slot in slots {
            if let Some(slot) = &mut self.slots[*slot] {
                slot.leaving = leaving;
            }
        }
    }

    /// A slot's progress as it is to be stored, without what is done now, in ascending order.
    pub(crate) fn progress(&self, slot: usize, done: &[u64], parked: i64) -> Option<Progress> {
        let slot = self.slots[slot].as_ref()?;
        let mut done = done.iter().peekable();
        let left = slot.pending.iter().filter(|(seq, _)| {
            while done.next_if(|done| done < seq).is_some() {}
            done.peek() != Some(seq)
        });
        let mut holes = Vec::with_capacity(slot.pending.len());
        holes.extend(left.map(|(seq, pending)| (*seq, pending.deliveries)));
        Some(Progress {
            front: slot.seen,
            holes,
            parked: u32::try_from(i64::from(slot.parked) + parked).unwrap_or(0),
        })
    }

    // ---- Reading -----------------------------------------------------------------------------------------

    fn wanted(&mut self, bounds: Bounds, end: Option<u64>, last: u64, now: Instant) -> Option<Wanted> {
        if self.phase != Phase::Open || self.failure.is_some() {
            return None;
        }
        // What comes out of the park and what comes again is wanted before what is new.
        let held = self.ready_bytes + self.out_bytes;
        let room = bounds.messages.min(READ_AHEAD).saturating_sub(self.ready.len());
        let bytes = bounds.bytes.saturating_sub(held);
        let empty = self.ready.is_empty() && self.out.is_empty();
        if room == 0 || (bytes == 0 && !empty) {
            return None;
        }
        let mut wanted = Wanted {
            messages: room,
            bytes: if empty { bytes.max(1) } else { bytes },
            // Not those that others are to have: where reading starts does not look at them.
            slots: self
                .slots
                .iter()
                .map(|slot| slot.as_ref().filter(|s| !s.wanted).map(|s| s.epoch))
                .collect(),
            ..Wanted::default()
        };
        for seq in self.again.iter().take(room) {
            if let Some(slot) = self.slot_of_pending(*seq)
                && let Some(ours) = &self.slots[slot]
            {
                wanted.single.push(Single { seq: *seq, slot, epoch: ours.epoch, park: None });
            }
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot.as_mut().filter(|s| !s.wanted && !s.lanes.is_empty()) else { continue };
            for lane in slot.lanes.values_mut() {
                if wanted.single.len() >= room {
                    break;
                }
                if lane.busy || lane.due.is_some_and(|due| due > now) {
                    continue;
                }
                // Whoever parked it may have died with an older one of its key unfinished: that is read before it.
                if let Some((seq, parked)) =
                    lane.queue.first_key_value().filter(|(seq, _)| **seq <= slot.seen)
                {
                    lane.busy = true;
                    let park = Some(Box::new(parked.note.clone()));
                    wanted.single.push(Single { seq: *seq, slot: index, epoch: slot.epoch, park });
                }
            }
        }
        let reading = self.slots.iter().flatten().filter(|slot| !slot.wanted);
        if let Some(from) = reading.map(|slot| slot.seen).min() {
            wanted.until = end.map_or(last, |end| last.min(end.saturating_sub(1)));
            // In large blocks: to begin one costs as much as some dozens of messages.
            let new = from < wanted.until && wanted.single.len() < room && self.is_low(bounds);
            wanted.from = new.then_some(from);
        }
        (wanted.from.is_some() || !wanted.single.is_empty()).then_some(wanted)
    }

    /// Whether so little is ready that more is to be read.
    fn is_low(&self, bounds: Bounds) -> bool {
        self.ready.len() * 2 <= bounds.messages.min(READ_AHEAD)
            && self.ready_bytes <= bounds.bytes.saturating_sub(self.out_bytes) / 2
    }

    /// Whether the reading thread has something to do for it, now that some were taken or settled.
    pub(crate) fn wants(&self, bounds: Bounds) -> bool {
        self.is_low(bounds)
            || !self.again.is_empty()
            || self.is_uncertain()
            || self.slots.iter().flatten().any(|slot| !slot.lanes.is_empty())
    }

    fn slot_of_pending(&self, seq: u64) -> Option<usize> {
        (0..SLOTS).find(|i| self.slots[*i].as_ref().is_some_and(|s| s.pending.contains_key(&seq)))
    }

    /// When the next parked message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if self.phase != Phase::Open || self.failure.is_some() {
            return None;
        }
        let slots = self.slots.iter().flatten().filter(|slot| !slot.wanted);
        let heads = slots.flat_map(|slot| slot.lanes.values().map(|lane| (slot.seen, lane)));
        heads
            .filter(|(seen, lane)| !lane.busy && lane.queue.keys().next().is_some_and(|seq| seq <= seen))
            .filter_map(|(_, lane)| lane.due)
            .min()
    }

    /// Single messages that could not be read now: they are read again.
    pub(crate) fn not_read(&mut self, singles: &[Single]) {
        for single in singles.iter().filter(|single| single.park.is_some()) {
            let current = self.slots[single.slot].as_mut().filter(|slot| slot.epoch == single.epoch);
            let Some(slot) = current else { continue };
            let lanes = slot.lanes.values_mut();
            for lane in lanes.filter(|lane| lane.queue.keys().next() == Some(&single.seq)) {
                lane.busy = false;
            }
        }
    }

    /// A single message was read. `None`: it is not there, or damaged; it is done with.
    pub(crate) fn arrived_single(&mut self, single: &Single, message: Option<Message>) {
        let current = self.slots[single.slot].as_mut().filter(|slot| slot.epoch == single.epoch);
        let Some(slot) = current else { return };
        if single.park.is_none() {
            if !self.again.remove(&single.seq) {
                return;
            }
            if message.is_none() {
                slot.pending.remove(&single.seq);
            }
        }
        let Some(message) = message else {
            if single.park.is_some() {
                // The next of its key comes at once.
                slot.lanes.retain(|_, lane| {
                    if lane.queue.remove(&single.seq).is_some() {
                        (lane.busy, lane.due) = (false, None);
                    }
                    !lane.queue.is_empty()
                });
                self.unreadable.push(Unreadable { slot: single.slot, epoch: single.epoch, seq: single.seq });
            }
            return;
        };
        if single.park.is_some() {
            let key = LaneKey::of(message.key.as_ref(), single.seq);
            let Some(lane) = slot.lanes.get_mut(&key) else { return };
            // Others are to have it, or had it wanted in between: it is read again when it stays.
            lane.busy = !slot.wanted;
            if slot.wanted {
                return;
            }
        }
        if single.park.is_none()
            && let Some(key) = message.lane_key()
            && let Some(lane) = slot.lanes.get_mut(&LaneKey::Key(key.clone()))
            && lane.queue.first_key_value().is_some_and(|(first, _)| *first < single.seq)
        {
            // Its key was parked, and whoever did it died before this one was parked behind.
            lane.queue.insert(single.seq, Parked { note: behind_note(), deliveries: 0 });
            let (slot, epoch, seq, key) = (single.slot, single.epoch, single.seq, message.key.clone());
            self.to_park.push(Behind { slot, epoch, seq, key });
            return;
        }
        self.ready_bytes += message.size();
        let ready = Ready {
            message,
            slot: single.slot,
            epoch: single.epoch,
            park: single.park.clone(),
            counted: false,
            stored: false,
        };
        self.ready.insert(single.seq, ready);
    }

    /// A new message was read, or was seen and cannot be read. The slots are those from before the read: a slot
    /// that came since has not seen what lies before.
    pub(crate) fn arrived(&mut self, seq: u64, slot: usize, epoch: i64, message: Option<Message>) {
        let current = self.slots[slot].as_mut().filter(|ours| ours.epoch == epoch && ours.seen < seq);
        let Some(ours) = current else { return };
        if ours.wanted {
            // Its next owner reads it.
            return;
        }
        ours.seen = seq;
        let Some(message) = message else { return };
        ours.pending.insert(seq, Pending::default());
        if let Some(key) = message.lane_key()
            && let Some(lane) = ours.lanes.get_mut(&LaneKey::Key(key.clone()))
        {
            let note = behind_note();
            lane.queue.insert(seq, Parked { note, deliveries: 0 });
            self.to_park.push(Behind { slot, epoch, seq, key: message.key.clone() });
            return;
        }
        self.ready_bytes += message.size();
        self.ready.insert(seq, Ready { message, slot, epoch, park: None, counted: false, stored: false });
    }

    /// Everything up to here was read for these slots.
    pub(crate) fn looked_at(&mut self, until: u64, slots: &[Option<i64>]) {
        for (ours, epoch) in self.slots.iter_mut().zip(slots) {
            if let Some(ours) = ours.as_mut().filter(|s| Some(s.epoch) == *epoch && !s.wanted) {
                ours.seen = ours.seen.max(until);
            }
        }
    }

    /// Whether deliveries must be stored before they happen.
    pub(crate) fn is_uncertain(&self) -> bool {
        let Some((first, _)) = self.ready.first() else { return false };
        let is_quiet = |slot: &Slot| slot.careful_until < first && slot.lanes.is_empty();
        if self.slots.iter().flatten().all(is_quiet) {
            return false;
        }
        self.ready.iter().any(|(seq, ready)| !ready.stored && self.is_careful(seq, ready))
    }

    fn is_careful(&self, seq: u64, ready: &Ready) -> bool {
        ready.park.is_some() || self.slots[ready.slot].as_ref().is_some_and(|slot| seq <= slot.careful_until)
    }

    /// Counts the next delivery of all that must be stored before it is yielded.
    pub(crate) fn count_ahead(&mut self) -> Vec<Counted> {
        // Only what may be yielded next: one that is counted and never yielded would look like what kills processes.
        // Of those that do look so, one at a time.
        let mut uncertain: Vec<u64> = Vec::new();
        let mut suspects = self.suspects_out;
        for (seq, ready) in self.ready.iter() {
            let next = self.deliveries_of(seq, ready) + u32::from(!ready.counted);
            if next > SUSPECT {
                if suspects > 0 {
                    break;
                }
                suspects += 1;
            }
            if !ready.stored && self.is_careful(seq, ready) {
                uncertain.push(seq);
                if uncertain.len() == AHEAD {
                    break;
                }
            }
        }
        let mut counted = Vec::with_capacity(uncertain.len());
        for seq in uncertain {
            let Some(deliveries) = self.count(seq) else { continue };
            let Some(ready) = self.ready.get(seq) else { continue };
            let parked = ready.park.is_some();
            counted.push(Counted { slot: ready.slot, epoch: ready.epoch, seq, deliveries, parked });
        }
        counted
    }

    fn deliveries_of(&self, seq: u64, ready: &Ready) -> u32 {
        let Some(slot) = self.slots[ready.slot].as_ref().filter(|slot| slot.epoch == ready.epoch) else {
            return 0;
        };
        if ready.park.is_some() {
            let key = LaneKey::of(ready.message.key.as_ref(), seq);
            slot.lanes.get(&key).and_then(|lane| lane.queue.get(&seq)).map_or(0, |parked| parked.deliveries)
        } else {
            slot.pending.get(&seq).map_or(0, |pending| pending.deliveries)
        }
    }

    /// Counts the next delivery of a message that is ready, once.
    fn count(&mut self, seq: u64) -> Option<u32> {
        let ready = self.ready.get_mut(seq)?;
        let slot = self.slots[ready.slot].as_mut().filter(|slot| slot.epoch == ready.epoch)?;
        let deliveries = if ready.park.is_some() {
            let key = LaneKey::of(ready.message.key.as_ref(), seq);
            &mut slot.lanes.get_mut(&key)?.queue.get_mut(&seq)?.deliveries
        } else {
            &mut slot.pending.get_mut(&seq)?.deliveries
        };
        *deliveries = deliveries.saturating_add(u32::from(!ready.counted));
        ready.counted = true;
        Some(*deliveries)
    }

    /// These deliveries are stored.
    pub(crate) fn stored(&mut self, counted: &[Counted]) {
        for one in counted {
            if let Some(ready) = self.ready.get_mut(one.seq).filter(|ready| ready.epoch == one.epoch) {
                ready.stored = true;
            }
        }
    }

    // ---- Yielding ----------------------------------------------------------------------------------------

    fn take(&mut self, limits: ReadLimits, into: &mut Vec<Delivery>) -> usize {
        // What comes again comes before what is newer.
        let before = self.again.first().copied().unwrap_or(u64::MAX);
        let (mut count, mut bytes) = (0, 0);
        while count < limits.messages {
            let Some((seq, next)) = self.ready.first() else { break };
            let size = next.message.size();
            // Where a process died it is not yielded before it is known that this may have been the one.
            let unknown = !next.stored && self.is_careful(seq, next);
            if seq > before || unknown || (count > 0 && bytes + size > limits.bytes) {
                break;
            }
            let Some(deliveries) = self.count(seq) else {
                // Its slot is gone.
                if let Some(gone) = self.ready.remove(seq) {
                    self.ready_bytes -= gone.message.size();
                }
                continue;
            };
            // Begun so often without an end, it may be what kills the process: one of these at a time, so that the
            // others are not taken for it.
            let suspect = deliveries > SUSPECT;
            if suspect && self.suspects_out > 0 {
                break;
            }
            let Some(ready) = self.ready.remove(seq) else { break };
            self.ready_bytes -= size;
            if let Some(slot) = &mut self.slots[ready.slot] {
                slot.out += 1;
            }
            self.next_token += 1;
            let out = Out {
                seq,
                slot: ready.slot,
                epoch: ready.epoch,
                key: ready.message.key.clone(),
                from_park: ready.park.is_some(),
                suspect,
                size: if self.settles { size } else { 0 },
            };
            self.out_bytes += out.size;
            self.out.insert(self.next_token, out);
            self.suspects_out += usize::from(suspect);
            let token = Token::new(PartitionId(0), Epoch(0), self.next_token);
            let mut delivery = Delivery::new(ready.message, token).at(Position(seq)).delivered(deliveries);
            delivery.parked = ready.park;
            into.push(delivery);
            count += 1;
            bytes += size;
        }
        count
    }

    /// Who only browses need not settle: of what was yielded no more is remembered than may be in flight.
    fn forget_all_but(&mut self, most: usize) {
        while self.out.len() > most {
            self.done(self.first_token);
            self.first_token += 1;
        }
    }

    /// Whether all that was asked for is read and yielded.
    fn at_end(&self, end: Option<u64>) -> bool {
        let Some(end) = end else { return false };
        self.settled_in
            && self.ready.is_empty()
            && self.again.is_empty()
            && self.slots.iter().flatten().all(|slot| slot.seen + 1 >= end)
    }

    // ---- Settling ----------------------------------------------------------------------------------------

    /// What a token stands for, if it is still ours.
    pub(crate) fn look_up(&self, token: TokenId) -> Option<Held> {
        let out = self.out.get(&token.id).filter(|out| self.owns(out))?;
        Some(Held {
            token: token.id,
            seq: out.seq,
            slot: out.slot,
            epoch: out.epoch,
            from_park: out.from_park,
        })
    }

    /// The key of a message that the scheduler has.
    pub(crate) fn key_of(&self, held: &Held) -> Option<Bytes> {
        self.out.get(&held.token)?.key.clone()
    }

    fn end_out(&mut self, token: u64) -> Option<Out> {
        let out = self.out.remove(&token)?;
        self.out_bytes -= out.size;
        self.suspects_out -= usize::from(out.suspect);
        let slot = self.slots[out.slot].as_mut().filter(|slot| slot.epoch == out.epoch)?;
        slot.out -= 1;
        Some(out)
    }

    /// It is done, durably.
    pub(crate) fn done(&mut self, token: u64) {
        let Some(out) = self.end_out(token) else { return };
        let Some(slot) = &mut self.slots[out.slot] else { return };
        slot.pending.remove(&out.seq);
        if out.from_park {
            let key = LaneKey::of(out.key.as_ref(), out.seq);
            if let Some(lane) = slot.lanes.get_mut(&key) {
                lane.queue.remove(&out.seq);
                lane.busy = false;
                lane.due = None;
                if lane.queue.is_empty() {
                    slot.lanes.remove(&key);
                }
            }
            self.to_park.retain(|behind| behind.seq != out.seq);
        }
    }

    /// It is given back: it comes again, before what is newer.
    pub(crate) fn given_back(&mut self, token: u64) {
        let Some(out) = self.end_out(token) else { return };
        let Some(slot) = &mut self.slots[out.slot] else { return };
        if out.from_park {
            if let Some(lane) = slot.lanes.get_mut(&LaneKey::of(out.key.as_ref(), out.seq)) {
                lane.busy = false;
                lane.due = None;
                if let Some(parked) = lane.queue.get_mut(&out.seq) {
                    parked.deliveries = parked.deliveries.saturating_sub(1);
                }
            }
            return;
        }
        if let Some(pending) = slot.pending.get_mut(&out.seq) {
            // It was not started.
            pending.deliveries = pending.deliveries.saturating_sub(1);
            if !slot.wanted {
                self.again.insert(out.seq);
            }
        }
    }

    /// It is parked, durably; and what was read of its key and not yielded goes behind it.
    pub(crate) fn parked(&mut self, token: u64, due: Option<Instant>, note: ParkNote) {
        let Some(out) = self.end_out(token) else { return };
        let Some(slot) = &mut self.slots[out.slot] else { return };
        slot.pending.remove(&out.seq);
        let key = LaneKey::of(out.key.as_ref(), out.seq);
        let lane = slot.lanes.entry(key.clone()).or_default();
        let head = lane.queue.keys().next().is_none_or(|first| out.seq <= *first);
        lane.queue.insert(out.seq, Parked { note, deliveries: 0 });
        if head {
            lane.due = due;
            lane.busy = false;
        }
        let LaneKey::Key(bytes) = &key else { return };
        // What of the key was read already must not overtake.
        let (index, epoch) = (out.slot, slot.epoch);
        let of_key = |seq: u64, ready: &Ready| {
            ready.slot == index
                && ready.park.is_none()
                && seq > out.seq
                && ready.message.lane_key() == Some(bytes)
        };
        let behind: Vec<u64> =
            self.ready.iter().filter(|(seq, ready)| of_key(*seq, ready)).map(|(seq, _)| seq).collect();
        for seq in behind {
            let Some(ready) = self.ready.remove(seq) else { continue };
            self.ready_bytes -= ready.message.size();
            if let Some(lane) = slot.lanes.get_mut(&key) {
                lane.queue.insert(seq, Parked { note: behind_note(), deliveries: 0 });
            }
            self.to_park.push(Behind { slot: index, epoch, seq, key: ready.message.key });
        }
    }

    /// Messages whose key is parked are parked behind it, durably.
    pub(crate) fn parked_behind(&mut self, behind: &[Behind]) {
        for one in behind {
            self.to_park.retain(|b| b.seq != one.seq);
            let current = self.slots[one.slot].as_mut().filter(|slot| slot.epoch == one.epoch);
            let Some(slot) = current else { continue };
            slot.pending.remove(&one.seq);
        }
    }

    /// These have left the park, durably.
    pub(crate) fn unparked(&mut self, unreadable: &[Unreadable]) {
        self.unreadable.retain(|one| !unreadable.iter().any(|gone| gone.seq == one.seq));
    }

    /// Messages that the scheduler has.
    pub(crate) fn in_flight(&self) -> usize {
        self.out.len()
    }
}

/// A parked message as the file has it.
#[derive(Debug)]
pub(crate) struct ParkedMessage {
    pub(crate) seq: u64,
    pub(crate) key: Option<Bytes>,
    pub(crate) note: ParkNote,
    pub(crate) deliveries: u32,
    pub(crate) due: Option<Instant>,
}

/// Deliveries after which a message may be what kills processes.
const SUSPECT: u32 = 3;
/// Deliveries that are stored before they happen, at a time.
const AHEAD: usize = 32;

/// Messages read before they are asked for, at most.
const READ_AHEAD: usize = 1_024;

/// What is noted of a message that only waits for others of its key.
pub(crate) fn behind_note() -> ParkNote {
    ParkNote { attempts: 0, first_failure: None, error: String::new() }
}

/// A note from its columns.
pub(crate) fn note(attempts: u32, first_failure: Option<i64>, error: String) -> ParkNote {
    ParkNote { attempts, first_failure: first_failure.map(system_time), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { messages: 100, bytes: 1 << 20 };

    /// A member that has all slots, each seen up to a number of its own.
    fn member(seen: impl Fn(usize) -> u64) -> Member {
        let topic = Topic { id: 1, name: "t".into(), last: AtomicU64::new(1_000) };
        let member = Member::new(Arc::new(topic), None, false, BOUNDS, None);
        let mut state = member.lock();
        for slot in 0..SLOTS {
            state.claimed(slot, 1, &Progress { front: seen(slot), ..Progress::default() }, Vec::new(), 0);
        }
        state.valid_until = i64::MAX;
        drop(state);
        member
    }

    fn message(key: &str) -> Message {
        Message::new("t", "x").with_key(key.to_owned())
    }

    #[test]
    fn a_slot_that_others_wanted_for_a_moment_misses_nothing() {
        // Given a slot that has seen less than the others, and is to be given back.
        let member = member(|slot| if slot == 0 { 5 } else { 500 });
        member.lock().want_back(1);
        let wanted = member.wanted(Instant::now()).unwrap();
        assert_eq!(wanted.from, Some(500));
        // When it stays after all while a block is read, from behind what it has not seen.
        member.lock().want_back(0);
        assert_eq!(wanted.slots[0], None, "the block is not for it");
        member.lock().looked_at(1_000, &wanted.slots);
        // Then reading goes back to where it was.
        assert_eq!(member.wanted(Instant::now()).unwrap().from, Some(5));
    }

    #[test]
    fn a_slot_that_was_given_back_yields_nothing_until_that_is_committed_or_undone() {
        // Given a slot with a message, given back in a transaction.
        let member = member(|slot| if slot == 0 { 5 } else { 500 });
        member.lock().want_back(SLOTS);
        assert!(member.lock().to_give_back().contains(&0));
        member.lock().set_leaving(&[0], true);
        // When in the same transaction nobody wants it any more.
        member.lock().want_back(0);
        // Then it is not read, nor given back twice.
        assert_eq!(member.wanted(Instant::now()).unwrap().from, Some(500));
        member.lock().want_back(SLOTS);
        assert!(!member.lock().to_give_back().contains(&0));
        // And once the transaction was undone, it is as it was before.
        member.lock().set_leaving(&[0], false);
        member.lock().want_back(0);
        assert_eq!(member.wanted(Instant::now()).unwrap().from, Some(5));
    }

    #[test]
    fn a_parked_message_waits_until_all_before_it_was_read() {
        // Given one that is due, parked by somebody who died with older ones of its slot unfinished.
        let member = member(|_| 1_000);
        let slot = crate::row::slot_of(Some(b"k"), 7);
        let parked =
            ParkedMessage { seq: 7, key: Some("k".into()), note: behind_note(), deliveries: 0, due: None };
        let progress = Progress { front: 4, parked: 1, ..Progress::default() };
        member.lock().claimed(slot, 2, &progress, vec![parked], 0);
        // Then those are read first,
        let wanted = member.wanted(Instant::now()).unwrap();
        assert!(wanted.single.is_empty() && wanted.from == Some(4), "{wanted:?}");
        // and it comes once that is done.
        member.lock().looked_at(9, &wanted.slots);
        let wanted = member.wanted(Instant::now()).unwrap();
        assert_eq!(wanted.single.iter().map(|single| single.seq).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn what_comes_out_of_a_park_while_its_slot_is_wanted_comes_once() {
        // Given a parked message that is due and being read.
        let member = member(|_| 1_000);
        let slot = crate::row::slot_of(Some(b"k"), 7);
        let parked =
            ParkedMessage { seq: 7, key: Some("k".into()), note: behind_note(), deliveries: 0, due: None };
        let progress = Progress { front: 1_000, parked: 1, ..Progress::default() };
        member.lock().claimed(slot, 2, &progress, vec![parked], 0);
        let single = member.wanted(Instant::now()).unwrap().single.remove(0);
        // When its slot is wanted for a moment before it arrives.
        member.lock().want_back(SLOTS);
        member.lock().want_back(0);
        member.lock().arrived_single(&single, Some(message("k")));
        // Then it is not read a second time.
        assert!(member.wanted(Instant::now()).is_none());
        // And when its slot is still wanted, it is not handed out here.
        member.lock().want_back(SLOTS);
        member.lock().arrived_single(&single, Some(message("k")));
        let counted = member.lock().count_ahead();
        assert!(counted.is_empty(), "{counted:?}");
    }
}
