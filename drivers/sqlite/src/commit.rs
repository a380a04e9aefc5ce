//! The writing thread: gathers all that waits into one transaction, commits, and answers.
//!
//! The lock is taken first and the queue emptied then, so that what arrives while another process writes rides along.
//! What belongs to no request rides along too: leases, delayed messages that are due, retention, a step at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Result, Settled, WriteOutcome};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use crate::balance::{self, Balanced};
use crate::checkpoint::{self, Growth};
use crate::crowd::Crowd;
use crate::hub::{Held, Request, Shared, Work};
use crate::linger::Linger;
use crate::member::{Behind, Counted, Member, Phase, Unreadable};
use crate::open::{self, Identity, Role};
use crate::publish::{self, Known};
use crate::settle::{Batch, Desk, Fate, Savepoint, Touched, Verified};
use crate::wake::Wake;
use crate::{clock, errors, retention};

/// Messages and settlements in one transaction, at most.
const MOST: usize = 4_096;
/// Delayed messages moved in one transaction, at most.
const MOST_DUE: usize = 1_000;
/// How often the queue is looked at when nobody asks for anything.
const IDLE: Duration = Duration::from_millis(250);
/// How often retention is looked at.
const RETENTION_EVERY: Duration = Duration::from_secs(10);
/// Slots without messages whose front is stored with a heartbeat: there may be thousands of subscriptions.
const IDLE_SLOTS: usize = 1_024;
/// Rows that retention deletes in a step, and the pause after it, in a transaction that others wait for too,
const STEP_BESIDE: (usize, Duration) = (50, Duration::from_millis(1));
/// and in one of its own: fewer syncs of the disk.
const STEP_ALONE: (usize, Duration) = (200, Duration::from_millis(5));
/// How often a file that could not be opened again is tried.
const REOPEN_EVERY: Duration = Duration::from_millis(200);

pub(crate) fn run(shared: Arc<Shared>, connection: Connection, identity: Identity, wake: &Wake) {
    let guard = Arc::new(AtomicBool::new(false));
    let mut writer = Writer {
        shared,
        connection: Some(connection),
        identity,
        wake,
        guard,
        savepoint: Savepoint::new(),
        known: Known::default(),
        data_version: None,
        heartbeat: Instant::now(),
        next_due: None,
        due_looked: Instant::now(),
        retention: Instant::now() + RETENTION_EVERY,
        growth: Growth::default(),
        crowd: Crowd::default(),
        linger: Linger::default(),
        verified: Verified::default(),
        replaced: None,
    };
    if let Some(connection) = &writer.connection
        && let Err(error) = protect(connection, &writer.guard)
    {
        tracing::error!(%error, "handlers' SQL cannot be kept from Millstream's own tables");
    }
    clock::sleep_exactly();
    // Whoever wrote to the log before may have been killed too soon to move it. Before anything is written all of it can
    // be moved, so that the log starts again.
    if open::wal_size(&writer.shared.path) >= checkpoint::AFTER
        && let Some(connection) = &writer.connection
        && let Err(error) = checkpoint::move_rest(connection)
    {
        tracing::debug!(path = %writer.shared.path.display(), %error, "what others left in the log stays there");
    }
    while let Some(requests) = writer.next_requests() {
        writer.round(requests);
    }
}

/// While a handler's SQL runs, it can neither end the transaction nor touch Millstream's tables.
fn protect(connection: &Connection, guard: &Arc<AtomicBool>) -> rusqlite::Result<()> {
    let guard = Arc::clone(guard);
    connection.authorizer(Some(move |context: AuthContext<'_>| {
        if !guard.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        let own = |table: &str| table.starts_with("millstream_");
        match context.action {
            AuthAction::Transaction { .. }
            | AuthAction::Savepoint { .. }
            | AuthAction::Attach { .. }
            | AuthAction::Detach { .. }
            | AuthAction::Pragma { .. } => Authorization::Deny,
            AuthAction::Insert { table_name }
            | AuthAction::Delete { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::DropTable { table_name }
            | AuthAction::AlterTable { table_name, .. }
                if own(table_name) =>
            {
                Authorization::Deny
            }
            _ => Authorization::Allow,
        }
    }))
}

