//! What must hold of a world when it is over: the ledger's invariants, and what broker, stores and schedulers say.

use std::collections::BTreeMap;
use std::fmt;

use millstream_testkit::invariants::{Invariant, Promised, Rules, check};

use crate::plan::{Dedup, Plan};
use crate::process::{Process, Totals};
use crate::script::{KILLER, Kind};
use crate::world::World;

/// What is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Check {
    /// Every confirmed message ends in every group.
    NoLoss,
    /// Only what was meant to be published is delivered: nothing of a failed attempt.
    NoGhost,
    /// Duplicates are explained; in calm there is none.
    Duplicates,
    /// A key's first effects are in order.
    Order,
    /// With deduplication each effect happens once: always in a transaction, else in calm.
    SingleEffect,
    /// What arrives is what was sent.
    Bytes,
    /// Nothing is acknowledged before its end is confirmed.
    EarlyAck,
    /// No message runs twice at once in calm.
    Exclusive,
    /// Everything is handled soon after all is well.
    Liveness,
    /// Nothing is left: no reservation, nothing parked, nothing in flight.
    Leaks,
    /// Dead letters that were confirmed are there, and none came about without a reason.
    Letters,
    /// Each outcome is counted once.
    Counts,
    /// Limits are kept.
    Bounds,
    /// In calm nothing is settled too late.
    TooLate,
    /// Whoever is well says so, and ends cleanly.
    Health,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which.
    pub check: Check,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}

/// How a world ended, beside what is written down.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// What was not handled in time, if anything.
    pub(crate) stuck: Option<String>,
    /// The most that a process held, and may hold.
    pub(crate) over_limit: Vec<String>,
    /// Reservations of processes that were alive, left at the end.
    pub(crate) reservations: usize,
    /// What processes complained about while all was well.
    pub(crate) complaints: Vec<String>,
}

/// Violations, and how many distinct messages were delivered twice with an explanation.
pub(crate) fn judge(world: &World, processes: &[std::sync::Arc<Process>], end: End) -> (Vec<Violation>, u64) {
    let mut found = Findings::default();
    let explained = ledger(world, &mut found);
    single_effects(world, &mut found);
    letters(world, &mut found);
    if let Some(stuck) = end.stuck {
        found.add(Check::Liveness, stuck);
    } else {
        leaks(world, end.reservations, &mut found);
        counts(world, processes, &mut found);
        end.complaints.into_iter().for_each(|complaint| found.add(Check::Health, complaint));
        for process in processes {
            process.unclean().into_iter().for_each(|report| found.add(Check::Health, report));
        }
    }
    end.over_limit.into_iter().for_each(|what| found.add(Check::Bounds, what));
    let breaches = std::mem::take(&mut world.book().breaches);
    for breach in breaches {
        let early = breach.contains("acknowledged");
        found.add(if early { Check::EarlyAck } else { Check::Exclusive }, breach);
    }
    (found.all, explained)
}

#[derive(Debug, Default)]
struct Findings {
    all: Vec<Violation>,
}

impl Findings {
    fn add(&mut self, check: Check, what: impl Into<String>) {
        self.all.push(Violation { check, what: what.into() });
    }
}

fn ledger(world: &World, found: &mut Findings) -> u64 {
    let order = if world.plan.ordered() { Promised::PerKey } else { Promised::Nothing };
    let verdict = check(&world.ledger, Rules::default().effects_recorded().order(order));
    for violation in verdict.violations() {
        let check = match violation.invariant {
            Invariant::NoLoss => Check::NoLoss,
            Invariant::NoGhost => Check::NoGhost,
            Invariant::DuplicateBudget => Check::Duplicates,
            Invariant::Order => Check::Order,
            Invariant::Bytes => Check::Bytes,
            Invariant::SingleEffect => Check::SingleEffect,
            Invariant::CommitSafety => Check::EarlyAck,
            Invariant::Liveness => Check::Liveness,
            Invariant::Bounded => Check::Bounds,
        };
        found.add(check, violation.to_string());
    }
    let counts = verdict.counts();
    if !world.plan.is_stormy() && counts.duplicates > 0 {
        found.add(Check::Duplicates, format!("{} duplicates in calm", counts.duplicates));
    }
    counts.explained
}

/// Effects by group and id, of groups that deduplicate.
fn single_effects(world: &World, found: &mut Findings) {
    let mut effects: BTreeMap<(String, String), u64> = BTreeMap::new();
    for entry in world.ledger.entries() {
        if let millstream_testkit::ledger::Record::Effect { id, group } = entry.record {
            *effects.entry((group.to_string(), id.to_string())).or_default() += 1;
        }
    }
    for sub in &world.plan.subs {
        let promised = match sub.dedup {
            Dedup::None => false,
            // Between an effect and its confirmation there is a hole, which only a fault can hit.
            Dedup::Store => !world.plan.is_stormy(),
            Dedup::Transaction => true,
        };
        let twice =
            effects.iter().filter(|((group, _), count)| promised && group == sub.group && **count > 1);
        for ((group, id), count) in twice {
            found.add(Check::SingleEffect, format!("{count} effects of {id} in {group}"));
        }
    }
}

