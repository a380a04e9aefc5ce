//! Verdicts in the transaction that commits them: effects and emitted messages, dead letters, parks, and at its end
//! the progress of every slot that was touched.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use foldhash::{HashMap, HashSet, HashSetExt};
use millstream_core::{
    Effect, Error, ErrorKind, Park, ParkNote, Result, Settled, Settlement, Token, TokenId, Verdict,
    WriteOutcome,
};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::effects::SqlEffect;
use crate::member::{Behind, Counted, Held, Member, Unreadable};
use crate::progress::{Due, ParkedRow, Progress};
use crate::publish::Known;
use crate::row::nanos;
use crate::schema::SLOTS;
use crate::{admin, clock, errors, publish};

/// What a transaction did to slots, to be applied in memory once it is durable.
#[derive(Default)]
pub(crate) struct Touched {
    slots: HashMap<(usize, usize), TouchedSlot>,
    verified: Verified,
    /// Slots that turned out to be others' now.
    lost: Vec<(Arc<Member>, usize, i64)>,
}

struct TouchedSlot {
    member: Arc<Member>,
    slot: usize,
    done: Vec<u64>,
    parked: i64,
}

/// Slots of which it was looked up whether they are still ours: by owner, slot and epoch. It holds until somebody else
/// writes, or slots are given back: from one transaction to the next.
#[derive(Default)]
pub(crate) struct Verified(HashMap<(i64, usize, i64), bool>);

/// A batch of settlements on its way.
pub(crate) struct Batch {
    pub(crate) member: Arc<Member>,
    items: Vec<Item>,
}

struct Item {
    settlement: Settlement,
    /// What it comes to if the transaction commits.
    outcome: Outcome,
}

impl Item {
    /// The settlement's token and those of its others.
    fn tokens(&self) -> impl Iterator<Item = TokenId> {
        std::iter::once(&self.settlement.token).chain(self.settlement.others()).map(Token::id)
    }
}

enum Outcome {
    Lost,
    EffectsFailed(Error),
    Unsupported(Error),
    Done,
    GivenBack,
    Parked { due: Option<Instant>, note: ParkNote },
}

