//! What a seed means: the broker, the processes, their subscriptions, what is published, and what is broken when.

use std::time::Duration;

use millstream::{MaxGap, Outage, Retry};
use millstream_core::Order;
use millstream_testkit::sim::Shape;

use crate::fault::Fault;
use crate::phase::Phase;
use crate::planted::Defect;

/// The topic that publishers write to.
pub(crate) const ORDERS: &str = "orders";
/// The topic that handlers publish to.
pub(crate) const BILLS: &str = "bills";

/// Whether anything is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing but handlers that fail: then there must be no duplicate at all. Processes come and go in order.
    Calm,
    /// Everything.
    Stormy,
}

/// How a subscription deduplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedup {
    /// Not at all.
    None,
    /// With a store that all processes share.
    Store,
    /// The same, and its entry commits with the acknowledgement and the handler's effect.
    Transaction,
}

/// A subscription, the same in each process.
#[derive(Debug, Clone)]
pub struct Sub {
    pub(crate) topic: &'static str,
    pub(crate) group: &'static str,
    /// Whether its handler publishes.
    pub(crate) emits: bool,
    pub(crate) concurrency: usize,
    pub(crate) workers: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) retry: Retry,
    pub(crate) park_after: Duration,
    pub(crate) timeout: Option<Duration>,
    pub(crate) dedup: Dedup,
    pub(crate) batch: Option<(usize, Duration)>,
    pub(crate) discards: bool,
    pub(crate) outage: Outage,
    pub(crate) max_gap: MaxGap,
}

/// How handlers meet their messages: thousandths of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    pub(crate) flaky: u64,
    pub(crate) poison: u64,
    pub(crate) discard: u64,
    pub(crate) slow: u64,
    /// Whether there is a message that kills whoever runs it.
    pub(crate) killer: bool,
    /// Published once more on purpose, with the same id.
    pub(crate) copied: u64,
    /// Messages without a key.
    pub(crate) unkeyed: u64,
}

/// The plan of a world.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Plan {
    /// What all of this comes from.
    pub seed: u64,
    /// What broker it is.
    pub shape: Shape,
    /// Whether anything is broken.
    pub weather: Weather,
    pub(crate) processes: usize,
    pub(crate) publishers: u64,
    pub(crate) keys: u64,
    pub(crate) subs: Vec<Sub>,
    pub(crate) mix: Mix,
    /// Messages of each wave, and what is broken during it, at what phase.
    pub(crate) waves: Vec<Wave>,
    /// The longest an operation takes while all is well, in microseconds.
    pub(crate) latency: u64,
    /// The longest it may take until everything is handled, once all is well.
    pub(crate) patience: Duration,
    pub(crate) defect: Option<Defect>,
}

/// Messages are published, and all of them are handled.
#[derive(Debug, Clone)]
pub(crate) struct Wave {
    pub(crate) messages: u64,
    pub(crate) faults: Vec<(Fault, Phase)>,
}

