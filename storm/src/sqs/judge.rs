//! Holds what the workers wrote down against what is left in the queues, and against the dead letters.
//!
//! The test kit's invariants judge the whole story: nothing lost, no ghosts, bytes, and on FIFO queues the order of first
//! effects per key. What they cannot know is judged here: who may be delivered what twice, and what follows.
//!
//! A message is in its queue as often as it was written, and it may have been written once more for each write of which
//! nobody knows whether it happened. Beyond that, what was delivered comes again only if it was given back, or if something
//! happened to one of the two that had it: it was killed, its handlers were cut off, it stood still for so long that its
//! lease may have ended, its connections were in trouble, or the server stood still. A worker that comes, or that leaves in
//! order, explains nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bytestring::ByteString;
use millstream_testkit::invariants::{self, Invariant, Promised, Rules};
use millstream_testkit::ledger::{Ending, Entry, Outcome, Record, digest};

use super::queues::{Dead, Deeds, Kind};
use super::worker::Sort;
use crate::Result;
use crate::crew::{Life, Span};
use crate::events::{self, AFTER, FOLLOWED, Fate, PLAIN, TOPIC};
use crate::report::Row;
use crate::stories::{self, Judgement, MILLI, Told, gather, overlaps, tell};

/// How long a client may wait for an answer, or for the end of a poll, until it takes a connection for dead.
const ANSWER_WITHIN: u64 = 10_000 * MILLI;

/// Judges.
pub(crate) fn judge(mut deeds: Deeds, dead: &[Dead], kind: Kind) -> Result<Judgement> {
    let told = gather(&mut deeds.lives)?;
    let blamed = Blamed::of(&told, &deeds, kind.lease);
    let facts = Facts::of(&told, dead);
    let entries = story(told, &blamed, &facts, dead);
    let order = if kind.sort == Sort::Fifo { Promised::PerKey } else { Promised::Nothing };
    let verdict = invariants::check_entries(&entries, Rules::default().order(order).effects_recorded());
    let mut problems = std::mem::take(&mut deeds.problems);
    if !verdict.is_ok() {
        problems.push(verdict.to_string());
    }
    let missing = facts.missing();
    let double = facts.double();
    tell(&mut problems, "duplicates nobody is to blame for", &blamed.unexplained);
    tell(&mut problems, "effects, events or dead letters missing", &missing);
    tell(&mut problems, "dead letters that should not be, or are there too often", &double);
    let counts = verdict.counts();
    let unexplained = (counts.duplicates - counts.explained).max(blamed.unexplained.len() as u64);
    let mut figures = blamed.figures();
    figures.extend(deeds.faults.iter().map(|(name, count)| (*name, *count)));
    figures.insert("drained_ms", deeds.drained_ms);
    figures.insert("started_again_without_server", deeds.tried_again);
    figures.insert("written_perhaps", facts.maybe.values().map(|n| u64::from(*n)).sum());
    let row = Row {
        faults: deeds.faults.values().sum(),
        messages: counts.intents,
        acknowledged: counts.acked,
        lost: verdict.of(Invariant::NoLoss),
        duplicates_explained: blamed.explained.len() as u64,
        duplicates_unexplained: unexplained,
        effects_double: double.len() as u64,
        effects_missing: missing.len() as u64,
        figures,
        detail: format!(
            "{} effects of {} messages, {} dead letters",
            counts.effects,
            facts.effects.len(),
            dead.len()
        ),
        problems,
        ..Row::default()
    };
    Ok(Judgement { row, entries })
}

// ---- Duplicates ----------------------------------------------------------------------------------------------

/// A message in a group.
type Place<'a> = (&'a str, &'a str);

/// What is known of a message in a group.
#[derive(Debug, Default)]
struct Known {
    deliveries: u32,
    /// Times it was given back, or came again for a reason.
    owed: u32,
    last: Option<(u64, usize)>,
}

/// Why something came again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Killed,
    Cut,
    StoodStill,
    Link,
    Server,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "again_after_kill",
            Self::Cut => "again_after_handlers_cut_off",
            Self::StoodStill => "again_after_stop",
            Self::Link => "again_after_trouble_with_connections",
            Self::Server => "again_after_server_stood_still",
        }
    }
}