/// What a failed transaction is answered with.
pub(crate) enum Fate<'e> {
    /// Nothing happened.
    Failed(&'e dyn Fn() -> Error),
    /// Nobody knows.
    Unknown(&'e dyn Fn() -> Error),
}

fn number(member: &Arc<Member>) -> usize {
    Arc::as_ptr(member).addr()
}

impl Touched {
    /// With what is known from the transactions before.
    pub(crate) fn knowing(verified: Verified) -> Self {
        Self { verified, ..Self::default() }
    }

    /// What is known for the next one, if this one commits.
    pub(crate) fn take_verified(&mut self) -> Verified {
        std::mem::take(&mut self.verified)
    }

    /// Somebody else wrote.
    pub(crate) fn forget_verified(&mut self) {
        self.verified.0.clear();
    }

    fn slot(&mut self, member: &Arc<Member>, slot: usize) -> &mut TouchedSlot {
        self.slots.entry((number(member), slot)).or_insert_with(|| TouchedSlot {
            member: Arc::clone(member),
            slot,
            done: Vec::new(),
            parked: 0,
        })
    }

    /// Whether the file still says that a slot is ours. Within the transaction that stays so.
    fn is_ours(
        &mut self,
        connection: &Connection,
        member: &Arc<Member>,
        slot: usize,
        epoch: i64,
    ) -> Result<bool> {
        let Some(group) = &member.group else { return Ok(true) };
        let owner = member.lock().owner;
        let key = (owner, slot, epoch);
        if let Some(known) = self.verified.0.get(&key) {
            return Ok(*known);
        }
        let ours: bool = connection
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM millstream_slot \
                 WHERE grp = ?1 AND slot = ?2 AND owner = ?3 AND epoch = ?4)",
            )
            .and_then(|mut s| s.query_row(params![group.id, slot, owner, epoch], |row| row.get(0)))
            .map_err(|e| member.locate(errors::sqlite("a lease cannot be looked up", e)))?;
        self.verified.0.insert(key, ours);
        if !ours {
            self.lost.push((Arc::clone(member), slot, epoch));
        }
        Ok(ours)
    }

    /// The member gave slots back in this transaction, with all that was done to them: nothing is to be stored for
    /// them any more, and what was found out before does not hold.
    pub(crate) fn given_back(&mut self, member: &Arc<Member>, which: impl Fn(usize) -> bool) {
        let gone = number(member);
        self.forget_verified();
        self.slots.retain(|(member, slot), _| *member != gone || !which(*slot));
    }

    /// Stores the progress of every slot that was touched; gives what is to be remembered once it is durable.
    pub(crate) fn store(&mut self, connection: &Connection) -> Result<Vec<(Arc<Member>, usize, Progress)>> {
        let mut stored = Vec::with_capacity(self.slots.len());
        if self.slots.is_empty() {
            return Ok(stored);
        }
        let failed = |member: &Arc<Member>, e| {
            member.locate(errors::sqlite("the group's progress cannot be stored", e))
        };
        let mut statement = None;
        for touched in self.slots.values_mut() {
            touched.done.sort_unstable();
            let Some(group) = &touched.member.group else { continue };
            let state = touched.member.lock();
            let Some(progress) = state.progress(touched.slot, &touched.done, touched.parked) else {
                continue;
            };
            let (owner, epoch) =
                (state.owner, state.slots[touched.slot].as_ref().map_or(0, |slot| slot.epoch));
            drop(state);
            let statement = match &mut statement {
                Some(statement) => statement,
                None => {
                    let prepared = connection.prepare_cached(WRITE_PROGRESS);
                    statement.insert(prepared.map_err(|e| failed(&touched.member, e))?)
                }
            };
            let ours = write_progress(statement, group.id, touched.slot, (owner, epoch), &progress)
                .map_err(|e| failed(&touched.member, e))?;
            if ours {
                stored.push((Arc::clone(&touched.member), touched.slot, progress));
            } else {
                self.lost.push((Arc::clone(&touched.member), touched.slot, epoch));
            }
        }
        Ok(stored)
    }

    /// Forgets slots that others have now; gives the members that lost some.
    pub(crate) fn drop_lost(&mut self) -> Vec<Arc<Member>> {
        let mut losers: Vec<Arc<Member>> = Vec::new();
        for (member, slot, epoch) in std::mem::take(&mut self.lost) {
            let mut state = member.lock();
            if state.slots[slot].as_ref().is_none_or(|ours| ours.epoch != epoch) {
                continue;
            }
            state.drop_slot(slot);
            drop(state);
            if !losers.iter().any(|loser| Arc::ptr_eq(loser, &member)) {
                losers.push(member);
            }
        }
        losers
    }

    /// All slots of a member are to be stored.
    pub(crate) fn touch_all(&mut self, member: &Arc<Member>) {
        let ours: Vec<usize> =
            member.lock().slots.iter().enumerate().filter(|(_, s)| s.is_some()).map(|(i, _)| i).collect();
        for slot in ours {
            self.slot(member, slot);
        }
    }

    /// A slot is to be stored as it is.
    pub(crate) fn touch(&mut self, member: &Arc<Member>, slot: usize) {
        self.slot(member, slot);
    }
}

const WRITE_PROGRESS: &str = "UPDATE millstream_slot SET front = ?3, holes = ?4, parked = ?5, crc = ?6 \
                              WHERE grp = ?1 AND slot = ?2 AND owner = ?7 AND epoch = ?8";

/// Stores a slot's progress; says whether the slot is still its owner's, under this epoch.
fn write_progress(
    statement: &mut Statement<'_>,
    group: i64,
    slot: usize,
    (owner, epoch): (i64, i64),
    progress: &Progress,
) -> rusqlite::Result<bool> {
    let holes = progress.encode_holes();
    let crc = progress.crc(group, slot, &holes);
    let changed =
        statement.execute(params![group, slot, progress.front, holes, progress.parked, crc, owner, epoch])?;
    Ok(changed == 1)
}

/// What a batch runs with.
pub(crate) struct Desk<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) known: &'c mut Known,
    pub(crate) touched: &'c mut Touched,
    pub(crate) guard: &'c AtomicBool,
    pub(crate) savepoint: &'c Savepoint,
    pub(crate) max_message: usize,
}

/// The statements that set one message's part of a transaction apart.
#[derive(Debug)]
pub(crate) struct Savepoint {
    begin: String,
    undo: String,
    end: String,
}

impl Savepoint {
    /// Under a name that no handler's SQL can know: prepared statements are kept by their text, and what is prepared
    /// already is not asked again whether it may run.
    pub(crate) fn new() -> Self {
        let name = format!("millstream_{:016x}", fastrand::u64(..));
        Self {
            begin: format!("SAVEPOINT {name}"),
            undo: format!("ROLLBACK TO {name}"),
            end: format!("RELEASE {name}"),
        }
    }
}

