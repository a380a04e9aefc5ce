//! Two queues and four workers, all of which are broken: workers are killed, stand still, leave in order and come back; the
//! server stands still; connections are cut, half open, or slow. One schedule, decided by the seed, in which what lasts
//! overlaps with what follows.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream_testkit::ledger::Ledger;

use super::Scale;
use crate::crew::Worker;
use crate::labour::Load;
use crate::report::Row;
use crate::sqs::queues::{Kind, Queues};
use crate::sqs::worker::Sort;
use crate::sqs::{judge, server};
use crate::{Result, scratch};

const LEASE: Duration = Duration::from_secs(6);

/// How long a storm may take until all that was to be broken is, and all that was to be published.
const OVER_WITHIN: Duration = Duration::from_secs(3_600);

/// How much of it.
#[derive(Debug, Clone, Copy)]
struct Plan {
    kind: Kind,
    faults: u64,
    messages: u64,
    /// The longest pause between two deeds, in ms.
    pause: u64,
}

pub(super) fn queues(scale: Scale, sort: Sort, seed: u64) -> Result<Row> {
    let jars = match server::jars() {
        Ok(jars) => jars,
        Err(why) => return Ok(Row::skipped(why)),
    };
    // ElasticMQ looks at each group of a FIFO queue whenever it is asked for a message, and at all others again for each
    // that has none: with two thousand groups it gives twenty messages a second.
    let keys = match sort {
        Sort::Standard => 240,
        Sort::Fifo => 16,
    };
    let load = Load {
        publishers: 2,
        keys,
        batch: 40,
        pause: Duration::from_millis(scale.of(400, 300)),
        drain: Duration::from_secs(25),
    };
    let plan = Plan {
        kind: Kind { places: 4, lease: LEASE, sort, load },
        faults: scale.of(310, 18),
        messages: scale.of(100_000, 4_000),
        pause: scale.of(2_400, 2_000),
    };
    let folder = scratch::folder("sqs")?;
    let row = hold(folder.path(), &jars, plan, seed);
    if !row.as_ref().is_ok_and(Row::is_ok) {
        println!("  what was written down is kept in {}", folder.keep().display());
    }
    row
}

fn hold(folder: &Path, jars: &Path, plan: Plan, seed: u64) -> Result<Row> {
    let mut queues = Queues::open(folder, jars, plan.kind, seed)?;
    Storm { queues: &mut queues, ends: Vec::new() }.hold(plan)?;
    let (deeds, dead) = queues.finish()?;
    let judged = judge::judge(deeds, &dead, plan.kind)?;
    if !judged.row.is_ok() {
        Ledger::save(&judged.entries, &folder.join("merged.journal"))?;
    }
    Ok(judged.row)
}

/// What ends later than it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    WorkerGoesOn(usize),
    WorkerJoins(usize),
    ServerWorks,
    NetworkHeals(usize),
}

struct Storm<'a> {
    queues: &'a mut Queues,
    ends: Vec<(Instant, End)>,
}

impl Storm<'_> {
    fn hold(&mut self, plan: Plan) -> Result {
        while !(0..plan.kind.places).all(|place| self.queues.crew.is_at_work(place)) {
            self.pass(Duration::from_millis(50))?;
        }
        let (begun, mut told) = (Instant::now(), Instant::now());
        // To the last message: what nobody breaks proves little.
        while self.faults() < plan.faults || self.queues.crew.published() < plan.messages {
            if begun.elapsed() > OVER_WITHIN {
                let (faults, published) = (self.faults(), self.queues.crew.published());
                let what = format!("only {faults} faults and {published} messages within {OVER_WITHIN:?}");
                self.queues.crew.problems.push(what);
                break;
            }
            let pause = Duration::from_millis(self.queues.random.u64(plan.pause / 10..plan.pause));
            self.pass(pause)?;
            self.deed(plan.kind)?;
            if told.elapsed() > Duration::from_secs(30) {
                told = Instant::now();
                eprintln!("  {} faults, {} messages", self.faults(), self.queues.crew.published());
            }
        }
        while !self.ends.is_empty() {
            self.pass(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn faults(&self) -> u64 {
        self.queues.crew.count_of_faults()
    }

    /// Lets time pass, and ends what ends meanwhile.
    fn pass(&mut self, time: Duration) -> Result {
        let until = Instant::now() + time;
        loop {
            self.queues.look()?;
            self.bring_back();
            let now = Instant::now();
            let (due, later) = self.ends.iter().partition(|(at, _)| *at <= now);
            self.ends = later;
            let due: Vec<(Instant, End)> = due;
            due.into_iter().try_for_each(|(_, end)| self.end(end))?;
            if until <= now {
                return Ok(());
            }
            std::thread::sleep((until - now).min(Duration::from_millis(50)));
        }
    }

    fn end(&mut self, end: End) -> Result {
        match end {
            End::WorkerGoesOn(place) => self.queues.crew.go_on(place),
            End::WorkerJoins(place) => self.queues.crew.join(place),
            End::ServerWorks => self.queues.mend_server(),
            End::NetworkHeals(place) => {
                self.queues.heal(place);
                Ok(())
            }
        }
    }

    fn later(&mut self, between: std::ops::Range<u64>, end: End) {
        let after = Duration::from_millis(self.queues.random.u64(between));
        self.ends.push((Instant::now() + after, end));
    }

    /// Whoever is gone comes back some time.
    fn bring_back(&mut self) {
        for place in 0.. {
            let Some(worker) = self.queues.crew.worker(place) else { break };
            let end = End::WorkerJoins(place);
            if worker == Worker::Down && !self.ends.iter().any(|(_, other)| *other == end) {
                self.later(50..4_000, end);
            }
        }
    }

    /// One deed, if it can be done now.
    fn deed(&mut self, kind: Kind) -> Result {
        let place = self.queues.random.usize(0..kind.places);
        let lease = crate::arena::millis(kind.lease);
        let what = self.queues.random.u8(..20);
        let is_up = self.queues.crew.worker(place) == Some(Worker::Up);
        let is_sound = !self.queues.is_troubled(place);
        match what {
            0..=4 if is_up => self.queues.crew.kill(place),
            5..=6 if is_up => {
                self.later(100..lease / 2, End::WorkerGoesOn(place));
                self.queues.crew.halt(place)
            }
            7..=8 if is_up => {
                self.later(lease + 500..2 * lease, End::WorkerGoesOn(place));
                self.queues.crew.halt(place)
            }
            // Before it listens to the signal, it would die of it.
            9..=11 if self.queues.crew.is_at_work(place) => self.queues.crew.leave(place),
            12..=13 if is_sound => {
                self.queues.cut(place);
                Ok(())
            }
            14..=15 if is_sound => {
                self.later(500..3 * lease, End::NetworkHeals(place));
                self.queues.swallow(place);
                Ok(())
            }
            16..=17 if is_sound => {
                self.later(500..3 * lease, End::NetworkHeals(place));
                let by = Duration::from_millis(self.queues.random.u64(20..1_500));
                self.queues.slow_down(place, by);
                Ok(())
            }
            18..=19 if !self.queues.is_stopped() => {
                self.later(100..2 * lease, End::ServerWorks);
                self.queues.stop_server()
            }
            _ => Ok(()),
        }
    }
}
