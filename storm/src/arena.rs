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
use crate::launch::{FailingSyncs, Launch};
use crate::worker::{self, Options};
use crate::{Result, tables};

/// How long a worker may take until it reads.
const READY: Duration = Duration::from_secs(30);
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
    /// How long handlers may take to end when a worker is asked to.
    pub(crate) drain: Duration,
    /// How much longer than that a worker may take to end in order.
    pub(crate) orderly: Duration,
    /// How far ahead some messages are due, at most; zero: none is delayed.
    pub(crate) delay: Duration,
}

impl Kind {
    /// What a profile does not say.
    pub(crate) const USUAL: Self = Self {
        workers: 1,
        lease: Duration::from_secs(2),
        publishers: 2,
        pause: Duration::from_millis(10),
        drain: Duration::from_secs(25),
        orderly: Duration::from_secs(1),
        delay: Duration::ZERO,
    };
}

/// One life of a worker, from its start to its end.
#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) journal: PathBuf,
    /// When it was killed.
    pub(crate) killed: Option<u64>,
    /// When it was asked to end, if it was cut off then with something left.
    pub(crate) cut: Option<u64>,
    /// Whether it died of a signal that it should have listened to.
    pub(crate) deaf: bool,
    /// From when to when it stood still.
    pub(crate) stopped: Vec<(u64, u64)>,
    /// The syncs of its file that fail.
    pub(crate) failing: Option<FailingSyncs>,
    /// When syncs failed.
    pub(crate) struck: Vec<u64>,
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
    /// From when to when somebody's wall clock was ahead.
    pub(crate) ahead: Vec<(u64, u64)>,
    /// What went wrong on the way, that no ledger tells.
    pub(crate) problems: Vec<String>,
}

/// Where one worker after the other lives.
#[derive(Debug)]
struct Place {
    running: Running,
    /// The present life's place in `deeds.lives`.
    life: usize,
    /// How the present life was started.
    launch: Launch,
    /// How the next ones are.
    next: Launch,
    /// Nobody lives there until it is revived.
    is_down: bool,
    /// Since when it stands still.
    halted: Option<u64>,
}