impl Batch {
    pub(crate) fn new(member: Arc<Member>, batch: Vec<Settlement>) -> Self {
        let items = batch.into_iter().map(|settlement| Item { settlement, outcome: Outcome::Lost });
        Self { items: items.collect(), member }
    }

    /// Puts the batch into the transaction.
    ///
    /// # Errors
    /// Of SQLite: then the transaction is to be undone.
    pub(crate) fn apply(&mut self, desk: &mut Desk<'_>) -> Result<()> {
        // All that an item stands for, or nothing of it.
        let mut held = Vec::with_capacity(self.items.len());
        let mut counts = Vec::with_capacity(self.items.len());
        {
            let state = self.member.lock();
            for item in &self.items {
                let before = held.len();
                for token in item.tokens() {
                    let Some(one) = state.look_up(token) else {
                        held.truncate(before);
                        break;
                    };
                    held.push(one);
                }
                counts.push(held.len() - before);
            }
        }
        // Nearly never is a token in a batch twice.
        let mut seen = held.iter().map(Held::token).collect::<Vec<_>>();
        seen.sort_unstable();
        let mut seen = seen.windows(2).any(|two| two[0] == two[1]).then(HashSet::new);
        // Slots of which it was found out in this batch, under these epochs.
        let mut known = [None; SLOTS];
        let mut rest = &held[..];
        for (item, count) in self.items.iter_mut().zip(counts) {
            let (held, others) = rest.split_at(count);
            rest = others;
            let was_seen = |seen: &HashSet<u64>| held.iter().any(|one| seen.contains(&one.token()));
            if held.is_empty() || seen.as_ref().is_some_and(was_seen) {
                continue;
            }
            let mut all_ours = true;
            for one in held {
                all_ours &= match known[one.slot] {
                    Some((epoch, ours)) if epoch == one.epoch => ours,
                    _ => {
                        let ours =
                            desk.touched.is_ours(desk.connection, &self.member, one.slot, one.epoch)?;
                        known[one.slot] = Some((one.epoch, ours));
                        ours
                    }
                };
            }
            if !all_ours {
                continue;
            }
            if let Some(seen) = &mut seen {
                seen.extend(held.iter().map(Held::token));
            }
            item.outcome = desk.settle(&self.member, held, &item.settlement)?;
        }
        Ok(())
    }

    /// It is durable: memory follows, and this is the answer.
    pub(crate) fn committed(self) -> Vec<Settled> {
        let mut state = self.member.lock();
        let answers = self.items.into_iter().map(|item| match item.outcome {
            Outcome::Lost => Settled::Lost,
            Outcome::EffectsFailed(error) => Settled::EffectsFailed(error),
            Outcome::Unsupported(error) => Settled::Failed { error, settlement: Box::new(item.settlement) },
            Outcome::Done => {
                item.tokens().for_each(|token| state.done(token.id));
                Settled::Done
            }
            Outcome::GivenBack => {
                state.given_back(item.settlement.token.id().id);
                Settled::Done
            }
            Outcome::Parked { due, note } => {
                state.parked(item.settlement.token.id().id, due, note);
                Settled::Done
            }
        });
        answers.collect()
    }

    /// It is not: the answer.
    pub(crate) fn undone(self, fate: &Fate<'_>) -> Vec<Settled> {
        let answers = self.items.into_iter().map(|item| match fate {
            Fate::Failed(error) => Settled::Failed { error: error(), settlement: Box::new(item.settlement) },
            Fate::Unknown(error) => Settled::Unknown(error()),
        });
        answers.collect()
    }
}

