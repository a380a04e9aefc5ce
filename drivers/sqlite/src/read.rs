//! The reading thread: reads ahead for every subscription that has room, and sees what other processes did.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foldhash::HashSet;
use millstream_core::{Error, ErrorKind, Message, Result};
use rusqlite::{Connection, OptionalExtension};

use crate::hub::{Request, Shared};
use crate::member::{Member, Phase, Single, Wanted};
use crate::open::begin_read;
use crate::row::{self, Damage, Slab, Table, slot_of};
use crate::{balance, errors, schema, topics};

/// How often it looks by itself.
const LOOK: Duration = Duration::from_millis(250);
/// How often at most members and slots are looked at while others write.
const MEMBERS_EVERY: Duration = Duration::from_millis(20);
/// Rows in one read transaction: short, so that the write-ahead log can be reset in between.
const BLOCK: usize = 512;

/// A member as the reading thread has it: it looks at those of which something may have changed, for there may be many.
struct Watched {
    member: Arc<Member>,
    /// The topic's last number when it was looked at.
    last: u64,
    /// When its next parked message is due.
    due: Option<Instant>,
    /// It may want something.
    active: bool,
}

impl Watched {
    fn new(member: Arc<Member>) -> Self {
        Self { member, last: 0, due: None, active: true }
    }

    /// Whether it may want something now.
    fn is_active(&mut self, now: Instant) -> bool {
        let last = self.member.topic.last.load(Ordering::Acquire);
        let grew = std::mem::replace(&mut self.last, last) != last;
        self.active |= self.member.take_changed() | grew | self.due.is_some_and(|due| due <= now);
        self.active
    }

    /// It wants nothing, until something changes.
    fn rests(&mut self) {
        self.active = false;
        self.due = self.member.lock().next_due();
    }
}

pub(crate) fn run(shared: &Arc<Shared>, connection: Connection) {
    let mut connection = Some(connection);
    let mut looked = Instant::now();
    let mut members_looked: Option<Instant> = None;
    let mut members_due = true;
    let mut scratch = Scratch::default();
    let mut watched: Vec<Watched> = Vec::new();
    let mut version = 0;
    loop {
        let now = Instant::now();
        let mut wait = LOOK.saturating_sub(looked.elapsed());
        if let Some(due) = watched.iter().filter_map(|one| one.due).min() {
            // One that is due and has no room waits for room.
            wait = wait.min(due.saturating_duration_since(now).max(Duration::from_millis(1)));
        }
        if members_due && let Some(at) = members_looked {
            wait = wait.min(MEMBERS_EVERY.saturating_sub(at.elapsed()));
        }
        let rung = shared.reader_bell.wait(wait);
        if rung.shut {
            return;
        }
        if let Some(members) = shared.members_since(&mut version) {
            watched = members.into_iter().map(Watched::new).collect();
        }
        if connection.is_none() {
            let opened =
                crate::open::connect(&shared.path, crate::open::Role::Reader, shared.settings.busy_timeout);
            connection = opened.inspect_err(|error| tracing::warn!(%error, "the file cannot be read")).ok();
        }
        let Some(open) = &connection else {
            std::thread::sleep(LOOK);
            continue;
        };
        let look = rung.from_outside || looked.elapsed() >= LOOK;
        if look {
            looked = Instant::now();
        }
        members_due |= look;
        let mut broken = false;
        if look {
            broken |= look_at_topics(open, &watched);
        }
        if members_due && members_looked.is_none_or(|at| at.elapsed() >= MEMBERS_EVERY) {
            (members_due, members_looked) = (false, Some(Instant::now()));
            look_at_members(shared, open, &watched);
        }
        // A block for each in turn, until nobody wants more; others' doings are looked at in between.
        let begun = Instant::now();
        let mut more = true;
        while more && !broken && begun.elapsed() < MEMBERS_EVERY {
            more = false;
            let now = Instant::now();
            for one in &mut watched {
                if !one.is_active(now) {
                    continue;
                }
                let member = &one.member;
                if let Some(wanted) = member.wanted(now) {
                    match fill(shared, open, member, &wanted, &mut scratch) {
                        Ok(()) => more = true,
                        Err(error) => {
                            member.lock().not_read(&wanted.single);
                            broken |= fail(member, error);
                        }
                    }
                    ask(shared, member);
                } else {
                    ask(shared, member);
                    one.rests();
                }
            }
        }
        if more {
            shared.reader_bell.ring();
        }
        if broken {
            connection = None;
        }
    }
}

