//! An image of a disk after a power cut, opened by the driver, read to its end, and held against what was known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use millstream::End;
use millstream::sqlite::{SqliteStore, check, rusqlite};
use millstream_core::admin::Admin as _;
use millstream_core::{
    Message, OpenRequest, Opened, Read, ReadLimits, Reader as _, Settled, Settler as _, Source as _,
    Writer as _,
};

use super::handling::{self, FOLLOWED, Group, Parks, TOPIC};
use super::recorded::{FILE, LEASE, WINDOW};
use super::story::Known;
use crate::Result;

/// How long what is owed may take to come.
const OWED: Duration = Duration::from_secs(10);

/// What an image came to.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// How long it took to open it.
    pub(crate) opened: Duration,
    /// Messages that were confirmed and are not there.
    pub(crate) lost: u64,
    pub(crate) effects_double: u64,
    pub(crate) effects_missing: u64,
    /// All that is wrong, in words.
    pub(crate) problems: Vec<String>,
}

/// What lies in the file before anybody goes on with it.
#[derive(Debug, Default)]
struct Found {
    /// The messages of a topic by their places.
    log: HashMap<&'static str, BTreeMap<u64, Message>>,
    /// Ids that are not yet due.
    delayed: Vec<String>,
    effects: HashMap<(Group, u64), usize>,
    dead: HashMap<(Group, u64), usize>,
}

/// Opens the image that lies in a folder, and goes on with it.
///
/// # Errors
/// If it cannot be opened or read: it is to be whole after any power cut.
#[allow(clippy::future_not_send, reason = "it is run on the thread that makes it")]
pub(crate) async fn look(folder: &Path, known: &Known) -> Result<Looked> {
    let file = folder.join(FILE);
    let mut looked = Looked::default();
    let begun = Instant::now();
    let store = SqliteStore::builder(&file).lease(LEASE).private().open().await?;
    looked.opened = begun.elapsed();
    let connection = rusqlite::Connection::open(&file)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch(handling::EFFECTS)?;
    let report = check(&file)?;
    looked.problems.extend(report.problems.iter().map(|problem| format!("check: {problem}")));
    let found = find(&store, &connection).await?;
    looked.messages(&found, known);
    looked.ends(&found, known);
    for group in Group::ALL {
        let delivered = go_on(&store, group, &found).await?;
        looked.delivered(group, &found, known, &delivered);
    }
    let after = find(&store, &connection).await?;
    looked.effects(&found, &after);
    store.writer().close().await?;
    Ok(looked)
}

#[allow(clippy::future_not_send, reason = "as `look`, which alone calls it")]
async fn find(store: &SqliteStore, connection: &rusqlite::Connection) -> Result<Found> {
    // One statement, one moment: what is due goes from here into its log.
    let delayed = connection
        .prepare("SELECT mid FROM millstream_delayed")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut found = Found { delayed, ..Found::default() };
    for topic in [TOPIC, FOLLOWED] {
        found.log.insert(topic, browse(store, topic).await?);
    }
    let count = |sql: &str| -> Result<HashMap<(Group, u64), usize>> {
        let mut counts = HashMap::new();
        let mut rows = connection.prepare(sql)?;
        for row in rows.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)))? {
            let (group, seq) = row?;
            let group = Group::of(&group).ok_or_else(|| format!("there is no group {group}"))?;
            *counts.entry((group, seq)).or_default() += 1;
        }
        Ok(counts)
    };
    found.effects = count("SELECT grp, seq FROM effects")?;
    found.dead = count("SELECT grp, seq FROM millstream_dead")?;
    Ok(found)
}

async fn browse(store: &SqliteStore, topic: &'static str) -> Result<BTreeMap<u64, Message>> {
    let mut source = store.reader().open(OpenRequest::new(topic).end(End::Latest)).await?.source;
    let mut all = BTreeMap::new();
    loop {
        let mut some = Vec::new();
        let read = source.read(&mut some, ReadLimits::new(1_000, 8 << 20)).await?;
        all.extend(
            some.into_iter().map(|d| (d.position.map_or(0, |position| position.0), (*d.message).clone())),
        );
        if matches!(read, Read::End) {
            source.close().await?;
            return Ok(all);
        }
    }
}

