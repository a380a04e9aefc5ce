//! What a process may do when something happened to it, and nobody otherwise.
//!
//! A message may come again only if the very process that had it was killed, if syncs of its file failed, or if somebody
//! stood still meanwhile. A process whose syncs all fail may confirm nothing that it was asked for from then on. A
//! delayed message may come early only while somebody's clock is ahead.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bytestring::ByteString;
use millstream_testkit::ledger::{Ending, Entry, Outcome, Record};

use super::Told;
use crate::arena::Life;
use crate::events::{self, FOLLOWED};
use crate::launch::Which;

/// A message in a group.
type Place<'a> = (&'a ByteString, &'a ByteString);

const MILLI: u64 = 1_000_000;

// ---- Duplicates ----------------------------------------------------------------------------------------------

/// Who is to blame for duplicates.
#[derive(Debug, Default)]
pub(super) struct Blamed {
    /// The deliveries that a fault explains, by their place in the story.
    pub(super) explained: HashSet<usize>,
    /// Those of them that the test kit cannot explain: it does not know whom a fault struck, and for how long.
    untold: HashSet<usize>,
    pub(super) unexplained: Vec<String>,
    /// How long after a death what it had came again, in ms.
    after_kill: Vec<u64>,
    /// How long after somebody began to stand still, for longer than the lease, others got what it had.
    after_stop: Vec<u64>,
}