/// Of so many seeds one is calm.
const CALM: u64 = 8;
/// Waves of a world.
const WAVES: usize = 3;
/// Faults aimed in each.
const AIMED: usize = 4;

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let weather = if seed % CALM == CALM - 1 { Weather::Calm } else { Weather::Stormy };
        // Neighbouring seeds begin with neighbouring cells, so that a run of them covers the whole table.
        let cells = Fault::ALL.len() as u64 * 8;
        let cell = seed.wrapping_mul(7) % cells;
        let first = (Fault::ALL[(cell / 8) as usize], Phase::ALL[(cell % 8) as usize]);
        let mut random = fastrand::Rng::with_seed(seed);
        let shapes: Vec<Shape> = shapes(&mut random)
            .into_iter()
            .filter(|shape| weather == Weather::Calm || first.0.fits(*shape))
            .collect();
        let shape = shapes[random.usize(..shapes.len())];
        Self::new(seed, shape, weather, Some(first))
    }

    /// The plan of a seed with this broker and weather.
    #[must_use]
    pub fn with(seed: u64, shape: Shape, weather: Weather) -> Self {
        Self::new(seed, shape, weather, None)
    }

    fn new(seed: u64, shape: Shape, weather: Weather, first: Option<(Fault, Phase)>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5157_4f52_4c44);
        let stormy = weather == Weather::Stormy;
        let mut waves: Vec<Wave> =
            (0..WAVES).map(|_| Wave { messages: random.u64(180..320), faults: Vec::new() }).collect();
        if stormy {
            for wave in &mut waves {
                wave.faults = (0..AIMED).map(|_| some_cell(shape, &mut random)).collect();
            }
            if let Some(first) = first {
                let (wave, place) = (random.usize(..WAVES), random.usize(..AIMED));
                waves[wave].faults[place] = first;
            }
        }
        let faults: Vec<Fault> = waves.iter().flat_map(|wave| wave.faults.iter().map(|(f, _)| *f)).collect();
        let aims =
            |phase: Phase| waves.iter().any(|wave| wave.faults.iter().any(|(_, aimed)| *aimed == phase));
        let (parking, burying) = (aims(Phase::Parking), aims(Phase::DeadLettering));
        let killer = stormy && random.u8(..) < 20;
        let mut subs = vec![orders(shape, &mut random)];
        if !matches!(shape, Shape::LeaseQueue { .. }) && random.bool() {
            subs.push(stock(shape, &mut random));
        }
        subs.push(ship(shape, &mut random));
        if faults.contains(&Fault::StoreDown) && subs[0].dedup == Dedup::None {
            subs[0].dedup = Dedup::Store;
        }
        for sub in &mut subs {
            if parking {
                let (first, longest) = (Duration::from_secs(4), Duration::from_secs(120));
                (sub.retry, sub.park_after) = (Retry::exponential(first, longest).attempts(12), first / 2);
            }
            // What kills the process that runs it takes its neighbours along: none of them may vanish.
            sub.discards &= !killer && !stormy;
        }
        Self {
            seed,
            shape,
            weather,
            processes: random.usize(1..=3),
            publishers: random.u64(1..=3),
            keys: random.u64(3..40),
            subs,
            mix: Mix {
                flaky: random.u64(if parking { 80..200 } else { 20..120 }),
                poison: random.u64(if burying { 20..60 } else { 2..20 }),
                discard: random.u64(0..10),
                slow: random.u64(0..10),
                killer,
                copied: if random.bool() { 20 } else { 0 },
                unkeyed: random.u64(0..200),
            },
            waves,
            latency: [0, 500, 3_000, 20_000][random.usize(usize::from(stormy)..4)],
            patience: Duration::from_secs(6 * 3_600),
            defect: None,
        }
    }

    /// The same with a bug planted between the engine and its world.
    #[must_use]
    pub fn planted(mut self, defect: Defect) -> Self {
        self.defect = Some(defect);
        // A bug shows soon, or not at all.
        self.waves.truncate(2);
        self.waves.iter_mut().for_each(|wave| wave.messages /= 2);
        defect.prepare(&mut self);
        self
    }

    /// Breaks this while handlers run, before anything else of a wave.
    pub(crate) fn breaks_first(&mut self, fault: Fault) {
        self.waves.iter_mut().for_each(|wave| wave.faults.insert(0, (fault, Phase::Running)));
    }

    /// Lets a second group read the same topic, deduplicating like the first.
    pub(crate) fn read_by_two_groups(&mut self) {
        let first = self.subs[0].clone();
        self.subs.retain(|sub| sub.group != "stock");
        self.subs.push(Sub { group: "stock", emits: false, ..first });
    }

    /// The topics that are published to.
    pub(crate) fn topics(&self) -> [&'static str; 2] {
        [ORDERS, BILLS]
    }

    /// Whether the broker keeps the order of a key.
    pub(crate) fn ordered(&self) -> bool {
        !matches!(self.shape, Shape::LeaseQueue { order: Order::None, .. })
    }

    pub(crate) fn is_queue(&self) -> bool {
        matches!(self.shape, Shape::LeaseQueue { .. })
    }

    /// Whether what handlers send commits with their messages' positions: in every other world whose log has partitions.
    pub(crate) fn commits_emits(&self) -> bool {
        matches!(self.shape, Shape::Partitioned { .. }) && self.seed % 2 == 1 && self.defect.is_none()
    }

    pub(crate) fn is_stormy(&self) -> bool {
        self.weather == Weather::Stormy
    }
}

