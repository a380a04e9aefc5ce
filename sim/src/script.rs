//! What handlers do: with most messages nothing special, with some what goes wrong in practice. The message and the
//! seed decide, not chance, so that it is known in the end what ought to have come of each.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use millstream::context::Held;
use millstream::{Context, Failure, FromContext, Outcome, Publisher};
use millstream_core::{Effect, Message};
use millstream_testkit::ledger::Record;
use millstream_testkit::sim::SimEffect;
use tokio::time::sleep;

use crate::fault::Fault;
use crate::link::Link;
use crate::phase::{Active, Phase};
use crate::plan::{BILLS, Dedup, Plan, Sub};
use crate::world::World;

/// How a message meets a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Its first so many runs fail.
    Flaky(u32),
    /// Its first so many runs find something unavailable.
    Waiting(u32),
    /// Its first run queues an effect that fails.
    Undone,
    /// Nothing can be done with it.
    Poison,
    /// It is to be dropped.
    Unwanted,
    /// It takes long.
    Slow(Duration),
    /// It kills the process that runs it.
    Killer,
}

/// The id of the message that kills.
pub(crate) const KILLER: &str = "killer";

impl Kind {
    pub(crate) fn of(plan: &Plan, group: &str, id: &str) -> Self {
        if id == KILLER {
            return Self::Killer;
        }
        let mut hash = DefaultHasher::new();
        (plan.seed, group, id).hash(&mut hash);
        let hash = hash.finish();
        let (mut place, detail) = (hash % 1_000, hash / 1_000);
        for (share, kind) in [
            (plan.mix.flaky, Self::Flaky(1 + (detail % 3) as u32)),
            (plan.mix.flaky / 8, Self::Waiting(1 + (detail % 2) as u32)),
            (plan.mix.flaky / 8, Self::Undone),
            (plan.mix.poison, Self::Poison),
            (plan.mix.discard, Self::Unwanted),
            (plan.mix.slow, Self::Slow(Duration::from_millis(500 + detail % 4_000))),
        ] {
            if place < share {
                return kind;
            }
            place -= share;
        }
        Self::Plain
    }
}

/// What a handler may leave with its success.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Held>);

impl<S> FromContext<S> for Hold {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self(Arc::clone(context.held())))
    }
}

/// The handler of a subscription in one life of a process.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) world: Arc<World>,
    pub(crate) link: Arc<Link>,
    pub(crate) process: usize,
    pub(crate) sub: usize,
}

/// A message being run. Dropped before its end, it was cut off.
struct Run<'a> {
    script: &'a Script,
    message: &'a Message,
    number: u64,
    emitted: Option<String>,
    ended: bool,
    _active: Active,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    /// An attempt is used.
    Badly,
    /// None is.
    Excused,
    Hopeless,
    Unwanted,
    /// It was dropped: by a crash, a lost partition, a timeout.
    CutOff,
}

impl Script {
    fn sub(&self) -> &Sub {
        &self.world.plan.subs[self.sub]
    }

    /// Handles one message or a batch.
    pub(crate) async fn handle(self, messages: Vec<Message>, publisher: Publisher, hold: Hold) -> Outcome {
        let mut runs: Vec<Run<'_>> = messages.iter().map(|message| self.begin(message)).collect();
        let outcome = self.work(&mut runs, &publisher, &hold).await;
        let ended = match &outcome {
            Ok(()) => Ended::Well,
            Err(failure) => match failure.kind() {
                millstream::FailureKind::Unavailable => Ended::Excused,
                millstream::FailureKind::Unrecoverable => Ended::Hopeless,
                millstream::FailureKind::Discard => Ended::Unwanted,
                _ => Ended::Badly,
            },
        };
        // A failed batch gives its messages back: what it is blamed on is told of the single ones.
        let ended = if runs.len() > 1 && ended != Ended::Well { Ended::Excused } else { ended };
        runs.iter_mut().for_each(|run| run.end(ended));
        outcome
    }

