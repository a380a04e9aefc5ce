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

mod arrive;
mod batches;
#[cfg(test)]
mod closing_model;
mod counts;
mod crew;
mod entry;
#[cfg(test)]
mod epochs_model;
mod exchange;
mod finish;
mod lanes;
#[cfg(test)]
mod lanes_model;
#[cfg(test)]
mod leases_model;
mod leave;
#[cfg(test)]
mod model;
mod outage;
mod parking;
mod partitions;
mod reserve;
mod rules;
mod settle;
mod start;
mod tracker;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use foldhash::HashMap;
use foldhash::fast::FixedState;
use millstream_core::{PartitionId, ReadLimits, Reservation, TokenId};
use slab::Slab;
use tokio::time::Instant;

use arrive::Remembered;
use batches::BatchGate;
pub(crate) use counts::Counts;
use crew::Crew;
pub(crate) use entry::History;
use entry::{ERROR_LIMIT, Entry, Fate, Stage};
pub(crate) use exchange::{
    DeadLoad, DedupStep, Done, Input, Job, Load, MarkRequest, Outgoing, Outward, ParkLoad, Report, Seat, Tag,
    Then, Wants, Way,
};
pub(crate) use lanes::{Index, LaneId};
use lanes::{Lanes, NONE};
use outage::OutageWatch;
use partitions::Partition;
pub(crate) use partitions::SOON;
pub(crate) use rules::{ParkMode, Rules};

pub(crate) struct Window {
    rules: Rules,
    entries: Slab<Entry>,
    lanes: Lanes,
    ready: VecDeque<Index>,
    pub(crate) crew: Crew,
    reserving: Vec<Index>,
    /// Reservations that are too old to run on, to be released before they are asked for again.
    outworn: Vec<Reservation>,
    /// Reservations of messages that are settled with their effects.
    to_confirm: Vec<Reservation>,
    /// Some of those are with the store.
    confirming: bool,
    timers: BinaryHeap<Reverse<(Instant, Index, u32)>>,
    stamp: u32,
    /// Handlers that may run at once, granted to the runners.
    running: usize,
    /// Jobs with the runners, begun or not.
    out: usize,
    leaving: usize,
    /// Messages of a partition on their way to the park, under whatever assignment.
    parking: HashMap<PartitionId, usize>,
    /// Handed to the settlers and not yet answered.
    unsettled: usize,
    /// Of those, the ones whose message has left the window already.
    loose: usize,
    /// Messages finished whose position the broker has not confirmed; where a position settles all before it.
    unconfirmed: usize,
    bytes: usize,
    park_entries: usize,
    /// Gone through in an order that repeats from run to run.
    partitions: std::collections::HashMap<(Input, PartitionId), Partition, FixedState>,
    /// By [`Way`].
    outgoing: [Vec<Outgoing>; 3],
    settlements: [Outward; 2],
    /// How often those were taken.
    taken: [u64; 2],
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
    /// The driver has no more: it is over once nothing is held.
    at_end: bool,
    /// By [`Input`]: each has a pump of its own.
    pump_waits_for_room: [bool; 2],
    wake_pump: bool,
    pub(crate) counts: Counts,
    rng: fastrand::Rng,
}

impl Window {
    pub(crate) fn new(rules: Rules, counts: Counts) -> Self {
        let rng = rules.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self {
            entries: Slab::new(),
            lanes: Lanes::new(rules.seed),
            ready: VecDeque::new(),
            crew: Crew::default(),
            reserving: Vec::new(),
            outworn: Vec::new(),
            to_confirm: Vec::new(),
            confirming: false,
            timers: BinaryHeap::new(),
            stamp: 0,
            running: 0,
            out: 0,
            leaving: 0,
            parking: HashMap::default(),
            unsettled: 0,
            loose: 0,
            unconfirmed: 0,
            bytes: 0,
            park_entries: 0,
            partitions: std::collections::HashMap::default(),
            outgoing: Default::default(),
            settlements: Default::default(),
            taken: [0; 2],
            marks: Vec::new(),
            marking: 0,
            reports: Vec::new(),
            outage: OutageWatch::new(rules.policy.outage.clone()),
            batch: BatchGate::default(),
            remembered: Remembered::default(),
            paused: false,
            closing: false,
            at_end: false,
            pump_waits_for_room: [false; 2],
            wake_pump: false,
            counts,
            rng,
            rules,
        }
    }

