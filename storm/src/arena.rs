//! Where a storm takes place: workers on one file, what is done to them, and what is left when it is over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream::sqlite::{SqliteStore, rusqlite};
use millstream_core::admin::{Admin as _, TopicSettings};
use millstream_testkit::ledger::{Concern, Entry, Record};
use tokio::runtime::Runtime;

use crate::children::Running;
use crate::events::{AFTER, DEDUP, FOLLOWED, PLAIN, TOPIC};
use crate::journal::{self, Journal};
use crate::worker::{self, Options};
use crate::{Result, tables};

/// How long a worker may take until it reads.
const READY: Duration = Duration::from_secs(20);
/// How long a worker may take to end in order: its own limit and a second.
const ORDERLY: Duration = Duration::from_secs(26);
/// How long all that is in the file may take to be handled, once nothing is broken any more.
const DRAINED: Duration = Duration::from_secs(120);

/// What a storm's workers are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) workers: usize,
    pub(crate) lease: Duration,
    pub(crate) publishers: u32,
    /// The longest pause between two publishes of one of them.
    pub(crate) pause: Duration,
}

/// One life of a worker, from its start to its end.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) journal: PathBuf,
    /// When it was killed.
    pub(crate) killed: Option<u64>,
    /// From when to when it stood still.
    pub(crate) stopped: Vec<(u64, u64)>,
}

/// What was done to the workers and to the file.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// Each life there was.
    pub(crate) lives: Vec<Life>,
    /// What concerns all of them.
    pub(crate) entries: Vec<Entry>,
    /// Faults.
    pub(crate) faults: u64,
    /// What went wrong on the way, that no ledger tells.
    pub(crate) problems: Vec<String>,
}

/// A storm on one file.
#[derive(Debug)]
pub(crate) struct Arena {
    folder: PathBuf,
    file: PathBuf,
    kind: Kind,
    runtime: Runtime,
    pub(crate) random: Rng,
    workers: Vec<Running>,
    /// The place in `deeds.lives` of each worker's present life.
    lives: Vec<usize>,
    draining: bool,
    pub(crate) deeds: Deeds,
}

