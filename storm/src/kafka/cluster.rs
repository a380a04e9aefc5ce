//! Where a storm on Kafka takes place: brokers, members, the network between some of them, and what is done to each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::kafka::{Create, Kafka};
use millstream_core::Admin as _;
use millstream_core::admin::TopicSettings;
use tokio::runtime::Runtime;

use super::brokers::{BROKERS, Brokers};
use super::logs::{self, Logs};
use super::worker::{Options, Sharing};
use crate::arena::millis;
use crate::children::Running;
use crate::events::{FOLLOWED, TOPIC};
use crate::launch::Launch;
use crate::{Result, journal};

/// Partitions of each topic.
const PARTITIONS: u32 = 6;
/// The member that reaches the brokers through the proxies.
pub(crate) const BEHIND_PROXIES: usize = 0;
/// How long a worker may take until it reads, while nothing is broken.
const READY: Duration = Duration::from_secs(60);
/// How long all that is in the logs may take to be handled, once nothing is broken any more.
const DRAINED: Duration = Duration::from_secs(180);
/// How much longer than its handlers may run a worker may take to end: a commit is tried for 10 s, a write for 30 s,
/// leaving for 20 s.
const ORDERLY: Duration = Duration::from_secs(65);
/// How long after the brokers or the network were in trouble a worker may still find none, and not begin.
const AFTERMATH: Duration = Duration::from_secs(30);

/// What a storm's members are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) places: usize,
    pub(crate) lease: Duration,
    pub(crate) sharing: Sharing,
    pub(crate) publishers: u32,
    pub(crate) batch: u64,
    /// The longest pause between two writes of a publisher.
    pub(crate) pause: Duration,
    /// How long handlers may take to end when a worker is asked to.
    pub(crate) drain: Duration,
}

/// One life of a member, from its start to its end.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) journal: PathBuf,
    /// Whether it reaches the brokers through the proxies.
    pub(crate) is_behind_proxies: bool,
    /// When it was killed.
    pub(crate) killed: Option<u64>,
    /// When it was asked to end, if its handlers did not end in time.
    pub(crate) cut: Option<u64>,
    /// From when to when it stood still.
    pub(crate) stopped: Vec<(u64, u64)>,
}

/// From when to when something was wrong.
pub(crate) type Span = (u64, u64);

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) lives: Vec<Life>,
    /// Faults, by what they were.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// When a broker was down or stood still.
    pub(crate) brokers: Vec<Span>,
    /// When connections through the proxies were cut, or half open.
    pub(crate) links: Vec<Span>,
    /// Workers that found no broker while there was trouble, and were started again.
    pub(crate) tried_again: u64,
    pub(crate) drained_ms: u64,
    /// What went wrong on the way, that no journal tells.
    pub(crate) problems: Vec<String>,
}

impl Deeds {
    fn fault(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }
}

/// How a member's place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    Up,
    Halted { since: u64 },
    Ending { sent: u64, begun: Instant },
    Down,
}

#[derive(Debug)]
struct Place {
    running: Running,
    /// The present life's place in `deeds.lives`.
    life: usize,
    member: Member,
    /// What the lives before had published.
    published: u64,
    is_ready: bool,
}

/// What is wrong with a broker now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    Up,
    Stopped { since: u64 },
    Down { since: u64 },
    Starting { since: u64, begun: Instant },
}

/// A storm on a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    kind: Kind,
    runtime: Runtime,
    brokers: Brokers,
    states: [Broker; BROKERS],
    kafka: Kafka,
    pub(crate) random: Rng,
    places: Vec<Place>,
    draining: bool,
    half_open: Option<u64>,
    last_trouble: Option<Instant>,
    pub(crate) deeds: Deeds,
}

/// How long a broker that was killed may take until it serves again.
const BACK_WITHIN: Duration = Duration::from_secs(120);

