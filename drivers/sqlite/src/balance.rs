//! Sharing a group's slots among its members, in this process and in others.
//!
//! A member says in a row of its own that it lives, and until when nobody may think otherwise. A slot is owned as long
//! as its owner's row is there. Who finds that a member is gone (its time is over, or its process) removes the row, and
//! its slots are free. Each member takes as many as its share; one that has too many gives some back, once nothing of
//! them is with its scheduler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};
use millstream_core::{Bytes, Error, ErrorKind, Result};
use rusqlite::{Connection, params};

use crate::hub::Shared;
use crate::member::{Member, ParkedMessage, Phase, note};
use crate::progress::{ParkedRow, Progress};
use crate::row::Damage;
use crate::schema::SLOTS;
use crate::{clock, errors, topics};

/// A member's row.
#[derive(Debug)]
struct Row {
    owner: i64,
    joined: i64,
    until: i64,
    exclusive: bool,
    process: String,
}

impl Row {
    /// From the columns `owner, joined, until, exclusive, process`.
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            owner: row.get(0)?,
            joined: row.get(1)?,
            until: row.get(2)?,
            exclusive: row.get(3)?,
            process: row.get(4)?,
        })
    }

    fn is_alive(&self, now: i64) -> bool {
        self.until >= now && !clock::is_gone(&self.process)
    }
}

/// What changed, to be applied in memory once it is durable.
pub(crate) struct Balanced {
    pub(crate) member: Arc<Member>,
    owner: i64,
    valid_until: i64,
    pub(crate) given_back: Vec<usize>,
    claimed: Vec<Claimed>,
}

struct Claimed {
    slot: usize,
    epoch: i64,
    progress: Progress,
    parked: Vec<ParkedMessage>,
    careful_until: u64,
}

fn rows(connection: &Connection, group: i64) -> rusqlite::Result<Vec<Row>> {
    connection
        .prepare_cached(
            "SELECT owner, joined, until, exclusive, process FROM millstream_member WHERE grp = ?1",
        )?
        .query_map([group], Row::read)?
        .collect()
}

/// How many slots a member should have.
fn share(live: &[&Row], owner: i64) -> usize {
    let mut members: Vec<&&Row> = live.iter().collect();
    members.sort_unstable_by_key(|row| (row.joined, row.owner));
    if members.iter().any(|row| row.exclusive) {
        // For total order one has all; the others stand by.
        let first = members.iter().find(|row| row.exclusive).map(|row| row.owner);
        return if first == Some(owner) { SLOTS } else { 0 };
    }
    let Some(rank) = members.iter().position(|row| row.owner == owner) else { return 0 };
    SLOTS / members.len() + usize::from(rank < SLOTS % members.len())
}

/// Renews a member's row; says whether it was still there. What it is valid until counts once it is durable.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn renew(connection: &Connection, member: &Arc<Member>, lease: Duration) -> Result<Option<i64>> {
    let Some(group) = &member.group else { return Ok(None) };
    let owner = member.lock().owner;
    let until = clock::after(lease);
    let renewed = connection
        .prepare_cached("UPDATE millstream_member SET until = ?3 WHERE grp = ?1 AND owner = ?2")
        .and_then(|mut s| s.execute(params![group.id, owner, until]))
        .map_err(|e| member.locate(errors::sqlite("the lease cannot be renewed", e)))?;
    Ok((renewed == 1).then_some(until))
}

/// Until when a member may rely on a lease: a little less than the others do.
pub(crate) fn reliable(until: i64, lease: Duration) -> i64 {
    until - i64::try_from(lease.as_millis() / 8).unwrap_or(0)
}