/// Who is to blame for duplicates.
#[derive(Debug, Default)]
struct Blamed {
    /// The deliveries that something explains, by their place in the story.
    explained: HashSet<usize>,
    causes: BTreeMap<Cause, u64>,
    unexplained: Vec<String>,
    /// How long after a death what it had came again, in ms.
    after_kill: Vec<u64>,
}

impl Blamed {
    /// Goes through the deliveries.
    fn of(told: &[Told], deeds: &Deeds, lease: Duration) -> Self {
        let mut blamed = Self::default();
        let troubles = Troubles { deeds, lease: u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX) };
        let mut copies: HashMap<&str, u32> = HashMap::new();
        let mut known: HashMap<Place<'_>, Known> = HashMap::new();
        for (number, (life, entry)) in told.iter().enumerate() {
            match &entry.record {
                Record::Intent { id, .. } | Record::MaybeWritten { id } => {
                    *copies.entry(id).or_default() += 1;
                }
                Record::Delivered { id, group, .. } => {
                    let known = known.entry((group, id)).or_default();
                    known.deliveries += 1;
                    let before = known.last.replace((entry.at, *life));
                    let written = copies.get(id.as_ref() as &str).copied().unwrap_or(0).max(1);
                    let Some((at, had)) = before.filter(|_| known.deliveries > written + known.owed) else {
                        continue;
                    };
                    known.owed += 1;
                    if let Some(cause) = troubles.cause(had, *life, (at, entry.at)) {
                        *blamed.causes.entry(cause).or_default() += 1;
                        blamed.explained.insert(number);
                        if let (Cause::Killed, Some(killed)) = (cause, deeds.lives[had].killed) {
                            blamed.after_kill.push((entry.at - killed) / MILLI);
                        }
                        continue;
                    }
                    let (before, after) = (&deeds.lives[had].name, &deeds.lives[*life].name);
                    let ms = (entry.at - at) / MILLI;
                    blamed.unexplained.push(format!(
                        "{id} in group {group}: {before} had it, {after} got it {ms} ms later, and nothing happened to \
                         either"
                    ));
                }
                Record::Settled {
                    id,
                    group,
                    verdict: Ending::Retry | Ending::Release,
                    outcome: Outcome::Done,
                } => known.entry((group, id)).or_default().owed += 1,
                _ => {}
            }
        }
        blamed
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        let mut figures: BTreeMap<_, _> =
            self.causes.iter().map(|(cause, count)| (cause.name(), *count)).collect();
        let mut after = self.after_kill.clone();
        after.sort_unstable();
        if let (Some(middle), Some(last)) = (after.get(after.len() / 2), after.last()) {
            figures.insert("redelivered_after_kill_ms_half", *middle);
            figures.insert("redelivered_after_kill_ms_all", *last);
        }
        figures
    }
}

/// What happened, and for how long it had consequences.
struct Troubles<'a> {
    deeds: &'a Deeds,
    lease: u64,
}

impl Troubles<'_> {
    /// Why what one life had came again to another, or to itself.
    fn cause(&self, had: usize, again: usize, between: Span) -> Option<Cause> {
        let (before, after) = (&self.deeds.lives[had], &self.deeds.lives[again]);
        let is_between = |at: &Option<u64>| at.is_some_and(|at| between.0 <= at && at <= between.1);
        if is_between(&before.killed) {
            Some(Cause::Killed)
        } else if is_between(&before.cut) {
            Some(Cause::Cut)
        } else if self.stood_still(before, between) || self.stood_still(after, between) {
            Some(Cause::StoodStill)
        } else if self.was_in_trouble(before, between) || self.was_in_trouble(after, between) {
            Some(Cause::Link)
        } else if overlaps(&self.deeds.server, between, self.lease + ANSWER_WITHIN) {
            Some(Cause::Server)
        } else {
            None
        }
    }

    /// Whether it stood still for so long that a lease may have ended: it is renewed at a third of it.
    fn stood_still(&self, life: &Life, between: Span) -> bool {
        stories::stood_still(life, self.lease / 2, between, self.lease)
    }

    fn was_in_trouble(&self, life: &Life, between: Span) -> bool {
        overlaps(&self.deeds.links[life.place], between, self.lease + ANSWER_WITHIN)
    }
}

