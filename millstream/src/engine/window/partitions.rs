//! Partitions: assignments with their epochs, contiguous commit, giving back, and suspicion.

use std::time::Duration;

use foldhash::{HashMap, HashSet};
use millstream_core::{Assigned, Epoch, Origin, PartitionId, Position, Settlement, Token, TokenId};
use tokio::time::Instant;

use super::lanes::{Index, LaneId, NONE};
use super::settle::Cargo;
use super::tracker::Tracker;
use super::{Entry, Input, MarkRequest, ParkMode, Seat, Stage, Tag, Window};
use crate::engine::suspicion::{Mark, Suspicion};

/// How long a partition that is asked back, or a shutdown, waits for what was not begun and is owed.
pub(crate) const SOON: Duration = Duration::from_secs(2);

/// A partition that is ours.
#[derive(Debug)]
pub(super) struct Partition {
    epoch: Epoch,
    tracker: Tracker<Cargo>,
    /// Settlements sent and not answered.
    outstanding: usize,
    /// The newest of them, as long as the settler has not taken it and a later one may take its place: its place in
    /// what the settler takes next, and how often the settler came before.
    pending: Option<(usize, u64)>,
    /// It is asked back, or everything ends: only what comes before this number may still be begun.
    owed_below: Option<u64>,
    /// Not read further: too much is finished and not committed.
    stopped: bool,
    start: Option<Position>,
    /// A note is stored that a crash will find.
    marked: bool,
    /// The note that was found, if it speaks of where we start: somebody came no further than this.
    found: Option<String>,
    /// Something was settled under this assignment.
    progressed: bool,
    /// Places of messages that are read again and lie in the park: their acknowledgement was not committed.
    in_park: HashSet<u64>,
    suspicion: Option<Suspicion>,
}

impl Partition {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            tracker: Tracker::new(),
            outstanding: 0,
            pending: None,
            owed_below: None,
            stopped: false,
            start: None,
            marked: false,
            found: None,
            progressed: false,
            in_park: HashSet::default(),
            suspicion: None,
        }
    }
}

/// What may become of a message under its assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    /// It is ours.
    All,
    /// It is asked back, and one behind it was begun: no position can pass that before this one is finished.
    Owed,
    /// It is asked back: what runs may end, and nothing is begun.
    WhatRuns,
    /// It is somebody else's.
    Nothing,
}

/// What the broker made of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It happened.
    Done,
    /// It did not, or nobody knows.
    Not,
}

/// Partitions to be read no further, and those to be read again.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) stop: Vec<PartitionId>,
    pub(crate) go_on: Vec<PartitionId>,
}

impl Window {
    // ---- Assignment --------------------------------------------------------------------------------------

    /// Partitions are ours now. `marks`: whether notes can be stored.
    pub(crate) fn assigned(&mut self, input: Input, assigned: &[Assigned], marks: bool, now: Instant) {
        for one in assigned {
            let mut partition = Partition::new(one.epoch);
            partition.start = one.start;
            if marks && input == Input::Main {
                let mark = Mark::on_start(one.mark.as_deref(), one.start);
                let window = self.rules.policy.max_in_flight;
                partition.marked = true;
                partition.suspicion = mark.suspicion(window);
                partition.found = one.mark.clone().filter(|_| !mark.is_fresh());
                if partition.suspicion.is_some() {
                    tracing::warn!(partition = %one.partition,
                        "restarted without progress: one message at a time, to find the one that kills the process");
                }
                self.marks.push(MarkRequest {
                    partition: one.partition,
                    epoch: one.epoch,
                    note: mark.to_string(),
                    then: None,
                });
            }
            // One that comes back before its end was told.
            let over = self.partitions.insert((input, one.partition), partition);
            for cargo in over.map(|over| over.tracker.end()).unwrap_or_default() {
                self.unsettled(cargo.index, now);
            }
        }
    }