/// Brings a member's slots to its share, in the caller's transaction.
///
/// # Errors
/// As SQLite has them: then the transaction is to be undone. [`Corrupt`](ErrorKind::Corrupt) if the group's progress
/// is not what was written.
pub(crate) fn balance(
    connection: &Connection,
    shared: &Shared,
    member: &Arc<Member>,
) -> Result<Option<Balanced>> {
    let Some(group) = &member.group else { return Ok(None) };
    if member.lock().phase == Phase::Left {
        return Ok(None);
    }
    let failed = |e| member.locate(errors::sqlite("the group's members cannot be told apart", e));
    let lease = shared.settings.lease;
    let until = match renew(connection, member, lease)? {
        Some(until) => until,
        None => register(connection, shared, member, group.id).map_err(failed)?,
    };
    let (owner, now) = (member.lock().owner, clock::since_boot());
    let all = rows(connection, group.id).map_err(failed)?;
    let (live, gone): (Vec<&Row>, Vec<&Row>) =
        all.iter().partition(|row| row.owner == owner || row.is_alive(now));
    for row in &gone {
        connection
            .execute(
                "DELETE FROM millstream_member WHERE grp = ?1 AND owner = ?2",
                params![group.id, row.owner],
            )
            .map_err(failed)?;
        tracing::info!(topic = %member.topic.name, group = %group.name, process = row.process,
            "a member is gone: its messages come again");
    }
    let share = share(&live, owner);
    let mut given_back = Vec::new();
    {
        let mut state = member.lock();
        let owned = state.owned();
        state.want_back(owned.saturating_sub(share));
        for slot in state.to_give_back() {
            give_back(connection, group.id, slot, owner).map_err(failed)?;
            given_back.push(slot);
        }
    }
    let owned = member.lock().owned() - given_back.len();
    let mut claimed = Vec::new();
    if owned < share && given_back.is_empty() {
        let owners: Vec<i64> = live.iter().map(|row| row.owner).collect();
        claimed = claim(connection, member, group.id, owner, &owners, share - owned)?;
    }
    member.lock().set_leaving(&given_back, true);
    let valid_until = reliable(until, lease);
    Ok(Some(Balanced { member: Arc::clone(member), owner, valid_until, given_back, claimed }))
}

/// Adds the member's row under a new name: what it had under an old one is lost.
fn register(
    connection: &Connection,
    shared: &Shared,
    member: &Arc<Member>,
    group: i64,
) -> rusqlite::Result<i64> {
    let owner = i64::from_ne_bytes(fastrand::u64(1..).to_ne_bytes()) & i64::MAX;
    let until = clock::after(shared.settings.lease);
    let mut state = member.lock();
    if state.owner != 0 {
        tracing::warn!(topic = %member.topic.name, in_flight = state.in_flight(),
            "this member was taken for gone: what it had in work comes again");
    }
    state.drop_all();
    state.owner = owner;
    connection
        .prepare_cached("INSERT INTO millstream_member VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![group, owner, state.joined, until, member.exclusive, shared.process])?;
    Ok(until)
}

fn give_back(connection: &Connection, group: i64, slot: usize, owner: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE millstream_slot SET owner = NULL WHERE grp = ?1 AND slot = ?2 AND owner = ?3",
        )?
        .execute(params![group, slot, owner])
        .map(drop)
}

/// Takes up to `wanted` slots that nobody alive has.
fn claim(
    connection: &Connection,
    member: &Arc<Member>,
    group: i64,
    owner: i64,
    live: &[i64],
    wanted: usize,
) -> Result<Vec<Claimed>> {
    let failed = |e| member.locate(errors::sqlite("the group's slots cannot be claimed", e));
    let damaged = |damage: Damage| {
        member.locate(
            Error::new(
                ErrorKind::Corrupt,
                format!("the group's progress is not what was written: {}", damage.0),
            )
            .fix("stop, look at the file with `millstream check`, and restore a backup or seek the group"),
        )
    };
    let mut statement = connection
        .prepare_cached(
            "SELECT slot, owner, epoch, front, holes, parked, crc FROM millstream_slot WHERE grp = ?1 ORDER BY slot",
        )
        .map_err(failed)?;
    let mut rows = statement.query([group]).map_err(failed)?;
    let mut claimed = Vec::new();
    // A damaged key hides rows from a search: all have to be there.
    let mut seen = 0;
    let last = topics::last(connection, member.topic.id)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let holder: Option<i64> = row.get(1).map_err(failed)?;
        let slot: usize = row.get(0).map_err(failed)?;
        if slot != seen {
            return Err(damaged(Damage(format!("slot {seen} is not where it was"))));
        }
        seen += 1;
        let ours = holder == Some(owner) && member.lock().slots[slot].is_some();
        if ours || holder.is_some_and(|holder| holder != owner && live.contains(&holder)) {
            continue;
        }
        if claimed.len() == wanted {
            continue;
        }
        let holes: Vec<u8> = row.get(4).map_err(failed)?;
        let (front, parked, crc) =
            (row.get(3).map_err(failed)?, row.get(5).map_err(failed)?, row.get(6).map_err(failed)?);
        let progress = Progress::read(group, slot, front, &holes, parked, crc).map_err(damaged)?;
        // A slot that was not given back may have had anything up to here in work when its owner died.
        let careful_until = if holder.is_some() { last } else { 0 };
        let Some(epoch) = row.get::<_, i64>(2).map_err(failed)?.checked_add(1) else {
            return Err(damaged(Damage(format!("slot {slot} has the last epoch there is"))));
        };
        claimed.push(Claimed { slot, epoch, progress, parked: Vec::new(), careful_until });
    }
    drop(rows);
    if seen != SLOTS {
        return Err(damaged(Damage(format!("of {SLOTS} slots {seen} are there"))));
    }
    for one in &claimed {
        let changed = connection
            .prepare_cached("UPDATE millstream_slot SET owner = ?3, epoch = ?4 WHERE grp = ?1 AND slot = ?2")
            .and_then(|mut s| s.execute(params![group, one.slot, owner, one.epoch]))
            .map_err(failed)?;
        if changed != 1 {
            return Err(damaged(Damage(format!("slot {} cannot be found", one.slot))));
        }
    }
    if !claimed.is_empty() {
        read_parked(connection, member, group, &mut claimed, damaged)?;
    }
    Ok(claimed)
}

