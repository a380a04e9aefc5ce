//! Processes: schedulers that start, end in order, are cut off, die, and start again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream::{
    Batch, Control, EventRegistry, LeaseRenewal, Publisher, Report, Running, Scheduler, Settings, Subscribe,
    SubscriptionReport, TimeSource,
};
use millstream_core::{ByteString, Message, Result};
use millstream_testkit::sim::MemberId;
use tokio::time::sleep;

use crate::clock;
use crate::link::Link;
use crate::phase::Phase;
use crate::plan::Dedup;
use crate::script::{Hold, Script};
use crate::store::Store;
use crate::wire::Wire;
use crate::world::World;

/// How long a shutdown may take, as the scheduler is told.
const DRAIN: Duration = Duration::from_secs(25);

/// A process, in one of its lives or between two.
#[derive(Debug)]
pub(crate) struct Process {
    world: Arc<World>,
    number: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    life: Option<Life>,
    /// What all its lives did together.
    totals: BTreeMap<&'static str, Totals>,
    lives: u64,
    /// Shutdowns that were not clean, though nothing cut them.
    unclean: Vec<String>,
}

#[derive(Debug)]
struct Life {
    /// Taken out while it shuts down.
    running: Option<Running>,
    control: Control,
    link: Arc<Link>,
    members: Arc<Mutex<Vec<(MemberId, u64)>>>,
}

/// What schedulers counted for a group.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) handled: u64,
    pub(crate) failed: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) discarded: u64,
    pub(crate) emitted: u64,
    pub(crate) too_late: u64,
}

/// Whether a shutdown is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    InOrder,
    /// By a second signal after this long.
    CutAfter(Duration),
}

impl Process {
    pub(crate) fn new(world: &Arc<World>, number: usize) -> Arc<Self> {
        Arc::new(Self { world: Arc::clone(world), number, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lock().life.as_ref().is_some_and(|life| life.running.is_some())
    }

    /// Its link in this life.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.lock().life.as_ref().map(|life| Arc::clone(&life.link))
    }

    /// What it holds now, of all subscriptions.
    pub(crate) fn in_flight(&self) -> usize {
        let control = self.lock().life.as_ref().map(|life| life.control.clone());
        control.map_or(0, |control| control.in_flight())
    }

    /// Why it is not well, if it is not.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let control = self.lock().life.as_ref().map(|life| life.control.clone());
        let health = control.map(|control| control.health());
        let ill = health.into_iter().flat_map(|health| health.subscriptions).filter(|s| !s.ready || !s.live);
        ill.map(|s| format!("{} of {}: {}", s.group.unwrap_or_default(), s.topic, s.why.join("; "))).collect()
    }

