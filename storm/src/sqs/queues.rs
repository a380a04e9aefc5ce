//! Where a storm on SQS takes place: the server, the workers, the network between them, and what is done to each.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::aws::Sqs;
use millstream::{DeadLetter, Message};
use millstream_core::{
    Admin as _, Error, ErrorKind, OpenRequest, ReadLimits, Reader as _, Settlement, Settler as _, Source as _,
};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::server::Server;
use super::worker::{self, Options, Sort};
use crate::arena::millis;
use crate::crew::{Crew, Life, Span, Terms};
use crate::events::{FOLLOWED, TOPIC};
use crate::labour::{Duty, Load};
use crate::proxy::Proxy;
use crate::{Result, journal};

/// How long all that is in the queues may take to be handled, once nothing is broken any more.
const DRAINED: Duration = Duration::from_secs(180);
/// How much longer than its handlers may run a worker may take to end: a poll takes 2 s and what its time limit adds, a
/// settlement is tried for 10 s, a write for 30 s.
const ORDERLY: Duration = Duration::from_secs(60);
/// How long after the server or the network were in trouble a worker may still find none, and not begin.
const AFTERMATH: Duration = Duration::from_secs(30);
/// How long a queue of dead letters says nothing until it is read to its end.
const SILENCE: Duration = Duration::from_secs(4);

/// What a storm's workers are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) places: usize,
    pub(crate) lease: Duration,
    pub(crate) sort: Sort,
    pub(crate) load: Load,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) lives: Vec<Life>,
    /// Faults, by what they were.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// When the server stood still.
    pub(crate) server: Vec<Span>,
    /// When the connections of a place were cut, half open or slow, by place.
    pub(crate) links: Vec<Vec<Span>>,
    /// Workers that found no server while there was trouble, and were started again.
    pub(crate) tried_again: u64,
    pub(crate) drained_ms: u64,
    /// What went wrong on the way, that no journal tells.
    pub(crate) problems: Vec<String>,
}

/// A dead letter, as it was before it died.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) group: String,
    pub(crate) class: String,
    pub(crate) message: Message,
}

/// A storm on two queues.
#[derive(Debug)]
pub(crate) struct Queues {
    runtime: Runtime,
    server: Server,
    proxies: Vec<Proxy>,
    sqs: Sqs,
    pub(crate) random: Rng,
    pub(crate) crew: Crew,
    stopped: Option<u64>,
    /// Since when the connections of a place are half open or slow.
    troubled: Vec<Option<u64>>,
    last_trouble: Option<Instant>,
    stops: Vec<Span>,
    links: Vec<Vec<Span>>,
}

impl Queues {
    /// Starts server and workers. Journals are written into the folder.
    pub(crate) fn open(folder: &Path, jars: &Path, kind: Kind, seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let server = Server::start(folder, jars)?;
        let proxies = (0..kind.places).map(|_| Proxy::listen(server.port)).collect::<Result<Vec<_>>>()?;
        let direct = endpoint(server.port);
        let sqs = runtime.block_on(worker::open(&direct, kind.sort, kind.lease))?;
        let mut random = Rng::with_seed(seed);
        let Load { publishers, drain, .. } = kind.load;
        let terms = Terms { places: kind.places, publishers, drain, orderly: ORDERLY };
        let endpoints: Vec<String> = proxies.iter().map(|proxy| endpoint(proxy.port)).collect();
        let crew = Crew::start(folder, terms, random.u64(..), move |post| {
            let duty = Duty::of(post, kind.load);
            let (endpoint, lease_s) = (endpoints[post.place].clone(), kind.lease.as_secs());
            Options { endpoint, lease_s, queues: kind.sort, duty }.arguments()
        })?;
        Ok(Self {
            runtime,
            server,
            proxies,
            sqs,
            random,
            crew,
            stopped: None,
            troubled: vec![None; kind.places],
            last_trouble: None,
            stops: Vec::new(),
            links: vec![Vec::new(); kind.places],
        })
    }

    /// Sees who is ready, and who ended.
    pub(crate) fn look(&mut self) -> Result {
        self.crew.is_troubled = self.stopped.is_some()
            || self.troubled.iter().any(Option::is_some)
            || self.last_trouble.is_some_and(|at| at.elapsed() < AFTERMATH);
        self.crew.look()
    }

    // ---- What is done to the server and to the network -------------------------------------------------------

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Makes the server stand still.
    pub(crate) fn stop_server(&mut self) -> Result {
        self.crew.fault("server_stops");
        self.stopped = Some(journal::now());
        self.server.stop()
    }

