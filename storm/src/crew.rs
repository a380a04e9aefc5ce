//! The workers of a storm on servers: processes that are started, killed, made to stand still, asked to end, and come back
//! as another life of their place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::children::Running;
use crate::launch::Launch;
use crate::{Result, journal};

/// From when to when something was wrong.
pub(crate) type Span = (u64, u64);

/// What a new life is told: who it is, and where it writes its journal.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) place: usize,
    pub(crate) life: u64,
    pub(crate) journal: PathBuf,
    pub(crate) seed: u64,
}

/// Gives the command line of a new life.
type Orders = Box<dyn Fn(&Post) -> Vec<String>>;

/// How many there are, and how much time they have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) places: usize,
    /// Tasks of each that publish.
    pub(crate) publishers: u32,
    /// How long handlers may take to end when a worker is asked to.
    pub(crate) drain: Duration,
    /// How much longer than that a worker may take to end.
    pub(crate) orderly: Duration,
}

/// One life of a worker, from its start to its end.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) place: usize,
    pub(crate) journal: PathBuf,
    /// When it was killed.
    pub(crate) killed: Option<u64>,
    /// When it was asked to end, if its handlers did not end in time.
    pub(crate) cut: Option<u64>,
    /// From when to when it stood still.
    pub(crate) stopped: Vec<Span>,
}

/// How the worker of a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worker {
    Up,
    Halted { since: u64 },
    Ending { sent: u64, begun: Instant },
    Down,
}

#[derive(Debug)]
struct Place {
    running: Running,
    /// The present life's place in `lives`.
    life: usize,
    worker: Worker,
    /// What the lives before had published.
    published: u64,
    is_ready: bool,
}

