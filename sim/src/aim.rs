//! Breaking things: each fault, how it is brought about, how long it lasts, and how it is seen that it struck.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::ErrorKind;
use millstream_testkit::sim::{FaultId, Injury, Operation, Trigger};
use tokio::time::sleep;

use crate::clock;
use crate::fault::Fault;
use crate::link::{Cut, Link};
use crate::phase::Phase;
use crate::plan::BILLS;
use crate::process::{Process, Shutdown};
use crate::store::Down;
use crate::world::World;

/// What breaks a world.
#[derive(Debug, Clone)]
pub(crate) struct Aim {
    pub(crate) world: Arc<World>,
    pub(crate) processes: Vec<Arc<Process>>,
}

/// How it is seen that a fault struck.
enum Sign {
    /// It did, at once.
    Struck,
    Broker(Vec<FaultId>),
    Mood(Fault, u64),
    Store(u64),
    Links(Vec<Arc<Link>>),
}

impl Aim {
    /// Breaks something now, and mends it after a while; counts it if it struck. Runs to the mending's end.
    pub(crate) async fn strike(&self, fault: Fault) {
        let world = &self.world;
        let phases = world.activity.all();
        let lasts = Duration::from_millis(world.draw(|random| random.u64(500..45_000)));
        world.disturbed_from_now();
        world.fault(fault.name());
        match self.begin(fault, lasts).await {
            None => {
                world.trace.add(format_args!("nothing is there for {fault}"));
                world.disturbed_until_now();
            }
            Some(sign) => {
                if self.end(fault, sign, lasts).await {
                    world.hit(fault, &phases);
                }
                world.trace.add(format_args!("MENDED {fault}"));
                world.disturbed_until_now();
            }
        }
    }

    /// Some process that is up, and else some other.
    fn some_process(&self) -> &Arc<Process> {
        let first = self.world.draw(|random| random.usize(..self.processes.len()));
        let count = self.processes.len();
        let mut from_there = (0..count).map(|i| &self.processes[(first + i) % count]);
        from_there.find(|process| process.is_up()).unwrap_or(&self.processes[first])
    }

    /// The process that shuts down, if one does: a fault at that time concerns it.
    fn victim(&self) -> &Arc<Process> {
        if self.world.activity.is(Phase::Draining)
            && let Some(process) = self.processes.iter().find(|p| !p.is_up() && p.link().is_some())
        {
            return process;
        }
        self.some_process()
    }

    fn inject(&self, operation: Operation, trigger: Trigger, injury: Injury) -> FaultId {
        self.world.control.inject(operation, trigger, injury)
    }

    fn few(&self) -> Trigger {
        Trigger::next(self.world.draw(|random| random.u64(1..4)))
    }

    async fn begin(&self, fault: Fault, lasts: Duration) -> Option<Sign> {
        let world = &self.world;
        let unavailable = Injury::Fail(ErrorKind::Unavailable);
        let broker = |id: FaultId| Some(Sign::Broker(vec![id]));
        match fault {
            Fault::Crash => self.crash(self.victim(), Refused::No).await,
            Fault::CrashThenRefused => self.crash(self.victim(), Refused::AtFirst).await,
            Fault::Abort => {
                let process = self.some_process();
                let after = Duration::from_millis(world.draw(|random| random.u64(0..300)));
                if process.shut_down(Shutdown::CutAfter(after)).await {
                    process.start().await;
                    return Some(Sign::Struck);
                }
                None
            }
            Fault::Partition => {
                let link = self.victim().link()?;
                link.cut(self.some_cut());
                self.sessions_end_after(lasts).await;
                Some(Sign::Links(vec![link]))
            }
            Fault::BrokerUnreachable => {
                let links = world.links();
                let cut = self.some_cut();
                links.iter().for_each(|link| link.cut(cut));
                self.sessions_end_after(lasts).await;
                Some(Sign::Links(links))
            }
            Fault::Delay => {
                let links = world.links();
                let by = Duration::from_millis(world.draw(|random| random.u64(50..4_000)));
                links.iter().for_each(|link| link.slow(by));
                Some(Sign::Links(links))
            }
            Fault::WriteLost => broker(self.inject(Operation::Write, self.few(), Injury::Unknown)),
            Fault::WriteAnswerLost => broker(self.inject(Operation::Write, self.few(), Injury::AnswerLost)),
            Fault::WriteFails => broker(self.inject(Operation::Write, self.few(), unavailable)),
            Fault::TornBatch => {
                let torn = if world.draw(fastrand::Rng::bool) { unavailable } else { Injury::Unknown };
                broker(self.inject(Operation::Write, Trigger::every(2), torn))
            }
            Fault::SettleLost => broker(self.inject(Operation::Settle, self.few(), Injury::Unknown)),
            Fault::SettleAnswerLost => broker(self.inject(Operation::Settle, self.few(), Injury::AnswerLost)),
            Fault::SettleFails => broker(self.inject(Operation::Settle, Trigger::always(), unavailable)),
            Fault::ReadFails => broker(self.inject(Operation::Read, self.few(), unavailable)),
            Fault::ExtendFails => broker(self.inject(Operation::Extend, Trigger::always(), unavailable)),
            Fault::MarkFails => {
                let id = self.inject(Operation::Mark, self.few(), unavailable);
                // Marks are made when partitions move.
                self.each_group(|topic, group| world.control.rebalance(topic, group));
                broker(id)
            }
            Fault::ReadsCut
            | Fault::HandlerPanics
            | Fault::HandlerSlow
            | Fault::HandlerFails
            | Fault::HandlerUnavailable => self.mood(fault),
            Fault::LeasesLost => {
                self.each_group(|topic, group| world.control.expire_leases(topic, world.broker_group(group)));
                Some(Sign::Struck)
            }
            Fault::Rebalance => {
                self.each_group(|topic, group| world.control.rebalance(topic, group));
                Some(Sign::Struck)
            }
            Fault::ShortRevocation => {
                let within = Duration::from_millis(world.draw(|random| random.u64(0..50)));
                self.each_group(|topic, group| world.control.revoke(topic, group, None, within));
                sleep(within).await;
                world.fault("revocation is over");
                Some(Sign::Struck)
            }
            Fault::PartitionsLost => {
                self.each_group(|topic, group| world.control.lose(topic, group, None));
                Some(Sign::Struck)
            }
            Fault::ClockForward | Fault::ClockBack => {
                let by = world.draw(|random| random.i64(60..7_200));
                clock::jump(if fault == Fault::ClockBack { -by } else { by });
                Some(Sign::Struck)
            }
            Fault::StoreDown => {
                world.shelf.set_down(Down::Yes);
                Some(Sign::Store(world.shelf.struck()))
            }
            Fault::DeadLettersDown => {
                self.mood(fault);
                let down = world.plan.subs.iter().map(|sub| sub.topic).map(|topic| format!("{topic}.dlq"));
                Some(Sign::Broker(down.map(|topic| world.control.take_down(&topic)).collect()))
            }
            Fault::ParkDown => {
                self.mood(fault);
                let down = world.plan.subs.iter().map(|sub| format!("{}.{}.park", sub.topic, sub.group));
                Some(Sign::Broker(down.map(|topic| world.control.take_down(&topic)).collect()))
            }
            Fault::EmitDown => broker(world.control.take_down(BILLS)),
        }
    }

