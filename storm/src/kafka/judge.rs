//! Holds what the members wrote down against what the brokers keep.
//!
//! The test kit's invariants judge the whole story: nothing lost, no ghosts, order of first effects per key, bytes. What
//! they cannot know is judged here: who may be delivered what twice, what lies in a log twice, and what follows.
//!
//! A log is at least once. A record of it may be delivered again if what happened in between explains it, which is one of:
//!
//! - the process that had it was killed, or its handlers did not end in the time that they had: what was handled behind
//!   the last confirmed position comes again;
//! - one of the two that had it stood still for so long, or was cut off from the brokers for so long, that the group may
//!   have taken its partitions, which it learns only afterwards;
//! - a broker was down or stood still: positions may not have been confirmed before a partition moved;
//! - nothing was done with it, or with one before it in its partition: what a member was handed, and had not handled when
//!   the group wanted the partition, is given back, and no position passes it. What was handled, the member's own journal
//!   tells.
//!
//! A member that comes, or that leaves in order, explains nothing else, nor does what happens to a third one: whoever
//! gives a partition back lets its handlers end and commits first. And what lies before a position that the broker
//! confirmed must never come again, but to one that does not know yet that the group has left it behind: brokers give
//! records to anybody who asks, and only its positions are refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytestring::ByteString;
use millstream_testkit::invariants::{self, Invariant, Promised, Rules};
use millstream_testkit::ledger::{Ending, Entry, Outcome, Record, digest};

use super::cluster::{BEHIND_PROXIES, Deeds};
use super::logs::Logs;
use crate::Result;
use crate::crew::{Life, Span};
use crate::events::{self, AFTER, FOLLOWED, Fate, PLAIN, TOPIC};
use crate::report::Row;
use crate::stories::{self, Judgement, MILLI, Told, gather, overlaps, tell};

/// How long a client may wait for an answer until it takes a connection for dead.
const ANSWER_WITHIN: u64 = 10_000 * MILLI;
/// Judges.
pub(crate) fn judge(mut deeds: Deeds, logs: &Logs, lease: Duration) -> Result<Judgement> {
    let told = gather(&mut deeds.lives)?;
    let blamed = Blamed::of(&told, &deeds, lease);
    let facts = Facts::of(&told);
    let entries = story(told, &blamed, &facts, logs);
    let rules = Rules::default().order(Promised::PerKey).effects_recorded();
    let verdict = invariants::check_entries(&entries, rules);
    let mut problems = std::mem::take(&mut deeds.problems);
    if !verdict.is_ok() {
        problems.push(verdict.to_string());
    }
    let missing = facts.missing(logs);
    let double = facts.double(logs);
    tell(&mut problems, "duplicates nobody is to blame for", &blamed.unexplained);
    tell(&mut problems, "effects, events or dead letters missing", &missing);
    tell(&mut problems, "messages or dead letters that should not be, or are there too often", &double);
    let counts = verdict.counts();
    let unexplained = (counts.duplicates - counts.explained).max(blamed.unexplained.len() as u64);
    let mut figures = blamed.figures();
    figures.extend(deeds.faults.iter().map(|(name, count)| (*name, *count)));
    figures.insert("drained_ms", deeds.drained_ms);
    figures.insert("started_again_without_broker", deeds.tried_again);
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
            "{} effects of {} messages, {} dead letters, {} parked",
            counts.effects,
            facts.effects.len(),
            logs.dead.len(),
            logs.parked.values().map(|n| u64::from(*n)).sum::<u64>()
        ),
        problems,
        ..Row::default()
    };
    Ok(Judgement { row, entries })
}

// ---- Duplicates ----------------------------------------------------------------------------------------------

/// A record of a log: its topic, its partition and its place in it.
type Seat<'a> = (&'a str, &'a str);

/// The last that was heard of a record.
#[derive(Debug, Clone, Copy)]
struct Had {
    at: u64,
    life: usize,
    epoch: u32,
    is_handled: bool,
    is_settled: bool,
}