/// What others have published. Says whether the connection is to be opened anew.
fn look_at_topics(connection: &Connection, watched: &[Watched]) -> bool {
    let reading = match begin_read(connection) {
        Ok(reading) => reading,
        Err(error) => {
            tracing::debug!(%error, "the topics cannot be looked at");
            return errors::breaks_connection(&error);
        }
    };
    let mut broken = false;
    for Watched { member, .. } in watched {
        match topics::last(&reading, member.topic.id) {
            Ok(last) => drop(member.topic.last.fetch_max(last, Ordering::AcqRel)),
            Err(error) => broken |= fail(member, error),
        }
    }
    broken
}

/// Members and slots: who came, who went, what is free.
fn look_at_members(shared: &Arc<Shared>, connection: &Connection, watched: &[Watched]) {
    let members = match balance::Members::read(connection, &shared.process) {
        Ok(members) => members,
        Err(error) => {
            tracing::debug!(%error, "the members cannot be looked at");
            return;
        }
    };
    let mine: HashSet<i64> = watched.iter().map(|one| one.member.lock().owner).collect();
    shared.others.store(members.has_others(&mine), Ordering::Relaxed);
    for Watched { member, .. } in watched {
        // One that has not registered yet does so by itself.
        if member.lock().owner != 0
            && member.lock().phase != Phase::Left
            && balance::is_due(connection, &members, member).unwrap_or(false)
        {
            shared.send(Request::Balance { member: Arc::clone(member), reply: None });
        }
        // What could not be done before is asked for again.
        ask(shared, member);
    }
}

/// Asks the writer for what reading made necessary.
fn ask(shared: &Arc<Shared>, member: &Arc<Member>) {
    let (park, count) = {
        let state = member.lock();
        (!state.to_park.is_empty() || !state.unreadable.is_empty(), state.is_uncertain())
    };
    if park {
        shared.send(Request::ParkBehind(Arc::clone(member)));
    }
    if count {
        shared.send(Request::CountAhead(Arc::clone(member)));
    }
}

/// Hands an error to the source; says whether the connection is to be opened anew.
fn fail(member: &Arc<Member>, error: Error) -> bool {
    let source = error.source_ref().and_then(|source| source.downcast_ref::<rusqlite::Error>());
    let broken = source.is_some_and(errors::breaks_connection);
    member.lock().failure = Some(member.locate(error));
    member.news.notify_one();
    broken
}

/// A new message: its number, slot, the slot's epoch, and the message unless it is damaged.
type Arrived = (u64, usize, i64, Option<Message>);

/// Room that is used again for each block.
#[derive(Default)]
struct Scratch {
    slab: Slab,
    arrived: Vec<Arrived>,
}

/// Reads one block for a member.
fn fill(
    shared: &Shared,
    connection: &Connection,
    member: &Arc<Member>,
    wanted: &Wanted,
    scratch: &mut Scratch,
) -> Result<()> {
    // An error may have left some.
    scratch.arrived.clear();
    let failed = |e| errors::sqlite("the topic cannot be read", e);
    let transaction = begin_read(connection).map_err(failed)?;
    let mut singles: Vec<(&Single, Option<Message>)> = Vec::with_capacity(wanted.single.len());
    let mut bytes = 0;
    for single in &wanted.single {
        if bytes >= wanted.bytes && !singles.is_empty() {
            break;
        }
        let message = read_single(shared, &transaction, member, single, &mut scratch.slab)?;
        bytes += message.as_ref().map_or(0, Message::size);
        singles.push((single, message));
    }
    let unread: Vec<Single> = wanted.single[singles.len()..].to_vec();
    let mut reached = None;
    if let Some(from) = wanted.from {
        let limit = wanted.messages.saturating_sub(singles.len());
        let room = wanted.bytes.saturating_sub(bytes);
        reached = Some(read_block(shared, &transaction, member, wanted, from, (limit, room), scratch)?);
    }
    drop(transaction);
    let mut state = member.lock();
    for (single, message) in singles {
        state.arrived_single(single, message);
    }
    state.not_read(&unread);
    for (seq, slot, epoch, message) in scratch.arrived.drain(..) {
        state.arrived(seq, slot, epoch, message);
    }
    if let Some(reached) = reached {
        state.looked_at(reached, &wanted.slots);
    }
    drop(state);
    member.news.notify_one();
    Ok(())
}

