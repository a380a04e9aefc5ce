//! A cluster of three brokers and four members, all of which are broken: members are killed, stand still, leave in order
//! and come back; brokers are killed and stand still; connections are cut, or half open. One schedule, decided by the
//! seed, in which what lasts overlaps with what follows. Only one broker is in trouble at a time: of three, two must
//! have what is written.

use std::time::{Duration, Instant};

use millstream_testkit::ledger::Ledger;

use super::Scale;
use crate::crew::Worker;
use crate::kafka::brokers::{self, BROKERS};
use crate::kafka::cluster::{BEHIND_PROXIES, Broker, Cluster, Kind};
use crate::kafka::judge;
use crate::kafka::worker::Sharing;
use crate::labour::Load;
use crate::report::Row;
use crate::{Result, scratch};

const LEASE: Duration = Duration::from_secs(6);

/// The longest story that is kept in one piece beside the journals, in records.
const KEPT: usize = 1_000_000;

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

pub(super) fn cluster(scale: Scale, sharing: Sharing, seed: u64) -> Result<Row> {
    let jars = match brokers::jars() {
        Ok(jars) => jars,
        Err(why) => return Ok(Row::skipped(why)),
    };
    let kind = Kind {
        places: 4,
        lease: LEASE,
        sharing,
        load: Load {
            publishers: 2,
            keys: 240,
            batch: scale.of(200, 60),
            pause: Duration::from_millis(scale.of(100, 60)),
            drain: Duration::from_secs(25),
        },
    };
    let plan = Plan {
        kind,
        faults: scale.of(320, 18),
        messages: scale.of(1_000_000, 20_000),
        pause: scale.of(2_400, 2_000),
    };
    let folder = scratch::folder("kafka")?;
    let row = hold(folder.path(), &jars, plan, seed);
    if !row.as_ref().is_ok_and(Row::is_ok) {
        println!("  what was written down is kept in {}", folder.keep().display());
    }
    row
}

fn hold(folder: &std::path::Path, jars: &std::path::Path, plan: Plan, seed: u64) -> Result<Row> {
    // What brokers keep is large, and goes with the storm.
    let logs = scratch::folder("kafka-brokers")?;
    let mut cluster = Cluster::open(folder, logs.path(), jars, plan.kind, seed)?;
    Storm { cluster: &mut cluster, ends: Vec::new() }.hold(plan)?;
    let (deeds, logs) = cluster.finish()?;
    let judged = judge::judge(deeds, &logs, plan.kind.lease)?;
    if !judged.row.is_ok() && judged.entries.len() < KEPT {
        Ledger::save(&judged.entries, &folder.join("merged.journal"))?;
    }
    Ok(judged.row)
}

/// What ends later than it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    MemberGoesOn(usize),
    MemberJoins(usize),
    BrokerWorks(usize),
    NetworkHeals,
}

struct Storm<'a> {
    cluster: &'a mut Cluster,
    ends: Vec<(Instant, End)>,
}

impl Storm<'_> {
    fn hold(&mut self, plan: Plan) -> Result {
        while !(0..plan.kind.places).all(|place| self.cluster.crew.is_at_work(place)) {
            self.pass(Duration::from_millis(50))?;
        }
        let (begun, mut told) = (Instant::now(), Instant::now());
        // To the last message: what nobody breaks proves little.
        while self.faults() < plan.faults || self.cluster.crew.published() < plan.messages {
            if begun.elapsed() > OVER_WITHIN {
                let (faults, published) = (self.faults(), self.cluster.crew.published());
                let what = format!("only {faults} faults and {published} messages within {OVER_WITHIN:?}");
                self.cluster.crew.problems.push(what);
                break;
            }
            let pause = Duration::from_millis(self.cluster.random.u64(plan.pause / 10..plan.pause));
            self.pass(pause)?;
            self.deed(plan.kind)?;
            if told.elapsed() > Duration::from_secs(30) {
                told = Instant::now();
                eprintln!("  {} faults, {} messages", self.faults(), self.cluster.crew.published());
            }
        }
        while !self.ends.is_empty() {
            self.pass(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn faults(&self) -> u64 {
        self.cluster.crew.count_of_faults()
    }

    /// Lets time pass, and ends what ends meanwhile.
    fn pass(&mut self, time: Duration) -> Result {
        let until = Instant::now() + time;
        loop {
            self.cluster.look()?;
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
            End::MemberGoesOn(place) => self.cluster.crew.go_on(place),
            End::MemberJoins(place) => self.cluster.crew.join(place),
            End::BrokerWorks(broker) => self.cluster.mend_broker(broker),
            End::NetworkHeals => {
                self.cluster.heal();
                Ok(())
            }
        }
    }

    fn later(&mut self, between: std::ops::Range<u64>, end: End) {
        let after = Duration::from_millis(self.cluster.random.u64(between));
        self.ends.push((Instant::now() + after, end));
    }

    /// Whoever is gone comes back some time.
    fn bring_back(&mut self) {
        for place in 0.. {
            let Some(worker) = self.cluster.crew.worker(place) else { break };
            let end = End::MemberJoins(place);
            if worker == Worker::Down && !self.ends.iter().any(|(_, other)| *other == end) {
                self.later(50..4_000, end);
            }
        }
    }

    /// One deed, if it can be done now.
    fn deed(&mut self, kind: Kind) -> Result {
        let place = self.cluster.random.usize(0..kind.places);
        let broker = self.cluster.random.usize(0..BROKERS);
        let lease = crate::arena::millis(kind.lease);
        let what = self.cluster.random.u8(..20);
        let brokers_are_up = self.cluster.brokers_are_up();
        let is_up = self.cluster.crew.worker(place) == Some(Worker::Up);
        match what {
            0..=4 if is_up => self.cluster.crew.kill(place),
            5..=6 if is_up => {
                self.later(100..lease / 2, End::MemberGoesOn(place));
                self.cluster.crew.halt(place)
            }
            7..=8 if is_up => {
                self.later(lease + 500..2 * lease, End::MemberGoesOn(place));
                self.cluster.crew.halt(place)
            }
            // Before it listens to the signal, it would die of it.
            9..=11 if self.cluster.crew.is_at_work(place) => self.cluster.crew.leave(place),
            12..=13 if !self.cluster.is_half_open() => {
                let which = self.some_brokers();
                self.cluster.cut(&which);
                Ok(())
            }
            14 if !self.cluster.is_half_open() && self.cluster.crew.is_at_work(BEHIND_PROXIES) => {
                let which = self.some_brokers();
                self.later(500..3 * lease, End::NetworkHeals);
                self.cluster.swallow(&which);
                Ok(())
            }
            15..=16 if brokers_are_up => {
                self.later(100..4_000, End::BrokerWorks(broker));
                self.cluster.kill_broker(broker)
            }
            17..=19 if brokers_are_up && self.cluster.broker(broker) == Broker::Up => {
                self.later(200..2 * lease, End::BrokerWorks(broker));
                self.cluster.stop_broker(broker)
            }
            _ => Ok(()),
        }
    }

    /// One of the brokers, or all.
    fn some_brokers(&mut self) -> Vec<usize> {
        match self.cluster.random.usize(..=BROKERS) {
            BROKERS => (0..BROKERS).collect(),
            one => vec![one],
        }
    }
}