struct Writer<'w> {
    shared: Arc<Shared>,
    /// None while the file is to be opened again.
    connection: Option<Connection>,
    identity: Identity,
    wake: &'w Wake,
    guard: Arc<AtomicBool>,
    savepoint: Savepoint,
    known: Known,
    /// What the file said when we last looked: it changes if others write.
    data_version: Option<i64>,
    heartbeat: Instant,
    /// When a delayed message is due, in wall-clock nanoseconds.
    next_due: Option<i64>,
    /// When that was last looked up.
    due_looked: Instant,
    retention: Instant,
    /// How the log grows.
    growth: Growth,
    crowd: Crowd,
    linger: Linger,
    /// Slots that are known to be ours.
    verified: Verified,
    /// The file is not the one that was opened, as this says: nothing is acknowledged any more.
    replaced: Option<String>,
}

/// Whoever waits for a member to have its slots.
type Reply = oneshot::Sender<Result<()>>;

/// What waits for the commit.
enum Waiting {
    Published {
        outcomes: Vec<WriteOutcome>,
        reply: oneshot::Sender<Result<Vec<WriteOutcome>>>,
        /// Given back when it is dropped, with all the rest.
        _held: Held,
    },
    Settled {
        batch: Batch,
        reply: oneshot::Sender<Vec<Settled>>,
    },
    Worked(Box<dyn Work>),
    Balanced {
        balanced: Option<Balanced>,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    Renewed {
        member: Arc<Member>,
        until: i64,
    },
    ParkedBehind {
        member: Arc<Member>,
        behind: Vec<Behind>,
        unreadable: Vec<Unreadable>,
    },
    Counted {
        member: Arc<Member>,
        counted: Vec<Counted>,
    },
    Left {
        member: Arc<Member>,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
}

/// What a round came to so far.
#[derive(Default)]
struct Round {
    waiting: Vec<Waiting>,
    touched: Touched,
    /// Whether anything is to be committed.
    dirty: bool,
    requests: usize,
    /// Messages and settlements.
    size: usize,
    /// Whether members or slots changed.
    members: bool,
    /// Members to be looked at after the commit.
    again: Vec<Arc<Member>>,
    /// Members whose slots were changed in this round already, to be looked at in the next: memory follows the file only
    /// once it is durable.
    later: Vec<(Arc<Member>, Option<Reply>)>,
}

impl Writer<'_> {
    /// How long to wait if nothing is asked for.
    fn wait(&self) -> Duration {
        let now = Instant::now();
        let mut wait = self.heartbeat.saturating_duration_since(now).min(IDLE);
        if let Some(due) = self.next_due {
            let nanos = u64::try_from(due.saturating_sub(clock::wall())).unwrap_or(0);
            wait = wait.min(Duration::from_nanos(nanos));
        }
        // Never zero: then what is asked for meanwhile is waited for, too.
        wait.min(self.retention.saturating_duration_since(now)).max(Duration::from_millis(1))
    }

    fn next_requests(&mut self) -> Option<VecDeque<Request>> {
        if let Some(until) = self.linger.until() {
            while self.shared.waiting() == 0 && Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        let requests = self.shared.next_requests(1, self.wait())?;
        self.linger.came(!requests.is_empty());
        Some(requests)
    }

    fn round(&mut self, mut requests: VecDeque<Request>) {
        if let Some(how) = self.replaced.clone() {
            self.refuse(requests, &|| replaced(&how));
            return;
        }
        if let Err(error) = self.reopen() {
            // Whoever waits is told; whoever only has to be looked after is looked after later.
            let error = Copy::of(&error);
            self.refuse(requests, &|| error.again());
            std::thread::sleep(REOPEN_EVERY);
            return;
        }
        let Some(connection) = self.connection.take() else { return };
        self.look_for_due(&connection);
        if requests.is_empty() && !self.is_due() {
            self.connection = Some(connection);
            return;
        }
        if self.shared.log_is_large.swap(false, Ordering::Acquire)
            && let Err(error) = checkpoint::move_rest(&connection)
        {
            // The next checkpoint meets it, too, and tells.
            tracing::debug!(path = %self.shared.path.display(), %error, "the write-ahead log does not start again");
        }
        let turn = self.wake.turn();
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        drop(turn);
        if let Err(error) = begun {
            let broken = errors::breaks_connection(&error);
            let error = Copy::of(&errors::sqlite("the file cannot be written to", error));
            self.refuse(requests, &|| error.again());
            self.keep(connection, broken);
            return;
        }
        let touched = Touched::knowing(std::mem::take(&mut self.verified));
        let mut round = Round { touched, ..Round::default() };
        let outcome = self.fill(&connection, &mut requests, &mut round);
        let outcome = outcome.and_then(|()| round.touched.store(&connection).map_err(Broken::from));
        let stored = match outcome {
            Ok(stored) => stored,
            Err(Broken(error)) => {
                let broken = roll_back(&connection, &error);
                let error = Copy::of(&error);
                self.undone(round, &Fate::Failed(&|| error.again()));
                self.refuse(requests, &|| error.again());
                self.keep(connection, broken);
                return;
            }
        };
        if !round.dirty {
            // Nothing was changed: nothing has to be made durable.
            let _ = connection.execute_batch("ROLLBACK");
            self.keep(connection, false);
            self.committed(round, Vec::new());
            return;
        }
        let begun = Instant::now();
        match connection.execute_batch("COMMIT") {
            Ok(()) => {
                self.crowd.committed(self.shared.waiting(), round.requests, begun.elapsed());
                if let Err(error) = self.identity.check() {
                    tracing::error!(path = %self.shared.path.display(), %error, "nothing is acknowledged any more");
                    let how = self.replaced.insert(error.context().message.clone()).clone();
                    self.undone(round, &Fate::Unknown(&|| replaced(&how)));
                    return;
                }
                self.keep(connection, false);
                self.committed(round, stored);
            }
            Err(error) => {
                let unknown = errors::is_unknown(&error);
                if errors::is_full(&error) {
                    self.shared.no_room.store(true, Ordering::Release);
                    self.shared.checkpoint_bell.ring();
                }
                let error = errors::sqlite("the commit failed", error);
                let broken = roll_back(&connection, &error) || unknown;
                let copy = Copy::of(&error);
                let again: &dyn Fn() -> Error = if unknown { &|| copy.unknown() } else { &|| copy.again() };
                self.undone(round, &if unknown { Fate::Unknown(again) } else { Fate::Failed(again) });
                self.keep(connection, broken);
            }
        }
    }

    /// Keeps the connection for the next round, or lets it go to be opened anew.
    fn keep(&mut self, connection: Connection, broken: bool) {
        if !broken {
            self.connection = Some(connection);
            return;
        }
        tracing::warn!(path = %self.shared.path.display(), "the file is opened again, to see what it holds");
        drop(connection);
        self.known.forget();
        self.data_version = None;
        // What the file says counts: every member takes up its slots from there.
        for member in self.shared.members() {
            if member.group.is_some() {
                member.lock().drop_all();
                self.shared.send(Request::Balance { member, reply: None });
            }
        }
    }

    fn reopen(&mut self) -> Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        self.identity.check()?;
        let connection = open::connect(&self.shared.path, Role::Writer, self.shared.settings.busy_timeout)?;
        protect(&connection, &self.guard)
            .map_err(|e| errors::sqlite("handlers' SQL cannot be kept from Millstream's own tables", e))?;
        self.identity = Identity::of(&self.shared.path)?;
        self.connection = Some(connection);
        Ok(())
    }

    // ---- Within the transaction --------------------------------------------------------------------------

    fn fill(
        &mut self,
        connection: &Connection,
        requests: &mut VecDeque<Request>,
        round: &mut Round,
    ) -> Result<(), Broken> {
        self.see_others(connection, round)?;
        let mut waited = false;
        loop {
            while let Some(request) = requests.pop_front() {
                round.requests += 1;
                self.one(connection, request, round)?;
                if round.size >= MOST {
                    break;
                }
            }
            if round.size >= MOST {
                self.shared.put_back(std::mem::take(requests));
                break;
            }
            match self.shared.next_requests(1, Duration::ZERO) {
                Some(more) if !more.is_empty() => *requests = more,
                _ if waited => break,
                _ => {
                    waited = true;
                    let Some((missing, wait)) = self.crowd.missing(round.requests) else { break };
                    *requests = self.shared.next_requests(missing, wait).unwrap_or_default();
                    self.crowd.came(requests.len(), missing);
                }
            }
        }
        self.timers(connection, round)
    }

    /// What is known of the topics holds only while nobody else writes.
    fn see_others(&mut self, connection: &Connection, round: &mut Round) -> Result<(), Broken> {
        let version: i64 = connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map_err(|e| errors::sqlite("the file cannot be read", e))?;
        if self.data_version.replace(version) != Some(version) {
            self.known.forget();
            round.touched.forget_verified();
            // Perhaps somebody came who wants to be woken; the reader looks who it is.
            self.shared.others.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn one(&mut self, connection: &Connection, request: Request, round: &mut Round) -> Result<(), Broken> {
        match request {
            Request::Publish { messages, reply, held } => {
                round.size += messages.len();
                let written =
                    publish::write(connection, &mut self.known, &messages, self.shared.settings.max_message);
                let delayed = messages.iter().any(|message| message.deliver_at.is_some());
                let (outcomes, failed) = match written {
                    Ok(outcomes) => (outcomes, None),
                    Err(error) => (Vec::new(), Some(error)),
                };
                round.dirty = true;
                if delayed {
                    self.next_due = Some(i64::MIN);
                }
                round.waiting.push(Waiting::Published { outcomes, reply, _held: held });
                failed.map_or(Ok(()), |error| Err(Broken(error)))
            }
            Request::Settle { member, batch, reply } => {
                round.size += batch.len();
                let mut batch = Batch::new(member, batch);
                let applied = batch.apply(&mut self.desk(connection, &mut round.touched));
                round.waiting.push(Waiting::Settled { batch, reply });
                round.dirty = true;
                applied.map_err(Broken)
            }
            Request::Work(mut work) => {
                round.size += 1;
                let ran = self.savepoint(connection, || work.run(connection));
                // A seek gives slots back.
                round.touched.forget_verified();
                match ran {
                    Ok(Ok(())) => {
                        round.dirty = true;
                        round.waiting.push(Waiting::Worked(work));
                        Ok(())
                    }
                    Ok(Err(error)) => {
                        work.end(Err(error));
                        Ok(())
                    }
                    Err(Broken(error)) => {
                        work.end(Err(Copy::of(&error).again()));
                        Err(Broken(error))
                    }
                }
            }
            Request::Balance { member, reply } => self.balance(connection, &member, reply, round),
            Request::ParkBehind(member) => {
                let (behind, unreadable) = {
                    let state = member.lock();
                    (state.to_park.clone(), state.unreadable.clone())
                };
                if behind.is_empty() && unreadable.is_empty() {
                    return Ok(());
                }
                round.size += behind.len();
                let mut desk = self.desk(connection, &mut round.touched);
                let parked = desk.park_behind(&member, &behind)?;
                desk.unpark(&member, &unreadable)?;
                round.dirty = true;
                round.waiting.push(Waiting::ParkedBehind { member, behind: parked, unreadable });
                Ok(())
            }
            Request::CountAhead(member) => {
                let counted = member.lock().count_ahead();
                self.desk(connection, &mut round.touched).count_ahead(&member, &counted)?;
                round.dirty |= !counted.is_empty();
                round.waiting.push(Waiting::Counted { member, counted });
                Ok(())
            }
            Request::Leave { member, reply } => {
                let left = {
                    let mut state = member.lock();
                    std::mem::replace(&mut state.phase, Phase::Left) == Phase::Left
                };
                // Whoever waits is told, also if it comes to nothing.
                round.waiting.push(Waiting::Left { member: Arc::clone(&member), reply });
                if !left {
                    // All its slots are stored first, with what was done to them in this round.
                    round.touched.touch_all(&member);
                    round.touched.store(connection)?;
                    balance::leave(connection, &member)?;
                    round.touched.given_back(&member, |_| true);
                    round.dirty = true;
                    round.members = true;
                }
                Ok(())
            }
            Request::Quarantine { topic, seq, what } => {
                self.shared.damaged.fetch_add(1, Ordering::Relaxed);
                quarantine(connection, topic, seq, &what)?;
                round.dirty = true;
                Ok(())
            }
        }
    }

    fn desk<'d>(&'d mut self, connection: &'d Connection, touched: &'d mut Touched) -> Desk<'d> {
        Desk {
            connection,
            known: &mut self.known,
            touched,
            guard: &self.guard,
            savepoint: &self.savepoint,
            max_message: self.shared.settings.max_message,
        }
    }

    /// Work of its own: if it fails, just its part is undone.
    fn savepoint(
        &mut self,
        connection: &Connection,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Result<()>, Broken> {
        let failed = |e| Broken(errors::sqlite("work cannot be set apart", e));
        connection.execute_batch("SAVEPOINT millstream_work").map_err(failed)?;
        let ran = work();
        if connection.is_autocommit() {
            return Err(Broken(ran.err().unwrap_or_else(|| {
                Error::new(ErrorKind::Io, "the transaction ended by itself").fix("free space on the disk")
            })));
        }
        // It may have changed what is known of the topics, and if it failed, that is undone.
        self.known.forget();
        if ran.is_err() {
            connection.execute_batch("ROLLBACK TO millstream_work").map_err(failed)?;
        }
        connection.execute_batch("RELEASE millstream_work").map_err(failed)?;
        Ok(ran)
    }

    fn balance(
        &mut self,
        connection: &Connection,
        member: &Arc<Member>,
        mut reply: Option<oneshot::Sender<Result<()>>>,
        round: &mut Round,
    ) -> Result<(), Broken> {
        let balanced_in = |waiting: &Waiting| match waiting {
            Waiting::Balanced { balanced: Some(balanced), .. } => Arc::ptr_eq(&balanced.member, member),
            _ => false,
        };
        if round.waiting.iter().any(balanced_in) {
            round.later.push((Arc::clone(member), reply));
            return Ok(());
        }
        // Slots may be wanted back, or not any more, whatever it comes to.
        member.set_changed();
        // A slot that is given back takes along what was done to it in this round.
        round.touched.touch_all(member);
        round.touched.store(connection)?;
        match balance::balance(connection, &self.shared, member) {
            Ok(balanced) => {
                if let Some(balanced) = &balanced {
                    round.touched.given_back(member, |slot| balanced.given_back.contains(&slot));
                }
                round.dirty = true;
                round.members = true;
                round.waiting.push(Waiting::Balanced { balanced, reply });
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                // Of this group alone: others go on.
                tracing::error!(%error, "the group cannot go on");
                if let Some(reply) = reply.take() {
                    let _ = reply.send(Err(error));
                } else {
                    member.lock().failure = Some(error);
                    member.news.notify_one();
                }
                Ok(())
            }
            Err(error) => {
                if let Some(reply) = reply.take() {
                    let copy = Copy::of(&error);
                    let _ = reply.send(Err(copy.again()));
                }
                Err(Broken(error))
            }
        }
    }

    // ---- What nobody asked for ---------------------------------------------------------------------------

    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.heartbeat <= now
            || self.retention <= now
            || self.next_due.is_some_and(|due| due <= clock::wall())
    }

    /// Looks now and then when the next delayed message is due: others leave some, too.
    fn look_for_due(&mut self, connection: &Connection) {
        let now = Instant::now();
        if self.due_looked + IDLE <= now {
            self.due_looked = now;
            self.next_due = publish::next_due(connection).ok().flatten();
        }
    }

    fn timers(&mut self, connection: &Connection, round: &mut Round) -> Result<(), Broken> {
        let now = Instant::now();
        if self.heartbeat <= now {
            self.heartbeat = now + self.shared.settings.lease / 4;
            let mut members = self.shared.members();
            // Others first the next time.
            fastrand::shuffle(&mut members);
            let mut idle = IDLE_SLOTS;
            for member in members {
                if member.group.is_none() || member.lock().owner == 0 || member.lock().phase == Phase::Left {
                    continue;
                }
                round.dirty = true;
                match balance::renew(connection, &member, self.shared.settings.lease)? {
                    Some(until) => {
                        idle = idle.saturating_sub(self.advance_idle(&member, round, idle));
                        round.waiting.push(Waiting::Renewed { member, until });
                    }
                    None => round.again.push(member),
                }
            }
        }
        if self.next_due.is_some_and(|due| due <= clock::wall()) {
            let moved = publish::move_due(connection, &mut self.known, clock::wall(), MOST_DUE)?;
            round.dirty |= moved > 0;
            self.next_due = publish::next_due(connection)
                .map_err(|e| errors::sqlite("delayed messages cannot be looked for", e))?;
        }
        if self.retention <= now {
            let (rows, pause) = if round.requests > 0 { STEP_BESIDE } else { STEP_ALONE };
            let deleted = self.retain(connection, rows)?;
            round.dirty |= deleted > 0;
            self.retention = now + if deleted > 0 { pause } else { RETENTION_EVERY };
        }
        Ok(())
    }

    /// A slot without messages must not hold up retention: its front follows the others'.
    /// Says of how many.
    fn advance_idle(&self, member: &Arc<Member>, round: &mut Round, most: usize) -> usize {
        let state = member.lock();
        let behind: Vec<usize> = state
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.as_ref().is_some_and(|slot| slot.seen > slot.stored_front))
            .map(|(index, _)| index)
            .take(most)
            .collect();
        drop(state);
        for slot in &behind {
            round.touched.touch(member, *slot);
        }
        behind.len()
    }