fn read_single(
    shared: &Shared,
    connection: &Connection,
    member: &Arc<Member>,
    single: &Single,
    slab: &mut Slab,
) -> Result<Option<Message>> {
    let topic = &member.topic;
    let sql = format!(
        "SELECT time, id, key, ct, headers, data, crc FROM {} WHERE seq = ?1",
        schema::log_table(topic.id)
    );
    let number = i64::try_from(single.seq).unwrap_or(i64::MAX);
    let read = connection
        .prepare_cached(&sql)
        .and_then(|mut s| {
            s.query_row([number], |r| Ok(row::message(r, 0, Table::Log, topic.id, number, &topic.name, slab)))
                .optional()
        })
        .map_err(|e| errors::sqlite("a message cannot be read again", e))?;
    match read {
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(damage)) => {
            damaged(shared, member, single.seq, &damage);
            Ok(None)
        }
        // Purged meanwhile, or lost.
        None => {
            if topics::first(connection, topic.id)? <= single.seq {
                damaged(shared, member, single.seq, &Damage("it is not there any more".to_owned()));
            }
            Ok(None)
        }
    }
}

/// Reads what is new; says up to where all was looked at.
fn read_block(
    shared: &Shared,
    connection: &Connection,
    member: &Arc<Member>,
    wanted: &Wanted,
    from: u64,
    (limit, room): (usize, usize),
    scratch: &mut Scratch,
) -> Result<u64> {
    let failed = |e| errors::sqlite("the topic cannot be read", e);
    let topic = &member.topic;
    let sql = format!(
        "SELECT seq, time, id, key, ct, headers, data, crc FROM {} WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT {BLOCK}",
        schema::log_table(topic.id)
    );
    let mut statement = connection.prepare_cached(&sql).map_err(failed)?;
    let mut rows = statement.query([from, wanted.until]).map_err(failed)?;
    let (mut reached, mut count, mut bytes) = (from, 0, 0);
    let mut seen = 0;
    while let Some(row) = rows.next().map_err(failed)? {
        seen += 1;
        let seq: u64 = row.get(0).map_err(failed)?;
        if seq <= reached {
            // Its pages lead round: the same rows would come again and again.
            let what = format!("the message {seq} comes behind {reached} in the topic's table");
            return Err(Error::new(ErrorKind::Corrupt, what)
                .fix("stop, look at the file with `millstream check`, and restore a backup"));
        }
        if seq != reached + 1 && (reached != from || topics::first(connection, topic.id)? != seq) {
            missing(shared, member, reached + 1, seq - 1);
        }
        let key = row.get_ref(3).map_err(failed)?.as_bytes_or_null().ok().flatten();
        let slot = slot_of(key, seq);
        let Some(epoch) = wanted.slots[slot] else {
            reached = seq;
            continue;
        };
        let number = i64::try_from(seq).unwrap_or(i64::MAX);
        let message = match row::message(row, 1, Table::Log, topic.id, number, &topic.name, &mut scratch.slab)
        {
            Ok(message) => Some(message),
            Err(damage) => {
                damaged(shared, member, seq, &damage);
                None
            }
        };
        let size = message.as_ref().map_or(0, Message::size);
        if count >= limit || (count > 0 && bytes + size > room) {
            return Ok(reached);
        }
        count += 1;
        bytes += size;
        scratch.arrived.push((seq, slot, epoch, message));
        reached = seq;
    }
    if seen < BLOCK {
        // All up to the end was looked at; rows that are missing there were deleted by a purge, or are lost.
        if reached < wanted.until && topics::first(connection, topic.id)? <= wanted.until {
            missing(shared, member, reached + 1, wanted.until);
        }
        reached = wanted.until;
    }
    Ok(reached)
}

fn damaged(shared: &Shared, member: &Member, seq: u64, damage: &Damage) {
    let group = member.group.as_ref().map(|group| &*group.name);
    tracing::error!(topic = %member.topic.name, group, position = seq, what = damage.0,
        "a message is not what was written: it is kept in millstream_quarantine and not delivered; look at the file with `millstream check`");
    shared.send(Request::Quarantine { topic: member.topic.id, seq, what: damage.0.clone() });
}

fn missing(shared: &Shared, member: &Member, first: u64, last: u64) {
    damaged(shared, member, first, &Damage(format!("the messages {first} to {last} are missing")));
}
