//! The window against its promises, under random schedules: every message ends once, a key's messages are
//! handled in order and one at a time, bounds hold, and nothing is committed past an unfinished message.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use millstream_core::{
    Assigned, Codecs, Delivery, Epoch, Message, PartitionId, Position, Settled, Token, Verdict,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::context::{Item, SubscriptionInfo};
use crate::engine::clock::Clock;
use crate::policy::{OtherTypes, Outage, Policy};
use crate::{EventRegistry, Failure, Publisher, Retry};

const MESSAGES: u64 = 60;

#[derive(Debug, Clone)]
enum Step {
    Read(usize),
    /// Takes jobs, some of them ahead, and begins those that may run.
    Take(usize, usize),
    /// Takes jobs, some of them ahead, and runs each to its end at once; those of these places end badly.
    Run(usize, usize, Vec<bool>),
    /// Ends one of the running handlers, well or badly.
    End(usize, bool),
    Time(u64),
    /// Answers what left and what was settled.
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..9usize).prop_map(Step::Read),
        (1..5usize, 0..4usize).prop_map(|(max, ahead)| Step::Take(max, ahead)),
        (1..5usize, 0..12usize, prop::collection::vec(prop::bool::weighted(0.8), 16))
            .prop_map(|(max, ahead, well)| Step::Run(max, ahead, well)),
        (any::<usize>(), prop::bool::weighted(0.7)).prop_map(|(i, ok)| Step::End(i, ok)),
        (1..90_000u64).prop_map(Step::Time),
        Just(Step::Answer),
    ]
}

/// A window of sixteen messages, five at a time; of one partition if settlement is cumulative.
pub(super) fn window(cumulative: bool, parks: bool) -> Window {
    let mut window = window_of(rules(cumulative, parks));
    if cumulative {
        window.assigned(Input::Main, &[Assigned::new(PartitionId(0), Epoch(0))], false, Instant::now());
    }
    window
}

/// Sixteen messages, five at a time.
pub(super) fn rules(cumulative: bool, parks: bool) -> Rules {
    let policy = Policy {
        max_in_flight: 16,
        concurrency: 5,
        retry: Retry::exponential(Duration::from_secs(10), Duration::from_secs(120)).attempts(4),
        outage: Outage::never(),
        ..Policy::default()
    };
    Rules {
        policy,
        cumulative,
        partitions: cumulative,
        atomic_emit: false,
        effects: false,
        park: if parks { ParkMode::Native } else { ParkMode::None },
        keyed_redelivery: false,
        topic: "t".into(),
        group: Some("g".into()),
        lease: None,
        clock: Clock::System,
        seed: Some(1),
    }
}

pub(super) fn window_of(rules: Rules) -> Window {
    let info = SubscriptionInfo {
        topic: "t".into(),
        group: Some("g".into()),
        handler: "h".into(),
        max_attempts: 4,
        codecs: Codecs::default(),
        other_types: OtherTypes::default(),
        publisher: Publisher::new(
            millstream_memory::MemoryBroker::builder().build().writer(),
            EventRegistry::default(),
        ),
    };
    Window::new(rules, Counts::new(&info))
}

/// A broker, as far as the window can tell, that checks what it is told.
struct World {
    window: Window,
    now: Instant,
    keys: Vec<Option<u8>>,
    cumulative: bool,
    parks: bool,
    next: u64,
    running: Vec<Job>,
    ended: BTreeMap<u64, u32>,
    committed: u64,
    finished: BTreeSet<u64>,
    /// Natively parked, by key, in order: number, due, attempts.
    parked: Vec<(u64, Instant, u32)>,
    /// Delivered from the park and not yet settled.
    unparked: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    handled: HashMap<u8, Vec<u64>>,
}

impl World {
    fn new(keys: Vec<Option<u8>>, cumulative: bool, parks: bool) -> Self {
        let window = window(cumulative, parks);
        Self {
            window,
            now: Instant::now(),
            keys,
            cumulative,
            parks,
            next: 0,
            running: Vec::new(),
            ended: BTreeMap::new(),
            committed: 0,
            finished: BTreeSet::new(),
            parked: Vec::new(),
            unparked: BTreeSet::new(),
            dead: BTreeSet::new(),
            handled: HashMap::new(),
        }
    }