    pub(crate) fn totals(&self) -> BTreeMap<&'static str, Totals> {
        self.lock().totals.clone()
    }

    pub(crate) fn unclean(&self) -> Vec<String> {
        self.lock().unclean.clone()
    }

    /// Starts it, again and again until it can.
    pub(crate) async fn start(&self) {
        loop {
            match self.try_start().await {
                Ok(()) => return,
                Err(error) => {
                    self.world
                        .trace
                        .add(format_args!("{} does not start: {error}", self.world.name(self.number)));
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn try_start(&self) -> Result<()> {
        let world = &self.world;
        let lives = {
            let mut state = self.lock();
            state.lives += 1;
            state.lives
        };
        let wire = Wire {
            world: Arc::clone(world),
            link: world.connect(),
            name: world.name(self.number),
            members: Arc::default(),
        };
        let seed = world.plan.seed ^ (lives << 32) ^ ((self.number as u64) << 56);
        let running = self.scheduler(&wire, seed).start().await;
        let running = match running {
            Ok(running) => running,
            Err(error) => {
                // What was opened is closed by being dropped; the broker hears of it.
                wire.link.kill();
                kill_members(world, &wire.members);
                return Err(error);
            }
        };
        world.trace.add(format_args!("{} is up", wire.name));
        let control = running.control();
        let life = Life { running: Some(running), control, link: wire.link, members: wire.members };
        self.lock().life = Some(life);
        Ok(())
    }

    fn scheduler(&self, wire: &Wire, seed: u64) -> Scheduler {
        let world = &self.world;
        let registry = EventRegistry::new();
        let publisher =
            Publisher::new(wire.writer(world.broker.writer()), registry.clone()).with_clock(clock::now);
        let mut settings = Settings::default();
        settings.drain = DRAIN;
        settings.app = "sim".to_owned();
        settings.leases = LeaseRenewal::Task;
        settings.time = TimeSource::Given(clock::now);
        settings.seed = Some(seed);
        let mut scheduler = Scheduler::new(wire.reader(world.broker.reader()), registry)
            .with_publisher(publisher)
            .with_admin(world.broker.admin())
            .settings(settings);
        for (at, sub) in world.plan.subs.iter().enumerate() {
            let script = Script {
                world: Arc::clone(world),
                link: Arc::clone(&wire.link),
                process: self.number,
                sub: at,
            };
            let store = Store {
                shelf: Arc::clone(&world.shelf),
                link: Arc::clone(&wire.link),
                in_transaction: sub.dedup == Dedup::Transaction,
            };
            // Once for single messages and once for batches: their types differ.
            macro_rules! subscribe {
                ($handler:expr, $batch:ident, $($more:tt)*) => {{
                    let mut subscription = $handler
                        .group(ByteString::from_static(sub.group))
                        .named(ByteString::from_static(sub.group))
                        .concurrency(sub.concurrency.min(sub.max_in_flight))
                        .workers(sub.workers)
                        .max_in_flight(sub.max_in_flight)
                        .retry(sub.retry.clone())
                        .park_after(sub.park_after)
                        .outage(sub.outage.clone())
                        .max_gap(sub.max_gap)
                        .dedup_lease(Duration::from_secs(120))
                        $($more)*;
                    if let Some(limit) = sub.timeout {
                        subscription = subscription.timeout(limit);
                    }
                    if sub.discards {
                        subscription = subscription.discard_failures();
                    }
                    if sub.dedup != Dedup::None {
                        subscription = subscription.deduplicate(store);
                    }
                    scheduler.subscribe_to(ByteString::from_static(sub.topic), subscription)
                }};
            }
            scheduler = match sub.batch {
                None => {
                    let one = move |message: Message, publisher: Publisher, hold: Hold| {
                        script.clone().handle(vec![message], publisher, hold)
                    };
                    subscribe!(one, none,)
                }
                Some((max, within)) => {
                    let many = move |messages: Batch<Message>, publisher: Publisher, hold: Hold| {
                        script.clone().handle(messages.into_vec(), publisher, hold)
                    };
                    subscribe!(many, some, .batch(max, within))
                }
            };
        }
        scheduler
    }

    /// Ends it in order. Gives back whether there was anything to end.
    pub(crate) async fn shut_down(&self, how: Shutdown) -> bool {
        let (running, control, link) = {
            let mut state = self.lock();
            let Some(life) = &mut state.life else { return false };
            let Some(running) = life.running.take() else { return false };
            (running, life.control.clone(), Arc::clone(&life.link))
        };
        let name = self.world.name(self.number);
        self.world.trace.add(format_args!("{name} shuts down: {how:?}"));
        if self.world.plan.is_stormy() {
            // It may not come to its end in time.
            self.world.fault("a shutdown");
        }
        let draining = self.world.activity.enter([Phase::Draining]);
        let report = match how {
            Shutdown::InOrder => running.shutdown().await,
            Shutdown::CutAfter(time) => {
                let (report, ()) = tokio::join!(running.shutdown(), async {
                    sleep(time).await;
                    self.world.fault("cut off");
                    control.abort();
                });
                report
            }
        };
        drop(draining);
        self.world.trace.add(format_args!("{name} is down, clean: {}", report.is_clean()));
        self.ended(&report, how, &link);
        true
    }

    fn ended(&self, report: &Report, how: Shutdown, link: &Link) {
        let died = link.is_dead();
        link.kill();
        let mut state = self.lock();
        if !died {
            add(&mut state.totals, &report.subscriptions, &self.world);
            if !report.is_clean() && how == Shutdown::InOrder && !self.world.is_disturbed() {
                state.unclean.push(format!("{report:?}"));
            }
        }
        let members = state.life.take().map(|life| life.members);
        drop(state);
        if let Some(members) = members {
            forget_members(&self.world, &members);
        }
    }

    /// It dies: what it knew is gone, and what it sent may have arrived. The broker hears of it later.
    pub(crate) fn die(&self) -> Option<impl Future<Output = ()> + use<>> {
        let (running, members) = {
            let mut state = self.lock();
            let life = state.life.as_mut()?;
            if life.link.is_dead() {
                return None;
            }
            life.link.kill();
            let running = life.running.take();
            let (control, members) = (life.control.clone(), Arc::clone(&life.members));
            add(&mut state.totals, &control.counts(), &self.world);
            if running.is_some() {
                state.life = None;
            }
            (running, members)
        };
        self.world.trace.add(format_args!("{} dies", self.world.name(self.number)));
        forget_members(&self.world, &members);
        drop(running);
        let world = Arc::clone(&self.world);
        Some(async move {
            // Sessions end after a while.
            sleep(Duration::from_millis(world.draw(|random| random.u64(0..20_000)))).await;
            world.trace.add(format_args!("the broker learns of a death"));
            kill_members(&world, &members);
        })
    }
}

fn kill_members(world: &World, members: &Mutex<Vec<(MemberId, u64)>>) {
    forget_members(world, members);
    let members: Vec<_> = members.lock().unwrap_or_else(PoisonError::into_inner).clone();
    members.iter().for_each(|(member, _)| world.control.kill(*member));
}

fn forget_members(world: &World, members: &Mutex<Vec<(MemberId, u64)>>) {
    let members: Vec<_> = members.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut book = world.book();
    members.iter().for_each(|(_, member)| book.forget(*member));
}

fn add(totals: &mut BTreeMap<&'static str, Totals>, reports: &[SubscriptionReport], world: &World) {
    for report in reports {
        let group = world.group(report.group.as_deref().unwrap_or_default());
        let total = totals.entry(group).or_default();
        total.handled += report.handled;
        total.failed += report.failed;
        total.dead_lettered += report.dead_lettered;
        total.discarded += report.discarded;
        total.emitted += report.emitted;
        // Not what came while its partition was asked back: that is nobody's fault.
        total.too_late += report.leases_lost + report.unknown;
    }
}