    fn retain(&self, connection: &Connection, rows: usize) -> Result<usize, Broken> {
        let topics: Vec<i64> = connection
            .prepare_cached("SELECT id FROM millstream_topic")
            .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
            .map_err(|e| errors::sqlite("the topics cannot be read", e))?;
        for topic in topics {
            let deleted = retention::step(connection, topic, &self.shared.settings.retention, rows)?;
            if deleted > 0 {
                return Ok(deleted);
            }
        }
        Ok(retention::expire_dedup(connection, rows)?)
    }

    // ---- After it ----------------------------------------------------------------------------------------

    fn committed(&mut self, round: Round, stored: Vec<(Arc<Member>, usize, crate::progress::Progress)>) {
        let Round { waiting, mut touched, members, mut again, later, dirty, .. } = round;
        for (member, slot, progress) in stored {
            if let Some(slot) = member.lock().slots[slot].as_mut() {
                slot.parked = progress.parked;
                slot.stored_front = progress.front;
            }
        }
        // Whether the reading thread may have something to do.
        let mut news = false;
        for (topic, last) in self.known.take_grown() {
            self.shared.committed(&topic, last);
            news = true;
        }
        self.verified = touched.take_verified();
        // Before anybody hears that something was lost.
        again.extend(touched.drop_lost());
        let mut moved = false;
        let publishers =
            !waiting.is_empty() && waiting.iter().all(|waiting| matches!(waiting, Waiting::Published { .. }));
        for waiting in waiting {
            news |= !matches!(waiting, Waiting::Published { .. } | Waiting::Settled { .. });
            match waiting {
                Waiting::Published { outcomes, reply, .. } => drop(reply.send(Ok(outcomes))),
                Waiting::Settled { batch, reply } => {
                    let member = Arc::clone(&batch.member);
                    let settled = batch.committed();
                    let (wants, give_back, park, count) = {
                        let state = member.lock();
                        let give_back = !state.to_give_back().is_empty();
                        let park = !state.to_park.is_empty();
                        (state.wants(member.bounds), give_back, park, state.is_uncertain())
                    };
                    if wants {
                        member.set_changed();
                        news = true;
                    }
                    if give_back {
                        self.shared.send(Request::Balance { member: Arc::clone(&member), reply: None });
                    }
                    if park {
                        self.shared.send(Request::ParkBehind(Arc::clone(&member)));
                    }
                    let _ = reply.send(settled);
                    if count {
                        self.shared.send(Request::CountAhead(Arc::clone(&member)));
                    }
                    // It may have come to its end, or the next suspect may be yielded.
                    member.news.notify_one();
                }
                Waiting::Worked(work) => work.end(Ok(())),
                Waiting::Balanced { balanced, reply } => {
                    if let Some(balanced) = balanced {
                        balanced.member.set_changed();
                        moved |= balanced.committed();
                    }
                    if let Some(reply) = reply {
                        let _ = reply.send(Ok(()));
                    }
                }
                Waiting::Renewed { member, until } => {
                    member.lock().valid_until = balance::reliable(until, self.shared.settings.lease);
                    member.news.notify_one();
                }
                Waiting::ParkedBehind { member, behind, unreadable } => {
                    let mut state = member.lock();
                    state.parked_behind(&behind);
                    state.unparked(&unreadable);
                    member.set_changed();
                }
                Waiting::Counted { member, counted } => {
                    member.lock().stored(&counted);
                    member.set_changed();
                    member.news.notify_one();
                }
                Waiting::Left { member, reply } => {
                    member.lock().drop_all();
                    self.shared.remove_member(&member);
                    if let Some(reply) = reply {
                        let _ = reply.send(Ok(()));
                    }
                }
            }
        }
        for (member, reply) in later {
            self.shared.send(Request::Balance { member, reply });
        }
        for member in again {
            self.shared.send(Request::Balance { member, reply: None });
        }
        if members || moved {
            self.shared.reader_bell.ring_from_outside();
        } else if news && self.shared.has_members() {
            self.shared.reader_bell.ring();
        }
        if dirty {
            if members || self.shared.others.load(Ordering::Relaxed) {
                self.wake.wake();
            }
            let connection = self.connection.as_ref();
            if connection.is_some_and(|connection| self.growth.is_due(connection)) {
                self.shared.checkpoint_bell.ring();
            }
        }
        self.linger.answered(publishers);
    }