    // ---- What the tasks ask ------------------------------------------------------------------------------

    /// Who has something to do. Asked at the end of every use.
    pub(crate) fn wants(&mut self, now: Instant) -> Wants {
        let mut pumps = [std::mem::take(&mut self.wake_pump); 2];
        for input in Input::ALL {
            if self.pump_waits_for_room[input as usize] && self.has_room(input) {
                self.pump_waits_for_room[input as usize] = false;
                pumps[input as usize] = true;
            }
        }
        Wants {
            runner: self.crew.call(self.startable(now), now),
            reserver: !self.reserving.is_empty() || !self.outworn.is_empty() || !self.to_confirm.is_empty(),
            outbound: [0, 1, 2].map(|way: usize| !self.outgoing[way].is_empty()),
            settlers: [
                !self.settlements[0].is_empty() || !self.marks.is_empty(),
                !self.settlements[1].is_empty(),
            ],
            reports: !self.reports.is_empty(),
            pumps,
        }
    }

    /// How much may be read from an input now. Nothing means: ask for events only; the pump is woken when
    /// there is room.
    pub(crate) fn limits(&mut self, input: Input) -> ReadLimits {
        let room = self.room_for(input);
        let bytes = self.rules.policy.memory.saturating_sub(self.bytes);
        // Room for a few is not worth a read while more is about to come free.
        if self.closing
            || room == 0
            || bytes == 0
            || (room < self.worth() && self.held() + self.unconfirmed > 0)
        {
            self.pump_waits_for_room[input as usize] = true;
            return ReadLimits::NOTHING;
        }
        ReadLimits::new(room, bytes)
    }

    /// How much is ready, if anything of it may begin.
    fn startable(&self, now: Instant) -> usize {
        let may = !self.ready.is_empty() && self.may_start(now) > 0 && self.batch_is_due(now);
        if may { self.ready.len() } else { 0 }
    }

    fn held(&self) -> usize {
        self.entries.len() + self.loose
    }

    fn room(&self) -> usize {
        /// Windows that may be handled while a position is on its way to the broker. Whoever has the partitions after a
        /// crash handles them again, so a broker that does not answer stops the dispatch soon.
        const AHEAD: usize = 64;
        let window = self.rules.policy.max_in_flight;
        let (held, on_their_way) = self.occupied();
        window.saturating_sub(held).min((AHEAD * window).saturating_sub(on_their_way))
    }

    /// Messages that take room, and those that only wait until the broker has confirmed a position.
    fn occupied(&self) -> (usize, usize) {
        if self.rules.cumulative { (self.entries.len(), self.unconfirmed) } else { (self.held(), 0) }
    }

    fn room_for(&self, input: Input) -> usize {
        match input {
            Input::Main => self.room(),
            // The park may fill half of the window, so that it never stops the topic.
            Input::Park => {
                let most = (self.rules.policy.max_in_flight / 2).max(1);
                self.room().min(most.saturating_sub(self.park_entries))
            }
        }
    }

    /// Room enough to be worth a read: an eighth of the window.
    fn has_room(&self, input: Input) -> bool {
        !self.closing && self.room_for(input) >= self.worth() && self.bytes < self.rules.policy.memory
    }

    fn worth(&self) -> usize {
        (self.rules.policy.max_in_flight / 8).clamp(1, 64)
    }