    /// Partitions are to be given back: what was not begun is dropped here, what runs may end.
    ///
    /// Where a position settles all before it, what is handled behind one that is dropped would be handled again by
    /// whoever has the partition next. So what lies before the newest that was begun is begun as well, if that can be
    /// soon; until [`hurry`](Self::hurry).
    pub(crate) fn revoking(&mut self, input: Input, partitions: &[(PartitionId, Epoch)], now: Instant) {
        for (id, epoch) in partitions {
            let below = self.begun_below(input, *id, *epoch);
            self.ask_back(input, *id, *epoch, below, now);
        }
    }

    /// Nothing more of these partitions is begun, whatever it leaves behind.
    pub(crate) fn hurry(&mut self, input: Input, partitions: &[(PartitionId, Epoch)], now: Instant) {
        for (id, epoch) in partitions {
            self.ask_back(input, *id, *epoch, 0, now);
        }
    }

    fn ask_back(&mut self, input: Input, id: PartitionId, epoch: Epoch, below: u64, now: Instant) {
        if let Some(partition) = self.partitions.get_mut(&(input, id)).filter(|p| p.epoch == epoch) {
            partition.owed_below = Some(below);
        }
        self.drop_unstarted(input, id, epoch, below, now);
    }

    /// The number of the newest message of a partition that was begun and is not settled: what comes before it is owed.
    fn begun_below(&self, input: Input, id: PartitionId, epoch: Epoch) -> u64 {
        // An outage may last, and what is parked waits for reasons of its own.
        if !self.rules.cumulative || input == Input::Park || self.paused || self.outage.is_down() {
            return 0;
        }
        let of_it = |e: &&Entry| e.input == input && e.partition() == id && e.epoch() == epoch;
        let begun = self.entries.iter().map(|(_, e)| e).filter(of_it).filter(|e| !e.stage.is_idle());
        let finished = self.partitions.get(&(input, id)).filter(|p| p.epoch == epoch);
        let finished = finished.and_then(|partition| partition.tracker.newest_finished());
        begun.map(|e| e.number).max().max(finished).unwrap_or(0)
    }

    /// All that is ours is asked back, since everything ends.
    pub(super) fn ask_all_back(&mut self, now: Instant) {
        for (input, owned) in self.owned() {
            self.revoking(input, &[owned], now);
        }
    }

    /// Nothing more is begun, since everything ends.
    pub(crate) fn hurry_all(&mut self, now: Instant) {
        for (input, owned) in self.owned() {
            self.hurry(input, &[owned], now);
        }
    }

    fn owned(&self) -> Vec<(Input, (PartitionId, Epoch))> {
        self.partitions.iter().map(|((input, id), partition)| (*input, (*id, partition.epoch))).collect()
    }

    /// Whether nothing of these partitions runs, leaves or waits for the broker.
    pub(crate) fn is_released(&self, input: Input, partitions: &[(PartitionId, Epoch)]) -> bool {
        let busy = self.entries.iter().any(|(_, e)| {
            e.input == input && partitions.iter().any(|(p, epoch)| e.partition() == *p && e.epoch() == *epoch)
        });
        !busy
            && partitions.iter().all(|(p, epoch)| {
                self.partitions.get(&(input, *p)).is_none_or(|s| s.epoch != *epoch || s.outstanding == 0)
            })
    }

    /// Partitions are gone: what runs ends for nothing.
    pub(crate) fn lost(&mut self, input: Input, partitions: &[(PartitionId, Epoch)], now: Instant) {
        for (id, epoch) in partitions {
            self.drop_unstarted(input, *id, *epoch, 0, now);
            if self.partitions.get(&(input, *id)).is_some_and(|p| p.epoch == *epoch) {
                let over = self.partitions.remove(&(input, *id));
                // What waited to be settled behind others never will be.
                for cargo in over.map(|over| over.tracker.end()).unwrap_or_default() {
                    self.unsettled(cargo.index, now);
                }
                if input == Input::Main {
                    // Whoever has it next reads its park for itself; so do we, should it come back.
                    self.lanes.forget_parked(*id);
                }
            }
            // What is queued for the settlers would be refused; it is counted by their answer.
        }
    }

