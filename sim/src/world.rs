//! A world: the broker, what runs on it, and what is written down of both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::{Message, Settled};
use millstream_testkit::ledger::{Ending, Ledger, Record};
use millstream_testkit::sim::{Control, SimBroker};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::book::{Book, Case};
use crate::clock;
use crate::fault::Fault;
use crate::link::Link;
use crate::phase::{Activity, Matrix};
use crate::plan::{Plan, Sub};
use crate::planted::BuggySource;
use crate::store::Shelf;
use crate::trace::{Keep, Trace};

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) broker: SimBroker,
    pub(crate) control: Control,
    pub(crate) trace: Trace,
    pub(crate) ledger: Ledger,
    pub(crate) activity: Activity,
    pub(crate) shelf: Arc<Shelf>,
    book: Mutex<Book>,
    random: Mutex<fastrand::Rng>,
    moods: Mutex<Moods>,
    matrix: Mutex<Matrix>,
    links: Mutex<Vec<Arc<Link>>>,
    graveyard: Mutex<Vec<BuggySource>>,
    numbers: Mutex<Numbers>,
    doomed: Mutex<Vec<(usize, Arc<Link>)>>,
    pub(crate) doom: Notify,
}

#[derive(Debug, Default)]
struct Numbers {
    member: u64,
    seq: u64,
    faults: u64,
    /// Faults in force, and when the last one ended.
    in_force: u32,
    mended: Option<Instant>,
}

/// Faults that handlers and reads suffer from while they last.
#[derive(Debug, Default)]
struct Moods {
    /// How many are in force, and how often they struck.
    now: BTreeMap<Fault, (u32, u64)>,
}

impl World {
    pub(crate) fn new(plan: Plan, keep: Keep) -> Arc<Self> {
        clock::begin();
        let mut broker = SimBroker::builder().shape(plan.shape).seed(plan.seed).clock(clock::now);
        if plan.commits_emits() {
            broker = broker.transactions();
        }
        let broker = broker.build();
        let control = broker.control();
        Arc::new(Self {
            random: Mutex::new(fastrand::Rng::with_seed(plan.seed ^ 0x0072_616e_646f_6d00)),
            shelf: Arc::new(Shelf::new(control.clone(), plan.defect)),
            trace: Trace::new(keep),
            ledger: Ledger::in_memory(),
            activity: Activity::default(),
            book: Mutex::default(),
            moods: Mutex::default(),
            matrix: Mutex::default(),
            links: Mutex::default(),
            graveyard: Mutex::default(),
            numbers: Mutex::default(),
            doomed: Mutex::default(),
            doom: Notify::new(),
            plan,
            broker,
            control,
        })
    }