impl Desk<'_> {
    fn settle(&mut self, member: &Arc<Member>, held: &[Held], settlement: &Settlement) -> Result<Outcome> {
        let Some((out, others)) = held.split_first() else { return Ok(Outcome::Lost) };
        // Before anything of it happens.
        match &settlement.verdict {
            Verdict::Ack => {}
            Verdict::Dead(_) | Verdict::Release if others.is_empty() => {}
            Verdict::Park(_) if others.is_empty() && member.group.is_some() => {}
            _ => {
                return Ok(Outcome::Unsupported(
                    Error::new(ErrorKind::Unsupported, "the sqlite driver has no such verdict here")
                        .fix("look at its capabilities first"),
                ));
            }
        }
        let takes_along = !settlement.effects().is_empty() || !settlement.emit().is_empty();
        if takes_along {
            self.execute(&self.savepoint.begin)?;
            if let Err(error) = self.take_along(settlement) {
                self.execute(&self.savepoint.undo)?;
                self.execute(&self.savepoint.end)?;
                // What was counted on in it is undone.
                self.known.forget();
                return match error {
                    Failed::Effects(error) => Ok(Outcome::EffectsFailed(member.locate(error))),
                    Failed::File(error) => Err(error),
                };
            }
            self.execute(&self.savepoint.end)?;
        }
        match &settlement.verdict {
            Verdict::Ack => {
                for other in others {
                    self.done(member, other)?;
                }
                self.done(member, out)
            }
            Verdict::Dead(letter) => {
                let (group, seq) = (member.group.as_ref().map(|g| &*g.name), Some(out.seq));
                admin::bury(self.connection, member.topic.id, group, seq, letter)?;
                self.done(member, out)
            }
            Verdict::Release => {
                self.touched.slot(member, out.slot);
                Ok(Outcome::GivenBack)
            }
            Verdict::Park(park) => self.park(member, out, park),
            // Refused above.
            _ => Ok(Outcome::Lost),
        }
    }

    fn done(&mut self, member: &Arc<Member>, out: &Held) -> Result<Outcome> {
        if out.from_park {
            self.end_parked(member, out.slot, out.seq)?;
        }
        self.touched.slot(member, out.slot).done.push(out.seq);
        Ok(Outcome::Done)
    }

    /// Removes a parked message.
    fn end_parked(&mut self, member: &Arc<Member>, slot: usize, seq: u64) -> Result<()> {
        let Some(group) = &member.group else { return Ok(()) };
        let gone = self
            .connection
            .prepare_cached("DELETE FROM millstream_parked WHERE grp = ?1 AND seq = ?2")
            .and_then(|mut s| s.execute(params![group.id, seq]))
            .map_err(|e| member.locate(errors::sqlite("a parked message cannot be ended", e)))?;
        self.touched.slot(member, slot).parked -= gone as i64;
        Ok(())
    }

    /// What cannot be read any more leaves its park: it is in quarantine, and must not hold up its key.
    pub(crate) fn unpark(&mut self, member: &Arc<Member>, unreadable: &[Unreadable]) -> Result<()> {
        for one in unreadable {
            if self.touched.is_ours(self.connection, member, one.slot, one.epoch)? {
                self.end_parked(member, one.slot, one.seq)?;
            }
        }
        Ok(())
    }

    fn park(&mut self, member: &Arc<Member>, out: &Held, park: &Park) -> Result<Outcome> {
        let (wall, now) = (clock::wall(), Instant::now());
        let due = park.after.map(|after| Due::after(after, wall));
        let row = ParkedRow {
            seq: out.seq,
            slot: out.slot,
            key: member.lock().key_of(out).map(Vec::from),
            due,
            attempts: park.note.attempts,
            deliveries: 0,
            first_failure: park.note.first_failure.map(nanos),
            error: park.note.error.replace('\0', " "),
        };
        let added = self.write_parked(member, &row)?;
        let slot = self.touched.slot(member, out.slot);
        slot.done.push(out.seq);
        slot.parked += added;
        let due = due.map(|due| now + due.left(wall));
        Ok(Outcome::Parked { due, note: park.note.clone() })
    }

    /// Adds or replaces a parked message; says by how many there are more now.
    fn write_parked(&self, member: &Arc<Member>, row: &ParkedRow) -> Result<i64> {
        let Some(group) = &member.group else { return Ok(0) };
        let failed = |e| member.locate(errors::sqlite("a message cannot be parked", e));
        let there: bool = self
            .connection
            .prepare_cached("SELECT EXISTS(SELECT 1 FROM millstream_parked WHERE grp = ?1 AND seq = ?2)")
            .and_then(|mut s| s.query_row(params![group.id, row.seq], |r| r.get(0)))
            .map_err(failed)?;
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO millstream_parked(grp, seq, slot, key, due, wait, attempts, deliveries, \
                 first_failure, error, crc) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    group.id,
                    row.seq,
                    row.slot,
                    row.key,
                    row.due.map(|due| due.at),
                    row.due.map(|due| due.wait),
                    row.attempts,
                    row.deliveries,
                    row.first_failure,
                    row.error,
                    row.crc(group.id)
                ])
            })
            .map_err(failed)?;
        Ok(i64::from(!there))
    }

    /// Parks messages behind those of their keys.
    pub(crate) fn park_behind(&mut self, member: &Arc<Member>, behind: &[Behind]) -> Result<Vec<Behind>> {
        let mut parked = Vec::with_capacity(behind.len());
        for one in behind {
            if !self.touched.is_ours(self.connection, member, one.slot, one.epoch)? {
                continue;
            }
            let row = ParkedRow {
                seq: one.seq,
                slot: one.slot,
                key: one.key.as_ref().map(|key| key.to_vec()),
                due: None,
                attempts: 0,
                deliveries: 0,
                first_failure: None,
                error: String::new(),
            };
            let added = self.write_parked(member, &row)?;
            let slot = self.touched.slot(member, one.slot);
            slot.done.push(one.seq);
            slot.parked += added;
            parked.push(one.clone());
        }
        Ok(parked)
    }

    /// Stores deliveries before they happen.
    pub(crate) fn count_ahead(&mut self, member: &Arc<Member>, counted: &[Counted]) -> Result<()> {
        let Some(group) = &member.group else { return Ok(()) };
        let failed = |e| member.locate(errors::sqlite("a delivery cannot be counted", e));
        for one in counted {
            if !self.touched.is_ours(self.connection, member, one.slot, one.epoch)? {
                continue;
            }
            // The slot's holes have the counts of those that are not parked.
            self.touched.slot(member, one.slot);
            if !one.parked {
                continue;
            }
            let sql =
                format!("SELECT {} FROM millstream_parked WHERE grp = ?1 AND seq = ?2", ParkedRow::COLUMNS);
            let row = self
                .connection
                .prepare_cached(&sql)
                .and_then(|mut s| {
                    s.query_row(params![group.id, one.seq], |row| Ok(ParkedRow::read(group.id, row)))
                        .optional()
                })
                .map_err(failed)?;
            let Some(row) = row else { continue };
            let mut row = row.map_err(|damage| {
                member.locate(
                    Error::new(ErrorKind::Corrupt, damage.0).fix("look at the file with `millstream check`"),
                )
            })?;
            row.deliveries = one.deliveries;
            self.write_parked(member, &row)?;
        }
        Ok(())
    }

    fn take_along(&mut self, settlement: &Settlement) -> Result<(), Failed> {
        for effect in settlement.effects() {
            self.run_effect(effect)?;
        }
        let outcomes = publish::write(self.connection, self.known, settlement.emit(), self.max_message)
            .map_err(Failed::File)?;
        for outcome in outcomes {
            match outcome {
                WriteOutcome::Written(_) => {}
                WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) => {
                    return Err(Failed::Effects(error));
                }
                _ => return Err(Failed::Effects(Error::new(ErrorKind::Internal, "an unknown outcome"))),
            }
        }
        Ok(())
    }

    fn run_effect(&self, effect: &Effect) -> Result<(), Failed> {
        let Some(effect) = effect.downcast_ref::<SqlEffect>() else {
            return Err(Failed::Effects(
                Error::new(ErrorKind::Unsupported, "this effect is of another driver")
                    .fix("queue effects with `millstream::sqlite::Transaction`"),
            ));
        };
        self.guard.store(!effect.is_own(), Ordering::Relaxed);
        let ran = catch_unwind(AssertUnwindSafe(|| effect.run(self.connection)));
        self.guard.store(false, Ordering::Relaxed);
        if self.connection.is_autocommit() {
            // The database ended the transaction by itself, as it does on a full disk.
            return Err(Failed::File(
                Error::new(ErrorKind::Io, "the transaction ended while a handler's SQL ran")
                    .fix("free space on the disk, and end no transaction in an effect"),
            ));
        }
        let failed = |what: &str| Error::new(ErrorKind::Handler, what.to_owned());
        match ran {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failed::of_effect(error)),
            Err(_) => Err(Failed::Effects(
                failed("the handler's SQL panicked").fix("look at the panic's own message in the log"),
            )),
        }
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut s| s.execute([]))
            .map(drop)
            .map_err(|e| errors::sqlite("a message's part of the transaction cannot be set apart", e))
    }
}

enum Failed {
    /// Of this message alone.
    Effects(Error),
    /// Of the file: the whole transaction is to be undone.
    File(Error),
}

impl Failed {
    fn of_effect(error: millstream_core::BoxError) -> Self {
        let error = match error.downcast::<rusqlite::Error>() {
            // A full or broken disk is nothing that the message is to blame for.
            Ok(error) if errors::is_of_the_disk(&error) => {
                return Self::File(errors::sqlite("the handler's SQL could not be written", *error));
            }
            Ok(error) => error as millstream_core::BoxError,
            Err(error) => error,
        };
        match error.downcast::<Error>() {
            Ok(error) => Self::Effects(*error),
            Err(error) => Self::Effects(
                Error::new(ErrorKind::Handler, format!("the handler's SQL failed: {error}"))
                    .fix("mend the statement or the data; the message is tried again")
                    .source(error),
            ),
        }
    }
}