    /// What an entry's assignment still allows.
    pub(super) fn keeps(&self, index: Index) -> Keeps {
        let counts = self.rules.partitions || self.rules.cumulative;
        let Some(entry) = self.entries.get(index as usize).filter(|_| counts) else {
            return Keeps::All;
        };
        let partition = self.partitions.get(&(entry.input, entry.partition()));
        match partition.filter(|p| p.epoch == entry.epoch()).map(|p| p.owed_below) {
            Some(None) => Keeps::All,
            Some(Some(below)) if entry.number < below => Keeps::Owed,
            Some(Some(_)) => Keeps::WhatRuns,
            None => Keeps::Nothing,
        }
    }

    /// Whether an entry may still be begun.
    pub(super) fn may_begin(&self, index: Index) -> bool {
        match self.keeps(index) {
            Keeps::All => !self.closing,
            Keeps::Owed => true,
            Keeps::WhatRuns | Keeps::Nothing => false,
        }
    }

    pub(super) fn has_revocations(&self) -> bool {
        self.rules.partitions && self.partitions.values().any(|p| p.owed_below.is_some())
    }

    /// Asks for the notes that say "all is well", for partitions that end in order; once for each. One that comes to
    /// its end without having settled anything says nothing about who died before: it leaves the note it found. Says
    /// whether there were any to ask for.
    pub(crate) fn clear_marks(&mut self, only: Option<&[(PartitionId, Epoch)]>) -> bool {
        let before = self.marks.len();
        for ((input, id), state) in &mut self.partitions {
            if *input == Input::Main
                && only.is_none_or(|o| o.contains(&(*id, state.epoch)))
                && std::mem::take(&mut state.marked)
            {
                let found = state.found.take().filter(|_| !state.progressed);
                self.marks.push(MarkRequest {
                    partition: *id,
                    epoch: state.epoch,
                    note: found.unwrap_or_default(),
                    then: None,
                });
            }
        }
        self.marks.len() > before
    }

    /// The assignment a partition of ours is under.
    pub(crate) fn epoch_of(&self, input: Input, partition: PartitionId) -> Option<Epoch> {
        self.partitions.get(&(input, partition)).map(|p| p.epoch)
    }

    /// Drops what was not begun, but for what is owed below this number.
    fn drop_unstarted(
        &mut self,
        input: Input,
        partition: PartitionId,
        epoch: Epoch,
        below: u64,
        now: Instant,
    ) {
        let mut unstarted: Vec<(u64, Index)> = self
            .entries
            .iter()
            .filter(|(_, e)| {
                e.input == input && e.partition() == partition && e.epoch() == epoch && e.stage.is_idle()
            })
            .map(|(i, e)| (e.number, Index::try_from(i).unwrap_or(NONE)))
            .collect();
        unstarted.sort_unstable();
        // What is behind one of its lane that is dropped may not go before it.
        let mut cut: HashSet<LaneId> = HashSet::default();
        unstarted.retain(|(number, index)| {
            let entry = &self.entries[*index as usize];
            let kept = *number < below
                && entry.due().is_none_or(|due| due <= now + SOON)
                && entry.lane.is_none_or(|lane| !cut.contains(&lane) && !self.lanes.is_parked(lane));
            if !kept {
                cut.extend(entry.lane);
            }
            !kept
        });
        // From the back, so that no head of a lane gets its turn just to be dropped.
        for (_, index) in unstarted.into_iter().rev() {
            self.give_back(index, now);
        }
    }

    /// Gives a message back of a partition that is asked back, and what is owed behind it in its lane.
    pub(super) fn give_back_lane(&mut self, index: Index, now: Instant) {
        for behind in self.behind(index).into_iter().rev() {
            if self.keeps(behind) != Keeps::All {
                self.give_back(behind, now);
            }
        }
        self.give_back(index, now);
    }

    /// Whether a delivery belongs to an assignment of ours; its number in the tracker.
    pub(super) fn admit(&mut self, input: Input, origin: &Origin, now: Instant) -> Option<u64> {
        if !self.rules.partitions && !self.rules.cumulative {
            return Some(0);
        }
        let key = (input, origin.partition);
        if !self.rules.partitions {
            // No assignment events: the first delivery, or one of a newer connection, begins an epoch.
            let known = self.partitions.get(&key).map(|p| p.epoch);
            if known.is_none_or(|epoch| epoch < origin.epoch) {
                let over = self.partitions.insert(key, Partition::new(origin.epoch));
                for cargo in over.map(|over| over.tracker.end()).unwrap_or_default() {
                    self.unsettled(cargo.index, now);
                }
            }
        }
        let partition = self.partitions.get_mut(&key)?;
        if partition.epoch != origin.epoch || partition.owed_below.is_some() {
            return None;
        }
        Some(if self.rules.cumulative { partition.tracker.read(now) } else { 0 })
    }

