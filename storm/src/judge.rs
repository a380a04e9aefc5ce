//! Holds what the workers wrote down against what is in the file.
//!
//! The test kit's invariants judge the journals. What they cannot know is judged here: effects, events and dead
//! letters in the file, each of which must be there once; and who is to blame for a duplicate: a message may come
//! again only if the very process that had it was killed or stood still.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytestring::ByteString;
use millstream_testkit::invariants::{self, Invariant, Promised, Rules, Verdict};
use millstream_testkit::ledger::{Ending, Entry, Outcome, Record, digest};

use crate::arena::{Deeds, Life};
use crate::events::{self, AFTER, DEDUP, FOLLOWED, Fate, PLAIN};
use crate::tables::Tables;

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
    /// How long it took until what a killed process had was delivered again, in ms, ascending.
    pub(crate) redelivered_after: Vec<u64>,
    /// All that is wrong, in words; none if nothing is.
    pub(crate) problems: Vec<String>,
    /// The whole story, for whoever looks into a failure.
    pub(crate) entries: Vec<Entry>,
}

/// Examples of one kind of problem that are told.
const TOLD: usize = 5;

/// Judges.
pub(crate) fn judge(mut deeds: Deeds, tables: &Tables, lease: Duration) -> crate::Result<Judgement> {
    let mut entries = deeds.gather()?;
    tell_once_what_follows(&mut entries);
    let blamed = blame(&entries, &deeds.lives, lease);
    let mut entries: Vec<Entry> = entries.into_iter().map(|(_, entry)| entry).collect();
    let mut problems = std::mem::take(&mut deeds.problems);
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
    tell(&mut problems, "effects, events or dead letters that should not be, or are there too often", &double);
    tell(&mut problems, "effects out of order in the file", &tables.inversions);
    tell(&mut problems, "damage in the file", &tables.damage);
    let counts = verdict.counts();
    Ok(Judgement {
        messages: counts.intents,
        acknowledged: counts.acked,
        lost: verdict.of(Invariant::NoLoss),
        duplicates_explained: counts.explained,
        duplicates_unexplained: unexplained(&verdict) + blamed.unexplained.len() as u64,
        effects: tables.effects.len() as u64,
        effects_double: double.len() as u64,
        effects_missing: missing.len() as u64,
        dead_letters: tables.dead.len() as u64,
        redelivered_after: blamed.after,
        problems,
        entries,
    })
}

fn unexplained(verdict: &Verdict) -> u64 {
    verdict.counts().duplicates - verdict.counts().explained
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
fn tell_once_what_follows(entries: &mut Vec<(Option<usize>, Entry)>) {
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
        let record = Record::DeadLettered {
            id: message.id.clone(),
            group: group.clone(),
            digest: digest(message),
        };
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
                double.push(format!("{id} has {times} effects in group {group}, and lies in the log {most} times"));
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
                double.push(format!("the event {id} is there {times} times, its cause has {effects} effects"));
            }
        }
        double.sort_unstable();
        double
    }
}

/// Who is to blame for duplicates.
#[derive(Debug, Default)]
struct Blamed {
    unexplained: Vec<String>,
    after: Vec<u64>,
}

/// Goes through the deliveries: one that is not settled may come again only if the life that had it was killed since,
/// or if somebody stood still meanwhile, which keeps others from renewing what they hold as well.
fn blame(entries: &[(Option<usize>, Entry)], lives: &[Life], lease: Duration) -> Blamed {
    let mut blamed = Blamed::default();
    let grace = u64::try_from((lease + Duration::from_secs(1)).as_nanos()).unwrap_or(u64::MAX);
    let stops: Vec<(u64, u64)> = lives.iter().flat_map(|life| life.stopped.iter().copied()).collect();
    let stood_still = |from: u64, to: u64| stops.iter().any(|stop| stop.0 <= to && from <= stop.1 + grace);
    // Written twice on purpose: comes twice.
    let repeated: HashSet<&ByteString> = entries
        .iter()
        .filter_map(|(_, entry)| match &entry.record {
            Record::MaybeWritten { id } => Some(id),
            _ => None,
        })
        .collect();
    let mut open: HashMap<(&ByteString, &ByteString), (u64, usize)> = HashMap::new();
    let mut ended: HashSet<(&ByteString, &ByteString)> = HashSet::new();
    for (life, entry) in entries {
        match (&entry.record, life) {
            (Record::Delivered { id, group, .. }, Some(life)) if !repeated.contains(id) => {
                let place = (group, id);
                if let Some((at, had)) = open.insert(place, (entry.at, *life)) {
                    let struck = lives[had].killed.filter(|killed| *killed >= at);
                    match struck {
                        Some(killed) => blamed.after.push(entry.at.saturating_sub(killed) / 1_000_000),
                        None if stood_still(at, entry.at) => {}
                        None => blamed.unexplained.push(format!(
                            "{id} in group {group}: {} had it and nothing happened to it, {} got it too",
                            lives[had].name, lives[*life].name
                        )),
                    }
                } else if ended.contains(&place) && !stood_still(entry.at, entry.at) {
                    blamed.unexplained.push(format!(
                        "{id} in group {group}: settled for good, {} got it again",
                        lives[*life].name
                    ));
                }
            }
            (Record::Settled { id, group, verdict, outcome: Outcome::Done }, _) => {
                open.remove(&(group, id));
                if matches!(verdict, Ending::Ack | Ending::Dead) {
                    ended.insert((group, id));
                }
            }
            _ => {}
        }
    }
    blamed.after.sort_unstable();
    blamed
}