    /// The transaction is gone: everybody is told, and what has to be done is done later.
    fn undone(&mut self, round: Round, fate: &Fate<'_>) {
        self.known.forget();
        for (member, reply) in round.later {
            match reply {
                Some(reply) => drop(reply.send(Err(fate.error()))),
                None => self.shared.send(Request::Balance { member, reply: None }),
            }
        }
        for waiting in round.waiting {
            match waiting {
                Waiting::Published { outcomes, reply, .. } => {
                    let told = outcomes.iter().map(|_| match fate {
                        Fate::Failed(error) => WriteOutcome::Failed(error()),
                        Fate::Unknown(error) => WriteOutcome::Unknown(error()),
                    });
                    let told: Vec<_> = told.collect();
                    let answer = match fate {
                        Fate::Failed(error) if told.is_empty() => Err(error()),
                        _ => Ok(told),
                    };
                    let _ = reply.send(answer);
                }
                Waiting::Settled { batch, reply } => drop(reply.send(batch.undone(fate))),
                Waiting::Worked(work) => work.end(Err(fate.error())),
                Waiting::Balanced { balanced, reply } => {
                    if let Some(balanced) = balanced {
                        balanced.undone();
                    }
                    if let Some(reply) = reply {
                        let _ = reply.send(Err(fate.error()));
                    }
                }
                Waiting::Left { member, reply } => {
                    member.lock().phase = Phase::Settling;
                    match reply {
                        Some(reply) => drop(reply.send(Err(fate.error()))),
                        // Without its word, the others find out by its lease.
                        None => self.shared.remove_member(&member),
                    }
                }
                // With its next look the reader asks for it again.
                Waiting::ParkedBehind { .. } | Waiting::Counted { .. } | Waiting::Renewed { .. } => {}
            }
        }
    }