    // ---- Contiguous commit -------------------------------------------------------------------------------

    /// A message is finished; sends what may be settled now.
    pub(super) fn track(
        &mut self,
        input: Input,
        partition: PartitionId,
        number: u64,
        token: Token,
        cargo: Option<Box<Cargo>>,
        now: Instant,
    ) {
        let epoch = token.id().epoch;
        let Self { partitions, settlements, taken, unsettled, loose, unconfirmed, .. } = self;
        let Some(state) = partitions.get_mut(&(input, partition)).filter(|p| p.epoch == epoch) else {
            // Its assignment is over: whoever has the partition now handles it again.
            self.counts.lease_lost(1);
            drop(token);
            if let Some(cargo) = cargo {
                self.unsettled(cargo.index, now);
            }
            return;
        };
        let (outward, taken) = (&mut settlements[input as usize], taken[input as usize]);
        if let Some(cargo) = state.tracker.finish(number, token, cargo) {
            self.unsettled(cargo.index, now);
            return;
        }
        while let Some((token, cargo)) = state.tracker.advance() {
            *unconfirmed += 1;
            let tag = Tag::of(token.id(), None);
            let mut settlement = Settlement::ack(token);
            state.pending = match (cargo, state.pending) {
                (None, Some((at, then))) if then == taken => {
                    // The later one settles the earlier with it. So the settler gets a few, however many messages there
                    // are, and those that wait for it take no room from others.
                    outward.settlements[at] = settlement;
                    outward.tags[at].count += 1;
                    continue;
                }
                (None, _) => {
                    *loose += 1;
                    outward.push(settlement, tag);
                    Some((outward.tags.len() - 1, taken))
                }
                (Some(cargo), _) => {
                    let along = settlement.along_mut();
                    (along.emit, along.effects) = (cargo.emit, cargo.effects);
                    outward.push(settlement, tag.awaited_by(cargo.index));
                    None
                }
            };
            *unsettled += 1;
            state.outstanding += 1;
        }
    }

    /// A message is given back, and with it all that waits to be settled behind it.
    pub(super) fn not_tracked(&mut self, input: Input, token: TokenId, number: u64, now: Instant) {
        let state = self.partitions.get_mut(&(input, token.partition)).filter(|p| p.epoch == token.epoch);
        for cargo in state.map(|state| state.tracker.give_back(number)).unwrap_or_default() {
            self.unsettled(cargo.index, now);
        }
    }

    /// A settlement was sent.
    pub(super) fn sent(&mut self, input: Input, tag: &Tag) {
        if let Some(state) = self.assignment(input, tag) {
            state.outstanding += 1;
        }
    }

    /// The assignment a settlement belongs to, unless that is over: its partition may be ours anew.
    fn assignment(&mut self, input: Input, tag: &Tag) -> Option<&mut Partition> {
        if !self.rules.partitions && !self.rules.cumulative {
            return None;
        }
        self.partitions.get_mut(&(input, tag.partition)).filter(|state| state.epoch == tag.epoch)
    }

    /// A settlement was answered; `Done` is progress.
    pub(super) fn confirm(&mut self, input: Input, tag: &Tag, answer: Answer) {
        self.unsettled -= 1;
        self.loose -= usize::from(tag.waits.is_none());
        if self.rules.cumulative {
            self.unconfirmed -= tag.count;
        }
        if let Some(state) = self.assignment(input, tag) {
            state.progressed |= answer == Answer::Done;
            state.outstanding = state.outstanding.saturating_sub(1);
            state.tracker.confirmed(tag.count);
            let stopped = state.stopped;
            // The pump decides whether it may be read again.
            self.wake_pump |= stopped;
        }
    }