    /// Waits until it is over; says whether it struck.
    async fn end(&self, fault: Fault, sign: Sign, lasts: Duration) -> bool {
        let world = &self.world;
        match sign {
            Sign::Struck => true,
            Sign::Links(links) => {
                sleep(lasts).await;
                links.iter().for_each(|link| link.heal());
                world.fault("healed");
                !links.is_empty()
            }
            Sign::Mood(mood, before) => {
                self.until(lasts, || world.mood_struck(mood) > before).await;
                world.mood_ends(mood);
                world.mood_struck(mood) > before
            }
            Sign::Store(before) => {
                self.until(lasts, || world.shelf.struck() > before).await;
                world.shelf.set_down(Down::No);
                world.shelf.struck() > before
            }
            Sign::Broker(ids) => {
                let struck = || ids.iter().any(|id| world.control.struck(*id) > 0);
                self.until(lasts, struck).await;
                let struck = struck();
                ids.iter().for_each(|id| world.control.heal(*id));
                if matches!(fault, Fault::DeadLettersDown | Fault::ParkDown) {
                    world.mood_ends(fault);
                }
                struck
            }
        }
    }

    /// At least so long, and on until it has struck, but not for ever.
    async fn until(&self, lasts: Duration, struck: impl Fn() -> bool) {
        sleep(lasts).await;
        for _ in 0..120 {
            if struck() {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn mood(&self, fault: Fault) -> Option<Sign> {
        let before = self.world.mood_struck(fault);
        self.world.mood_begins(fault);
        Some(Sign::Mood(fault, before))
    }

    fn some_cut(&self) -> Cut {
        if self.world.draw(|random| random.u8(..4)) == 0 { Cut::Refused } else { Cut::Silent }
    }

    fn each_group(&self, each: impl Fn(&str, &'static str)) {
        self.world.plan.subs.iter().for_each(|sub| each(sub.topic, sub.group));
    }

    /// A broker that does not hear members for long takes what they have for its own.
    async fn sessions_end_after(&self, lasts: Duration) {
        const SESSION: Duration = Duration::from_secs(12);
        if lasts <= SESSION || self.world.plan.is_queue() {
            return;
        }
        sleep(SESSION).await;
        self.world.fault("sessions end");
        self.each_group(|topic, group| {
            self.world.control.lose(topic, group, None);
            self.world.control.expire_leases(topic, group);
        });
    }

    async fn crash(&self, process: &Arc<Process>, refused: Refused) -> Option<Sign> {
        let world = &self.world;
        let learnt = process.die()?;
        let gone = process.link().is_none();
        tokio::spawn(learnt);
        let down = Duration::from_millis(world.draw(|random| random.u64(10..20_000)));
        sleep(down).await;
        let mut ids = Vec::new();
        if refused == Refused::AtFirst {
            ids.push(self.inject(Operation::Open, self.few(), Injury::Fail(ErrorKind::Unavailable)));
        }
        // One that died in its shutdown is started by whoever shut it down.
        if gone {
            process.start().await;
        }
        if ids.is_empty() { Some(Sign::Struck) } else { Some(Sign::Broker(ids)) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    No,
    AtFirst,
}

/// Lets die whoever runs a message that kills, and starts it again.
pub(crate) async fn doom(aim: Aim) {
    loop {
        aim.world.doom.notified().await;
        for (number, link) in aim.world.doomed() {
            let process = &aim.processes[number];
            let same = process.link().is_some_and(|now| Arc::ptr_eq(&now, &link));
            if !same || link.is_dead() {
                continue;
            }
            aim.world.fault("a message kills its process");
            if let Some(learnt) = process.die() {
                let gone = process.link().is_none();
                learnt.await;
                if gone {
                    process.start().await;
                }
            }
        }
    }
}