    /// Lets it go on.
    pub(crate) fn mend_server(&mut self) -> Result {
        if let Some(since) = self.stopped.take() {
            self.server.go_on()?;
            self.stops.push((since, journal::now()));
            self.last_trouble = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether the connections of a place are half open or slow.
    pub(crate) fn is_troubled(&self, place: usize) -> bool {
        self.troubled[place].is_some()
    }

    /// Cuts the connections of a place.
    pub(crate) fn cut(&mut self, place: usize) {
        self.crew.fault("cuts");
        self.proxies[place].cut();
        let now = journal::now();
        self.links[place].push((now, now));
        self.last_trouble = Some(Instant::now());
    }

    /// Lets the connections of a place be half open, and new ones lead nowhere.
    pub(crate) fn swallow(&mut self, place: usize) {
        self.crew.fault("half_open");
        self.proxies[place].swallow();
        self.troubled[place] = Some(journal::now());
    }

    /// Whatever goes through the connections of a place takes so long.
    pub(crate) fn slow_down(&mut self, place: usize, by: Duration) {
        self.crew.fault("slow");
        self.proxies[place].slow_down(by);
        self.troubled[place] = Some(journal::now());
    }

    /// New connections of a place work again, at once.
    pub(crate) fn heal(&mut self, place: usize) {
        if let Some(since) = self.troubled[place].take() {
            self.proxies[place].heal();
            self.links[place].push((since, journal::now()));
            self.last_trouble = Some(Instant::now());
        }
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    /// Mends what is broken, publishes no more, waits until all is handled, ends the workers, and reads the dead letters.
    pub(crate) fn finish(mut self) -> Result<(Deeds, Vec<Dead>)> {
        self.mend_server()?;
        (0..self.proxies.len()).for_each(|place| self.heal(place));
        self.crew.begin_to_drain()?;
        let healed = Instant::now();
        loop {
            self.look()?;
            let is_quiet = self.crew.is_quiet()?;
            let sqs = self.sqs.clone();
            let left = match self.runtime.block_on(async move { left_in(&sqs).await }) {
                Ok(left) if left == 0 && is_quiet => break,
                Ok(left) => format!("{left} messages are still there"),
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
        let sqs = self.sqs.clone();
        let dead = self.runtime.block_on(async move {
            let mut dead = dead_of(&sqs, TOPIC).await?;
            dead.extend(dead_of(&sqs, FOLLOWED).await?);
            Ok::<_, Error>(dead)
        })?;
        let Crew { lives, faults, tried_again, problems, .. } = self.crew;
        let (server, links) = (self.stops, self.links);
        Ok((Deeds { lives, faults, server, links, tried_again, drained_ms, problems }, dead))
    }
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// What the groups have not settled.
async fn left_in(sqs: &Sqs) -> millstream::Result<u64> {
    let mut left = 0;
    for topic in [TOPIC, FOLLOWED] {
        left += sqs.admin().groups(topic).await?.iter().map(|group| group.lag).sum::<u64>();
    }
    Ok(left)
}

/// Takes all dead letters of a topic out of their queue.
async fn dead_of(sqs: &Sqs, topic: &str) -> millstream::Result<Vec<Dead>> {
    let request = OpenRequest::new(format!("{topic}.dlq")).group("judge");
    let opened = sqs.reader().open(request).await?;
    let (mut source, mut settler) = (opened.source, opened.settler);
    let (mut dead, mut some) = (Vec::new(), Vec::new());
    while let Ok(read) = timeout(SILENCE, source.read(&mut some, ReadLimits::new(1_000, 8 << 20))).await {
        read?;
        let mut acks = Vec::with_capacity(some.len());
        for delivery in some.drain(..) {
            let letter = DeadLetter::parse((*delivery.message).clone());
            dead.push(Dead {
                group: letter.group.as_deref().unwrap_or_default().to_owned(),
                class: letter.class.clone().unwrap_or_default(),
                message: letter.original(),
            });
            acks.push(Settlement::ack(delivery.token));
        }
        if let Some(outcome) = settler.settle(acks).await.into_iter().find(|outcome| !outcome.is_done()) {
            return Err(Error::new(
                ErrorKind::Unknown,
                format!("a dead letter was not deleted: {outcome:?}"),
            ));
        }
    }
    source.close().await?;
    Ok(dead)
}