    fn refuse(&mut self, requests: VecDeque<Request>, error: &dyn Fn() -> Error) {
        for request in requests {
            match request {
                Request::Publish { reply, .. } => drop(reply.send(Err(error()))),
                Request::Settle { member, batch, reply } => {
                    drop(reply.send(Batch::new(member, batch).undone(&Fate::Failed(error))));
                }
                Request::Work(work) => work.end(Err(error())),
                Request::Balance { reply: Some(reply), .. } => drop(reply.send(Err(error()))),
                Request::Leave { reply: Some(reply), member } => {
                    self.shared.remove_member(&member);
                    drop(reply.send(Err(error())));
                }
                Request::Leave { reply: None, member } => self.shared.remove_member(&member),
                // With its next look the reader asks for it again.
                Request::Balance { reply: None, .. } | Request::ParkBehind(_) | Request::CountAhead(_) => {}
                Request::Quarantine { topic, seq, what } => {
                    tracing::error!(topic, seq, what, "a damaged message could not be put into quarantine");
                }
            }
        }
    }
}

impl Fate<'_> {
    fn error(&self) -> Error {
        match self {
            Self::Failed(error) | Self::Unknown(error) => error(),
        }
    }
}

/// The transaction is to be undone, since …
struct Broken(Error);

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// An error to be told to many.
struct Copy {
    kind: ErrorKind,
    what: String,
    fix: Option<String>,
}