/// The workers of a storm, and what was done to them.
pub(crate) struct Crew {
    folder: PathBuf,
    terms: Terms,
    orders: Orders,
    random: Rng,
    places: Vec<Place>,
    draining: bool,
    /// Whether the servers are, or were just, in trouble: then a worker may find none, and refuse to begin.
    pub(crate) is_troubled: bool,
    pub(crate) lives: Vec<Life>,
    /// Faults, by what they were.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Workers that found no server while there was trouble, and were started again.
    pub(crate) tried_again: u64,
    /// What went wrong on the way, that no journal tells.
    pub(crate) problems: Vec<String>,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Crew {
    /// Starts a worker in each place. Journals are written into the folder.
    pub(crate) fn start(
        folder: &Path,
        terms: Terms,
        seed: u64,
        orders: impl Fn(&Post) -> Vec<String> + 'static,
    ) -> Result<Self> {
        let mut crew = Self {
            folder: folder.to_owned(),
            terms,
            orders: Box::new(orders),
            random: Rng::with_seed(seed),
            places: Vec::new(),
            draining: false,
            is_troubled: false,
            lives: Vec::new(),
            faults: BTreeMap::new(),
            tried_again: 0,
            problems: Vec::new(),
        };
        for place in 0..terms.places {
            let (running, life) = crew.begin(place)?;
            let place = Place { running, life, worker: Worker::Up, published: 0, is_ready: false };
            crew.places.push(place);
        }
        Ok(crew)
    }

    fn begin(&mut self, place: usize) -> Result<(Running, usize)> {
        let life = self.lives.len();
        let name = format!("{place}.{life}");
        let journal = self.folder.join(format!("{name}.journal"));
        let post = Post { place, life: life as u64, journal: journal.clone(), seed: self.random.u64(..) };
        let running = Running::start(
            &Launch::default(),
            name.clone(),
            self.terms.publishers,
            (self.orders)(&post),
            self.stderr(&name),
        )?;
        self.lives.push(Life { name, place, journal, ..Life::default() });
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

    /// Notes that something was broken on purpose.
    pub(crate) fn fault(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    /// How much was broken.
    pub(crate) fn count_of_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Messages that publishers were told are written.
    pub(crate) fn published(&self) -> u64 {
        let of =
            |place: &Place| place.published + place.running.progress.acknowledged.load(Ordering::Acquire);
        self.places.iter().map(of).sum()
    }

    /// How the worker of a place is, if there is such a place.
    pub(crate) fn worker(&self, place: usize) -> Option<Worker> {
        self.places.get(place).map(|place| place.worker)
    }

    /// Whether it reads and publishes.
    pub(crate) fn is_at_work(&self, place: usize) -> bool {
        self.places[place].worker == Worker::Up && self.places[place].is_ready
    }

    fn life(&mut self, place: usize) -> &mut Life {
        &mut self.lives[self.places[place].life]
    }

    // ---- Time passes -----------------------------------------------------------------------------------------

    /// Sees who is ready, and who ended.
    pub(crate) fn look(&mut self) -> Result {
        for place in 0..self.places.len() {
            let ready = self.places[place].running.wait_ready(Duration::ZERO);
            self.places[place].is_ready = ready;
            let ended = match self.places[place].worker {
                Worker::Down | Worker::Halted { .. } => None,
                Worker::Up | Worker::Ending { .. } => self.places[place].running.ended()?,
            };
            let limit = self.terms.drain + self.terms.orderly;
            match (self.places[place].worker, ended) {
                (Worker::Ending { sent, begun }, Some(status)) => self.left(place, sent, begun, status),
                (Worker::Ending { begun, .. }, None) if begun.elapsed() > limit => {
                    let name = self.places[place].running.name.clone();
                    self.problems.push(format!("{name} did not end within {limit:?} of SIGTERM"));
                    self.bury(place)?;
                }
                (Worker::Up, Some(status)) => {
                    self.died(place, status);
                    self.revive(place)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Nobody asked it to end.
    fn died(&mut self, place: usize, status: ExitStatus) {
        self.life(place).killed = Some(journal::now());
        // Where no server is to be had, a worker may refuse to begin.
        if self.is_troubled && !self.places[place].is_ready && status.code() == Some(1) {
            self.tried_again += 1;
            return;
        }
        let name = self.places[place].running.name.clone();
        let words = self.last_words(&name);
        self.problems.push(format!("{name} ended by itself, with {status}: {words}"));
    }

    /// It was asked to end, and did.
    fn left(&mut self, place: usize, sent: u64, begun: Instant, status: ExitStatus) {
        if !status.success() {
            self.died(place, status);
        } else if begun.elapsed() >= self.terms.drain {
            // What was cut off comes again.
            self.life(place).cut = Some(sent);
        }
        self.is_gone(place);
    }

    fn is_gone(&mut self, place: usize) {
        let place = &mut self.places[place];
        place.published += place.running.progress.acknowledged.swap(0, Ordering::AcqRel);
        place.worker = Worker::Down;
    }

    fn bury(&mut self, place: usize) -> Result {
        self.stood_up(place);
        let at = self.places[place].running.kill()?;
        self.life(place).killed = Some(at);
        self.is_gone(place);
        Ok(())
    }

    // ---- What is done to them --------------------------------------------------------------------------------

    /// Kills a worker with signal 9; nobody lives there until it is revived.
    pub(crate) fn kill(&mut self, place: usize) -> Result {
        self.fault("member_kills");
        self.bury(place)
    }

    /// A new worker joins where nobody lives.
    pub(crate) fn join(&mut self, place: usize) -> Result {
        self.fault("member_joins");
        self.revive(place)
    }

    fn revive(&mut self, place: usize) -> Result {
        self.is_gone(place);
        let (running, life) = self.begin(place)?;
        let published = self.places[place].published;
        self.places[place] = Place { running, life, worker: Worker::Up, published, is_ready: false };
        if self.draining {
            self.places[place].running.drain();
        }
        Ok(())
    }

    /// Asks a worker to end in order. That explains no duplicate.
    pub(crate) fn leave(&mut self, place: usize) -> Result {
        self.fault("member_leaves");
        self.ask_to_end(place)
    }

    fn ask_to_end(&mut self, place: usize) -> Result {
        let (sent, begun) = (journal::now(), Instant::now());
        self.places[place].running.ask_to_end()?;
        self.places[place].worker = Worker::Ending { sent, begun };
        Ok(())
    }

    /// Makes a worker stand still.
    pub(crate) fn halt(&mut self, place: usize) -> Result {
        self.fault("member_stops");
        let since = journal::now();
        self.places[place].running.stop()?;
        self.places[place].worker = Worker::Halted { since };
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn go_on(&mut self, place: usize) -> Result {
        if matches!(self.places[place].worker, Worker::Halted { .. }) {
            self.places[place].running.go_on()?;
            self.stood_up(place);
        }
        Ok(())
    }

    fn stood_up(&mut self, place: usize) {
        if let Worker::Halted { since } = self.places[place].worker {
            self.life(place).stopped.push((since, journal::now()));
            self.places[place].worker = Worker::Up;
        }
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    /// Lets everybody go on who stands still. From now on, nobody is to publish who comes.
    pub(crate) fn begin_to_drain(&mut self) -> Result {
        self.draining = true;
        (0..self.places.len()).try_for_each(|place| self.go_on(place))?;
        self.places.iter_mut().for_each(|place| place.running.drain());
        Ok(())
    }

    /// Brings back who is not there, and says whether all read and nobody publishes.
    pub(crate) fn is_quiet(&mut self) -> Result<bool> {
        self.look()?;
        for place in 0..self.places.len() {
            if self.places[place].worker == Worker::Down {
                self.revive(place)?;
            }
        }
        let quiet = |place: &Place| {
            place.worker == Worker::Up
                && place.is_ready
                && place.running.progress.publishing.load(Ordering::Acquire) == 0
        };
        Ok(self.places.iter().all(quiet))
    }

    /// Asks all to end, and waits for it.
    pub(crate) fn dismiss(&mut self) -> Result {
        for place in 0..self.places.len() {
            if self.places[place].worker == Worker::Up {
                self.ask_to_end(place)?;
            }
        }
        while self.places.iter().any(|place| place.worker != Worker::Down) {
            self.look()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