/// Why something came again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Killed,
    Cut,
    StoodStill,
    Link,
    Broker,
    GivenBack,
    BehindGivenBack,
    LeftBehind,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "again_after_kill",
            Self::Cut => "again_after_handlers_cut_off",
            Self::StoodStill => "again_after_stop",
            Self::Link => "again_after_cut_off_from_brokers",
            Self::Broker => "again_after_broker_fault",
            Self::GivenBack => "given_back_before_it_was_handled",
            Self::BehindGivenBack => "again_behind_one_given_back",
            Self::LeftBehind => "again_to_one_left_behind",
        }
    }
}

/// What a life was handed of a partition under one assignment and has not handled, by its place.
type Unhandled<'a> = HashMap<(usize, u32, &'a str, &'a str), BTreeSet<u64>>;

/// A place's partition, and its number there.
fn parted(place: &str) -> (&str, u64) {
    let (partition, number) = place.rsplit_once('/').unwrap_or((place, ""));
    (partition, number.parse().unwrap_or(0))
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
        let mut seats: HashMap<Seat<'_>, Had> = HashMap::new();
        // What a life has of a message: of one that is out of the topic and of the park, a settlement does not say
        // which it means, and counts for none.
        let mut out: HashMap<(usize, &str), Vec<Seat<'_>>> = HashMap::new();
        let mut unhandled: Unhandled<'_> = HashMap::new();
        for (number, (life, entry)) in told.iter().enumerate() {
            match &entry.record {
                Record::Delivered { id, topic, worker, epoch, .. } => {
                    let Some((_, place)) = worker.split_once(' ') else { continue };
                    let seat: Seat<'_> = (topic, place);
                    out.entry((*life, id)).or_default().push(seat);
                    let now = Had {
                        at: entry.at,
                        life: *life,
                        epoch: *epoch,
                        is_handled: false,
                        is_settled: false,
                    };
                    let (partition, position) = parted(place);
                    unhandled.entry((*life, *epoch, topic, partition)).or_default().insert(position);
                    let Some(had) = seats.insert(seat, now) else { continue };
                    let holes = unhandled.get(&(had.life, had.epoch, topic, partition));
                    let is_behind_a_hole =
                        holes.and_then(|holes| holes.first()).is_some_and(|first| *first < position);
                    let words = |what: &str| {
                        let (before, after) = (&deeds.lives[had.life].name, &deeds.lives[*life].name);
                        let ms = (entry.at - had.at) / MILLI;
                        format!(
                            "{id} of {topic} {place}: {before} had it, {after} got it {ms} ms later, {what}"
                        )
                    };
                    let cause = match had.is_settled {
                        true => troubles.is_left_behind(had, now).then_some(Cause::LeftBehind),
                        false => troubles.cause(had, now, is_behind_a_hole),
                    };
                    if let Some(cause) = cause {
                        *blamed.causes.entry(cause).or_default() += 1;
                        blamed.explained.insert(number);
                        if let (Cause::Killed, Some(killed)) = (cause, deeds.lives[had.life].killed) {
                            blamed.after_kill.push((entry.at - killed) / MILLI);
                        }
                    } else if had.is_settled {
                        blamed.unexplained.push(words("after its position was confirmed"));
                    } else {
                        blamed.unexplained.push(words("and nothing happened to either"));
                    }
                }
                Record::Effect { id, .. } => {
                    for seat in out.get(&(*life, id)).into_iter().flatten() {
                        if let Some(had) = seats.get_mut(seat).filter(|had| had.life == *life) {
                            had.is_handled = true;
                            let (partition, position) = parted(seat.1);
                            if let Some(left) = unhandled.get_mut(&(*life, had.epoch, seat.0, partition)) {
                                left.remove(&position);
                            }
                        }
                    }
                }
                Record::Settled { id, verdict: Ending::Ack, outcome, .. } => {
                    let ended = matches!(outcome, Outcome::Done | Outcome::Lost);
                    let Some(of_life) = out.get_mut(&(*life, id)).filter(|_| ended) else { continue };
                    if let (Outcome::Done, [seat]) = (outcome, of_life.as_slice())
                        && let Some(had) = seats.get_mut(seat)
                    {
                        had.is_settled = true;
                        // A dead letter has no effect.
                        let (partition, position) = parted(seat.1);
                        if let Some(left) = unhandled.get_mut(&(*life, had.epoch, seat.0, partition)) {
                            left.remove(&position);
                        }
                    }
                    of_life.remove(0);
                    if of_life.is_empty() {
                        out.remove(&(*life, id.as_ref()));
                    }
                }
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
    /// Why what one life had came again.
    fn cause(&self, had: Had, again: Had, is_behind_a_hole: bool) -> Option<Cause> {
        let (before, after) = (&self.deeds.lives[had.life], &self.deeds.lives[again.life]);
        let between = (had.at, again.at);
        let is_between = |at: &Option<u64>| at.is_some_and(|at| had.at <= at && at <= again.at);
        if is_between(&before.killed) {
            Some(Cause::Killed)
        } else if is_between(&before.cut) {
            Some(Cause::Cut)
        } else if self.stood_still(before, between) || self.stood_still(after, between) {
            Some(Cause::StoodStill)
        } else if self.was_cut_off(before, between) || self.was_cut_off(after, between) {
            Some(Cause::Link)
        } else if overlaps(&self.deeds.brokers, between, self.lease + ANSWER_WITHIN) {
            // A client that waited for an answer when it was over may wait until it gives up, and the group may take
            // its partitions a lease later.
            Some(Cause::Broker)
        } else if (had.life, had.epoch) == (again.life, again.epoch) {
            None
        } else if !had.is_handled {
            Some(Cause::GivenBack)
        } else if is_behind_a_hole {
            Some(Cause::BehindGivenBack)
        } else {
            None
        }
    }

    /// Whether whoever got it is one whose group went on without it, and that may not have learned it yet.
    fn is_left_behind(&self, had: Had, again: Had) -> bool {
        let after = &self.deeds.lives[again.life];
        let then = (again.at, again.at);
        had.life != again.life && (self.stood_still(after, then) || self.was_cut_off(after, then))
    }

    /// Whether it stood still for so long that its group may have gone on without it. It beats four times a lease; and it
    /// may hand over what it had fetched before it learns that it was left behind.
    fn stood_still(&self, life: &Life, between: Span) -> bool {
        stories::stood_still(life, self.lease / 4 * 3, between, self.lease)
    }

    fn was_cut_off(&self, life: &Life, between: Span) -> bool {
        life.place == BEHIND_PROXIES && overlaps(&self.deeds.links, between, self.lease + ANSWER_WITHIN)
    }
}

// ---- The story -----------------------------------------------------------------------------------------------

/// The story as the test kit's invariants judge it.
fn story(told: Vec<Told>, blamed: &Blamed, facts: &Facts, logs: &Logs) -> Vec<Entry> {
    let subscribed = [(PLAIN, TOPIC), (AFTER, FOLLOWED)].map(|(group, topic)| Entry {
        at: 0,
        record: Record::Subscribed { group: group.into(), topic: topic.into(), from_now: false },
    });
    let mut all = Vec::with_capacity(told.len() + told.len() / 8);
    all.extend(subscribed);
    let mut intended: HashSet<ByteString> = HashSet::new();
    for (number, (_, entry)) in told.into_iter().enumerate() {
        match &entry.record {
            // What lies in the log tells it exactly.
            Record::MaybeWritten { .. } => continue,
            Record::Intent { id, topic, .. } => {
                // A handler that runs again intends to publish again: all of these are one intent.
                if topic == FOLLOWED && !intended.insert(id.clone()) {
                    continue;
                }
                // Each record of the topic and of its park is delivered.
                let more = (count(&logs.copies, id) + count(&logs.parked, id)).saturating_sub(1);
                let (at, id) = (entry.at, id.clone());
                all.push(entry);
                let again = Entry { at, record: Record::MaybeWritten { id } };
                all.extend(std::iter::repeat_n(again, more as usize));
                continue;
            }
            Record::Delivered { group, .. } if blamed.explained.contains(&number) => {
                let what = "explained".into();
                let record = Record::Fault { what, group: Some(group.clone()), budget: 1 };
                all.push(Entry { at: entry.at, record });
            }
            _ => {}
        }
        all.push(entry);
    }
    // What the positions prove and a killed process could not write down any more: nothing is left behind them.
    let at = all.last().map_or(0, |entry| entry.at);
    for (group, id) in facts.effects.keys().filter(|place| !facts.acked.contains(*place)) {
        let (id, group) = (id.clone(), group.clone());
        let record = Record::Settled { id, group, verdict: Ending::Ack, outcome: Outcome::Done };
        all.push(Entry { at, record });
    }
    for dead in &logs.dead {
        let (id, group) = (dead.message.id.clone(), dead.group.clone());
        let record = Record::DeadLettered { id, group, digest: digest(&dead.message) };
        all.push(Entry { at, record });
    }
    all
}

fn count(counts: &HashMap<ByteString, u32>, id: &ByteString) -> u32 {
    counts.get(id).copied().unwrap_or(0)
}

// ---- What there is of each message ---------------------------------------------------------------------------

/// A message in a group.
type Place = (ByteString, ByteString);

/// What the journals tell of each message.
#[derive(Debug, Default)]
struct Facts {
    /// Messages whose publisher was told that they are written.
    confirmed: Vec<ByteString>,
    /// Writes of which nobody knows whether they happened.
    maybe: HashMap<ByteString, u32>,
    /// Settlements that were confirmed as acknowledgements.
    acked: HashSet<Place>,
    effects: HashMap<Place, u32>,
    deliveries: HashMap<ByteString, u32>,
}

impl Facts {
    fn of(told: &[Told]) -> Self {
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
        facts
    }

    /// What should be there and is not.
    fn missing(&self, logs: &Logs) -> Vec<String> {
        let mut missing = Vec::new();
        let dead: HashSet<&ByteString> = logs.dead.iter().map(|dead| &dead.message.id).collect();
        for id in &self.confirmed {
            if !logs.copies.contains_key(id) {
                missing.push(format!("{id} was confirmed to its publisher and is not in the log"));
            }
            let (what, there) = if Fate::of(id).is_dead() {
                ("dead letter", dead.contains(id))
            } else {
                ("effect", self.effects.contains_key(&(PLAIN.into(), id.clone())) || dead.contains(id))
            };
            if !there {
                missing.push(format!("{id} was confirmed and has no {what}"));
            }
        }
        for (_, id) in self.effects.keys().filter(|(group, id)| group == PLAIN && events::is_followed(id)) {
            let follows: ByteString = events::followed_by(id).into();
            if !logs.copies.contains_key(&follows) {
                missing.push(format!("{id} has its effect, and the event {follows} is not there"));
            } else if !self.effects.contains_key(&(AFTER.into(), follows.clone())) {
                missing.push(format!("the event {follows} has no effect in group {AFTER}"));
            }
        }
        missing.sort_unstable();
        missing
    }

    /// What is there and should not be, or is there too often.
    fn double(&self, logs: &Logs) -> Vec<String> {
        let mut double = Vec::new();
        for (id, copies) in &logs.copies {
            // An event is written once for each time that its cause was handled, and everything else once; and once more
            // for each write of which nobody knows whether it happened.
            let meant = match id.strip_prefix("f/") {
                Some(cause) => self.effects.get(&(PLAIN.into(), cause.into())).copied().unwrap_or(0),
                None => 1,
            };
            let most = meant + count(&self.maybe, id);
            if *copies > most {
                double.push(format!("{id} lies in the log {copies} times, {most} are explained"));
            }
        }
        let mut letters: HashMap<&ByteString, u32> = HashMap::new();
        for dead in &logs.dead {
            let id = &dead.message.id;
            *letters.entry(id).or_default() += 1;
            if !Fate::of(id).is_dead() {
                double.push(format!("{id} is a dead letter ({}) and should not be", dead.class));
            }
        }
        for (id, times) in letters {
            // Its letter is confirmed before its position is: whoever gets it again writes another one.
            let most = count(&self.deliveries, id) + count(&self.maybe, id);
            if times > most {
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
    use crate::kafka::logs::Dead;

    const LEASE: Duration = Duration::from_millis(100);
    /// Between two records of a story.
    const STEP: u64 = 1_000 * MILLI;

    /// A storm of one message, which was handled by the first of three lives, and nothing was wrong.
    struct Storm {
        folder: TempDir,
        deeds: Deeds,
        logs: Logs,
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
        /// Published, and delivered to the first life.
        fn of(id: &str) -> Self {
            let message = Message::new(TOPIC, "data").with_id(id).with_key("key").with_time(UNIX_EPOCH);
            let folder = tempfile::tempdir().unwrap();
            let (deeds, logs) = (Deeds::default(), Logs::default());
            let mut storm = Self { folder, deeds, logs, message, at: 0 };
            for name in ["a", "b", "c"] {
                let journal = storm.folder.path().join(name);
                storm.deeds.lives.push(Life {
                    name: name.into(),
                    place: BEHIND_PROXIES + 1,
                    journal,
                    ..Life::default()
                });
            }
            storm.publish(1);
            storm.deliver(0);
            storm
        }

        fn publish(&mut self, seq: u64) {
            self.write(0, Record::intent(&self.message, seq));
            self.write(0, Record::Acked { id: self.message.id.clone() });
            self.logs.copies.insert(self.message.id.clone(), 1);
        }

        fn write(&mut self, life: usize, record: Record) {
            self.at += STEP;
            Journal::append_to(&self.deeds.lives[life].journal).unwrap().write_at(self.at, record);
        }

        fn deliver_at(&mut self, life: usize, place: &str) {
            self.deliver_under(life, place, 1);
        }

        fn deliver_under(&mut self, life: usize, place: &str, epoch: u32) {
            let record = Record::Delivered {
                id: self.message.id.clone(),
                topic: TOPIC.into(),
                group: PLAIN.into(),
                worker: format!("w {place}").into(),
                deliveries: 0,
                epoch,
                digest: digest(&self.message),
            };
            self.write(life, record);
        }

        fn deliver(&mut self, life: usize) {
            self.deliver_at(life, "0/7");
        }

        fn effect(&mut self, life: usize) {
            self.write(life, Record::Effect { id: self.message.id.clone(), group: PLAIN.into() });
        }

        fn settle(&mut self, life: usize) {
            let (id, group) = (self.message.id.clone(), PLAIN.into());
            self.write(life, Record::Settled { id, group, verdict: Ending::Ack, outcome: Outcome::Done });
        }

        fn judge(self) -> Row {
            judge(self.deeds, &self.logs, LEASE).unwrap().row
        }

        /// Both duplicates that something explains and those that nothing does.
        fn duplicates(self) -> (u64, u64) {
            let row = self.judge();
            (row.duplicates_explained, row.duplicates_unexplained)
        }
    }

    #[test]
    fn a_storm_in_which_all_went_well_has_no_problems() {
        let mut storm = Storm::of(&plain());
        storm.effect(0);
        storm.settle(0);
        let row = storm.judge();
        assert!(row.is_ok(), "{:?}", row.problems);
        assert_eq!((row.messages, row.acknowledged, row.lost), (1, 1, 0));
    }

    #[test]
    fn a_position_that_a_killed_life_could_not_write_down_is_proved_by_the_effect() {
        let mut storm = Storm::of(&plain());
        storm.effect(0);
        assert!(storm.judge().is_ok());
    }

    #[test]
    fn a_confirmed_message_without_an_effect_is_lost_also_if_its_position_was_confirmed() {
        let mut storm = Storm::of(&plain());
        storm.settle(0);
        let row = storm.judge();
        assert_eq!((row.lost, row.effects_missing), (1, 1), "{:?}", row.problems);
    }

    /// What the first life had comes to the second, after this happened to the lives.
    fn came_again(between: impl FnOnce(&mut Storm)) -> (u64, u64) {
        let mut storm = Storm::of(&plain());
        storm.effect(0);
        between(&mut storm);
        storm.deliver(1);
        storm.effect(1);
        storm.settle(1);
        storm.duplicates()
    }

    #[test]
    fn what_a_killed_life_had_comes_again_and_what_another_had_does_not() {
        assert_eq!(came_again(|_| {}), (0, 1));
        assert_eq!(came_again(|storm| storm.deeds.lives[0].killed = Some(storm.at)), (1, 0));
        assert_eq!(came_again(|storm| storm.deeds.lives[2].killed = Some(storm.at)), (0, 1));
        assert_eq!(came_again(|storm| storm.deeds.lives[1].killed = Some(storm.at)), (0, 1));
    }

    #[test]
    fn what_was_not_handled_is_given_back_when_the_group_changes_and_only_then() {
        let run = |life, epoch| {
            let mut storm = Storm::of(&plain());
            storm.deliver_under(life, "0/7", epoch);
            storm.effect(life);
            storm.duplicates()
        };
        assert_eq!(run(1, 1), (1, 0));
        assert_eq!(run(0, 2), (1, 0));
        assert_eq!(run(0, 1), (0, 1), "under the same assignment");
    }

    #[test]
    fn only_a_stop_that_a_group_notices_explains_anything() {
        let stop = |length| {
            move |storm: &mut Storm| {
                let at = storm.at;
                storm.deeds.lives[0].stopped.push((at, at + length));
            }
        };
        assert_eq!(came_again(stop(90 * MILLI)), (1, 0));
        assert_eq!(came_again(stop(40 * MILLI)), (0, 1));
    }

    #[test]
    fn a_cut_link_explains_only_what_comes_from_or_to_the_one_behind_it() {
        let cut = |life: usize| {
            move |storm: &mut Storm| {
                let at = storm.at;
                storm.deeds.lives[life].place = BEHIND_PROXIES;
                storm.deeds.links.push((at, at));
            }
        };
        assert_eq!(came_again(cut(0)), (1, 0));
        assert_eq!(came_again(cut(1)), (1, 0));
        assert_eq!(came_again(cut(2)), (0, 1));
    }

    #[test]
    fn a_broker_that_was_down_explains_what_came_again_meanwhile_and_nothing_long_after() {
        let down = |at: u64| move |storm: &mut Storm| storm.deeds.brokers.push((at, at));
        assert_eq!(came_again(down(3 * STEP)), (1, 0));
        // Given one that was delivered soon after it was down, then twice long after: what the second delivery repeats may
        // still be its doing, what the third does cannot.
        let mut storm = Storm::of(&plain());
        storm.deeds.brokers.push((1, 2));
        for life in [0, 1] {
            storm.at += 20 * STEP;
            storm.deliver(life);
            storm.effect(life);
        }
        assert_eq!(storm.duplicates(), (1, 1));
    }

    #[test]
    fn nothing_explains_that_a_message_comes_again_whose_position_was_confirmed() {
        let again = came_again(|storm| {
            storm.settle(0);
            storm.deeds.lives[0].killed = Some(storm.at);
        });
        assert_eq!(again, (0, 1));
    }

    #[test]
    fn what_was_handled_behind_one_that_is_given_back_comes_again_with_it_and_what_was_before_it_does_not() {
        let run = |place: &str| {
            let mut storm = Storm::of(&plain());
            let first = storm.message.clone();
            storm.message =
                Message { id: id_of(|id| id > "5" && Fate::of(id) == Fate::Handled).into(), ..first.clone() };
            storm.publish(2);
            storm.deliver_at(0, place);
            storm.message = first;
            storm.effect(0);
            storm.deliver(1);
            storm.effect(1);
            storm.settle(1);
            let row = storm.judge();
            (row.duplicates_explained, row.duplicates_unexplained)
        };
        assert_eq!(run("0/6"), (1, 0));
        assert_eq!(run("0/8"), (0, 1));
        assert_eq!(run("1/6"), (0, 1), "of another partition");
    }

    #[test]
    fn one_that_was_left_behind_may_get_what_another_has_settled_until_it_learns_it() {
        let woke = |before: u64, life: usize| {
            came_again(|storm| {
                storm.settle(0);
                // Awake again so long before the second life gets it, a step from now.
                let at = storm.at + STEP - before;
                storm.deeds.lives[life].stopped.push((at - 90 * MILLI, at));
            })
        };
        assert_eq!(woke(5 * MILLI, 1), (1, 0));
        assert_eq!(woke(500 * MILLI, 1), (0, 1), "it had the time to learn it");
        assert_eq!(woke(5 * MILLI, 0), (0, 1), "another one stood still");
    }

    #[test]
    fn a_parked_message_comes_once_from_the_topic_and_once_from_the_park() {
        let mut storm = Storm::of(&plain());
        storm.logs.parked.insert(storm.message.id.clone(), 1);
        storm.deliver_at(0, "park/3");
        storm.effect(0);
        storm.settle(0);
        let row = storm.judge();
        assert!(row.is_ok(), "{:?}", row.problems);
    }

    #[test]
    fn first_effects_of_a_key_that_trade_places_are_told() {
        let ids: Vec<String> = (0..1_000)
            .map(|n| n.to_string())
            .filter(|id| Fate::of(id) == Fate::Handled && !events::is_followed(id))
            .take(2)
            .collect();
        let mut storm = Storm::of(&ids[0]);
        let first = storm.message.clone();
        storm.message = Message { id: ids[1].as_str().into(), ..first.clone() };
        storm.publish(2);
        storm.deliver_at(0, "0/8");
        storm.effect(0);
        storm.message = first;
        storm.effect(0);
        let row = storm.judge();
        assert!(row.problems.iter().any(|problem| problem.contains("I5 order")), "{:?}", row.problems);
    }

    #[test]
    fn a_message_that_lies_in_the_log_twice_needs_a_write_of_which_nobody_knows() {
        let run = |maybe| {
            let mut storm = Storm::of(&plain());
            storm.deliver_at(0, "0/8");
            storm.effect(0);
            storm.logs.copies.insert(storm.message.id.clone(), 2);
            if maybe {
                storm.write(0, Record::MaybeWritten { id: storm.message.id.clone() });
            }
            storm.judge()
        };
        assert!(run(true).is_ok(), "{:?}", run(true).problems);
        assert_eq!(run(false).effects_double, 1);
    }

    #[test]
    fn a_dead_letter_must_be_one_that_is_meant_and_have_a_delivery_each() {
        let run = |id: &str, letters: usize| {
            let mut storm = Storm::of(id);
            for _ in 0..letters {
                let message = storm.message.clone();
                storm.logs.dead.push(Dead { group: PLAIN.into(), class: "unrecoverable".into(), message });
            }
            storm.settle(0);
            storm.judge()
        };
        let dead = id_of(|id| Fate::of(id) == Fate::Unrecoverable);
        assert!(run(&dead, 1).is_ok(), "{:?}", run(&dead, 1).problems);
        assert_eq!(run(&dead, 2).effects_double, 1);
        assert_eq!(run(&dead, 0).effects_missing, 1);
        assert_eq!(run(&plain(), 1).effects_double, 1);
    }

    #[test]
    fn an_event_that_a_handled_message_published_must_be_there_and_be_handled() {
        let id = id_of(|id| Fate::of(id) == Fate::Handled && events::is_followed(id));
        let mut storm = Storm::of(&id);
        storm.effect(0);
        storm.settle(0);
        let row = storm.judge();
        assert_eq!(row.effects_missing, 1, "{:?}", row.problems);
    }
}