    /// Which partitions are too far ahead of their committed position to be read, and which no longer are.
    pub(crate) fn flow(&mut self, input: Input, now: Instant) -> Flow {
        let mut flow = Flow::default();
        if !self.rules.cumulative {
            return flow;
        }
        let bound = self.rules.policy.max_gap;
        for ((_, id), state) in self.partitions.iter_mut().filter(|((i, _), _)| *i == input) {
            let old = state.tracker.oldest().is_some_and(|at| now.duration_since(at) > bound.age);
            // A gap of one is the message that runs: age counts only with others finished behind it.
            let over = state.tracker.gap() >= bound.messages || (old && state.tracker.gap() > 1);
            let under = state.tracker.gap() <= bound.messages / 2 && !old;
            if over && !state.stopped {
                state.stopped = true;
                flow.stop.push(*id);
                tracing::warn!(partition = %id, gap = state.tracker.gap(),
                    "one message is unfinished and many behind it are: the partition is not read further");
            } else if under && state.stopped {
                state.stopped = false;
                flow.go_on.push(*id);
            }
        }
        flow
    }

    /// Whether any partition is not read for its gap.
    pub(crate) fn stopped_partitions(&self) -> usize {
        self.partitions.values().filter(|p| p.stopped).count()
    }

    // ---- Parks -------------------------------------------------------------------------------------------

    /// Notes what the park held before its partition is dispatched: the oldest and the newest of each key, and what is
    /// about to be read again.
    pub(crate) fn parked_before(
        &mut self,
        partition: PartitionId,
        keys: &HashMap<LaneId, [Position; 2]>,
        again: HashSet<u64>,
    ) {
        for (lane, places) in keys {
            places.iter().for_each(|place| self.lanes.park(*lane, *place, partition));
        }
        if let Some(state) = self.partitions.get_mut(&(Input::Main, partition)) {
            state.in_park = again;
        }
    }

    /// Whether a message of the topic lies in the park since before its partition was dispatched.
    pub(super) fn lies_in_park(&mut self, origin: &Origin) -> bool {
        if self.rules.park != ParkMode::Topic {
            return false;
        }
        let Some(state) = self.partitions.get_mut(&(Input::Main, origin.partition)) else { return false };
        !state.in_park.is_empty() && origin.position.is_some_and(|place| state.in_park.remove(&place.0))
    }

    /// The lane of a key.
    pub(crate) fn lane_of(&self, key: &[u8]) -> LaneId {
        self.lanes.id(key)
    }

    // ---- Suspicion ---------------------------------------------------------------------------------------

    #[inline]
    pub(super) fn is_suspect(&self, index: Index) -> bool {
        if !self.rules.partitions {
            return false;
        }
        let entry = &self.entries[index as usize];
        !entry.marked
            && self.partitions.get(&(entry.input, entry.partition())).is_some_and(|p| p.suspicion.is_some())
    }

    /// Queues a message of a suspected partition: noted durably first, one at a time.
    pub(super) fn suspect(&mut self, index: Index, now: Instant) {
        let entry = &mut self.entries[index as usize];
        entry.stage = Stage::Reserving;
        let position = entry.item.origin.position;
        let key = (entry.input, entry.partition());
        let Some(suspicion) = self.partitions.get_mut(&key).and_then(|p| p.suspicion.as_mut()) else {
            return;
        };
        if suspicion.is_guilty(position) {
            self.crash_loop(index, now);
            return;
        }
        suspicion.queue(entry.seat(index), position);
        self.next_suspect(key);
    }

