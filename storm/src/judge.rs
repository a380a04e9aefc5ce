//! Holds what the workers wrote down against what is in the file.
//!
//! The test kit's invariants judge the journals. What they cannot know is judged here: effects, events and dead
//! letters in the file, each of which must be there once; and in [`blame`] what a process may do when something
//! happened to it.

mod blame;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bytestring::ByteString;
use millstream_testkit::invariants::{self, Invariant, Promised, Rules};
use millstream_testkit::ledger::{Ending, Entry, Outcome, Record, digest};

use crate::arena::Deeds;
use crate::events::{self, AFTER, DEDUP, FOLLOWED, Fate, PLAIN};
use crate::tables::Tables;

/// A record, and the life that wrote it.
type Told = (Option<usize>, Entry);

/// What a storm came to.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) messages: u64,
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates_explained: u64,
    pub(crate) duplicates_unexplained: u64,
    pub(crate) effects: u64,
    pub(crate) effects_double: u64,
    pub(crate) effects_missing: u64,
    pub(crate) dead_letters: u64,
    /// What was measured on the way.
    pub(crate) figures: BTreeMap<&'static str, u64>,
    /// All that is wrong, in words; none if nothing is.
    pub(crate) problems: Vec<String>,
    /// The whole story, for whoever looks into a failure.
    pub(crate) entries: Vec<Entry>,
}

/// Examples of one kind of problem that are told.
const TOLD: usize = 5;

/// Judges.
pub(crate) fn judge(mut deeds: Deeds, tables: &Tables, lease: Duration) -> crate::Result<Judgement> {
    let mut told = deeds.gather()?;
    tell_once_what_follows(&mut told);
    let blamed = blame::duplicates(&told, &deeds.lives, lease);
    let mut problems = std::mem::take(&mut deeds.problems);
    let mut figures = blamed.figures();
    let lies = blame::lies(&told, &deeds.lives);
    tell(&mut problems, "confirmed though nothing could be written for good any more", &lies.lies);
    figures.extend(lies.figures());
    let delays = blame::delays(&told, &deeds.ahead);
    tell(&mut problems, "delivered before it was due by anybody's clock, or long after", &delays.wrong);
    figures.extend(delays.figures());
    figures.insert("lost_leases", told.iter().filter(|(_, entry)| is_lost_lease(entry)).count() as u64);
    let mut entries = blamed.forgiven(told);
    let facts = Facts::of(&entries, tables);
    complete(&mut entries, &facts, tables);
    let verdict = invariants::check_entries(&entries, Rules::default().order(Promised::PerKey));
    if !verdict.is_ok() {
        problems.push(verdict.to_string());
    }
    tell(&mut problems, "duplicates nobody is to blame for", &blamed.unexplained);
    let missing = facts.missing();
    let double = facts.double();
    tell(&mut problems, "effects, events or dead letters missing", &missing);
    tell(
        &mut problems,
        "effects, events or dead letters that should not be, or are there too often",
        &double,
    );
    tell(&mut problems, "effects out of order in the file", &tables.inversions);
    tell(&mut problems, "damage in the file", &tables.damage);
    let counts = verdict.counts();
    let unexplained = counts.duplicates - counts.explained;
    Ok(Judgement {
        messages: counts.intents,
        acknowledged: counts.acked,
        lost: verdict.of(Invariant::NoLoss),
        duplicates_explained: blamed.explained.len() as u64,
        duplicates_unexplained: unexplained.max(blamed.unexplained.len() as u64),
        effects: tables.effects.len() as u64,
        effects_double: double.len() as u64,
        effects_missing: missing.len() as u64,
        dead_letters: tables.dead.len() as u64,
        figures,
        problems,
        entries,
    })
}

fn is_lost_lease(entry: &Entry) -> bool {
    matches!(entry.record, Record::Settled { outcome: Outcome::Lost, .. })
}

fn tell(problems: &mut Vec<String>, what: &str, which: &[String]) {
    if which.is_empty() {
        return;
    }
    let examples: Vec<&str> = which.iter().take(TOLD).map(String::as_str).collect();
    problems.push(format!("{} {what}:\n  {}", which.len(), examples.join("\n  ")));
}