// ---- The story -----------------------------------------------------------------------------------------------

/// The story as the test kit's invariants judge it.
fn story(told: Vec<Told>, blamed: &Blamed, facts: &Facts, dead: &[Dead]) -> Vec<Entry> {
    let subscribed = [(PLAIN, TOPIC), (AFTER, FOLLOWED)].map(|(group, topic)| Entry {
        at: 0,
        record: Record::Subscribed { group: group.into(), topic: topic.into(), from_now: false },
    });
    let mut all = Vec::with_capacity(told.len() + told.len() / 8);
    all.extend(subscribed);
    for (number, (_, entry)) in told.into_iter().enumerate() {
        if let Record::Delivered { group, .. } = &entry.record
            && blamed.explained.contains(&number)
        {
            let record = Record::Fault { what: "explained".into(), group: Some(group.clone()), budget: 1 };
            all.push(Entry { at: entry.at, record });
        }
        all.push(entry);
    }
    // What the empty queues prove and a killed process could not write down any more.
    let at = all.last().map_or(0, |entry| entry.at);
    for (group, id) in facts.effects.keys().filter(|place| !facts.acked.contains(*place)) {
        let (id, group) = (id.clone(), group.clone());
        let record = Record::Settled { id, group, verdict: Ending::Ack, outcome: Outcome::Done };
        all.push(Entry { at, record });
    }
    for dead in dead {
        let (id, group) = (dead.message.id.clone(), dead.group.as_str().into());
        let record = Record::DeadLettered { id, group, digest: digest(&dead.message) };
        all.push(Entry { at, record });
    }
    all
}

// ---- What there is of each message ---------------------------------------------------------------------------

/// What the journals and the dead letters tell of each message.
#[derive(Debug, Default)]
struct Facts {
    /// Messages whose publisher was told that they are written.
    confirmed: Vec<ByteString>,
    /// Writes of which nobody knows whether they happened.
    maybe: HashMap<ByteString, u32>,
    /// Settlements that were confirmed as acknowledgements.
    acked: HashSet<(ByteString, ByteString)>,
    effects: HashMap<(ByteString, ByteString), u32>,
    deliveries: HashMap<ByteString, u32>,
    /// How often each is a dead letter, and of what class.
    dead: HashMap<ByteString, (u32, String)>,
}

impl Facts {
    fn of(told: &[Told], dead: &[Dead]) -> Self {
        let mut facts = Self::default();
        for (_, entry) in told {
            match &entry.record {
                Record::Acked { id } => facts.confirmed.push(id.clone()),
                Record::MaybeWritten { id } => *facts.maybe.entry(id.clone()).or_default() += 1,
                Record::Settled { id, group, verdict: Ending::Ack, outcome: Outcome::Done } => {
                    facts.acked.insert((group.clone(), id.clone()));
                }
                Record::Effect { id, group } => {
                    *facts.effects.entry((group.clone(), id.clone())).or_default() += 1;
                }
                Record::Delivered { id, .. } => *facts.deliveries.entry(id.clone()).or_default() += 1,
                _ => {}
            }
        }
        for letter in dead {
            let (count, class) = facts.dead.entry(letter.message.id.clone()).or_default();
            *count += 1;
            class.clone_from(&letter.class);
        }
        facts
    }

