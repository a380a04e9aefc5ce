//! The life of a world: waves of messages, what is broken during each, and the end, when all is mended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::admin::TopicSettings;
use millstream_core::{Admin as _, Settled, names};
use millstream_testkit::ledger::{Ending, Record, digest};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::aim::{Aim, doom};
use crate::fault::Fault;
use crate::judge::{End, Violation, judge};
use crate::phase::{Matrix, Phase};
use crate::plan::Plan;
use crate::process::{Process, Shutdown};
use crate::publish::publish;
use crate::trace::Keep;
use crate::world::World;

/// How a world came out.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Whether nothing was broken in it.
    pub calm: bool,
    /// The hash of all that happened, in order, with its time.
    pub hash: u64,
    /// All of that, if it was to be kept.
    pub lines: Vec<String>,
    /// What must not be.
    pub violations: Vec<Violation>,
    /// Messages that were confirmed to whoever published them.
    pub acked: u64,
    /// Runs of handlers.
    pub runs: u64,
    /// Faults.
    pub faults: u64,
    /// Messages that a fault explains were delivered twice.
    pub explained: u64,
    /// How much time passed in it.
    pub time: Duration,
    /// What struck when.
    pub matrix: Matrix,
}

/// Runs a world from its beginning to its end.
///
/// # Panics
/// If the runtime cannot be made.
#[must_use]
pub fn run(plan: Plan, keep: Keep) -> Outcome {
    // What draws from the thread's own generator draws the same in each run.
    fastrand::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing");
    runtime.block_on(live(plan, keep))
}

async fn live(plan: Plan, keep: Keep) -> Outcome {
    let begun = Instant::now();
    let world = World::new(plan, keep);
    for topic in world.plan.topics() {
        let made = world.broker.admin().ensure_topic(topic, TopicSettings::default()).await;
        made.expect("the simulated broker makes topics");
    }
    for sub in &world.plan.subs {
        let (group, topic) = (sub.group.into(), sub.topic.into());
        world.ledger.write(Record::Subscribed { group, topic, from_now: false });
    }
    let processes: Vec<_> = (0..world.plan.processes).map(|number| Process::new(&world, number)).collect();
    let aim = Aim { world: Arc::clone(&world), processes: processes.clone() };
    let dooming = tokio::spawn(doom(aim.clone()));
    let watching = tokio::spawn(watch(Arc::clone(&world), processes.clone()));
    for process in &processes {
        process.start().await;
    }
    let mut end = End::default();
    for wave in 0..world.plan.waves.len() {
        end.stuck = Box::pin(ride(&aim, wave)).await;
        if end.stuck.is_some() {
            break;
        }
    }
    // All is well from here on: who died is up again, and everybody starts once more.
    let last_start = Instant::now();
    world.trace.add(format_args!("all is well"));
    if end.stuck.is_none() {
        for process in &processes {
            until_up(process).await;
            process.shut_down(Shutdown::InOrder).await;
            process.start().await;
        }
        end.stuck = drained(&world, &processes).await;
    }
    if end.stuck.is_none() {
        // Whatever is asked once in a while has been asked by then.
        sleep(Duration::from_secs(60)).await;
        end.complaints = processes.iter().flat_map(|process| process.complaints()).collect();
        for process in &processes {
            process.shut_down(Shutdown::InOrder).await;
        }
        // Those of the dead are left to their leases; in calm nobody dies.
        let since = if world.plan.is_stormy() { last_start } else { begun };
        end.reservations = world.shelf.reserved_since(since);
        settle_doubts(&world);
    }
    dooming.abort();
    watching.abort();
    end.over_limit = watching_said(&world);
    world.clear_graveyard();
    let (violations, explained) = judge(&world, &processes, end);
    for violation in &violations {
        world.trace.add(format_args!("VIOLATION {violation}"));
    }
    let (hash, lines) = world.trace.finish();
    let acked = world.book().acked.len() as u64;
    let runs = world.book().runs;
    Outcome {
        seed: world.plan.seed,
        calm: !world.plan.is_stormy(),
        hash,
        lines,
        violations,
        acked,
        runs,
        faults: world.faults(),
        explained,
        time: begun.elapsed(),
        matrix: world.matrix(),
    }
}