/// Reads what is parked in slots that were claimed.
fn read_parked(
    connection: &Connection,
    member: &Arc<Member>,
    group: i64,
    claimed: &mut [Claimed],
    damaged: impl Fn(Damage) -> Error,
) -> Result<()> {
    let failed = |e| member.locate(errors::sqlite("the group's parked messages cannot be read", e));
    let sql = format!("SELECT {} FROM millstream_parked WHERE grp = ?1 ORDER BY seq", ParkedRow::COLUMNS);
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query([group]).map_err(failed)?;
    let (wall, now) = (clock::wall(), Instant::now());
    while let Some(row) = rows.next().map_err(failed)? {
        let parked = ParkedRow::read(group, row).map_err(&damaged)?;
        let Some(claim) = claimed.iter_mut().find(|claim| claim.slot == parked.slot) else { continue };
        claim.parked.push(ParkedMessage {
            seq: parked.seq,
            key: parked.key.map(Bytes::from),
            note: note(parked.attempts, parked.first_failure, parked.error),
            deliveries: parked.deliveries,
            due: parked.due.map(|due| now + due.left(wall)),
        });
    }
    for claim in claimed.iter() {
        if claim.parked.len() != claim.progress.parked as usize {
            return Err(damaged(Damage(format!(
                "slot {} has {} parked messages and counts {}",
                claim.slot,
                claim.parked.len(),
                claim.progress.parked
            ))));
        }
    }
    Ok(())
}

impl Balanced {
    /// It did not happen.
    pub(crate) fn undone(&self) {
        let mut state = self.member.lock();
        if state.owner == self.owner {
            state.set_leaving(&self.given_back, false);
        }
    }

    /// It is durable: memory follows. Says whether slots changed hands.
    pub(crate) fn committed(self) -> bool {
        let mut state = self.member.lock();
        if state.owner != self.owner {
            return false;
        }
        let moved = !self.given_back.is_empty() || !self.claimed.is_empty();
        for slot in self.given_back {
            state.drop_slot(slot);
        }
        for claim in self.claimed {
            state.claimed(claim.slot, claim.epoch, &claim.progress, claim.parked, claim.careful_until);
        }
        state.valid_until = self.valid_until;
        state.settled_in = true;
        drop(state);
        self.member.news.notify_one();
        moved
    }
}

/// A member gives back all it has and removes its row, in the caller's transaction.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn leave(connection: &Connection, member: &Arc<Member>) -> Result<()> {
    let Some(group) = &member.group else { return Ok(()) };
    let failed = |e| member.locate(errors::sqlite("the group cannot be left", e));
    let state = member.lock();
    let owner = state.owner;
    for slot in 0..SLOTS {
        if state.slots[slot].is_some() {
            give_back(connection, group.id, slot, owner).map_err(failed)?;
        }
    }
    connection
        .execute("DELETE FROM millstream_member WHERE grp = ?1 AND owner = ?2", params![group.id, owner])
        .map_err(failed)?;
    Ok(())
}

/// All members of the file's groups, read at once: there may be many groups.
pub(crate) struct Members {
    by_group: HashMap<i64, Vec<Row>>,
    /// Processes that are gone.
    gone: HashSet<String>,
}

impl Members {
    /// # Errors
    /// As SQLite has them.
    pub(crate) fn read(connection: &Connection, this_process: &str) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached(
            "SELECT owner, joined, until, exclusive, process, grp FROM millstream_member ORDER BY grp, owner",
        )?;
        let mut rows = statement.query([])?;
        let mut members = Self { by_group: HashMap::default(), gone: HashSet::default() };
        let mut alive = HashSet::default();
        while let Some(row) = rows.next()? {
            let (member, group) = (Row::read(row)?, row.get(5)?);
            // Each process is looked for once.
            let known = member.process == this_process
                || alive.contains(&member.process)
                || members.gone.contains(&member.process);
            if !known {
                let processes = if clock::is_gone(&member.process) { &mut members.gone } else { &mut alive };
                processes.insert(member.process.clone());
            }
            members.by_group.entry(group).or_default().push(member);
        }
        Ok(members)
    }

    /// Whether there are others than these.
    pub(crate) fn has_others(&self, mine: &HashSet<i64>) -> bool {
        self.by_group.values().flatten().any(|row| !mine.contains(&row.owner))
    }
}