    async fn work(&self, runs: &mut [Run<'_>], publisher: &Publisher, hold: &Hold) -> Outcome {
        let world = &self.world;
        let usual = world.draw(|random| random.u64(0..=world.plan.latency.min(3_000)));
        if usual > 0 {
            sleep(Duration::from_micros(usual)).await;
        }
        for run in runs {
            self.work_one(run, publisher, hold).await?;
        }
        if self.link.is_dead() {
            // What the dead do must not show.
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn work_one(&self, run: &mut Run<'_>, publisher: &Publisher, hold: &Hold) -> Outcome {
        let (world, sub, message) = (&self.world, self.sub(), run.message);
        let runs = world.book().fates.get(&(sub.group, message.id.clone())).map_or(1, |fate| fate.runs);
        let kind = Kind::of(&world.plan, sub.group, &message.id);
        match kind {
            Kind::Flaky(times) if runs <= times => return Err(Failure::retry("not yet")),
            Kind::Waiting(times) if runs <= times => return Err(Failure::unavailable("not there yet")),
            Kind::Poison => return Err(Failure::unrecoverable("poison")),
            Kind::Unwanted => return Err(Failure::discard("unwanted")),
            Kind::Slow(time) => sleep(time).await,
            Kind::Killer => {
                world.kills(self.process, &self.link);
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        if world.mood_strikes(Fault::HandlerSlow) {
            sleep(Duration::from_secs(world.draw(|random| random.u64(1..40)))).await;
        }
        if world.mood_strikes(Fault::HandlerPanics) {
            // Past the panic hook: it is meant, and need not be printed.
            std::panic::resume_unwind(Box::new("a handler panics on purpose"));
        }
        if world.mood_strikes(Fault::HandlerFails) || world.mood_strikes(Fault::ParkDown) {
            return Err(Failure::retry("fails for a while"));
        }
        if world.mood_strikes(Fault::HandlerUnavailable) {
            return Err(Failure::unavailable("away for a while"));
        }
        if world.mood_strikes(Fault::DeadLettersDown) {
            return Err(Failure::unrecoverable("hopeless for a while"));
        }
        if sub.emits {
            let id = format!("{}-bill-{}", message.id, run.number);
            let mut bill = Message::new(BILLS, message.data.clone().unwrap_or_default());
            bill = bill.with_id(id.clone()).with_header("n", "1");
            bill.key.clone_from(&message.key);
            world.intends(&bill, message);
            run.emitted = Some(id);
            publisher.publish_message(bill).await?;
        }
        if sub.dedup == Dedup::Transaction {
            let name = effect_name(sub.group, &message.id);
            let effect = if kind == Kind::Undone && runs == 1 {
                SimEffect::failing(name)
            } else {
                SimEffect::new(name)
            };
            hold.0.effect(Effect::new(effect))?;
        }
        Ok(())
    }

    fn begin<'a>(&'a self, message: &'a Message) -> Run<'a> {
        let number = self.world.begins(self.process, self.sub(), message, &self.link);
        Run {
            script: self,
            message,
            number,
            emitted: None,
            ended: false,
            _active: self.world.activity.enter([Phase::Running]),
        }
    }
}

/// How an effect is called that a handler leaves to the broker's transaction.
pub(crate) fn effect_name(group: &str, id: &str) -> String {
    format!("effect|{group}|{id}")
}

impl Run<'_> {
    fn end(&mut self, ended: Ended) {
        self.ended = true;
        let (world, sub, id) = (&self.script.world, self.script.sub(), &self.message.id);
        world.trace.add(format_args!(
            "{} ends {id} in {}, run {}: {ended:?}",
            world.name(self.script.process),
            sub.group,
            self.number
        ));
        if ended != Ended::Well
            && let Some(id) = self.emitted.take()
        {
            world.ledger.write(Record::RolledBack { id: id.into() });
        }
        let case = (sub.group, id.clone());
        let mut book = world.book();
        let fate = book.fates.entry(case.clone()).or_default();
        fate.running -= 1;
        match ended {
            Ended::Well => *book.handled.entry(sub.group).or_default() += 1,
            Ended::Badly | Ended::Hopeless => {
                fate.failed += 1;
                fate.hopeless |= ended == Ended::Hopeless;
                let exhausted = fate.failed >= sub.retry.max_attempts();
                if sub.discards && (exhausted || ended == Ended::Hopeless) {
                    *book.discarded.entry(sub.group).or_default() += 1;
                    book.finished.insert(case.clone());
                    world.ledger.write(Record::Discarded { id: case.1.clone(), group: sub.group.into() });
                }
                *book.failed.entry(sub.group).or_default() += 1;
            }
            Ended::Unwanted => {
                *book.discarded.entry(sub.group).or_default() += 1;
                *book.failed.entry(sub.group).or_default() += 1;
                book.finished.insert(case.clone());
                world.ledger.write(Record::Discarded { id: case.1.clone(), group: sub.group.into() });
            }
            // A panic or a timeout, which use an attempt, or the end of the process.
            Ended::CutOff => fate.failed += 1,
            Ended::Excused => {}
        }
        let transaction = sub.dedup == Dedup::Transaction;
        if ended == Ended::Well && !transaction {
            book.finished.insert(case.clone());
        }
        drop(book);
        match ended {
            // Its effect happens when the broker commits it.
            Ended::Well if transaction => {}
            Ended::Well => world.ledger.write(Record::Effect { id: case.1, group: sub.group.into() }),
            _ => world.given_back(&case),
        }
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Ended::CutOff);
        }
    }
}
