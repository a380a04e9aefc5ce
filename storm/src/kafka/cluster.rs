//! Where a storm on Kafka takes place: brokers, members, the network between some of them, and what is done to each.

use std::collections::BTreeMap;
use std::path::Path;
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
use crate::crew::{Crew, Life, Span, Terms};
use crate::events::{FOLLOWED, TOPIC};
use crate::labour::{Duty, Load};
use crate::proxy::Proxy;
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
    pub(crate) load: Load,
}

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
    runtime: Runtime,
    brokers: Brokers,
    states: [Broker; BROKERS],
    kafka: Kafka,
    pub(crate) random: Rng,
    /// The members.
    pub(crate) crew: Crew,
    half_open: Option<u64>,
    last_trouble: Option<Instant>,
    /// When a broker was down or stood still.
    broken: Vec<Span>,
    /// When connections through the proxies were cut, or half open.
    links: Vec<Span>,
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
        let mut random = Rng::with_seed(seed);
        let terms = Terms {
            places: kind.places,
            publishers: kind.load.publishers,
            drain: kind.load.drain,
            orderly: ORDERLY,
        };
        let (direct, behind_proxies) = (brokers.address(), brokers.address_behind_proxies());
        let crew = Crew::start(folder, terms, random.u64(..), move |post| {
            let brokers = if post.place == BEHIND_PROXIES { &behind_proxies } else { &direct };
            Options {
                brokers: brokers.clone(),
                lease_ms: millis(kind.lease),
                protocol: kind.sharing,
                duty: Duty::of(post, kind.load),
            }
            .arguments()
        })?;
        Ok(Self {
            runtime,
            brokers,
            states: [Broker::Up; BROKERS],
            kafka,
            random,
            crew,
            half_open: None,
            last_trouble: None,
            broken: Vec::new(),
            links: Vec::new(),
        })
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

    /// Sees who is ready, who ended, and which brokers are back.
    pub(crate) fn look(&mut self) -> Result {
        self.crew.is_troubled = self.half_open.is_some()
            || !self.brokers_are_up()
            || self.last_trouble.is_some_and(|at| at.elapsed() < AFTERMATH);
        self.crew.look()?;
        for broker in 0..BROKERS {
            let Broker::Starting { since, begun } = self.states[broker] else { continue };
            if self.brokers.answers(broker) {
                self.states[broker] = Broker::Up;
                self.broken.push((since, journal::now()));
                self.last_trouble = Some(Instant::now());
            } else if begun.elapsed() > BACK_WITHIN {
                self.brokers.wait_for(broker)?;
            }
        }
        Ok(())
    }

    // ---- What is done to brokers and to the network ----------------------------------------------------------

    /// Kills a broker with signal 9.
    pub(crate) fn kill_broker(&mut self, broker: usize) -> Result {
        self.crew.fault("broker_kills");
        let since = journal::now();
        self.brokers.kill(broker)?;
        self.states[broker] = Broker::Down { since };
        Ok(())
    }

    /// Makes a broker stand still.
    pub(crate) fn stop_broker(&mut self, broker: usize) -> Result {
        self.crew.fault("broker_stops");
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
                self.broken.push((since, journal::now()));
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
        self.crew.fault("cuts");
        which.iter().for_each(|broker| self.brokers.proxies[*broker].cut());
        let now = journal::now();
        self.links.push((now, now));
        self.last_trouble = Some(Instant::now());
    }

    /// Lets the connections to some brokers, or to all, be half open, and new ones lead nowhere.
    pub(crate) fn swallow(&mut self, which: &[usize]) {
        self.crew.fault("half_open");
        which.iter().for_each(|broker| self.brokers.proxies[*broker].swallow());
        self.half_open = Some(journal::now());
    }

    /// New connections work again.
    pub(crate) fn heal(&mut self) {
        if let Some(since) = self.half_open.take() {
            self.brokers.proxies.iter().for_each(Proxy::heal);
            self.links.push((since, journal::now()));
            self.last_trouble = Some(Instant::now());
        }
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    /// Mends what is broken, publishes no more, waits until all is handled, ends the members, and reads the logs.
    pub(crate) fn finish(mut self) -> Result<(Deeds, Logs)> {
        self.heal();
        (0..BROKERS).try_for_each(|broker| self.mend_broker(broker))?;
        self.crew.begin_to_drain()?;
        let healed = Instant::now();
        while !self.is_quiet()? && healed.elapsed() < DRAINED + READY {
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
                self.crew.problems.push(format!("not handled within {DRAINED:?} of the end; {left}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let drained_ms = millis(healed.elapsed());
        self.crew.dismiss()?;
        let kafka = self.kafka.clone();
        let logs = self.runtime.block_on(async move { logs::read(&kafka).await })?;
        let Crew { lives, faults, tried_again, problems, .. } = self.crew;
        let (brokers, links) = (self.broken, self.links);
        Ok((Deeds { lives, faults, brokers, links, tried_again, drained_ms, problems }, logs))
    }

    /// Brings back who is not there, and says whether nobody publishes.
    fn is_quiet(&mut self) -> Result<bool> {
        self.look()?;
        Ok(self.crew.is_quiet()? && self.brokers_are_up())
    }
}