/// Handles all that a group is owed of what was found; gives what was delivered, by its place, and how often.
async fn go_on(store: &SqliteStore, group: Group, found: &Found) -> Result<BTreeMap<u64, usize>> {
    let dedup = store.dedup_store(WINDOW);
    let request = OpenRequest::new(group.topic()).group(group.name()).end(End::Latest);
    let Opened { mut source, mut settler, .. } = store.reader().open(request).await?;
    // The end that the driver tells does not wait for what is parked.
    let last = found.log[group.topic()].keys().last().copied().unwrap_or(0);
    let mut delivered = BTreeMap::new();
    let begun = Instant::now();
    loop {
        let mut some = Vec::new();
        let reading = source.read(&mut some, ReadLimits::new(1_000, 8 << 20));
        let left = OWED.saturating_sub(begun.elapsed());
        let owed = || format!("group {} is still owed something after {OWED:?}", group.name());
        let read = tokio::time::timeout(left, reading).await.map_err(|_| owed())??;
        if matches!(read, Read::End) {
            if first_unsettled(store, group).await? > last {
                break;
            }
            if left.is_zero() {
                return Err(owed().into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let handled = handling::handle(group, some, &dedup, Parks::None).await?;
        // What is given back comes again on purpose.
        for one in handled.iter().filter(|one| one.ends) {
            *delivered.entry(one.seq).or_default() += 1;
        }
        let batch = handled.into_iter().map(|one| one.settlement).collect();
        for settled in settler.settle(batch).await {
            if !matches!(settled, Settled::Done) {
                return Err(format!("group {}: not settled: {settled:?}", group.name()).into());
            }
        }
    }
    settler.close().await?;
    source.close().await?;
    Ok(delivered)
}

/// The first message that a group has not come to its end with.
async fn first_unsettled(store: &SqliteStore, group: Group) -> Result<u64> {
    let groups = store.admin().groups(group.topic()).await?;
    let info = groups.iter().find(|info| *info.name == *group.name());
    Ok(info.and_then(|info| info.committed.first()).map_or(0, |(_, position)| position.0))
}

impl Looked {
    /// It cannot be opened or read.
    pub(crate) fn failed(problem: String) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }

    /// What was published is there, whole, and nothing else.
    fn messages(&mut self, found: &Found, known: &Known) {
        let empty = BTreeMap::new();
        let log = found.log.get(TOPIC).unwrap_or(&empty);
        let mut copies: HashMap<&str, usize> = HashMap::new();
        // Retention deletes from the front.
        let first = match log.keys().next() {
            Some(first) if !known.may_expire.is_empty() => *first,
            _ => 1,
        };
        for (place, message) in (first..).zip(log) {
            let (seq, id) = (*message.0, &*message.1.id);
            if seq != place {
                self.problems.push(format!("number {place} is not there"));
                return;
            }
            *copies.entry(id).or_default() += 1;
            let wanted = handling::message(id);
            let whole = message.1.data == wanted.data
                && message.1.key == wanted.key
                && message.1.headers == wanted.headers;
            if !whole {
                self.problems.push(format!("{id} is not what was published"));
            }
        }
        for id in &found.delayed {
            *copies.entry(id).or_default() += 1;
        }
        for (id, least) in &known.published {
            let there = copies.get(&**id).copied().unwrap_or(0);
            if there < *least && !known.may_expire.contains(id) {
                self.lost += 1;
                self.problems.push(format!("{id} was confirmed {least} times and is there {there} times"));
            }
        }
        for (id, there) in copies {
            let most = known.publishing.get(id).copied().unwrap_or(0);
            // What is delayed may be seen on its way, here and there.
            if there > most && !found.delayed.iter().any(|delayed| delayed == id) {
                self.problems.push(format!("{id} is there {there} times and was published {most} times"));
            }
        }
    }

    /// What was acknowledged has its effect, or is a dead letter.
    fn ends(&mut self, found: &Found, known: &Known) {
        for (group, seq) in &known.settled {
            let place = (*group, *seq);
            let log = &found.log[group.topic()];
            if !known.may_expire.is_empty() && log.keys().next().is_some_and(|first| seq < first) {
                continue;
            }
            let Some(message) = log.get(seq) else {
                self.problems
                    .push(format!("{} acknowledged number {seq}, and it is not there", group.name()));
                continue;
            };
            if handling::is_dead(*group, &message.id) {
                if !found.dead.contains_key(&place) {
                    self.problems.push(format!(
                        "the dead letter of {} in {} is lost",
                        message.id,
                        group.name()
                    ));
                }
            } else if matches!(group, Group::Effects | Group::After) && !found.effects.contains_key(&place) {
                self.effects_missing += 1;
                self.problems.push(format!(
                    "{} was acknowledged in {} without its effect",
                    message.id,
                    group.name()
                ));
            }
        }
        for place in found.effects.keys().chain(found.dead.keys()) {
            if !known.settling.contains(place) {
                self.problems.push(format!("{place:?} has an end that nobody gave it"));
            }
        }
        // What was emitted is there if and only if its cause's effect is.
        let followed: BTreeSet<&str> = found.log[FOLLOWED].values().map(|message| &*message.id).collect();
        if followed.len() != found.log[FOLLOWED].len() {
            self.problems.push("an event was emitted twice".into());
        }
        let causes: BTreeSet<String> = found
            .effects
            .keys()
            .filter(|(group, _)| *group == Group::Effects)
            .filter_map(|(_, seq)| found.log[TOPIC].get(seq).map(|message| (seq, message)))
            .filter(|(_, message)| handling::is_followed(&message.id))
            .map(|(seq, message)| handling::followed_id(&message.id, *seq))
            .collect();
        let causes: BTreeSet<&str> = causes.iter().map(String::as_str).collect();
        for id in followed.symmetric_difference(&causes) {
            self.problems.push(format!("of the event {id} and the effect it left with, one is there alone"));
        }
    }

    /// What was acknowledged does not come again, and all else does.
    fn delivered(&mut self, group: Group, found: &Found, known: &Known, delivered: &BTreeMap<u64, usize>) {
        let name = group.name();
        for (seq, times) in delivered {
            let place = (group, *seq);
            if *times > 1 {
                self.problems.push(format!("number {seq} came {times} times in {name}"));
            }
            if known.settled.contains(&place) {
                self.problems.push(format!("number {seq} was settled in {name} and came again"));
            }
            if found.effects.contains_key(&place) || found.dead.contains_key(&place) {
                self.effects_double += 1;
                self.problems.push(format!("number {seq} came again in {name}, beside its effect"));
            }
        }
        for seq in found.log[group.topic()].keys().filter(|seq| !delivered.contains_key(seq)) {
            if !known.settling.contains(&(group, *seq)) {
                self.problems.push(format!("number {seq} was never settled in {name} and did not come"));
            }
        }
    }

    /// In the end each message has its effect in each group, once.
    fn effects(&mut self, before: &Found, after: &Found) {
        for (place, times) in after.effects.iter().chain(&after.dead).filter(|(_, times)| **times > 1) {
            self.effects_double += 1;
            self.problems.push(format!("{place:?} has {times} effects"));
        }
        // Of the orders those that were there when the groups were asked: others became due meanwhile.
        for (group, log) in [(Group::Effects, &before.log[TOPIC]), (Group::After, &after.log[FOLLOWED])] {
            for (seq, message) in log {
                let ended = if handling::is_dead(group, &message.id) { &after.dead } else { &after.effects };
                if !ended.contains_key(&(group, *seq)) {
                    self.effects_missing += 1;
                    self.problems.push(format!("{} has no effect in {}", message.id, group.name()));
                }
            }
        }
        let mut once: HashMap<&str, usize> = HashMap::new();
        for message in before.log[TOPIC].values() {
            once.insert(&message.id, 0);
        }
        for ((_, seq), times) in after.effects.iter().filter(|((group, _), _)| *group == Group::Once) {
            if let Some(message) = after.log[TOPIC].get(seq) {
                *once.entry(&message.id).or_default() += times;
            }
        }
        for (id, times) in once.into_iter().filter(|(_, times)| *times != 1) {
            let wrong = if times == 0 { &mut self.effects_missing } else { &mut self.effects_double };
            *wrong += 1;
            self.problems.push(format!("{id} has {times} effects in the group that deduplicates"));
        }
    }
}