/// A handler that runs again intends to publish again, and only what its success publishes is written: all of these
/// are one intent.
fn tell_once_what_follows(entries: &mut Vec<Told>) {
    let mut seen = HashSet::new();
    entries.retain(|(_, entry)| match &entry.record {
        Record::Intent { id, topic, .. } if topic == FOLLOWED => seen.insert(id.clone()),
        _ => true,
    });
}

/// Adds what the file proves and a killed process could not write down any more: an effect is committed with the
/// acknowledgement, a dead letter too.
fn complete(entries: &mut Vec<Entry>, facts: &Facts, tables: &Tables) {
    let at = entries.last().map_or(0, |entry| entry.at);
    for (group, id) in facts.effects.keys() {
        if facts.acked.contains(&(group.clone(), id.clone())) {
            continue;
        }
        let (id, group) = (id.clone(), group.clone());
        let record = Record::Settled { id, group, verdict: Ending::Ack, outcome: Outcome::Done };
        entries.push(Entry { at, record });
    }
    for (group, message) in &tables.dead {
        let record =
            Record::DeadLettered { id: message.id.clone(), group: group.clone(), digest: digest(message) };
        entries.push(Entry { at, record });
    }
}

/// A message in a group.
type Place = (ByteString, ByteString);

/// What there is of each message in each group.
#[derive(Debug, Default)]
struct Facts {
    /// Messages whose publisher was told that they are written.
    confirmed: Vec<ByteString>,
    /// Settlements that were confirmed as acknowledgements.
    acked: HashSet<Place>,
    effects: HashMap<Place, u32>,
    dead: HashMap<Place, u32>,
    copies: HashMap<ByteString, u32>,
}

impl Facts {
    fn of(entries: &[Entry], tables: &Tables) -> Self {
        let mut facts = Self { copies: tables.copies.clone(), ..Self::default() };
        for entry in entries {
            match &entry.record {
                Record::Acked { id } => facts.confirmed.push(id.clone()),
                Record::Settled { id, group, verdict: Ending::Ack, outcome: Outcome::Done } => {
                    facts.acked.insert((group.clone(), id.clone()));
                }
                _ => {}
            }
        }
        for place in &tables.effects {
            *facts.effects.entry(place.clone()).or_default() += 1;
        }
        for (group, message) in &tables.dead {
            *facts.dead.entry((group.clone(), message.id.clone())).or_default() += 1;
        }
        facts
    }