/// A storm on one file.
#[derive(Debug)]
pub(crate) struct Arena {
    folder: PathBuf,
    file: PathBuf,
    kind: Kind,
    runtime: Runtime,
    pub(crate) random: Rng,
    places: Vec<Place>,
    draining: bool,
    /// Whether the disk is in trouble: who ends now cannot settle what it has.
    pub(crate) is_troubled: bool,
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
            places: Vec::new(),
            draining: false,
            is_troubled: false,
            deeds: Deeds::default(),
        };
        for (group, topic) in [(PLAIN, TOPIC), (DEDUP, TOPIC), (AFTER, FOLLOWED)] {
            arena.note(Record::Subscribed { group: group.into(), topic: topic.into(), from_now: false });
        }
        for place in 0..kind.workers {
            let launch = Launch::default();
            let (running, life) = arena.start(place, &launch)?;
            let next = Launch::default();
            arena.places.push(Place { running, life, launch, next, is_down: false, halted: None });
        }
        Ok(arena)
    }

    fn start(&mut self, place: usize, launch: &Launch) -> Result<(Running, usize)> {
        let life = self.deeds.lives.len();
        let options = Options {
            file: self.file.clone(),
            journal: self.folder.join(format!("{place}.{life}.journal")),
            place,
            life: life as u64,
            seed: self.random.u64(..),
            lease_ms: millis(self.kind.lease),
            publishers: self.kind.publishers,
            pause_ms: millis(self.kind.pause),
            drain_ms: millis(self.kind.drain),
            delay_ms: millis(self.kind.delay),
            hang_ms: millis(launch.hang),
            without_dedup: launch.without_dedup,
        };
        let launch = launch.of_one_life(self.beside(&format!("{}.strace", options.name())));
        let arguments = std::iter::once("worker".to_owned()).chain(options.arguments()).collect();
        let (name, publishers) = (options.name(), options.publishers);
        let running = Running::start(&launch, name, publishers, arguments, self.stderr(&options.name()))?;
        self.deeds.lives.push(Life {
            name: options.name(),
            journal: options.journal,
            failing: launch.failing,
            ..Life::default()
        });
        Ok((running, life))
    }

    fn stderr(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.stderr"))
    }

    /// A file of this storm's own, beside its journals.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The write-ahead log, which a commit is written to.
    pub(crate) fn log(&self) -> PathBuf {
        let mut log = self.file.clone().into_os_string();
        log.push("-wal");
        log.into()
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
        &self.places[place].running.progress
    }

    /// Waits until a worker reads and publishes.
    pub(crate) fn wait_ready(&mut self, place: usize) -> Result {
        if !self.places[place].is_down && !self.places[place].running.wait_ready(READY) {
            self.check(place)?;
            // Perhaps that was another life.
            if !self.places[place].running.wait_ready(READY) {
                let name = &self.places[place].running.name;
                return Err(
                    format!("{name} did not start within {READY:?}: {}", self.last_words(name)).into()
                );
            }
        }
        Ok(())
    }

    /// Waits until all workers do.
    pub(crate) fn wait_all_ready(&mut self) -> Result {
        (0..self.places.len()).try_for_each(|place| self.wait_ready(place))
    }

    /// Finds out whether a worker ended by itself, which none should; starts it anew if it did.
    pub(crate) fn check(&mut self, place: usize) -> Result {
        if !self.places[place].is_down
            && let Some(status) = self.places[place].running.ended()?
        {
            self.died(place, status);
            self.revive(place)?;
        }
        Ok(())
    }

    fn died(&mut self, place: usize, status: ExitStatus) {
        // What it had is delivered again, whyever it died.
        self.life(place).killed = Some(journal::now());
        // Where no sync succeeds, or the disk is full, it may refuse to begin, in order.
        let name = self.places[place].running.name.clone();
        let words = self.last_words(&name);
        let has_reason = self.life(place).failing.is_some() || words.contains("free space on the disk");
        if status.code() != Some(1) || !has_reason {
            self.problem(format!("{name} ended by itself, with {status}: {words}"));
        }
    }

    /// The present life of a place.
    fn life(&mut self, place: usize) -> &mut Life {
        &mut self.deeds.lives[self.places[place].life]
    }

    /// The last line that a worker wrote to stderr.
    fn last_words(&self, name: &str) -> String {
        let text = std::fs::read(self.stderr(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
        if lines.is_empty() { "it said nothing".into() } else { lines.join(" | ") }
    }

    // ---- What is done to workers -----------------------------------------------------------------------------

    /// How a place's lives are started from the next one on.
    pub(crate) fn next_lives(&mut self, place: usize, launch: Launch) {
        self.places[place].next = launch;
    }

    /// Whether somebody lives there and moves.
    pub(crate) fn is_up(&self, place: usize) -> bool {
        !self.places[place].is_down && self.places[place].halted.is_none()
    }

    /// Whether nobody lives there.
    pub(crate) fn is_down(&self, place: usize) -> bool {
        self.places[place].is_down
    }

    /// Kills a worker with signal 9, and starts it anew.
    pub(crate) fn kill(&mut self, place: usize) -> Result {
        self.kill_for_good(place)?;
        self.revive(place)
    }

    /// Kills a worker with signal 9; nobody lives there until it is revived.
    pub(crate) fn kill_for_good(&mut self, place: usize) -> Result {
        self.check(place)?;
        self.deeds.faults += 1;
        let at = self.places[place].running.kill()?;
        self.places[place].is_down = true;
        self.stood_up(place);
        self.life(place).killed = Some(at);
        Ok(())
    }

    /// Makes a worker stand still for a while.
    pub(crate) fn stop(&mut self, place: usize, pause: Duration) -> Result {
        self.halt(place)?;
        std::thread::sleep(pause);
        self.go_on(place)
    }

    /// Makes a worker stand still, until it is told to go on.
    pub(crate) fn halt(&mut self, place: usize) -> Result {
        self.check(place)?;
        self.deeds.faults += 1;
        self.places[place].running.stop()?;
        // Once it stands: all that it wrote down comes before.
        self.places[place].halted = Some(journal::now());
        self.note(Record::fault(format!("{} stopped", self.places[place].running.name)));
        Ok(())
    }

    /// Lets a worker go on.
    pub(crate) fn go_on(&mut self, place: usize) -> Result {
        if self.places[place].halted.is_none() {
            return Ok(());
        }
        self.note(Record::Healed { what: format!("{} goes on", self.places[place].running.name).into() });
        self.places[place].running.go_on()?;
        self.stood_up(place);
        Ok(())
    }

    fn stood_up(&mut self, place: usize) {
        if let Some(from) = self.places[place].halted.take() {
            self.life(place).stopped.push((from, journal::now()));
        }
    }

    /// Asks a worker to end in order, and starts it anew. That is no fault: it explains nothing. Says how long it took,
    /// if it listened.
    pub(crate) fn replace(&mut self, place: usize) -> Result<Option<Duration>> {
        self.check(place)?;
        let took = self.terminate(place, Patience::Once)?;
        self.revive(place)?;
        Ok(took)
    }

    /// The same, and asks again after this time: it must end at once.
    pub(crate) fn replace_now(&mut self, place: usize, after: Duration) -> Result<Option<Duration>> {
        self.check(place)?;
        let took = self.terminate(place, Patience::Twice { after })?;
        self.revive(place)?;
        Ok(took)
    }

    /// Starts a worker anew where nobody lives.
    pub(crate) fn revive(&mut self, place: usize) -> Result {
        let launch = self.places[place].next.clone();
        let (running, life) = self.start(place, &launch)?;
        let next = launch.clone();
        self.places[place] = Place { running, life, launch, next, is_down: false, halted: None };
        if self.draining {
            self.places[place].running.drain();
        }
        Ok(())
    }

    /// How long it took, if it listened.
    fn terminate(&mut self, place: usize, patience: Patience) -> Result<Option<Duration>> {
        let (sent, begun) = (journal::now(), Instant::now());
        let hangs = self.places[place].launch.hang > Duration::ZERO;
        let running = &mut self.places[place].running;
        running.ask_to_end()?;
        let mut limit = self.kind.drain + self.kind.orderly;
        let mut status = None;
        if let Patience::Twice { after } = patience {
            status = running.wait(after)?;
            if status.is_none() {
                running.ask_to_end()?;
                limit = self.kind.orderly;
            }
        }
        if status.is_none() {
            status = running.wait(limit)?;
        }
        let took = begun.elapsed();
        match status {
            Some(status) if status.success() => {
                // On a starved machine handlers may need longer than they are given.
                let ran_out = took >= self.kind.drain;
                if hangs || self.is_troubled || ran_out || patience != Patience::Once {
                    // What was cut off comes again.
                    self.life(place).cut = Some(sent);
                }
                return Ok(Some(took));
            }
            // Before it listens to the signal, it dies of it.
            Some(status) if is_by_sigterm(status) => {
                self.life(place).killed = Some(sent);
                self.life(place).deaf = true;
            }
            Some(status) => self.died(place, status),
            None => {
                let name = self.places[place].running.name.clone();
                self.problem(format!("{name} did not end within {limit:?} of SIGTERM"));
                let at = self.places[place].running.kill()?;
                self.life(place).killed = Some(at);
            }
        }
        Ok(None)
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    /// Mends what is broken, publishes no more, waits until all is handled, ends the workers, and looks at what there is.
    pub(crate) fn finish(mut self) -> Result<(Deeds, tables::Tables)> {
        self.is_troubled = false;
        (0..self.places.len()).try_for_each(|place| self.mend(place))?;
        let healed = Instant::now();
        self.draining = true;
        for place in 0..self.places.len() {
            self.check(place)?;
            self.wait_ready(place)?;
            self.places[place].running.drain();
        }
        for place in 0..self.places.len() {
            while self.progress(place).publishing.load(Ordering::Acquire) > 0 && healed.elapsed() < DRAINED {
                self.check(place)?;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let left = self.drained(healed)?;
        let limit = millis(DRAINED);
        self.note(Record::Gauge {
            concern: Concern::Liveness,
            name: format!("drained after, in ms{left}").into(),
            value: millis(healed.elapsed()),
            baseline: 0,
            slack: limit,
        });
        for place in 0..self.places.len() {
            self.terminate(place, Patience::Once)?;
        }
        self.places.clear();
        let tables = self.runtime.block_on(tables::read(&self.file))?;
        Ok((self.deeds, tables))
    }

    /// Lets a well worker live there.
    fn mend(&mut self, place: usize) -> Result {
        self.go_on(place)?;
        let Place { launch, next, is_down, .. } = &mut self.places[place];
        *next = Launch::default();
        if *is_down {
            return self.revive(place);
        }
        if launch.failing.is_some() {
            return self.kill(place);
        }
        if launch.hang > Duration::ZERO {
            self.replace(place)?;
        }
        Ok(())
    }

    /// Waits until no group has anything left; says what is left if that takes too long.
    fn drained(&mut self, since: Instant) -> Result<String> {
        let file = self.file.clone();
        let (lease, places) = (self.kind.lease, self.places.len());
        let store = self.runtime.block_on(SqliteStore::builder(&file).lease(lease).open())?;
        let connection = rusqlite::Connection::open(&file)?;
        loop {
            for place in 0..places {
                self.check(place)?;
            }
            let mut left = self.runtime.block_on(left_in(&store))?;
            // Before they are due, no group knows of them.
            let delayed =
                connection.query_row("SELECT count(*) FROM millstream_delayed", [], |row| row.get(0))?;
            left.insert("delayed".into(), delayed);
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

/// How often a worker is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Once,
    Twice { after: Duration },
}

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
            if life.deaf && entries.iter().any(|e| matches!(e.record, Record::Delivered { .. })) {
                self.problems
                    .push(format!("{} had messages in work and did not listen to SIGTERM", life.name));
            }
            if let Some(failing) = &life.failing {
                life.struck = failing.times();
                self.faults += life.struck.len() as u64;
                let struck = |at: &u64| Entry { at: *at, record: Record::fault("a sync failed") };
                entries.extend(life.struck.iter().map(struck));
                entries.sort_by_key(|entry| entry.at);
            }
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