/// Goes through the deliveries.
pub(super) fn duplicates(told: &[Told], lives: &[Life], lease: Duration) -> Blamed {
    let mut blamed = Blamed::default();
    let lease = nanos(lease);
    let grace = lease + 1_000 * MILLI;
    let stops: Vec<(u64, u64)> = lives.iter().flat_map(|life| life.stopped.iter().copied()).collect();
    let stood_still = |from: u64, to: u64| stops.iter().any(|stop| stop.0 <= to && from <= stop.1 + grace);
    // Written twice on purpose: comes twice.
    let repeated: HashSet<&ByteString> = told
        .iter()
        .filter_map(|(_, entry)| match &entry.record {
            Record::MaybeWritten { id } => Some(id),
            _ => None,
        })
        .collect();
    let mut open: HashMap<Place<'_>, (u64, usize)> = HashMap::new();
    let mut ended: HashSet<Place<'_>> = HashSet::new();
    for (number, (life, entry)) in told.iter().enumerate() {
        match (&entry.record, life) {
            (Record::Delivered { id, group, .. }, Some(life)) if !repeated.contains(id) => {
                let place = (group, id);
                if let Some((at, had)) = open.insert(place, (entry.at, *life)) {
                    let before = &lives[had];
                    let long_stop = before
                        .stopped
                        .iter()
                        .find(|stop| at <= stop.0 && stop.0 + lease < stop.1 && stop.0 <= entry.at);
                    blamed.explained.insert(number);
                    if let Some(killed) = before.killed.filter(|killed| at <= *killed && *killed <= entry.at)
                    {
                        blamed.after_kill.push((entry.at - killed) / MILLI);
                        continue;
                    }
                    blamed.untold.insert(number);
                    if let Some(stop) = long_stop.filter(|_| had != *life) {
                        blamed.after_stop.push((entry.at - stop.0) / MILLI);
                    } else if !stood_still(at, entry.at) && !was_struck(before, at, entry.at) {
                        blamed.explained.remove(&number);
                        blamed.untold.remove(&number);
                        blamed.unexplained.push(format!(
                            "{id} in group {group}: {} had it and nothing happened to it, {} got it too",
                            before.name, lives[*life].name
                        ));
                    }
                } else if ended.contains(&place) && stood_still(entry.at, entry.at) {
                    blamed.explained.insert(number);
                    blamed.untold.insert(number);
                } else if ended.contains(&place) {
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
    blamed
}

/// Between a sync that fails and the record of what was on its way to a handler then.
const ON_ITS_WAY: u64 = 200 * MILLI;

/// Whether a life gave up what it had, since a sync failed, or since it was cut off.
fn was_struck(life: &Life, from: u64, to: u64) -> bool {
    let first = life.struck.partition_point(|at| *at + ON_ITS_WAY < from);
    life.struck.get(first).is_some_and(|at| *at <= to) || life.cut.is_some_and(|cut| cut <= to)
}

impl Blamed {
    pub(super) fn figures(&self) -> BTreeMap<&'static str, u64> {
        let mut figures = BTreeMap::new();
        let mut tell = |half, all, after: &[u64]| {
            let mut after = after.to_vec();
            after.sort_unstable();
            if let (Some(middle), Some(last)) = (after.get(after.len() / 2), after.last()) {
                figures.extend([(half, *middle), (all, *last)]);
            }
        };
        tell("redelivered_after_kill_ms_half", "redelivered_after_kill_ms_all", &self.after_kill);
        tell("redelivered_after_stop_ms_half", "redelivered_after_stop_ms_all", &self.after_stop);
        figures
    }

    /// The story for the test kit: what it cannot explain is a fault's with a budget.
    pub(super) fn forgiven(&self, told: Vec<Told>) -> Vec<Entry> {
        let mut all = Vec::with_capacity(told.len() + self.untold.len());
        for (number, (_, entry)) in told.into_iter().enumerate() {
            if let Record::Delivered { group, .. } = &entry.record
                && self.untold.contains(&number)
            {
                let what = "struck, says the life that had it".into();
                let record = Record::Fault { what, group: Some(group.clone()), budget: 1 };
                all.push(Entry { at: entry.at, record });
            }
            all.push(entry);
        }
        all
    }
}

// ---- Confirmations -------------------------------------------------------------------------------------------

/// What was confirmed though no sync succeeded any more.
#[derive(Debug, Default)]
pub(super) struct Lies {
    pub(super) lies: Vec<String>,
    /// How long after a sync failed the same life confirmed something again, in ms.
    resumed: Vec<u64>,
    /// Lives in which no sync succeeded any more.
    dead_disks: u64,
}

/// Goes through what lives confirmed whose syncs failed.
pub(super) fn lies(told: &[Told], lives: &[Life]) -> Lies {
    let mut found = Lies::default();
    let dead_since: Vec<Option<u64>> = lives
        .iter()
        .map(|life| match &life.failing {
            Some(failing) if matches!(failing.which, Which::From { .. }) => failing.commits_failed_from(),
            _ => None,
        })
        .collect();
    found.dead_disks = dead_since.iter().flatten().count() as u64;
    let mut intended: HashMap<&ByteString, u64> = HashMap::new();
    // The first failure that was not followed by a confirmation yet, for each life.
    let mut waiting: HashMap<usize, usize> = HashMap::new();
    for (life, entry) in told {
        let Some(life) = *life else { continue };
        let dead = dead_since[life];
        match &entry.record {
            Record::Intent { id, topic, .. } if topic != FOLLOWED => {
                intended.insert(id, entry.at);
            }
            Record::Acked { id } => {
                let asked = intended.get(id).copied().unwrap_or_default();
                if dead.is_some_and(|dead| asked > dead) {
                    found.lies.push(format!("{}: {id} to its publisher", lives[life].name));
                }
                let struck = &lives[life].struck;
                let next = waiting.entry(life).or_default();
                if struck.get(*next).is_some_and(|at| *at < entry.at) {
                    found.resumed.push((entry.at - struck[*next]) / MILLI);
                    *next = struck.partition_point(|at| *at < entry.at);
                }
            }
            Record::Settled { id, group, verdict: Ending::Ack | Ending::Dead, outcome: Outcome::Done }
                if dead.is_some_and(|dead| entry.at > dead) =>
            {
                found.lies.push(format!("{}: the end of {id} in group {group}", lives[life].name));
            }
            _ => {}
        }
    }
    found
}

impl Lies {
    pub(super) fn figures(&self) -> BTreeMap<&'static str, u64> {
        let mut figures = BTreeMap::new();
        if self.dead_disks > 0 {
            figures.insert("lives_without_any_sync", self.dead_disks);
        }
        if let Some(longest) = self.resumed.iter().max() {
            figures.insert("resumed_after_failed_sync_ms", *longest);
        }
        figures
    }
}

// ---- Delays --------------------------------------------------------------------------------------------------

/// How much later than it is due a delayed message may come, also on a machine with much else to do: the others look for
/// it, whatever one's clock says.
const LATE: u64 = 20_000 * MILLI;
/// How much earlier: clocks are read one after the other.
const EARLY: u64 = 20 * MILLI;
/// How long after a clock was set right somebody may still act by what it said.
const AFTERGLOW: u64 = 1_000 * MILLI;

/// When delayed messages came.
#[derive(Debug, Default)]
pub(super) struct Delays {
    pub(super) wrong: Vec<String>,
    delayed: u64,
    early: u64,
    latest: u64,
}

/// Goes through the first deliveries of delayed messages.
pub(super) fn delays(told: &[Told], ahead: &[(u64, u64)]) -> Delays {
    let mut delays = Delays::default();
    let is_ahead = |at: u64| ahead.iter().any(|(from, to)| *from <= at && at <= to + AFTERGLOW);
    let mut seen: HashSet<Place<'_>> = HashSet::new();
    for (_, entry) in told {
        let Record::Delivered { id, group, topic, .. } = &entry.record else { continue };
        if topic == FOLLOWED {
            continue;
        }
        let Some(due) = events::due_of(id).filter(|_| seen.insert((group, id))) else { continue };
        delays.delayed += 1;
        if entry.at + EARLY < due {
            delays.early += 1;
            if !is_ahead(entry.at) {
                delays.wrong.push(format!("{id} in group {group}: {} ms early", (due - entry.at) / MILLI));
            }
        }
        let late = entry.at.saturating_sub(due);
        delays.latest = delays.latest.max(late);
        if late > LATE {
            delays.wrong.push(format!("{id} in group {group}: {} ms late", late / MILLI));
        }
    }
    delays
}

impl Delays {
    pub(super) fn figures(&self) -> BTreeMap<&'static str, u64> {
        if self.delayed == 0 {
            return BTreeMap::new();
        }
        BTreeMap::from([
            ("delayed", self.delayed),
            ("delayed_early_by_a_wrong_clock", self.early),
            ("delayed_latest_ms", self.latest / MILLI),
        ])
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