    /// What should be there and is not.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for id in &self.confirmed {
            let is_dead = self.dead.contains_key(id);
            let (what, there) = if Fate::of(id).is_dead() {
                ("dead letter", is_dead)
            } else {
                ("effect", self.effects.contains_key(&(PLAIN.into(), id.clone())) || is_dead)
            };
            if !there {
                missing.push(format!("{id} was confirmed and has no {what}"));
            }
        }
        for (_, id) in self.effects.keys().filter(|(group, id)| group == PLAIN && events::is_followed(id)) {
            let follows: ByteString = events::followed_by(id).into();
            if !self.effects.contains_key(&(AFTER.into(), follows.clone())) {
                missing
                    .push(format!("{id} has its effect, and the event {follows} has none in group {AFTER}"));
            }
        }
        missing.sort_unstable();
        missing
    }

    /// What is there and should not be, or is there too often.
    fn double(&self) -> Vec<String> {
        let mut double = Vec::new();
        let count = |counts: &HashMap<ByteString, u32>, id| counts.get(id).copied().unwrap_or(0);
        for (id, (times, class)) in &self.dead {
            if !Fate::of(id).is_dead() {
                double.push(format!("{id} is a dead letter ({class}) and should not be"));
            }
            // Its letter is confirmed before it is deleted: whoever gets it again writes another one.
            let most = count(&self.deliveries, id) + count(&self.maybe, id);
            if *times > most {
                double.push(format!("{id} has {times} dead letters, of {most} deliveries"));
            }
            if Fate::of(id).is_dead() && self.effects.contains_key(&(PLAIN.into(), id.clone())) {
                double.push(format!("{id} is to be a dead letter and has an effect"));
            }
        }
        double.sort_unstable();
        double
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use millstream::Message;
    use tempfile::TempDir;

    use super::*;
    use crate::journal::Journal;
    use crate::labour::Load;

    /// Between two records of a story.
    const STEP: u64 = 1_000 * MILLI;

    fn kind() -> Kind {
        let (pause, drain) = (Duration::ZERO, Duration::ZERO);
        let load = Load { publishers: 1, keys: 1, batch: 1, pause, drain };
        Kind { places: 3, lease: Duration::from_millis(100), sort: Sort::Fifo, load }
    }

    /// A storm of one message, which was delivered to the first of three lives.
    struct Storm {
        folder: TempDir,
        deeds: Deeds,
        dead: Vec<Dead>,
        message: Message,
        at: u64,
    }

    fn id_of(wanted: impl Fn(&str) -> bool) -> String {
        (0..100_000).map(|n| n.to_string()).find(|id| wanted(id)).unwrap()
    }

    fn plain() -> String {
        id_of(|id| Fate::of(id) == Fate::Handled && !events::is_followed(id))
    }

    impl Storm {
        fn of(id: &str) -> Self {
            let message = Message::new(TOPIC, "data").with_id(id).with_key("key").with_time(UNIX_EPOCH);
            let folder = tempfile::tempdir().unwrap();
            let deeds = Deeds { links: vec![Vec::new(); 3], ..Deeds::default() };
            let mut storm = Self { folder, deeds, dead: Vec::new(), message, at: 0 };
            for (place, name) in ["a", "b", "c"].into_iter().enumerate() {
                let journal = storm.folder.path().join(name);
                storm.deeds.lives.push(Life { name: name.into(), place, journal, ..Life::default() });
            }
            storm.write(0, Record::intent(&storm.message.clone(), 1));
            storm.write(0, Record::Acked { id: storm.message.id.clone() });
            storm.deliver(0);
            storm
        }

        fn write(&mut self, life: usize, record: Record) {
            self.at += STEP;
            Journal::append_to(&self.deeds.lives[life].journal).unwrap().write_at(self.at, record);
        }

        fn deliver(&mut self, life: usize) {
            let record = Record::Delivered {
                id: self.message.id.clone(),
                topic: TOPIC.into(),
                group: PLAIN.into(),
                worker: self.deeds.lives[life].name.as_str().into(),
                deliveries: 1,
                epoch: 0,
                digest: digest(&self.message),
            };
            self.write(life, record);
        }

        fn effect(&mut self, life: usize) {
            self.write(life, Record::Effect { id: self.message.id.clone(), group: PLAIN.into() });
        }

        fn settle(&mut self, life: usize, verdict: Ending) {
            let (id, group) = (self.message.id.clone(), PLAIN.into());
            self.write(life, Record::Settled { id, group, verdict, outcome: Outcome::Done });
        }

        fn judge(self) -> Row {
            judge(self.deeds, &self.dead, kind()).unwrap().row
        }
    }

    /// What the first life had comes to the second, after this happened: duplicates explained, and not.
    fn came_again(between: impl FnOnce(&mut Storm)) -> (u64, u64) {
        let mut storm = Storm::of(&plain());
        storm.effect(0);
        between(&mut storm);
        storm.deliver(1);
        storm.effect(1);
        storm.settle(1, Ending::Ack);
        let row = storm.judge();
        (row.duplicates_explained, row.duplicates_unexplained)
    }

    #[test]
    fn a_storm_in_which_all_went_well_has_no_problems() {
        let mut storm = Storm::of(&plain());
        storm.effect(0);
        storm.settle(0, Ending::Ack);
        let row = storm.judge();
        assert!(row.is_ok(), "{:?}", row.problems);
        assert_eq!((row.messages, row.acknowledged, row.lost), (1, 1, 0));
    }

    #[test]
    fn a_confirmed_message_without_an_effect_is_missing_also_if_it_was_deleted() {
        let mut storm = Storm::of(&plain());
        storm.settle(0, Ending::Ack);
        let row = storm.judge();
        assert_eq!((row.lost, row.effects_missing), (1, 1), "{:?}", row.problems);
    }

    #[test]
    fn what_a_killed_life_had_comes_again_and_what_another_had_does_not() {
        assert_eq!(came_again(|_| {}), (0, 1));
        assert_eq!(came_again(|storm| storm.deeds.lives[0].killed = Some(storm.at)), (1, 0));
        assert_eq!(came_again(|storm| storm.deeds.lives[2].killed = Some(storm.at)), (0, 1));
    }

    #[test]
    fn what_was_given_back_comes_again_once() {
        assert_eq!(came_again(|storm| storm.settle(0, Ending::Retry)), (0, 0));
        let twice = came_again(|storm| {
            storm.settle(0, Ending::Release);
            storm.deliver(2);
        });
        assert_eq!(twice, (0, 1));
    }

    #[test]
    fn a_write_of_which_nobody_knows_explains_a_second_message() {
        let again = came_again(|storm| {
            storm.settle(0, Ending::Ack);
            storm.write(0, Record::MaybeWritten { id: storm.message.id.clone() });
        });
        assert_eq!(again, (0, 0));
        assert_eq!(came_again(|storm| storm.settle(0, Ending::Ack)), (0, 1));
    }

    #[test]
    fn trouble_explains_only_what_comes_from_or_to_the_one_that_has_it() {
        let cut = |place: usize| move |storm: &mut Storm| storm.deeds.links[place].push((storm.at, storm.at));
        assert_eq!(came_again(cut(0)), (1, 0));
        assert_eq!(came_again(cut(1)), (1, 0));
        assert_eq!(came_again(cut(2)), (0, 1));
        assert_eq!(came_again(|storm| storm.deeds.server.push((storm.at, storm.at))), (1, 0));
    }

    #[test]
    fn only_a_stop_that_may_outlast_a_lease_explains_anything() {
        let stop = |length| {
            move |storm: &mut Storm| storm.deeds.lives[0].stopped.push((storm.at, storm.at + length))
        };
        assert_eq!(came_again(stop(60 * MILLI)), (1, 0));
        assert_eq!(came_again(stop(40 * MILLI)), (0, 1));
    }

    #[test]
    fn a_dead_letter_must_be_one_that_is_meant_and_have_a_delivery_each() {
        let run = |id: &str, letters: usize| {
            let mut storm = Storm::of(id);
            for _ in 0..letters {
                let message = storm.message.clone();
                storm.dead.push(Dead { group: PLAIN.into(), class: "unrecoverable".into(), message });
            }
            storm.settle(0, Ending::Ack);
            storm.judge()
        };
        let dead = id_of(|id| Fate::of(id) == Fate::Unrecoverable);
        assert!(run(&dead, 1).is_ok(), "{:?}", run(&dead, 1).problems);
        assert_eq!(run(&dead, 2).effects_double, 1);
        assert_eq!(run(&dead, 0).effects_missing, 1);
        assert_eq!(run(&plain(), 1).effects_double, 1);
    }

    #[test]
    fn an_event_that_a_handled_message_published_must_have_been_handled() {
        let id = id_of(|id| Fate::of(id) == Fate::Handled && events::is_followed(id));
        let mut storm = Storm::of(&id);
        storm.effect(0);
        storm.settle(0, Ending::Ack);
        let row = storm.judge();
        assert_eq!(row.effects_missing, 1, "{:?}", row.problems);
    }
}