    /// What should be there and is not.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for id in &self.confirmed {
            if !self.copies.contains_key(id) {
                missing.push(format!("{id} was confirmed to its publisher and is not in the log"));
            }
            for group in [PLAIN, DEDUP] {
                let place = (group.into(), id.clone());
                let (what, there) = if Fate::of(id).is_dead() {
                    ("dead letter", self.dead.contains_key(&place))
                } else {
                    ("effect", self.effects.contains_key(&place))
                };
                if !there {
                    missing.push(format!("{id} was confirmed and has no {what} in group {group}"));
                }
            }
        }
        for (group, id) in self.acked.iter().filter(|place| !self.effects.contains_key(*place)) {
            missing.push(format!("{id} was acknowledged in group {group} without its effect"));
        }
        for (_, id) in self.effects.keys().filter(|(group, id)| group == PLAIN && events::is_followed(id)) {
            let follows = events::followed_by(id);
            if !self.copies.contains_key(follows.as_str()) {
                missing.push(format!("{id} has its effect, and the event {follows} is not there"));
            } else if !self.effects.contains_key(&(AFTER.into(), follows.as_str().into())) {
                missing.push(format!("the event {follows} has no effect in group {AFTER}"));
            }
        }
        missing.sort_unstable();
        missing
    }

    /// What is there and should not be, or is there too often.
    fn double(&self) -> Vec<String> {
        let copies = |id: &ByteString| self.copies.get(id).copied().unwrap_or(0);
        let mut double = Vec::new();
        for ((group, id), times) in &self.effects {
            // Only a deduplication store makes one effect of two copies.
            let most = if group == DEDUP { 1 } else { copies(id) };
            if *times > most {
                double.push(format!(
                    "{id} has {times} effects in group {group}, and lies in the log {most} times"
                ));
            }
            if Fate::of(id).is_dead() && group != AFTER {
                double.push(format!("{id} is to be a dead letter and has an effect in group {group}"));
            }
        }
        for ((group, id), times) in &self.dead {
            let most = if group == DEDUP { 1.max(copies(id)) } else { copies(id) };
            if *times > most {
                double.push(format!("{id} has {times} dead letters in group {group}, of {most} copies"));
            }
            if group == AFTER || !Fate::of(id).is_dead() {
                double.push(format!("{id} is a dead letter in group {group} and should not be"));
            }
        }
        for (id, times) in &self.copies {
            let Some(cause) = id.strip_prefix("f/") else { continue };
            let effects = self.effects.get(&(PLAIN.into(), cause.into())).copied().unwrap_or(0);
            if *times != effects {
                double
                    .push(format!("the event {id} is there {times} times, its cause has {effects} effects"));
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
    use crate::arena::Life;
    use crate::events::TOPIC;
    use crate::journal::Journal;

    /// A storm of one message, in the group without deduplication, that went well unless it is changed.
    struct Storm {
        folder: TempDir,
        deeds: Deeds,
        tables: Tables,
        message: Message,
        at: u64,
    }

    fn id_of(wanted: impl Fn(&str) -> bool) -> String {
        (0..100_000).map(|n| n.to_string()).find(|id| wanted(id)).unwrap()
    }

    fn plain_id() -> String {
        id_of(|id| Fate::of(id) == Fate::Handled && !events::is_followed(id))
    }

    impl Storm {
        fn of(id: &str) -> Self {
            let message = Message::new(TOPIC, "data").with_id(id).with_key("key").with_time(UNIX_EPOCH);
            let mut storm = Self {
                folder: tempfile::tempdir().unwrap(),
                deeds: Deeds::default(),
                tables: Tables::default(),
                message,
                at: 0,
            };
            storm.live();
            storm.live();
            storm.write(0, Record::intent(&storm.message, 1));
            storm.write(0, Record::Acked { id: id.into() });
            storm.tables.copies.insert(id.into(), 1);
            for group in [PLAIN, DEDUP] {
                storm.tables.effects.push((group.into(), id.into()));
            }
            storm
        }

        fn live(&mut self) {
            let name = format!("life {}", self.deeds.lives.len());
            let journal = self.folder.path().join(&name);
            self.deeds.lives.push(Life { name, journal, ..Life::default() });
        }

        fn write(&mut self, life: usize, record: Record) {
            self.at += 1_000_000;
            Journal::append_to(&self.deeds.lives[life].journal).unwrap().write_at(self.at, record);
        }

        fn deliver(&mut self, life: usize) {
            self.write(
                life,
                Record::Delivered {
                    id: self.message.id.clone(),
                    topic: TOPIC.into(),
                    group: PLAIN.into(),
                    worker: "w".into(),
                    deliveries: 1,
                    epoch: 0,
                    digest: digest(&self.message),
                },
            );
        }

        fn judge(self) -> Judgement {
            judge(self.deeds, &self.tables, Duration::from_secs(1)).unwrap()
        }
    }

    #[test]
    fn a_storm_in_which_all_went_well_has_no_problems() {
        let mut storm = Storm::of(&plain_id());
        storm.deliver(0);
        let judged = storm.judge();
        assert!(judged.problems.is_empty(), "{:?}", judged.problems);
        assert_eq!((judged.messages, judged.acknowledged, judged.effects), (1, 1, 2));
        assert_eq!((judged.lost, judged.effects_double, judged.effects_missing), (0, 0, 0));
    }

    #[test]
    fn a_confirmed_message_without_its_effect_is_lost_and_missing() {
        let mut storm = Storm::of(&plain_id());
        storm.deliver(0);
        storm.tables.effects.retain(|(group, _)| group == DEDUP);
        let judged = storm.judge();
        assert_eq!((judged.lost, judged.effects_missing), (1, 1), "{:?}", judged.problems);
    }

    #[test]
    fn an_acknowledgement_without_its_effect_is_missing_even_if_nobody_was_told_that_it_was_published() {
        let id = plain_id();
        let mut storm = Storm::of(&id);
        storm.deliver(0);
        std::fs::remove_file(&storm.deeds.lives[0].journal).unwrap();
        storm.write(0, Record::intent(&storm.message, 1));
        storm.deliver(0);
        let (verdict, outcome) = (Ending::Ack, Outcome::Done);
        storm.write(0, Record::Settled { id: id.into(), group: PLAIN.into(), verdict, outcome });
        storm.tables.effects.retain(|(group, _)| group == DEDUP);
        assert_eq!(storm.judge().effects_missing, 1);
    }

    #[test]
    fn an_effect_that_is_there_twice_is_double_unless_the_message_lies_in_the_log_twice() {
        let run = |group: &str, copies| {
            let id = plain_id();
            let mut storm = Storm::of(&id);
            storm.tables.effects.push((group.into(), id.as_str().into()));
            storm.tables.copies.insert(id.into(), copies);
            storm.judge().effects_double
        };
        assert_eq!(run(PLAIN, 1), 1);
        assert_eq!(run(PLAIN, 2), 0);
        assert_eq!(run(DEDUP, 2), 1, "what a deduplication store is for");
    }

    #[test]
    fn what_a_killed_life_had_may_come_again_once_and_it_is_told_how_soon() {
        let mut storm = Storm::of(&plain_id());
        storm.deliver(0);
        storm.deeds.lives[0].killed = Some(storm.at);
        storm.deliver(1);
        let judged = storm.judge();
        assert!(judged.problems.is_empty(), "{:?}", judged.problems);
        assert_eq!((judged.duplicates_explained, judged.duplicates_unexplained), (1, 0));
        assert_eq!(judged.figures["redelivered_after_kill_ms_all"], 1);
    }

    #[test]
    fn a_second_delivery_to_another_while_the_first_is_alive_is_explained_by_nothing() {
        let mut storm = Storm::of(&plain_id());
        storm.deliver(0);
        storm.deliver(1);
        let judged = storm.judge();
        assert_eq!(judged.duplicates_unexplained, 1);
        assert!(
            judged.problems.iter().any(|p| p.contains("nothing happened to it")),
            "{:?}",
            judged.problems
        );
        // The death of somebody else, before the delivery, explains nothing either.
        let mut storm = Storm::of(&plain_id());
        storm.live();
        storm.deeds.lives[2].killed = Some(storm.at);
        storm.deliver(0);
        storm.deliver(1);
        assert_eq!(storm.judge().duplicates_unexplained, 1);
    }

    #[test]
    fn an_event_is_there_as_often_as_the_effect_that_it_left_with() {
        let run = |copies: u32| {
            let id = id_of(|id| Fate::of(id) == Fate::Handled && events::is_followed(id));
            let follows: ByteString = events::followed_by(&id).into();
            let mut storm = Storm::of(&id);
            if copies > 0 {
                storm.tables.copies.insert(follows.clone(), copies);
                storm.tables.effects.push((AFTER.into(), follows));
            }
            let judged = storm.judge();
            (judged.effects_missing, judged.effects_double)
        };
        assert_eq!(run(1), (0, 0));
        assert_eq!(run(0), (1, 0));
        assert_eq!(run(2), (0, 1));
    }

    #[test]
    fn a_dead_letter_must_be_one_that_was_to_die_and_whole() {
        let dead = |id: &str| {
            let mut storm = Storm::of(id);
            storm.deliver(0);
            storm.tables.effects.clear();
            for group in [PLAIN, DEDUP] {
                storm.tables.dead.push((group.into(), storm.message.clone()));
            }
            storm
        };
        let judged = dead(&id_of(|id| Fate::of(id) == Fate::Unrecoverable)).judge();
        assert!(judged.problems.is_empty(), "{:?}", judged.problems);
        assert_eq!(judged.dead_letters, 2);
        assert_eq!(dead(&plain_id()).judge().effects_double, 2);
        let mut changed = dead(&id_of(|id| Fate::of(id) == Fate::Unrecoverable));
        changed.tables.dead[0].1.data = Some("other".into());
        assert!(changed.judge().problems[0].contains("I8"));
    }
}