    fn next_suspect(&mut self, key: (Input, PartitionId)) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let Some(suspicion) = &mut partition.suspicion else { return };
        let entries = &self.entries;
        let at = |seat: Seat| entries.get(seat.index as usize).filter(|entry| entry.stamp == seat.stamp);
        let waits = |seat| at(seat).is_some_and(|entry| entry.stage == Stage::Reserving);
        if let Some((seat, note)) = suspicion.next(|seat| at(seat).is_some(), waits) {
            let then = Some(seat);
            self.marks.push(MarkRequest { partition: key.1, epoch: partition.epoch, note, then });
        }
    }

    /// Takes the notes to be stored.
    pub(crate) fn take_marks(&mut self) -> Vec<MarkRequest> {
        self.marking = self.marks.len();
        std::mem::take(&mut self.marks)
    }

    /// Whether every note is stored.
    pub(crate) fn is_marked(&self) -> bool {
        self.marks.is_empty() && self.marking == 0
    }

    /// A note is stored, or cannot be: the message it speaks of may run.
    pub(crate) fn marked(&mut self, then: Option<Seat>, now: Instant) {
        self.marking = self.marking.saturating_sub(1);
        self.wake_pump |= self.pump_waits_for_less();
        let Some(Seat { index, stamp }) = then else { return };
        let entry = self.entries.get_mut(index as usize);
        if let Some(entry) = entry.filter(|e| e.stamp == stamp && e.stage == Stage::Reserving) {
            entry.marked = true;
            self.make_ready(index, now);
        }
    }

    /// Messages have run, and the process lives: of which suspected partitions they are.
    pub(super) fn suspects_ran(&mut self, index: Index, rest: &[Index]) -> Vec<(Input, PartitionId)> {
        let mut keys = Vec::new();
        for one in std::iter::once(index).chain(rest.iter().copied()) {
            let Some(entry) = self.entries.get(one as usize).filter(|e| e.marked) else { continue };
            let key = (entry.input, entry.partition());
            if let Some(suspicion) = self.partitions.get_mut(&key).and_then(|p| p.suspicion.as_mut()) {
                suspicion.ran(entry.seat(one));
                keys.push(key);
            }
        }
        keys
    }

    /// A noted message is gone, run or not: a copy of one that was handled, for one. The next gets its turn.
    pub(super) fn suspect_left(&mut self, key: (Input, PartitionId), seat: Seat, now: Instant) {
        let suspicion = self.partitions.get_mut(&key).and_then(|p| p.suspicion.as_mut());
        if suspicion.is_some_and(|suspicion| suspicion.ran(seat)) {
            self.after_suspect(key, now);
        }
    }

    /// After results: the next message of a suspected partition, or the end of the suspicion.
    pub(super) fn after_suspect(&mut self, key: (Input, PartitionId), now: Instant) {
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let Some(suspicion) = &mut partition.suspicion else { return };
        if !suspicion.is_over() {
            self.next_suspect(key);
            return;
        }
        let waiting = suspicion.take_queue();
        partition.suspicion = None;
        let note = Mark::fresh(partition.start).to_string();
        self.marks.push(MarkRequest { partition: key.1, epoch: partition.epoch, note, then: None });
        for Seat { index, stamp } in waiting {
            let entry = self.entries.get_mut(index as usize);
            if let Some(entry) = entry.filter(|e| e.stamp == stamp && e.stage == Stage::Reserving) {
                entry.marked = true;
                self.make_ready(index, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use millstream_core::{Assigned, Delivery, Epoch, Message, PartitionId, Position, Settled, Token};
    use tokio::time::Instant;

    use super::super::model::window;
    use super::super::{Done, Input, Job, Outward, Way, Window};
    use crate::Failure;

    const PARTITION: PartitionId = PartitionId(0);

    fn arrive(window: &mut Window, epoch: u32, offset: u64) {
        let token = Token::new(PARTITION, Epoch(epoch), offset);
        let message = Message::new("t", "x").with_id(offset.to_string());
        let mut deliveries = vec![Delivery::new(message, token).at(Position(offset))];
        window.arrive(Input::Main, &mut deliveries, Instant::now());
    }

    fn take(window: &mut Window) -> Vec<Job> {
        let mut jobs = VecDeque::new();
        window.take((10, 0), Instant::now(), &mut jobs);
        jobs.into()
    }

    fn end(window: &mut Window, job: &Job) {
        let mut done = vec![Done { index: job.index, rest: None, outcome: Ok(()), held: None }];
        window.finished(&mut done, Instant::now());
        window.free(1);
    }

    fn settlements(window: &mut Window) -> usize {
        let mut outward = Outward::default();
        window.take_settlements(Input::Main, Instant::now(), &mut outward);
        outward.tags.len()
    }

    #[tokio::test]
    async fn a_delivery_of_an_assignment_that_is_over_is_dropped_and_counted() {
        let mut window = window(true, false);
        window.lost(Input::Main, &[(PARTITION, Epoch(0))], Instant::now());
        window.assigned(Input::Main, &[Assigned::new(PARTITION, Epoch(1))], false, Instant::now());
        arrive(&mut window, 0, 7);
        assert!(take(&mut window).is_empty());
        assert_eq!((window.counts.stale, window.counts.reads), (1, 0));
        arrive(&mut window, 1, 7);
        assert_eq!(take(&mut window).len(), 1);
    }

    #[tokio::test]
    async fn a_completion_of_an_assignment_that_is_over_settles_nothing_and_is_counted() {
        let mut window = window(true, false);
        arrive(&mut window, 0, 7);
        let job = take(&mut window).remove(0);
        window.lost(Input::Main, &[(PARTITION, Epoch(0))], Instant::now());
        window.assigned(Input::Main, &[Assigned::new(PARTITION, Epoch(1))], false, Instant::now());
        end(&mut window, &job);
        assert_eq!(settlements(&mut window), 0);
        assert_eq!(window.counts.leases_lost, 1);
    }

    #[tokio::test]
    async fn what_arrives_while_a_partition_is_given_back_is_not_started() {
        let mut window = window(true, false);
        arrive(&mut window, 0, 7);
        let job = take(&mut window).remove(0);
        window.revoking(Input::Main, &[(PARTITION, Epoch(0))], Instant::now());
        arrive(&mut window, 0, 8);
        assert!(take(&mut window).is_empty());
        assert!(!window.is_released(Input::Main, &[(PARTITION, Epoch(0))]), "one still runs");
        end(&mut window, &job);
        assert_eq!(settlements(&mut window), 1);
    }

    /// Messages of these keys, in their order; every message is its own number.
    fn arrive_keyed(window: &mut Window, keys: &[&str]) {
        for (offset, key) in (0..).zip(keys) {
            let token = Token::new(PARTITION, Epoch(0), offset);
            let message = Message::new("t", "x").with_id(offset.to_string()).with_key(key.to_string());
            let mut deliveries = vec![Delivery::new(message, token).at(Position(offset))];
            window.arrive(Input::Main, &mut deliveries, Instant::now());
        }
    }

    fn fail(window: &mut Window, job: &Job) {
        let outcome = Err(Failure::retry("no"));
        let mut done = vec![Done { index: job.index, rest: None, outcome, held: None }];
        window.finished(&mut done, Instant::now());
        window.free(1);
    }

    fn numbers(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|job| &*job.item.message.id).collect()
    }

    /// The last position that is settled, if any is; what goes back has gone.
    fn settled_to(window: &mut Window) -> Option<u64> {
        for way in Way::ALL {
            let mut out = Vec::new();
            window.take_outgoing(way, &mut out);
            out.into_iter().for_each(|one| window.left(one, Instant::now()));
        }
        let mut outward = Outward::default();
        window.take_settlements(Input::Main, Instant::now(), &mut outward);
        let last = outward.settlements.last().map(|s| s.token.id().id);
        let answers = outward.tags.iter().map(|_| Settled::Done).collect();
        window.all_settled(Input::Main, &mut outward.tags, answers, &mut Outward::default(), Instant::now());
        last
    }

    const ASKED: [(PartitionId, Epoch); 1] = [(PARTITION, Epoch(0))];

    #[tokio::test(start_paused = true)]
    async fn what_lies_before_one_that_was_begun_is_begun_as_well_and_nothing_behind_it_is() {
        // Given a key with two messages, one of another key behind them that is handled, and more behind that
        let mut window = window(true, false);
        arrive_keyed(&mut window, &["a", "a", "b", "a", "b"]);
        let jobs = take(&mut window);
        assert_eq!(numbers(&jobs), ["0", "2"]);
        // When the partition is asked back
        window.revoking(Input::Main, &ASKED, Instant::now());
        jobs.iter().for_each(|job| end(&mut window, job));
        assert!(!window.is_released(Input::Main, &ASKED), "the second is owed");
        // Then the second runs, nothing else does, and the position passes what was handled
        let owed = take(&mut window);
        assert_eq!(numbers(&owed), ["1"]);
        end(&mut window, &owed[0]);
        assert!(take(&mut window).is_empty());
        assert_eq!(settled_to(&mut window), Some(2));
        assert!(window.is_released(Input::Main, &ASKED));
    }

    #[tokio::test(start_paused = true)]
    async fn one_whose_next_attempt_is_far_goes_back_with_its_lane_and_so_does_what_fails_then() {
        // Given one that waits for its next attempt for long, with another of its key behind it
        let mut window = window(true, false);
        arrive_keyed(&mut window, &["a", "a", "b", "b", "c"]);
        let jobs = take(&mut window);
        assert_eq!(numbers(&jobs), ["0", "2", "4"]);
        fail(&mut window, &jobs[0]);
        // When the partition is asked back, the lane goes, and what else is owed stays
        window.revoking(Input::Main, &ASKED, Instant::now());
        // Then a failure gives back its lane as well: none of a key goes before an earlier one
        fail(&mut window, &jobs[1]);
        end(&mut window, &jobs[2]);
        assert!(take(&mut window).is_empty());
        assert_eq!(settled_to(&mut window), None);
        assert!(window.is_released(Input::Main, &ASKED));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_not_waited_for_for_ever() {
        let mut window = window(true, false);
        arrive_keyed(&mut window, &["a", "a", "b"]);
        let jobs = take(&mut window);
        window.revoking(Input::Main, &ASKED, Instant::now());
        end(&mut window, &jobs[1]);
        // When it takes too long
        window.hurry(Input::Main, &ASKED, Instant::now());
        // Then it goes back, and what runs is still waited for
        assert!(!window.is_released(Input::Main, &ASKED));
        end(&mut window, &jobs[0]);
        assert!(take(&mut window).is_empty());
        assert_eq!(settled_to(&mut window), Some(0));
        assert!(window.is_released(Input::Main, &ASKED));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_leaves_nothing_handled_behind_what_it_gives_back() {
        let mut window = window(true, false);
        arrive_keyed(&mut window, &["a", "a", "b", "a"]);
        let jobs = take(&mut window);
        window.close(Instant::now());
        assert_eq!(window.counts.given_back, 1);
        jobs.iter().for_each(|job| end(&mut window, job));
        assert!(!window.is_drained());
        let owed = take(&mut window);
        assert_eq!(numbers(&owed), ["1"]);
        end(&mut window, &owed[0]);
        assert_eq!(settled_to(&mut window), Some(2));
        assert!(window.is_drained());
    }

    #[tokio::test]
    async fn a_later_position_takes_the_place_of_one_that_nobody_took_yet() {
        let mut window = window(true, false);
        let run = |window: &mut Window, offset| {
            arrive(window, 0, offset);
            let job = take(window).remove(0);
            end(window, &job);
        };
        (0..3).for_each(|offset| run(&mut window, offset));
        let mut outward = Outward::default();
        window.take_settlements(Input::Main, Instant::now(), &mut outward);
        assert_eq!(outward.settlements.iter().map(|s| s.token.id().id).collect::<Vec<_>>(), [2]);
        assert_eq!(outward.tags[0].count, 3);
        // What was taken stays as it is.
        run(&mut window, 3);
        assert_eq!(settlements(&mut window), 1);
    }

    #[tokio::test]
    async fn positions_on_their_way_take_no_room_until_they_are_64_windows() {
        let mut window = window(true, false);
        let mut outward = Outward::default();
        let mut count = 0;
        while window.limits(Input::Main).messages > 0 {
            arrive(&mut window, 0, count);
            count += 1;
            let job = take(&mut window).remove(0);
            end(&mut window, &job);
            window.take_settlements(Input::Main, Instant::now(), &mut outward);
        }
        // The broker does not answer. The last one or two are not worth a read.
        assert!((64 * 16 - 2..=64 * 16).contains(&count), "{count}");
        let answers = outward.tags.iter().map(|_| Settled::Done).collect();
        let mut again = Outward::default();
        window.all_settled(Input::Main, &mut outward.tags, answers, &mut again, Instant::now());
        assert_eq!(window.limits(Input::Main).messages, 16);
    }
}