/// Dead letters: those confirmed are in the broker, and each had a reason.
fn letters(world: &World, found: &mut Findings) {
    let book = world.book();
    let confirmed: u64 = book.letters.values().sum();
    let stored: u64 = world
        .plan
        .topics()
        .iter()
        .map(|topic| {
            let beside = world.control.messages(&format!("{topic}.dlq")).len();
            (world.control.dead_letters(topic).len() + beside) as u64
        })
        .sum();
    if stored < confirmed || stored > confirmed + book.letters_in_doubt {
        let doubt = book.letters_in_doubt;
        let what =
            format!("{stored} dead letters are stored, {confirmed} were confirmed, {doubt} are in doubt");
        found.add(Check::Letters, what);
    }
    for case in book.letters.keys() {
        let fate = book.fates.get(case).cloned().unwrap_or_default();
        let kind = Kind::of(&world.plan, case.0, &case.1);
        let limit = world.plan.subs.iter().find(|s| s.group == case.0).map_or(0, |s| s.retry.max_attempts());
        let deserved = fate.hopeless || kind == Kind::Poison || kind == Kind::Killer || fate.failed >= limit;
        // A message that kills takes its neighbours along, where deliveries are counted.
        if !deserved && !world.plan.mix.killer {
            let what = format!("{} is a dead letter of {} after {} failures", case.1, case.0, fate.failed);
            found.add(Check::Letters, what);
        }
    }
}

fn leaks(world: &World, reservations: usize, found: &mut Findings) {
    if reservations > 0 {
        found.add(Check::Leaks, format!("{reservations} reservations are left"));
    }
    for sub in &world.plan.subs {
        let group = world.broker_group(sub.group);
        let (flight, parked) =
            (world.control.in_flight(sub.topic, group), world.control.parked(sub.topic, group));
        if flight + parked > 0 {
            let what = format!("{}: {flight} are in flight and {parked} parked at the end", sub.group);
            found.add(Check::Leaks, what);
        }
    }
}

/// In calm every count of the schedulers is known from what handlers did.
fn counts(world: &World, processes: &[std::sync::Arc<Process>], found: &mut Findings) {
    if world.plan.is_stormy() {
        return;
    }
    let mut totals: BTreeMap<&'static str, Totals> = BTreeMap::new();
    for (group, of_process) in processes.iter().flat_map(|process| process.totals()) {
        let total = totals.entry(group).or_default();
        total.handled += of_process.handled;
        total.failed += of_process.failed;
        total.dead_lettered += of_process.dead_lettered;
        total.discarded += of_process.discarded;
        total.emitted += of_process.emitted;
        total.too_late += of_process.too_late;
    }
    let book = world.book();
    for (group, total) in totals {
        let letters: u64 = book.letters.iter().filter(|(case, _)| case.0 == group).map(|(_, n)| n).sum();
        let get = |counts: &BTreeMap<&'static str, u64>| counts.get(group).copied().unwrap_or(0);
        // An effect that was undone was a success at first, and is a failure in the end.
        let undone = undone(&world.plan, &book, group);
        let singles = world.plan.subs.iter().any(|sub| sub.group == group && sub.batch.is_none());
        let pairs = [
            ("handled", total.handled, get(&book.handled) - undone, singles),
            (
                "failed",
                total.failed,
                get(&book.failed) + excused(&world.plan, &book, group) + undone,
                singles,
            ),
            ("dead-lettered", total.dead_lettered, letters, true),
            ("discarded", total.discarded, get(&book.discarded), true),
        ];
        for (name, counted, seen, applies) in pairs {
            if applies && counted != seen {
                found.add(Check::Counts, format!("{group}: {counted} {name} were counted, and {seen} seen"));
            }
        }
        if total.too_late > 0 {
            found.add(Check::TooLate, format!("{group}: {} were settled too late", total.too_late));
        }
    }
    if book.too_late > 0 {
        found.add(Check::TooLate, format!("{} settlements had another outcome than done", book.too_late));
    }
}

fn undone(plan: &Plan, book: &crate::book::Book, group: &str) -> u64 {
    let transaction = plan.subs.iter().any(|sub| sub.group == group && sub.dedup == Dedup::Transaction);
    let cases = book.fates.keys().filter(|case| transaction && case.0 == group);
    cases.filter(|case| Kind::of(plan, group, &case.1) == Kind::Undone).count() as u64
}

/// Runs that found something unavailable: failures that use no attempt.
fn excused(plan: &Plan, book: &crate::book::Book, group: &str) -> u64 {
    let cases = book.fates.iter().filter(|(case, _)| case.0 == group && case.1 != KILLER);
    let excused = cases.map(|(case, fate)| match Kind::of(plan, group, &case.1) {
        Kind::Waiting(times) => u64::from(times.min(fate.runs)),
        _ => 0,
    });
    excused.sum()
}