    /// When something is due that nobody else will bring about.
    pub(crate) fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, index, stamp))) = self.timers.peek() {
            let live = self
                .entries
                .get(*index as usize)
                .is_some_and(|e| e.stamp == *stamp && e.stage == Stage::Waiting);
            if live {
                let at = *at;
                return Some(self.soonest(at, now));
            }
            self.timers.pop();
        }
        self.other_timers(now)
    }

    fn soonest(&self, at: Instant, now: Instant) -> Instant {
        self.other_timers(now).map_or(at, |other| at.min(other))
    }

    fn other_timers(&self, now: Instant) -> Option<Instant> {
        let probe = self.outage.next_probe().filter(|_| !self.ready.is_empty());
        let batch = self.batch.due().filter(|_| !self.ready.is_empty());
        let late = self.crew.look_again().filter(|_| self.startable(now) > 0);
        // What is due already and still waits, waits for a handler to end: a timer in the past would fire for ever.
        probe.into_iter().chain(batch).chain(late).filter(|at| *at > now).min()
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
                entry.set_due(None);
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
        self.occupied().0
    }

    pub(crate) fn running(&self) -> usize {
        // A runner keeps its permits until it comes by again, also when all that it had has ended.
        self.running.min(self.out)
    }

    pub(crate) fn parked_keys(&self) -> usize {
        self.lanes.parked_keys()
    }

    /// Tokens of everything that is ours now, for the lease thread.
    pub(crate) fn held_tokens(&self, input: Input, into: &mut Vec<TokenId>) {
        let entries = self.entries.iter().filter(|(_, e)| e.input == input);
        into.extend(entries.filter(|(_, e)| e.has_token()).map(|(_, e)| e.id()));
        // What is finished stays ours until it is settled, however long the settler has to wait for its turn.
        into.extend(self.settlements[input as usize].settlements.iter().map(|s| s.token.id()));
    }

    // ---- Ending ------------------------------------------------------------------------------------------

    /// Stops starting anything and gives back what was not started. Running handlers go on, and where a position settles
    /// all before it, so does what lies before them, until [`hurry_all`](Self::hurry_all).
    pub(crate) fn close(&mut self, now: Instant) {
        self.closing = true;
        if self.rules.cumulative {
            let before = self.entries.len();
            self.ask_all_back(now);
            self.counts.given_back += (before - self.entries.len()) as u64;
            return;
        }
        let idle: Vec<Index> = self
            .entries
            .iter()
            .filter(|(_, e)| e.stage.is_idle())
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
        let owes = self.rules.cumulative && self.entries.iter().any(|(_, e)| e.stage.is_idle());
        self.out == 0 && self.leaving == 0 && self.unsettled == 0 && !owes && self.is_confirmed()
    }

    /// Whether the deduplication store knows of everything that was settled.
    fn is_confirmed(&self) -> bool {
        self.to_confirm.is_empty() && !self.confirming
    }

    /// The driver has come to the end that it was given.
    pub(crate) fn reached_end(&mut self) {
        self.at_end = true;
    }

    /// Whether the driver has no more, and nothing is held.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at_end && self.held() == 0 && self.is_confirmed()
    }

    /// Whether the pump waits for messages to go.
    fn pump_waits_for_less(&self) -> bool {
        self.closing || self.at_end || self.has_revocations()
    }

    /// Whether there is nothing at all.
    #[cfg(test)]
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
    pub(crate) fn take_settlements(&mut self, input: Input, now: Instant, into: &mut Outward) {
        self.taken[input as usize] += 1;
        if self.rules.lease.is_none() {
            into.append(&mut self.settlements[input as usize]);
            return;
        }
        let Outward { settlements, tags } = std::mem::take(&mut self.settlements[input as usize]);
        for (settlement, tag) in settlements.into_iter().zip(tags) {
            if tag.lease_until.is_some_and(|until| until < now) {
                self.settled(input, tag, millstream_core::Settled::Lost, now);
            } else {
                into.push(settlement, tag);
            }
        }
    }

    /// What the lease thread heard of the deliveries it asked for; `asked` is when it did.
    pub(crate) fn extended(&mut self, held: &[TokenId], kept: &[bool], asked: Instant) {
        let Some(lease) = self.rules.lease else { return };
        let kept: HashMap<TokenId, bool> = held.iter().copied().zip(kept.iter().copied()).collect();
        let queued = self.settlements.iter_mut().flat_map(|o| o.settlements.iter().zip(&mut o.tags));
        let queued = queued.map(|(settlement, tag)| (settlement.token.id(), &mut tag.lease_until));
        let held = self.entries.iter_mut().map(|(_, e)| (e.id(), &mut e.lease_until));
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