/// Whether a member's slots should be looked at: somebody came or went, a slot is free that it should have, or one is
/// its own in the file and not in memory, since the file was opened again and nobody could take it up then.
///
/// # Errors
/// As SQLite has them.
pub(crate) fn is_due(connection: &Connection, members: &Members, member: &Member) -> rusqlite::Result<bool> {
    let Some(group) = &member.group else { return Ok(false) };
    let now = clock::since_boot();
    let all = members.by_group.get(&group.id).map_or(&[][..], Vec::as_slice);
    let (owner, owned, kept, ready) = {
        let state = member.lock();
        let kept = state.slots.iter().flatten().filter(|slot| !slot.wanted).count();
        (state.owner, state.owned(), kept, !state.to_give_back().is_empty())
    };
    let is_alive = |row: &Row| row.until >= now && !members.gone.contains(&row.process);
    if ready || !all.iter().all(is_alive) || !all.iter().any(|row| row.owner == owner) {
        return Ok(true);
    }
    let live: Vec<&Row> = all.iter().collect();
    let share = share(&live, owner);
    if kept > share || (owned > kept && kept < share) {
        return Ok(true);
    }
    if owned >= share {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "SELECT EXISTS(SELECT 1 FROM millstream_slot WHERE grp = ?1 AND (owner IS NULL OR owner NOT IN \
             (SELECT owner FROM millstream_member WHERE grp = ?1))) \
             OR (SELECT count(*) FROM millstream_slot WHERE grp = ?1 AND owner = ?2) > ?3",
        )?
        .query_row(params![group.id, owner, owned], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Hub, Settings};
    use crate::member::{Bounds, Group};
    use crate::open::{self, Create, Role};
    use crate::retention::Retention;

    fn row(owner: i64, joined: i64, exclusive: bool) -> Row {
        Row { owner, joined, until: i64::MAX, exclusive, process: String::new() }
    }

    fn shares(rows: &[Row]) -> Vec<usize> {
        let live: Vec<&Row> = rows.iter().collect();
        rows.iter().map(|row| share(&live, row.owner)).collect()
    }

    #[test]
    fn the_slots_are_shared_evenly_and_all_are_taken() {
        for count in [1, 2, 3, 5, 7, 64] {
            let shares = shares(&(1..=count).map(|n| row(n, n, false)).collect::<Vec<_>>());
            assert_eq!(shares.iter().sum::<usize>(), SLOTS, "{count} members");
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
    }

    #[test]
    fn of_more_members_than_slots_some_stand_by() {
        let shares = shares(&(1..=70).map(|n| row(n, n, false)).collect::<Vec<_>>());
        assert_eq!(shares.iter().filter(|share| **share == 1).count(), SLOTS);
        assert_eq!(shares.iter().sum::<usize>(), SLOTS);
    }

    #[test]
    fn slots_that_a_member_has_in_the_file_alone_are_to_be_taken_up() {
        // Given a member with all slots of its group
        let folder = tempfile::tempdir().unwrap();
        let patience = Duration::from_secs(5);
        let path = open::prepare(&folder.path().join("app.db"), Create::Missing, patience).unwrap();
        let connection = open::connect(&path, Role::Writer, patience).unwrap();
        let settings = Settings {
            lease: patience,
            busy_timeout: patience,
            retention: Retention::default(),
            max_message: 1 << 20,
        };
        let hub = Hub::open(&path, settings).unwrap();
        let (id, _) = topics::ensure(&connection, "t").unwrap();
        let group = topics::ensure_group(&connection, id, &"g".into(), || Ok(1)).unwrap();
        let topic = hub.shared().topic(id, &"t".into(), 0);
        let bounds = Bounds { messages: 10, bytes: 1 << 20 };
        let group = Group { id: group, name: "g".into() };
        let member = Arc::new(Member::new(topic, Some(group), false, bounds, None));
        let take_up = || {
            balance(&connection, hub.shared(), &member).unwrap().unwrap().committed();
            assert_eq!(member.lock().owned(), SLOTS);
        };
        let is_due = || {
            let members = Members::read(&connection, &hub.shared().process).unwrap();
            is_due(&connection, &members, &member).unwrap()
        };
        take_up();
        assert!(!is_due());

        // when it forgets them, since the file is opened again, then it is to look, and has them again.
        member.lock().drop_all();
        assert!(is_due());
        take_up();
        assert!(!is_due());
    }

    #[test]
    fn who_asked_for_total_order_first_has_all() {
        assert_eq!(shares(&[row(1, 1, false), row(3, 3, true), row(2, 2, true)]), [0, 0, SLOTS]);
    }
}