impl Cluster {
    /// Starts brokers and members. Journals are written into the folder, and what brokers keep into the other.
    pub(crate) fn open(folder: &Path, logs: &Path, jars: &Path, kind: Kind, seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let brokers = Brokers::start(logs, jars)?;
        let kafka = runtime.block_on(async {
            let kafka = Kafka::builder(brokers.address()).create(Create::Missing).connect().await?;
            for topic in [TOPIC, FOLLOWED] {
                kafka.admin().ensure_topic(topic, TopicSettings::partitions(PARTITIONS)).await?;
            }
            Ok::<_, millstream::Error>(kafka)
        })?;
        let mut cluster = Self {
            folder: folder.to_owned(),
            kind,
            runtime,
            brokers,
            states: [Broker::Up; BROKERS],
            kafka,
            random: Rng::with_seed(seed),
            places: Vec::new(),
            draining: false,
            half_open: None,
            last_trouble: None,
            deeds: Deeds::default(),
        };
        for place in 0..kind.places {
            let (running, life) = cluster.start(place)?;
            let place = Place { running, life, member: Member::Up, published: 0, is_ready: false };
            cluster.places.push(place);
        }
        Ok(cluster)
    }

    fn start(&mut self, place: usize) -> Result<(Running, usize)> {
        let life = self.deeds.lives.len();
        let is_behind_proxies = place == BEHIND_PROXIES;
        let brokers = match is_behind_proxies {
            true => self.brokers.address_behind_proxies(),
            false => self.brokers.address(),
        };
        let options = Options {
            brokers,
            journal: self.folder.join(format!("{place}.{life}.journal")),
            place,
            life: life as u64,
            seed: self.random.u64(..),
            lease_ms: millis(self.kind.lease),
            protocol: self.kind.sharing,
            publishers: self.kind.publishers,
            batch: self.kind.batch,
            pause_ms: millis(self.kind.pause),
            drain_ms: millis(self.kind.drain),
        };
        let name = options.name();
        let stderr = self.stderr(&name);
        let running = Running::start(
            &Launch::default(),
            name.clone(),
            options.publishers,
            options.arguments(),
            stderr,
        )?;
        self.deeds.lives.push(Life { name, journal: options.journal, is_behind_proxies, ..Life::default() });
        Ok((running, life))
    }

    fn stderr(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.stderr"))
    }