impl Arena {
    /// Makes the file, and starts the workers on it. Journals are written into the folder.
    pub(crate) fn open(folder: &Path, file: &Path, kind: Kind, seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            let store = SqliteStore::builder(file).open().await?;
            for topic in [TOPIC, FOLLOWED] {
                store.admin().ensure_topic(topic, TopicSettings::default()).await?;
            }
            Ok::<(), millstream::Error>(())
        })?;
        rusqlite::Connection::open(file)?.execute_batch(worker::TABLES)?;
        let mut arena = Self {
            folder: folder.to_owned(),
            file: file.to_owned(),
            kind,
            runtime,
            random: Rng::with_seed(seed),
            workers: Vec::new(),
            lives: Vec::new(),
            draining: false,
            deeds: Deeds::default(),
        };
        for (group, topic) in [(PLAIN, TOPIC), (DEDUP, TOPIC), (AFTER, FOLLOWED)] {
            arena.note(Record::Subscribed { group: group.into(), topic: topic.into(), from_now: false });
        }
        for place in 0..kind.workers {
            let (running, life) = arena.start(place)?;
            arena.workers.push(running);
            arena.lives.push(life);
        }
        Ok(arena)
    }

    fn start(&mut self, place: usize) -> Result<(Running, usize)> {
        let life = self.deeds.lives.len();
        let options = Options {
            file: self.file.clone(),
            journal: self.folder.join(format!("{place}.{life}.journal")),
            place,
            life: life as u64,
            seed: self.random.u64(..),
            lease_ms: u64::try_from(self.kind.lease.as_millis()).unwrap_or(u64::MAX),
            publishers: self.kind.publishers,
            pause_ms: u64::try_from(self.kind.pause.as_millis()).unwrap_or(u64::MAX),
        };
        let running = Running::start(&options, self.stderr(&options.name()))?;
        self.deeds.lives.push(Life {
            name: options.name(),
            journal: options.journal,
            killed: None,
            stopped: Vec::new(),
        });
        Ok((running, life))
    }

    fn stderr(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.stderr"))
    }

    /// Writes down what concerns all workers.
    pub(crate) fn note(&mut self, record: Record) {
        self.deeds.entries.push(Entry { at: journal::now(), record });
    }

    /// Writes down a problem.
    pub(crate) fn problem(&mut self, what: impl Into<String>) {
        self.deeds.problems.push(what.into());
    }

    /// How far a worker is in its present life.
    pub(crate) fn progress(&self, place: usize) -> &crate::children::Progress {
        &self.workers[place].progress
    }

    /// Waits until a worker reads and publishes.
    pub(crate) fn wait_ready(&mut self, place: usize) -> Result {
        if !self.workers[place].wait_ready(READY) {
            self.check(place)?;
            let name = &self.workers[place].name;
            return Err(format!("{name} did not start within {READY:?}: {}", self.last_words(name)).into());
        }
        Ok(())
    }

    /// Finds out whether a worker ended by itself, which none should; starts it anew if it did.
    pub(crate) fn check(&mut self, place: usize) -> Result {
        if let Some(status) = self.workers[place].ended()? {
            self.died(place, status);
            self.revive(place)?;
        }
        Ok(())
    }

    fn died(&mut self, place: usize, status: ExitStatus) {
        let name = self.workers[place].name.clone();
        let words = self.last_words(&name);
        self.problem(format!("{name} ended by itself, with {status}: {words}"));
        // What it had is delivered again, whyever it died.
        self.deeds.lives[self.lives[place]].killed = Some(journal::now());
    }

    /// The last line that a worker wrote to stderr.
    fn last_words(&self, name: &str) -> String {
        let text = std::fs::read(self.stderr(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
        if lines.is_empty() { "it said nothing".into() } else { lines.join(" | ") }
    }

    // ---- What is done to workers -----------------------------------------------------------------------------

    /// Kills a worker with signal 9, and starts it anew.
    pub(crate) fn kill(&mut self, place: usize) -> Result {
        self.check(place)?;
        self.deeds.faults += 1;
        let at = self.workers[place].kill()?;
        self.deeds.lives[self.lives[place]].killed = Some(at);
        self.revive(place)
    }

    /// Makes a worker stand still for a while.
    pub(crate) fn stop(&mut self, place: usize, pause: Duration) -> Result {
        self.check(place)?;
        self.deeds.faults += 1;
        self.workers[place].stop()?;
        // Once it stands: all that it wrote down comes before.
        let from = journal::now();
        self.note(Record::fault(format!("{} stopped", self.workers[place].name)));
        std::thread::sleep(pause);
        self.note(Record::Healed { what: format!("{} goes on", self.workers[place].name).into() });
        self.workers[place].go_on()?;
        self.deeds.lives[self.lives[place]].stopped.push((from, journal::now()));
        Ok(())
    }

    /// Asks a worker to end in order, and starts it anew. That is no fault: it explains nothing.
    pub(crate) fn replace(&mut self, place: usize) -> Result {
        self.check(place)?;
        self.terminate(place)?;
        self.revive(place)
    }

    fn revive(&mut self, place: usize) -> Result {
        let (running, life) = self.start(place)?;
        self.workers[place] = running;
        self.lives[place] = life;
        if self.draining {
            self.workers[place].drain();
        }
        Ok(())
    }

    fn terminate(&mut self, place: usize) -> Result {
        let sent = journal::now();
        match self.workers[place].terminate(ORDERLY)? {
            Some(status) if status.success() => {}
            // Before it listens to the signal, it dies of it.
            Some(status) if is_by_sigterm(status) => {
                self.deeds.lives[self.lives[place]].killed = Some(sent);
            }
            Some(status) => self.died(place, status),
            None => {
                let name = self.workers[place].name.clone();
                self.problem(format!("{name} did not end within {ORDERLY:?} of SIGTERM"));
                let at = self.workers[place].kill()?;
                self.deeds.lives[self.lives[place]].killed = Some(at);
            }
        }
        Ok(())
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    /// Publishes no more, waits until all is handled, ends the workers, and looks at what there is.
    pub(crate) fn finish(mut self) -> Result<(Deeds, tables::Tables)> {
        let healed = Instant::now();
        self.draining = true;
        for place in 0..self.workers.len() {
            self.check(place)?;
            self.wait_ready(place)?;
            self.workers[place].drain();
        }
        for place in 0..self.workers.len() {
            while self.progress(place).publishing.load(Ordering::Acquire) > 0 && healed.elapsed() < DRAINED {
                self.check(place)?;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let left = self.drained(healed)?;
        let took = u64::try_from(healed.elapsed().as_millis()).unwrap_or(u64::MAX);
        let limit = u64::try_from(DRAINED.as_millis()).unwrap_or(u64::MAX);
        let name = format!("drained after, in ms{left}");
        self.note(Record::Gauge {
            concern: Concern::Liveness,
            name: name.into(),
            value: took,
            baseline: 0,
            slack: limit,
        });
        for place in 0..self.workers.len() {
            self.terminate(place)?;
        }
        self.workers.clear();
        let tables = self.runtime.block_on(tables::read(&self.file))?;
        Ok((self.deeds, tables))
    }

    /// Waits until no group has anything left; says what is left if that takes too long.
    fn drained(&mut self, since: Instant) -> Result<String> {
        let file = self.file.clone();
        let (lease, places) = (self.kind.lease, self.workers.len());
        let store = self.runtime.block_on(SqliteStore::builder(&file).lease(lease).open())?;
        loop {
            for place in 0..places {
                self.check(place)?;
            }
            let left = self.runtime.block_on(left_in(&store))?;
            if left.values().all(|n| *n == 0) {
                return Ok(String::new());
            }
            if since.elapsed() > DRAINED {
                return Ok(format!(", and still there: {left:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What each group has not settled.
async fn left_in(store: &SqliteStore) -> Result<HashMap<String, u64>> {
    let admin = store.admin();
    let mut left = HashMap::new();
    for topic in [TOPIC, FOLLOWED] {
        for group in admin.groups(topic).await? {
            left.insert(format!("{topic} {}", group.name), group.lag + group.in_flight + group.parked);
        }
    }
    Ok(left)
}

fn is_by_sigterm(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(rustix::process::Signal::TERM.as_raw())
}

impl Deeds {
    /// Reads the journals of all lives and puts them together with what concerns all; each record with the life
    /// that wrote it, and each death behind the last thing that its life wrote.
    pub(crate) fn gather(&mut self) -> Result<Vec<(Option<usize>, Entry)>> {
        let mut all: Vec<_> = self.entries.drain(..).map(|entry| (None, entry)).collect();
        for (number, life) in self.lives.iter_mut().enumerate() {
            // One that was killed while it started has none.
            let mut entries = if life.journal.exists() { Journal::read(&life.journal)? } else { Vec::new() };
            if let Some(killed) = &mut life.killed {
                // It lived a little longer than until the signal was sent.
                *killed = entries.last().map_or(0, |entry| entry.at).max(*killed);
                let record = Record::fault(format!("{} killed", life.name));
                entries.push(Entry { at: *killed, record });
            }
            all.extend(entries.into_iter().map(|entry| (Some(number), entry)));
        }
        // Stable: what one life wrote keeps its order.
        all.sort_by_key(|(_, entry)| entry.at);
        Ok(all)
    }
}