    fn delivery(&self, number: u64) -> Delivery {
        let mut message = Message::new("t", "x").with_id(number.to_string());
        if let Some(key) = self.keys[usize::try_from(number).unwrap() % self.keys.len()] {
            message = message.with_key(vec![key]);
        }
        Delivery::new(message, Token::new(PartitionId(0), Epoch(0), number)).at(Position(number))
    }

    fn key(&self, number: u64) -> Option<u8> {
        self.keys[usize::try_from(number).unwrap() % self.keys.len()]
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Read(count) => self.read(*count),
            Step::Take(max, ahead) => {
                let mut jobs = VecDeque::new();
                let granted = self.window.take((*max, *ahead), self.now, &mut jobs);
                self.running.extend(begin(&mut jobs, granted));
                self.window.put_back(&mut jobs, self.now);
            }
            Step::Run(max, ahead, well) => self.run(*max, *ahead, well),
            Step::End(which, ok) => {
                if !self.running.is_empty() {
                    let job = self.running.remove(which % self.running.len());
                    self.end(&job, *ok);
                }
            }
            Step::Time(ms) => {
                self.now += Duration::from_millis(*ms);
                self.window.fire(self.now);
            }
            Step::Answer => self.answer(),
        }
        self.check();
    }

    fn read(&mut self, count: usize) {
        let limits = self.window.limits(Input::Main);
        let mut deliveries = Vec::new();
        // First the parked that are due, each only once its elders of the key are through, as the contract says.
        for (number, due, attempts) in std::mem::take(&mut self.parked) {
            let keyed = self.key(number).is_some();
            let elder = keyed && self.parked.iter().any(|(n, ..)| self.key(*n) == self.key(number));
            let out = keyed && self.unparked.iter().any(|n| self.key(*n) == self.key(number));
            if due <= self.now && !elder && !out && deliveries.len() < limits.messages.min(count) {
                let note = millstream_core::ParkNote { attempts, first_failure: None, error: String::new() };
                deliveries.push(self.delivery(number).parked(note));
                self.unparked.insert(number);
            } else {
                self.parked.push((number, due, attempts));
            }
        }
        while self.next < MESSAGES && deliveries.len() < limits.messages.min(count) {
            // The driver delivers nothing of a key that is parked.
            let mut parked = self.parked.iter().map(|(n, ..)| n).chain(&self.unparked);
            if parked.any(|n| self.key(*n).is_some() && self.key(*n) == self.key(self.next)) {
                break;
            }
            deliveries.push(self.delivery(self.next));
            self.next += 1;
        }
        self.window.arrive(Input::Main, &mut deliveries, self.now);
    }

    /// As a run loop whose handlers never wait: results are brought back once all of a visit have ended.
    fn run(&mut self, max: usize, ahead: usize, well: &[bool]) {
        let mut jobs = VecDeque::new();
        let granted = self.window.take((max, ahead), self.now, &mut jobs);
        let (mut behind, mut done) = (VecDeque::new(), Vec::new());
        let mut went_well = false;
        for job in jobs {
            if job.follows && !went_well {
                behind.push_back(job);
                continue;
            }
            let number = number_of(&job.item);
            let busy = self.running.iter().filter(|r| self.key(number_of(&r.item)) == self.key(number));
            assert!(self.key(number).is_none() || busy.count() == 0, "two of a key run at once");
            went_well = well[done.len() % well.len()];
            done.push(self.ended(&job, went_well));
        }
        self.window.put_back(&mut behind, self.now);
        self.window.finished(&mut done, self.now);
        self.window.free(granted);
    }

    /// A handler ends.
    fn ended(&mut self, job: &Job, ok: bool) -> Done {
        let number = number_of(&job.item);
        if ok {
            if let Some(key) = self.key(number) {
                self.handled.entry(key).or_default().push(number);
            }
            self.finished.insert(number);
        }
        let outcome = if ok { Ok(()) } else { Err(Failure::retry("no")) };
        Done { index: job.index, rest: None, outcome, held: None }
    }

    fn end(&mut self, job: &Job, ok: bool) {
        let mut done = vec![self.ended(job, ok)];
        self.window.finished(&mut done, self.now);
        self.window.free(1);
    }

    fn answer(&mut self) {
        for way in Way::ALL {
            let mut out = Vec::new();
            self.window.take_outgoing(way, &mut out);
            for one in out {
                if let Load::Dead(load) = &one.load {
                    let number = load.message.id.parse().unwrap();
                    assert!(self.dead.insert(number), "{number} is a dead letter twice");
                    self.finished.insert(number);
                }
                self.window.left(one, self.now);
            }
        }
        let mut outward = Outward::default();
        self.window.take_settlements(Input::Main, self.now, &mut outward);
        for (settlement, tag) in outward.settlements.into_iter().zip(outward.tags) {
            let number = settlement.token.id().id;
            self.unparked.remove(&number);
            match settlement.verdict {
                Verdict::Ack if self.cumulative => {
                    assert!(number + 1 > self.committed, "the committed position went back");
                    self.committed = number + 1;
                    assert!((0..self.committed).all(|n| self.finished.contains(&n)), "committed past a gap");
                }
                Verdict::Ack => *self.ended.entry(number).or_default() += 1,
                Verdict::Park(park) => {
                    assert!(self.parks);
                    self.parked.push((number, self.now + park.after.unwrap_or_default(), park.note.attempts));
                    self.parked.sort_by_key(|(n, ..)| *n);
                }
                other => panic!("{other:?}"),
            }
            assert!(self.window.settled(Input::Main, tag, Settled::Done, self.now).is_none());
        }
    }

    fn check(&self) {
        let mut keys = HashMap::new();
        for job in &self.running {
            if let Some(key) = self.key(number_of(&job.item)) {
                *keys.entry(key).or_insert(0) += 1;
            }
        }
        assert!(keys.values().all(|n| *n == 1), "two of a key run at once: {keys:?}");
        assert!(self.running.len() <= 5, "more run than may");
        let (held, on_their_way) = self.window.occupied();
        assert!(held <= 16 && on_their_way <= 64 * 16, "more is held than may be");
        for (key, numbers) in &self.handled {
            assert!(numbers.is_sorted(), "key {key} out of order: {numbers:?}");
        }
    }

    /// Everything that is left ends well.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            let before = self.settled();
            self.step(&Step::Read(16));
            self.step(&Step::Take(5, 2));
            while !self.running.is_empty() {
                self.step(&Step::End(0, true));
            }
            self.step(&Step::Answer);
            self.step(&Step::Time(10_000));
            if self.settled() == MESSAGES && before == MESSAGES {
                break;
            }
        }
        assert_eq!(self.settled(), MESSAGES, "not every message ended");
        assert!(self.ended.values().all(|n| *n == 1), "a message ended twice");
        assert!(self.window.is_empty(), "something is left in the window");
        assert_eq!(self.window.bytes, 0);
        assert!(self.window.lanes.is_empty(), "a lane is left over");
    }

    fn settled(&self) -> u64 {
        if self.cumulative { self.committed } else { self.ended.len() as u64 }
    }
}

/// Takes out those that a run loop begins while none of them ends: not what is behind another.
pub(super) fn begin(jobs: &mut VecDeque<Job>, granted: usize) -> Vec<Job> {
    let (heads, behind): (Vec<_>, Vec<_>) = jobs.drain(..).partition(|job| !job.follows);
    let mut heads = heads.into_iter();
    let begun = heads.by_ref().take(granted).collect();
    jobs.extend(heads.chain(behind));
    begun
}

fn number_of(item: &Item) -> u64 {
    item.message.id.parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_message_ends_once_and_keys_keep_their_order(
        keys in prop::collection::vec(prop::option::weighted(0.8, 0..4u8), 1..8),
        steps in prop::collection::vec(step(), 0..200),
        shape in 0..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let mut world = World::new(keys, shape == 1, shape == 2);
        for step in &steps {
            world.step(step);
        }
        world.drain();
    }
}