    /// The last lines that a worker wrote to stderr.
    fn last_words(&self, name: &str) -> String {
        let text = std::fs::read(self.stderr(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
        if lines.is_empty() { "it said nothing".into() } else { lines.join(" | ") }
    }

    /// Messages that publishers were told are written.
    pub(crate) fn published(&self) -> u64 {
        let of =
            |place: &Place| place.published + place.running.progress.acknowledged.load(Ordering::Acquire);
        self.places.iter().map(of).sum()
    }

    /// How the member of a place is, if there is such a place.
    pub(crate) fn member(&self, place: usize) -> Option<Member> {
        self.places.get(place).map(|place| place.member)
    }

    /// Whether it reads and publishes.
    pub(crate) fn is_at_work(&self, place: usize) -> bool {
        self.places[place].member == Member::Up && self.places[place].is_ready
    }

    pub(crate) fn broker(&self, broker: usize) -> Broker {
        self.states[broker]
    }

    /// Whether all brokers serve.
    pub(crate) fn brokers_are_up(&self) -> bool {
        self.states.iter().all(|state| *state == Broker::Up)
    }

    pub(crate) fn is_half_open(&self) -> bool {
        self.half_open.is_some()
    }

    fn life(&mut self, place: usize) -> &mut Life {
        &mut self.deeds.lives[self.places[place].life]
    }

    // ---- Time passes -----------------------------------------------------------------------------------------

    /// Sees who is ready, who ended, and which brokers are back.
    pub(crate) fn look(&mut self) -> Result {
        for place in 0..self.places.len() {
            let ready = self.places[place].running.wait_ready(Duration::ZERO);
            self.places[place].is_ready = ready;
            let ended = match self.places[place].member {
                Member::Down | Member::Halted { .. } => None,
                Member::Up | Member::Ending { .. } => self.places[place].running.ended()?,
            };
            match (self.places[place].member, ended) {
                (Member::Ending { sent, begun }, Some(status)) => self.left(place, sent, begun, status),
                (Member::Ending { begun, .. }, None) if begun.elapsed() > self.kind.drain + ORDERLY => {
                    let name = self.places[place].running.name.clone();
                    let limit = self.kind.drain + ORDERLY;
                    self.deeds.problems.push(format!("{name} did not end within {limit:?} of SIGTERM"));
                    self.bury(place)?;
                }
                (Member::Up, Some(status)) => {
                    self.died(place, status);
                    self.revive(place)?;
                }
                _ => {}
            }
        }
        for broker in 0..BROKERS {
            let Broker::Starting { since, begun } = self.states[broker] else { continue };
            if self.brokers.answers(broker) {
                self.states[broker] = Broker::Up;
                self.deeds.brokers.push((since, journal::now()));
                self.last_trouble = Some(Instant::now());
            } else if begun.elapsed() > BACK_WITHIN {
                self.brokers.wait_for(broker)?;
            }
        }
        Ok(())
    }

    /// Nobody asked it to end.
    fn died(&mut self, place: usize, status: ExitStatus) {
        self.life(place).killed = Some(journal::now());
        let troubled = self.half_open.is_some()
            || !self.brokers_are_up()
            || self.last_trouble.is_some_and(|at| at.elapsed() < AFTERMATH);
        // Where no broker is to be had, a worker may refuse to begin.
        if troubled && !self.places[place].is_ready && status.code() == Some(1) {
            self.deeds.tried_again += 1;
            return;
        }
        let name = self.places[place].running.name.clone();
        let words = self.last_words(&name);
        self.deeds.problems.push(format!("{name} ended by itself, with {status}: {words}"));
    }

    /// It was asked to end, and did.
    fn left(&mut self, place: usize, sent: u64, begun: Instant, status: ExitStatus) {
        if !status.success() {
            self.died(place, status);
        } else if begun.elapsed() >= self.kind.drain {
            // What was cut off comes again.
            self.life(place).cut = Some(sent);
        }
        self.is_gone(place);
    }

    fn is_gone(&mut self, place: usize) {
        let place = &mut self.places[place];
        place.published += place.running.progress.acknowledged.swap(0, Ordering::AcqRel);
        place.member = Member::Down;
    }

    fn bury(&mut self, place: usize) -> Result {
        self.stood_up(place);
        let at = self.places[place].running.kill()?;
        self.life(place).killed = Some(at);
        self.is_gone(place);
        Ok(())
    }

    // ---- What is done to members -----------------------------------------------------------------------------

    /// Kills a member with signal 9; nobody lives there until it is revived.
    pub(crate) fn kill(&mut self, place: usize) -> Result {
        self.deeds.fault("member_kills");
        self.bury(place)
    }

    /// A new member joins where nobody lives.
    pub(crate) fn join(&mut self, place: usize) -> Result {
        self.deeds.fault("member_joins");
        self.revive(place)
    }

    fn revive(&mut self, place: usize) -> Result {
        self.is_gone(place);
        let (running, life) = self.start(place)?;
        let published = self.places[place].published;
        self.places[place] = Place { running, life, member: Member::Up, published, is_ready: false };
        if self.draining {
            self.places[place].running.drain();
        }
        Ok(())
    }

    /// Asks a member to end in order. That explains no duplicate.
    pub(crate) fn leave(&mut self, place: usize) -> Result {
        self.deeds.fault("member_leaves");
        self.ask_to_end(place)
    }

    fn ask_to_end(&mut self, place: usize) -> Result {
        let (sent, begun) = (journal::now(), Instant::now());
        self.places[place].running.ask_to_end()?;
        self.places[place].member = Member::Ending { sent, begun };
        Ok(())
    }

    /// Makes a member stand still.
    pub(crate) fn halt(&mut self, place: usize) -> Result {
        self.deeds.fault("member_stops");
        let since = journal::now();
        self.places[place].running.stop()?;
        self.places[place].member = Member::Halted { since };
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self, place: usize) -> Result {
        if matches!(self.places[place].member, Member::Halted { .. }) {
            self.places[place].running.go_on()?;
            self.stood_up(place);
        }
        Ok(())
    }

    fn stood_up(&mut self, place: usize) {
        if let Member::Halted { since } = self.places[place].member {
            self.life(place).stopped.push((since, journal::now()));
            self.places[place].member = Member::Up;
        }
    }

    // ---- What is done to brokers and to the network ----------------------------------------------------------

    /// Kills a broker with signal 9.
    pub(crate) fn kill_broker(&mut self, broker: usize) -> Result {
        self.deeds.fault("broker_kills");
        let since = journal::now();
        self.brokers.kill(broker)?;
        self.states[broker] = Broker::Down { since };
        Ok(())
    }

    /// Makes a broker stand still.
    pub(crate) fn stop_broker(&mut self, broker: usize) -> Result {
        self.deeds.fault("broker_stops");
        self.states[broker] = Broker::Stopped { since: journal::now() };
        self.brokers.stop(broker)
    }

    /// Lets a broker work again: one that was killed is started.
    pub(crate) fn mend_broker(&mut self, broker: usize) -> Result {
        match self.states[broker] {
            Broker::Up | Broker::Starting { .. } => {}
            Broker::Stopped { since } => {
                self.brokers.go_on(broker)?;
                self.states[broker] = Broker::Up;
                self.deeds.brokers.push((since, journal::now()));
                self.last_trouble = Some(Instant::now());
            }
            Broker::Down { since } => {
                self.brokers.launch(broker)?;
                self.states[broker] = Broker::Starting { since, begun: Instant::now() };
            }
        }
        Ok(())
    }

    /// Cuts the connections to some brokers, or to all.
    pub(crate) fn cut(&mut self, which: &[usize]) {
        self.deeds.fault("cuts");
        which.iter().for_each(|broker| self.brokers.proxies[*broker].cut());
        let now = journal::now();
        self.deeds.links.push((now, now));
        self.last_trouble = Some(Instant::now());
    }

    /// Lets the connections to some brokers, or to all, be half open, and new ones lead nowhere.
    pub(crate) fn swallow(&mut self, which: &[usize]) {
        self.deeds.fault("half_open");
        which.iter().for_each(|broker| self.brokers.proxies[*broker].swallow());
        self.half_open = Some(journal::now());
    }

    /// New connections work again.
    pub(crate) fn heal(&mut self) {
        if let Some(since) = self.half_open.take() {
            self.brokers.proxies.iter().for_each(super::proxy::Proxy::heal);
            self.deeds.links.push((since, journal::now()));
            self.last_trouble = Some(Instant::now());
        }
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    /// Mends what is broken, publishes no more, waits until all is handled, ends the members, and reads the logs.
    pub(crate) fn finish(mut self) -> Result<(Deeds, Logs)> {
        self.heal();
        (0..BROKERS).try_for_each(|broker| self.mend_broker(broker))?;
        (0..self.places.len()).try_for_each(|place| self.go_on(place))?;
        self.draining = true;
        let healed = Instant::now();
        let mut told = vec![usize::MAX; self.places.len()];
        while !self.is_quiet(&mut told)? && healed.elapsed() < DRAINED + READY {
            std::thread::sleep(Duration::from_millis(50));
        }
        loop {
            self.look()?;
            let kafka = self.kafka.clone();
            let found = self.runtime.block_on(async move { logs::left_in(&kafka).await });
            let left = match found {
                Ok(found) if found.is_empty() => break,
                Ok(found) => format!("still there: {found:?}"),
                Err(error) => format!("what is left is not known: {error}"),
            };
            if healed.elapsed() > DRAINED {
                self.deeds.problems.push(format!("not handled within {DRAINED:?} of the end; {left}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.deeds.drained_ms = millis(healed.elapsed());
        for place in 0..self.places.len() {
            if self.places[place].member == Member::Up {
                self.ask_to_end(place)?;
            }
        }
        while self.places.iter().any(|place| place.member != Member::Down) {
            self.look()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let kafka = self.kafka.clone();
        let logs = self.runtime.block_on(async move { logs::read(&kafka).await })?;
        Ok((self.deeds, logs))
    }

    /// Tells everybody who is there to publish no more, brings back who is not, and says whether nobody publishes.
    fn is_quiet(&mut self, told: &mut [usize]) -> Result<bool> {
        self.look()?;
        for (place, told) in told.iter_mut().enumerate() {
            if self.places[place].member == Member::Down {
                self.revive(place)?;
            }
            if *told != self.places[place].life {
                self.places[place].running.drain();
                *told = self.places[place].life;
            }
        }
        let quiet = |place: &Place| {
            place.member == Member::Up
                && place.is_ready
                && place.running.progress.publishing.load(Ordering::Acquire) == 0
        };
        Ok(self.brokers_are_up() && self.places.iter().all(quiet))
    }
}