impl Copy {
    fn of(error: &Error) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
        Self {
            kind: error.kind(),
            what: format!("{}{cause}", error.context().message),
            fix: error.context().fix.clone(),
        }
    }

    fn again(&self) -> Error {
        self.as_kind(self.kind)
    }

    fn unknown(&self) -> Error {
        self.as_kind(ErrorKind::Unknown)
    }

    fn as_kind(&self, kind: ErrorKind) -> Error {
        let error = Error::new(kind, self.what.clone());
        match &self.fix {
            Some(fix) => error.fix(fix.clone()),
            None => error,
        }
    }
}

fn replaced(how: &str) -> Error {
    Error::new(
        ErrorKind::Io,
        format!(
            "the file was replaced or deleted while it was open ({how}): nothing is acknowledged any more"
        ),
    )
    .fix("put the file back, or start again with the one that is there now")
}

/// Undoes the transaction; says whether the connection is not to be used any more.
fn roll_back(connection: &Connection, error: &Error) -> bool {
    let source = error.source_ref().and_then(|source| source.downcast_ref::<rusqlite::Error>());
    let broken = source.is_some_and(errors::breaks_connection);
    if connection.is_autocommit() {
        return broken;
    }
    connection.execute_batch("ROLLBACK").is_err() || broken
}

fn quarantine(connection: &Connection, topic: i64, seq: u64, what: &str) -> Result<()> {
    let failed = |e| errors::sqlite("a damaged message cannot be put into quarantine", e);
    let sql = format!(
        "INSERT OR IGNORE INTO millstream_quarantine \
         SELECT ?1, ?2, ?3, ?4, time, id, key, ct, headers, data FROM (SELECT 1) LEFT JOIN {} ON seq = ?2",
        crate::schema::log_table(topic)
    );
    connection.execute(&sql, params![topic, seq, clock::wall(), what]).map(drop).map_err(failed)
}