    // ---- Chance and names --------------------------------------------------------------------------------

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut lock(&self.random))
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// A group's name, for good.
    pub(crate) fn group(&self, name: &str) -> &'static str {
        self.plan.subs.iter().find(|sub| sub.group == name).map_or("?", |sub| sub.group)
    }

    pub(crate) fn name(&self, process: usize) -> ByteString {
        format!("process {process}").into()
    }

    pub(crate) fn next_member(&self) -> u64 {
        let mut numbers = lock(&self.numbers);
        numbers.member += 1;
        numbers.member
    }

    /// Whether settling a position settles all before it.
    pub(crate) fn is_cumulative(&self) -> bool {
        matches!(self.plan.shape, millstream_testkit::sim::Shape::Partitioned { .. })
    }

    /// A topic's group as the broker names it.
    pub(crate) fn broker_group(&self, group: &'static str) -> &'static str {
        if self.plan.is_queue() { "" } else { group }
    }

    // ---- Links -------------------------------------------------------------------------------------------

    pub(crate) fn connect(&self) -> Arc<Link> {
        let link = Arc::new(Link::default());
        lock(&self.links).push(Arc::clone(&link));
        link
    }

    /// The links of all who live.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let mut links = lock(&self.links);
        links.retain(|link| !link.is_dead());
        links.clone()
    }

    /// Keeps what a dead process left, so that the broker does not learn of its death at once.
    pub(crate) fn bury(&self, source: BuggySource) {
        lock(&self.graveyard).push(source);
    }

    pub(crate) fn clear_graveyard(&self) {
        lock(&self.graveyard).clear();
    }

    /// A message kills the process that runs it.
    pub(crate) fn kills(&self, process: usize, link: &Arc<Link>) {
        lock(&self.doomed).push((process, Arc::clone(link)));
        self.doom.notify_one();
    }

    pub(crate) fn doomed(&self) -> Vec<(usize, Arc<Link>)> {
        std::mem::take(&mut *lock(&self.doomed))
    }

    // ---- Faults ------------------------------------------------------------------------------------------

    /// Something is broken now: whatever is unsettled may come once more.
    pub(crate) fn fault(&self, what: &str) {
        lock(&self.numbers).faults += 1;
        self.trace.add(format_args!("FAULT {what}, while {:?}", self.activity.all()));
        if !self.plan.is_stormy() {
            return;
        }
        self.ledger.write(Record::fault(what.to_owned()));
        for id in self.book().unsettled() {
            self.ledger.write(Record::MaybeWritten { id });
        }
    }

    pub(crate) fn disturbed_from_now(&self) {
        lock(&self.numbers).in_force += 1;
    }

    pub(crate) fn disturbed_until_now(&self) {
        let mut numbers = lock(&self.numbers);
        numbers.in_force -= 1;
        numbers.mended = Some(Instant::now());
    }

    /// Whether something is broken, or was until a short while ago.
    pub(crate) fn is_disturbed(&self) -> bool {
        const SHORT: Duration = Duration::from_secs(60);
        let numbers = lock(&self.numbers);
        numbers.in_force > 0 || numbers.mended.is_some_and(|at| at.elapsed() < SHORT)
    }

    pub(crate) fn faults(&self) -> u64 {
        lock(&self.numbers).faults
    }

    pub(crate) fn hit(&self, fault: Fault, phases: &[crate::phase::Phase]) {
        lock(&self.matrix).add(fault, phases);
    }

    pub(crate) fn matrix(&self) -> Matrix {
        lock(&self.matrix).clone()
    }

    pub(crate) fn mood_begins(&self, fault: Fault) {
        lock(&self.moods).now.entry(fault).or_default().0 += 1;
    }

    pub(crate) fn mood_ends(&self, fault: Fault) {
        if let Some((count, _)) = lock(&self.moods).now.get_mut(&fault) {
            *count = count.saturating_sub(1);
        }
    }

    pub(crate) fn mood_struck(&self, fault: Fault) -> u64 {
        lock(&self.moods).now.get(&fault).map_or(0, |(_, struck)| *struck)
    }

    /// Whether a fault of handlers is in force and hits this one.
    pub(crate) fn mood_strikes(&self, fault: Fault) -> bool {
        let mut moods = lock(&self.moods);
        let Some((count, struck)) = moods.now.get_mut(&fault).filter(|(count, _)| *count > 0) else {
            return false;
        };
        let share = match fault {
            Fault::DeadLettersDown => 0.05,
            Fault::HandlerSlow => 0.1,
            _ => 0.3,
        };
        let hit = *count > 0 && lock(&self.random).f64() < share;
        *struck += u64::from(hit);
        hit
    }

    pub(crate) fn reads_are_cut(&self) -> bool {
        lock(&self.moods).now.get(&Fault::ReadsCut).is_some_and(|(count, _)| *count > 0)
    }

    pub(crate) fn read_was_cut(&self) {
        if let Some((_, struck)) = lock(&self.moods).now.get_mut(&Fault::ReadsCut) {
            *struck += 1;
        }
    }

    // ---- What is written down ----------------------------------------------------------------------------

    /// What must never be.
    pub(crate) fn breach(&self, what: String) {
        self.trace.add(format_args!("BREACH {what}"));
        self.book().breaches.push(what);
    }

    /// Somebody is about to publish an order.
    pub(crate) fn intends_order(&self, message: &Message) {
        let mut numbers = lock(&self.numbers);
        numbers.seq += 1;
        self.ledger.write(Record::intent(message, numbers.seq));
    }

    /// A handler is about to publish for a message. In a storm its copies may come in any order: they are not
    /// told apart by their source's place.
    pub(crate) fn intends(&self, message: &Message, _source: &Message) {
        let mut numbers = lock(&self.numbers);
        numbers.seq += 1;
        let mut record = Record::intent(message, numbers.seq);
        if let (Record::Intent { key, .. }, true) = (&mut record, self.plan.is_stormy()) {
            *key = None;
        }
        self.ledger.write(record);
    }

    pub(crate) fn acked(&self, id: &ByteString) {
        self.book().acked.insert(id.clone());
        self.ledger.write(Record::Acked { id: id.clone() });
    }

    /// A handler begins with a message; the number of the run.
    pub(crate) fn begins(&self, process: usize, sub: &Sub, message: &Message, link: &Link) -> u64 {
        let case = (sub.group, message.id.clone());
        let mut book = self.book();
        book.runs += 1;
        let number = book.runs;
        let fate = book.fates.entry(case).or_default();
        fate.runs += 1;
        fate.running += 1;
        // What has no key may be there twice, parked in any partition and read again behind a gap.
        let once = message.lane_key().is_some() || !self.is_cumulative();
        let twice = fate.running > 1 && once && !self.plan.is_stormy() && self.plan.mix.copied == 0;
        drop(book);
        let (id, group) = (&message.id, sub.group);
        self.trace.add(format_args!("{} begins {id} in {group}, run {number}", self.name(process)));
        if link.is_dead() {
            return number;
        }
        if twice {
            self.breach(format!("{id} runs twice at once in {group}"));
        }
        self.ledger.write(Record::Delivered {
            id: id.clone(),
            topic: message.topic.clone(),
            group: group.into(),
            worker: self.name(process),
            deliveries: 0,
            epoch: 0,
            digest: millstream_testkit::ledger::digest(message),
        });
        number
    }

    /// A run came to nothing: the message is owed again.
    pub(crate) fn given_back(&self, case: &Case) {
        let record = Record::settled(case.1.clone(), case.0, Ending::Retry, &Settled::Done);
        self.ledger.write(record);
    }

    /// Nobody knows whether a message was settled, or it was not: it may come once more.
    pub(crate) fn may_come_again(&self, case: &Case) {
        if self.plan.is_stormy() {
            self.ledger.write(Record::MaybeWritten { id: case.1.clone() });
        }
    }

    /// A partition moves whose committed position lags behind a message that waits: what is handled behind it comes
    /// again, without any fault.
    pub(crate) fn gap_moves(&self, behind: &[Case]) {
        for case in behind {
            self.ledger.write(Record::MaybeWritten { id: case.1.clone() });
        }
    }

    pub(crate) fn in_doubt(&self, case: &Case, letter: bool) {
        let mut book = self.book();
        book.in_doubt.insert(case.clone());
        book.letters_in_doubt += u64::from(letter);
    }

    pub(crate) fn dead_lettered(&self, case: Case, digest: u64) {
        let mut book = self.book();
        *book.letters.entry(case.clone()).or_default() += 1;
        book.finished.insert(case.clone());
        drop(book);
        self.ledger.write(Record::DeadLettered { id: case.1, group: case.0.into(), digest });
    }

    /// Writes down which effects the broker has committed since it was last asked, in its order: whoever asks first may
    /// have committed last.
    pub(crate) fn effects_committed(&self) {
        let mut book = self.book();
        let news = self.control.effects_since(book.committed_effects);
        book.committed_effects += news.len();
        for name in news {
            let mut parts = name.split('|');
            let (Some("effect"), Some(group), Some(id)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let (group, id) = (self.group(group), ByteString::from(id));
            book.finished.insert((group, id.clone()));
            self.ledger.write(Record::Effect { id, group: group.into() });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