fn shapes(random: &mut fastrand::Rng) -> [Shape; 4] {
    let visibility = Duration::from_secs(random.u64(2..40));
    [
        Shape::WholeLog,
        Shape::LeaseQueue { order: Order::None, visibility },
        Shape::LeaseQueue { order: Order::Key, visibility },
        Shape::Partitioned { partitions: random.u32(1..7) },
    ]
}

fn some_cell(shape: Shape, random: &mut fastrand::Rng) -> (Fault, Phase) {
    let fitting: Vec<Fault> = Fault::ALL.iter().copied().filter(|fault| fault.fits(shape)).collect();
    (fitting[random.usize(..fitting.len())], Phase::ALL[random.usize(..8)])
}

fn sub(topic: &'static str, group: &'static str, random: &mut fastrand::Rng) -> Sub {
    let seconds = Duration::from_secs;
    let max_in_flight = [16, 40, 128, 512][random.usize(..4)];
    let retry = match random.u8(..3) {
        0 => Retry::fixed(Duration::from_millis(random.u64(5..500))),
        1 => Retry::exponential(Duration::from_millis(100), seconds(30)),
        _ => Retry::exponential(seconds(4), seconds(120)),
    };
    Sub {
        topic,
        group,
        emits: false,
        concurrency: [1, 4, 16][random.usize(..3)],
        workers: random.usize(1..=3),
        max_in_flight,
        // More than handlers fail by themselves: who is a dead letter for that is one by mistake.
        retry: retry.attempts(12),
        park_after: seconds([2, 10, 60][random.usize(..3)]),
        timeout: random.bool().then(|| seconds(60)),
        dedup: Dedup::None,
        batch: None,
        discards: false,
        outage: if random.bool() { Outage::default() } else { Outage::never() },
        max_gap: match random.u8(..3) {
            0 => MaxGap::new(random.usize(20..100), seconds(600)),
            _ => MaxGap::default(),
        },
    }
}

fn orders(shape: Shape, random: &mut fastrand::Rng) -> Sub {
    let dedup = match random.u8(..4) {
        0 | 1 => Dedup::None,
        2 if shape == Shape::WholeLog => Dedup::Transaction,
        _ => Dedup::Store,
    };
    Sub { emits: true, dedup, ..sub(ORDERS, "billing", random) }
}

fn stock(shape: Shape, random: &mut fastrand::Rng) -> Sub {
    let dedup = match random.u8(..3) {
        0 if shape == Shape::WholeLog => Dedup::Transaction,
        1 => Dedup::Store,
        _ => Dedup::None,
    };
    Sub { dedup, discards: random.u8(..4) == 0, ..sub(ORDERS, "stock", random) }
}

fn ship(shape: Shape, random: &mut fastrand::Rng) -> Sub {
    let batch = random.bool().then(|| (random.usize(2..16), Duration::from_millis(random.u64(0..50))));
    let dedup = if batch.is_some() || random.bool() {
        Dedup::None
    } else if shape == Shape::WholeLog && random.bool() {
        Dedup::Transaction
    } else {
        Dedup::Store
    };
    Sub { batch, dedup, ..sub(BILLS, "shipping", random) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_seeds_aim_at_every_cell() {
        let mut aimed = std::collections::BTreeSet::new();
        for seed in 0..1_000 {
            aimed.extend(Plan::of(seed).waves.into_iter().flat_map(|wave| wave.faults));
        }
        assert_eq!(aimed.len(), Fault::ALL.len() * 8);
    }

    #[test]
    fn what_is_aimed_fits_the_broker() {
        for seed in 0..400 {
            let plan = Plan::of(seed);
            let faults = plan.waves.iter().flat_map(|wave| &wave.faults);
            assert!(faults.into_iter().all(|(fault, _)| fault.fits(plan.shape)), "{plan:?}");
        }
    }
}