/// Publishes a wave, breaks what is to be broken during it, and waits until all is handled.
async fn ride(aim: &Aim, wave: usize) -> Option<String> {
    let world = &aim.world;
    world.trace.add(format_args!("wave {wave} begins"));
    let mut tasks = JoinSet::new();
    let (idle, busy): (Vec<_>, Vec<_>) =
        world.plan.waves[wave].faults.iter().copied().partition(|(_, phase)| *phase == Phase::Idle);
    if !idle.is_empty() {
        // At the beginning of a wave nothing goes on: what strikes now shows when messages come.
        let resting = world.activity.enter([Phase::Idle]);
        for (fault, _) in idle {
            strike(aim, fault, &mut tasks);
        }
        sleep(Duration::from_millis(1)).await;
        drop(resting);
    }
    for publisher in 0..world.plan.publishers {
        tasks.spawn(publish(Arc::clone(world), publisher, wave));
    }
    for (fault, phase) in busy {
        sleep(Duration::from_millis(world.draw(|random| random.u64(0..3_000)))).await;
        if phase == Phase::Draining {
            let process =
                Arc::clone(&aim.processes[world.draw(|random| random.usize(..aim.processes.len()))]);
            tasks.spawn(restart(process));
        }
        // If it does not come to that, it strikes all the same, and is counted where it does.
        let _ = timeout(Duration::from_secs(20), world.activity.reached(phase)).await;
        strike(aim, fault, &mut tasks);
        // Let it begin before the next is aimed.
        tokio::task::yield_now().await;
    }
    if !world.plan.is_stormy() {
        // Processes come and go in order.
        for process in &aim.processes {
            sleep(Duration::from_secs(world.draw(|random| random.u64(1..10)))).await;
            if world.draw(fastrand::Rng::bool) {
                tasks.spawn(restart(Arc::clone(process)));
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            return Some(format!("a task of the simulation broke: {error}"));
        }
    }
    drained(world, &aim.processes).await
}

fn strike(aim: &Aim, fault: Fault, tasks: &mut JoinSet<()>) {
    let aim = aim.clone();
    tasks.spawn(async move { aim.strike(fault).await });
}

async fn restart(process: Arc<Process>) {
    if process.shut_down(Shutdown::InOrder).await {
        process.start().await;
    }
}

async fn until_up(process: &Process) {
    while !process.is_up() {
        sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until every group has settled everything; says what is left if that takes too long.
async fn drained(world: &World, processes: &[Arc<Process>]) -> Option<String> {
    let (begun, patience) = (Instant::now(), world.plan.patience);
    let mut restarted = false;
    loop {
        let left = left(world);
        if left.is_empty() && processes.iter().all(|process| process.is_up()) {
            world.trace.add(format_args!("all is handled"));
            return None;
        }
        if begun.elapsed() > patience {
            return Some(format!("not handled within {patience:?}: {}", left.join(", ")));
        }
        // A commit that was lost at the very end of a log is made good by whoever reads next.
        let at_rest = processes.iter().all(|process| process.is_up() && process.in_flight() == 0);
        if world.plan.is_stormy() && at_rest && begun.elapsed() > patience / 2 && !restarted {
            restarted = true;
            for process in processes {
                process.shut_down(Shutdown::InOrder).await;
                process.start().await;
            }
        }
        sleep(Duration::from_millis(250)).await;
    }
}

fn left(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for sub in &world.plan.subs {
        let park = format!("{}.{}.park", sub.topic, sub.group);
        for topic in [sub.topic, &park] {
            let lag = world.control.lag(topic, world.broker_group(sub.group));
            if lag > 0 {
                left.push(format!("{lag} of {topic} for {}", sub.group));
            }
        }
    }
    left
}

/// What was acknowledged or buried with an answer that got lost: the broker says by now what became of it.
fn settle_doubts(world: &World) {
    let doubts = std::mem::take(&mut world.book().in_doubt);
    let letters = world.plan.topics().into_iter().flat_map(|topic| world.control.dead_letters(topic));
    let buried: BTreeMap<(String, ByteString), u64> = letters
        .map(|letter| {
            let group = letter.headers.get_str(names::DL_GROUP).unwrap_or_default().to_owned();
            ((group, letter.id.clone()), digest(&letter))
        })
        .collect();
    for (group, id) in doubts {
        if let Some(digest) = buried.get(&(group.to_owned(), id.clone())) {
            let letter = Record::DeadLettered { id: id.clone(), group: group.into(), digest: *digest };
            world.ledger.write(letter);
        } else if !world.book().finished.contains(&(group, id.clone())) {
            continue;
        }
        world.ledger.write(Record::settled(id, group, Ending::Ack, &Settled::Done));
    }
}

/// Looks at what processes hold, again and again.
async fn watch(world: Arc<World>, processes: Vec<Arc<Process>>) {
    let limit: usize = world.plan.subs.iter().map(|sub| sub.max_in_flight + sub.max_in_flight / 2).sum();
    loop {
        for process in &processes {
            let held = process.in_flight();
            if held > limit {
                world.book().over_limit = Some((held, limit));
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn watching_said(world: &World) -> Vec<String> {
    let over = world.book().over_limit;
    over.map(|(held, limit)| format!("a process held {held} messages, {limit} are its limit"))
        .into_iter()
        .collect()
}
