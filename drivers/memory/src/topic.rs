//! A topic: its log, its groups and what is not due yet, under one lock that is taken once a batch.
//!
//! The lock is never held across an await. Whoever finds nothing to do registers under the lock and then
//! waits: readers to be woken by what they can have, writers, one after the other, by room.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::iter::Peekable;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use millstream_core::admin::{GroupInfo, StoredDeadLetter};
use millstream_core::{
    ByteString, Delivery, End, Error, ErrorKind, Exclusivity, Message, OpenRequest, Position, ReadLimits,
    Result, Settled, Settlement, Start, TokenId, Verdict, WriteNow, WriteOutcome,
};
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::broker::Settings;
use crate::group::{Group, Taken, from_now};
use crate::lane::LaneId;
use crate::log::Log;
use crate::sync::{Mutex, MutexGuard};

/// The messages of a batch that are not written yet.
pub(crate) type Rest = Peekable<std::vec::IntoIter<Message>>;

#[derive(Debug)]
pub(crate) struct Topic {
    name: ByteString,
    settings: Settings,
    state: Mutex<State>,
    /// Room came, or may never come.
    room: Notify,
    /// Held by the one writer that waits for room.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    log: Log,
    groups: Slab<Group>,
    delayed: Delayed,
    /// The generation of the last member.
    generation: u32,
    writers_waiting: usize,
    hasher: RandomState,
    shut: bool,
}

/// Messages that are not due yet, by their time.
#[derive(Debug, Default)]
struct Delayed {
    messages: BTreeMap<(Instant, u64), (Message, usize)>,
    bytes: usize,
    /// Tells those of one time apart.
    count: u64,
}

/// A member of a group, as source and settler know it.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) topic: Arc<Topic>,
    pub(crate) wake: Arc<Notify>,
    /// One behind the last position wanted.
    pub(crate) end: u64,
    pub(crate) browses: bool,
    group: usize,
    generation: u32,
}

/// Why a message was not written.
enum Refused {
    /// Others wait already.
    Queue,
    /// There is no room, but somebody reads.
    Wait,
    /// Nobody makes room.
    Never(Error),
}

impl Topic {
    pub(crate) fn new(name: ByteString, settings: Settings) -> Self {
        let state = State {
            log: Log::new(),
            groups: Slab::new(),
            delayed: Delayed::default(),
            generation: 0,
            writers_waiting: 0,
            hasher: RandomState::default(),
            shut: false,
        };
        Self {
            name,
            settings,
            state: Mutex::new(state),
            room: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn name(&self) -> &ByteString {
        &self.name
    }

    // Reading.

    /// Adds a member to a group, or a reader without one.
    pub(crate) fn join(self: &Arc<Self>, request: &OpenRequest) -> Result<Membership> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.shut {
            return Err(shut());
        }
        state.promote();
        let exclusive = request.exclusivity == Exclusivity::Exclusive;
        let end = match request.end {
            End::Latest => state.log.end(),
            End::Position(Position(position)) => position,
            _ => u64::MAX,
        };
        let named = request.group.as_ref().and_then(|name| state.find(name));
        let index = match named {
            Some(index) => index,
            None => {
                let start = state.resolve(request.start)?;
                if request.group.is_some() && state.claimants() == 0 {
                    state.log.first_group_came();
                }
                let group = Group::new(request.group.clone(), start, &mut state.log);
                state.groups.insert(group)
            }
        };
        let group = &mut state.groups[index];
        if !group.admits(exclusive) {
            let (now, wanted) = if exclusive { ("shared", "exclusive") } else { ("exclusive", "shared") };
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the group is {now} among its members, a further one asks for it as {wanted}"),
            )
            .topic(&*self.name)
            .group(request.group.as_deref().unwrap_or_default())
            .fix("subscribe all members alike, or stop the others first"));
        }
        state.generation = state.generation.checked_add(1).unwrap_or(1);
        let generation = state.generation;
        let wake = Arc::new(Notify::new());
        group.join(generation, Arc::clone(&wake), exclusive, &state.log);
        let browses = request.group.is_none();
        Ok(Membership { topic: Arc::clone(self), wake, end, browses, group: index, generation })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole at each point where it could panic, so it can be used on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the writers that wait to look again.
    fn tell_writers(&self, state: &State) {
        if state.writers_waiting > 0 {
            self.room.notify_one();
        }
    }
}

impl Membership {
    /// Takes messages, or registers to be woken.
    pub(crate) fn take(&self, limits: ReadLimits, into: &mut Vec<Delivery>) -> Taken {
        let mut state = self.topic.lock();
        if state.shut {
            return Taken::End;
        }
        if limits.messages == 0 {
            return Taken::Nothing(None);
        }
        state.promote();
        let State { log, groups, delayed, .. } = &mut *state;
        let Some(group) = groups.get_mut(self.group) else { return Taken::Gone };
        let room = self.topic.settings.capacity;
        let taken = group.take(log, self.generation, self.end, limits, room, into);
        // Others may have what was queued for them on the way.
        group.wake();
        match taken {
            Taken::Nothing(due) => Taken::Nothing(due.into_iter().chain(delayed.next()).min()),
            taken => taken,
        }
    }

    /// Settles a batch.
    pub(crate) fn settle(&self, batch: Vec<Settlement>) -> Vec<Settled> {
        let mut state = self.topic.lock();
        let State { log, groups, .. } = &mut *state;
        let Some(group) = groups.get_mut(self.group) else {
            return batch.iter().map(|_| Settled::Lost).collect();
        };
        let generation = self.generation;
        let ours = |id: TokenId| id.partition.0 == 0 && id.epoch.0 == generation;
        let told = |had: bool| if had { Settled::Done } else { Settled::Lost };
        let mut settle = |settlement: Settlement| {
            use Verdict::{Ack, Park, Release, Retry};
            let id = settlement.token.id();
            match settlement.verdict {
                Ack if !settlement.takes_along() => {
                    told(ours(id) && group.acknowledge(log, generation, id.id))
                }
                Retry { .. } | Release | Park(_) if !settlement.takes_along() => {
                    told(ours(id) && group.settle(log, generation, id.id, settlement.verdict))
                }
                _ => self.refused_settlement(settlement),
            }
        };
        let settled = batch.into_iter().map(&mut settle).collect();
        group.wake();
        self.topic.tell_writers(&state);
        settled
    }

    #[cold]
    fn refused_settlement(&self, settlement: Settlement) -> Settled {
        let error = Error::new(
            ErrorKind::Unsupported,
            "the memory driver settles without dead letters, messages or effects of its own",
        )
        .topic(&*self.topic.name)
        .fix("write them with the writer, then acknowledge");
        Settled::Failed { error, settlement: Box::new(settlement) }
    }

    /// Reads no more, but goes on settling.
    pub(crate) fn stop_reading(&self) {
        let mut state = self.topic.lock();
        if let Some(group) = state.groups.get_mut(self.group) {
            group.stop_reading(self.generation);
            group.wake();
        }
        self.topic.tell_writers(&state);
    }

    /// Gives back what is unsettled and is no more. Again does nothing.
    pub(crate) fn leave(&self) {
        let mut state = self.topic.lock();
        if let Some(group) = state.groups.get_mut(self.group) {
            group.leave(self.generation);
            group.wake();
            if group.name().is_none() && !group.has_members() {
                state.groups.remove(self.group);
            }
        }
        self.topic.tell_writers(&state);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

// Writing.
impl Topic {
    /// Writes the messages of this topic at the front of `rest`, waiting for room; each gets an outcome.
    ///
    /// # Errors
    /// Why the first message that is left in `rest` could not be written.
    pub(crate) async fn append(&self, rest: &mut Rest, outcomes: &mut Vec<WriteOutcome>) -> Result<()> {
        match self.try_append(rest, outcomes, false) {
            Ok(()) => return Ok(()),
            Err(Refused::Never(error)) => return Err(error),
            Err(Refused::Queue | Refused::Wait) => {}
        }
        let deadline = Instant::now() + self.settings.write_timeout;
        let _waiting = WaitingWriter::new(self);
        let mut turn = None;
        loop {
            let patience = deadline.min(Instant::now() + OVERTAKE);
            match turn {
                None => turn = timeout_at(patience, self.turn.lock()).await.ok(),
                Some(_) => drop(timeout_at(patience, self.room.notified()).await),
            }
            match self.try_append(rest, outcomes, true) {
                Ok(()) => return Ok(()),
                Err(Refused::Never(error)) => return Err(error),
                Err(Refused::Queue | Refused::Wait) => {}
            }
            if Instant::now() >= deadline {
                return Err(self.no_room_came());
            }
        }
    }

    /// Writes a message if there is room and nobody waits for some.
    pub(crate) fn append_now(&self, message: Arc<Message>) -> WriteNow {
        let mut state = self.lock();
        let size = message.size();
        if state.shut || state.writers_waiting > 0 || message.deliver_at.is_some() {
            return WriteNow::Later(message);
        }
        state.promote();
        if size > self.settings.bytes || !state.has_room(size, &self.settings) {
            return WriteNow::Later(message);
        }
        let claimants = state.claimants();
        let position = state.push(message, size, claimants);
        state.appended(1);
        WriteNow::Done(WriteOutcome::Written(Some(Position(position))))
    }

    fn try_append(
        &self,
        rest: &mut Rest,
        outcomes: &mut Vec<WriteOutcome>,
        in_turn: bool,
    ) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.shut {
            return Err(Refused::Never(shut()));
        }
        if state.writers_waiting > 0 && !in_turn {
            return Err(Refused::Queue);
        }
        state.promote();
        let claimants = state.claimants();
        let first = state.log.end();
        let mut rearm = false;
        let mut clock = None;
        let mut result = Ok(());
        while let Some(message) = rest.peek().filter(|m| m.topic == self.name) {
            let size = message.size();
            if size > self.settings.bytes {
                outcomes.push(WriteOutcome::Failed(self.too_large(message, size)));
                rest.next();
                continue;
            }
            if !state.has_room(size, &self.settings) {
                result = Err(self.refused(&state));
                break;
            }
            let Some(message) = rest.next() else { break };
            let wait = message.deliver_at.and_then(|at| {
                at.duration_since(*clock.get_or_insert_with(SystemTime::now)).ok().filter(|d| !d.is_zero())
            });
            if let Some(wait) = wait {
                rearm |= state.delayed.add(message, size, wait);
                outcomes.push(WriteOutcome::Written(None));
            } else {
                let position = state.push(Arc::new(message), size, claimants);
                outcomes.push(WriteOutcome::Written(Some(Position(position))));
            }
        }
        let written = state.log.end() - first;
        if written > 0 || rearm {
            state.appended(written);
        }
        result
    }

    /// What keeps the topic full: nobody, or somebody for whom to wait.
    fn refused(&self, state: &State) -> Refused {
        let Some(slowest) = state.slowest() else {
            return Refused::Never(
                self.full("and no group reads it")
                    .fix("subscribe with a group, or raise the broker's capacity or bytes"),
            );
        };
        if slowest.is_read() {
            return Refused::Wait;
        }
        Refused::Never(
            self.full("and the group that is behind has no members")
                .group(slowest.name().map_or("", |n| n))
                .fix("start a subscriber of the group, or raise the broker's capacity or bytes"),
        )
    }

    fn no_room_came(&self) -> Error {
        let state = self.lock();
        let error = self.full(&format!("and no room came within {:?}", self.settings.write_timeout)).fix(
            "make the group's handlers faster or give it members, or raise the broker's capacity or bytes",
        );
        match state.slowest().and_then(Group::name) {
            Some(name) => error.group(&**name),
            None => error,
        }
    }

    fn full(&self, why: &str) -> Error {
        let Settings { capacity, bytes, .. } = self.settings;
        Error::new(
            ErrorKind::Full,
            format!("the topic is full (at most {capacity} messages, {bytes} bytes) {why}"),
        )
        .topic(&*self.name)
    }

    fn too_large(&self, message: &Message, size: usize) -> Error {
        let bound = self.settings.bytes;
        message.locate(
            Error::new(
                ErrorKind::TooLarge,
                format!("the message has {size} bytes, the topic holds {bound} at most"),
            )
            .fix("send less, or raise the broker's bytes"),
        )
    }

    /// No more is written or read.
    pub(crate) fn shut(&self) {
        let mut state = self.lock();
        state.shut = true;
        state.groups.iter().for_each(|(_, group)| group.wake_all());
        self.room.notify_one();
    }
}

/// How long a writer waits for one before it that makes no use of the room there is: its future may be one that nobody
/// polls any more, such as the loser of a `select!`, and that may be what it waits for itself.
const OVERTAKE: Duration = Duration::from_millis(100);

/// Counts a writer that waits for room, so that later ones queue behind it.
struct WaitingWriter<'a>(&'a Topic);

impl<'a> WaitingWriter<'a> {
    fn new(topic: &'a Topic) -> Self {
        topic.lock().writers_waiting += 1;
        Self(topic)
    }
}

impl Drop for WaitingWriter<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.writers_waiting -= 1;
        // A wake-up that came too late for this one is for the next.
        self.0.tell_writers(&state);
    }
}

// Administration.
impl Topic {
    /// Messages held, delayed ones included.
    pub(crate) fn len(&self) -> u64 {
        let mut state = self.lock();
        state.promote();
        (state.log.live() + state.delayed.messages.len()) as u64
    }

    /// The groups, in the order in which they came.
    pub(crate) fn groups(&self) -> Vec<GroupInfo> {
        let mut state = self.lock();
        state.promote();
        state.named().map(|group| group.info(&state.log)).collect()
    }

    /// One group, if it is there.
    pub(crate) fn group(&self, name: &str) -> Option<GroupInfo> {
        let mut state = self.lock();
        state.promote();
        state.find(name).map(|index| state.groups[index].info(&state.log))
    }

    /// Moves a group without members.
    pub(crate) fn seek(&self, name: &str, to: Start) -> Result<()> {
        let located = |error: Error| error.topic(&*self.name).group(name);
        let mut state = self.lock();
        state.promote();
        let Some(index) = state.find(name) else {
            return Err(located(
                Error::new(ErrorKind::NotFound, "there is no such group").fix("subscribe with it once"),
            ));
        };
        if state.groups[index].has_members() {
            return Err(located(
                Error::new(ErrorKind::Conflict, "the group has members").fix("stop its subscribers first"),
            ));
        }
        let to = state.resolve(to)?;
        let State { log, groups, .. } = &mut *state;
        groups[index].seek(to, log);
        self.tell_writers(&state);
        Ok(())
    }

    /// Deletes all messages, delayed ones too.
    pub(crate) fn purge(&self) -> u64 {
        let mut state = self.lock();
        let State { log, groups, delayed, .. } = &mut *state;
        let count = log.live() + delayed.messages.len();
        log.clear();
        *delayed = Delayed { count: delayed.count, ..Delayed::default() };
        for (_, group) in groups.iter_mut() {
            group.purged(log.end());
            group.wake();
        }
        self.tell_writers(&state);
        count as u64
    }

    /// A page of messages from behind a position on.
    pub(crate) fn page(&self, after: Option<u64>, limit: usize) -> Vec<StoredDeadLetter> {
        let mut state = self.lock();
        state.promote();
        let from = after.map_or(0, |after| after.saturating_add(1));
        let page = state.log.iter(from).take(limit);
        page.map(|(position, entry)| StoredDeadLetter::new(position, Message::clone(&entry.message)))
            .collect()
    }

    /// Takes a message out for all groups; says whether it was there.
    pub(crate) fn remove(&self, position: u64) -> bool {
        let mut state = self.lock();
        let State { log, groups, .. } = &mut *state;
        let Some(lane) = log.get(position).map(|entry| entry.lane) else { return false };
        log.remove(position);
        for (_, group) in groups.iter_mut() {
            group.forget(position, lane);
            group.wake();
        }
        self.tell_writers(&state);
        true
    }
}

impl State {
    fn named(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(|(_, group)| group).filter(|group| group.name().is_some())
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.groups.iter().find(|(_, g)| g.name().is_some_and(|n| n == name)).map(|(index, _)| index)
    }

    /// How many groups want what is written now.
    fn claimants(&self) -> u32 {
        self.named().count().try_into().unwrap_or(u32::MAX)
    }

    /// The group that holds most messages; of equals one that nobody reads.
    fn slowest(&self) -> Option<&Group> {
        self.named().max_by_key(|group| (group.unsettled(), !group.is_read()))
    }

    fn resolve(&self, start: Start) -> Result<u64> {
        let log = &self.log;
        let found = match start {
            Start::Earliest => log.next(0),
            Start::Latest => None,
            Start::Position(Position(position)) => return Ok(position.min(log.end())),
            Start::Time(time) => log.iter(0).find(|(_, entry)| entry.message.time >= time),
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, "the memory driver does not know this start"));
            }
        };
        Ok(found.map_or(log.end(), |(position, _)| position))
    }

    fn has_room(&mut self, size: usize, settings: &Settings) -> bool {
        let fits = |state: &Self| {
            let count = state.log.live() + state.delayed.messages.len();
            let bytes = state.log.bytes() + state.delayed.bytes;
            count < settings.capacity && bytes + size <= settings.bytes
        };
        fits(self) || (self.claimants() > 0 && self.log.evict_unclaimed() && fits(self))
    }

    fn push(&mut self, message: Arc<Message>, size: usize, claimants: u32) -> u64 {
        let key = message.lane_key().map(|key| LaneId::of_key(self.hasher.hash_one(&**key)));
        self.log.push(message, size, key, claimants)
    }

    /// Moves what is due into the log.
    #[inline]
    fn promote(&mut self) {
        if !self.delayed.messages.is_empty() {
            self.promote_due();
        }
    }

    fn promote_due(&mut self) {
        let now = Instant::now();
        let claimants = self.claimants();
        let mut count = 0;
        while let Some((message, size)) = self.delayed.take_due(now) {
            self.push(Arc::new(message), size, claimants);
            count += 1;
        }
        if count > 0 {
            self.appended(count);
        }
    }

    fn appended(&mut self, count: u64) {
        for (_, group) in &mut self.groups {
            group.appended(count);
            group.wake();
        }
    }
}

impl Delayed {
    /// Keeps a message for a while; says whether it is the next now.
    fn add(&mut self, message: Message, size: usize, wait: Duration) -> bool {
        let due = from_now(wait);
        self.count += 1;
        self.bytes += size;
        let next = self.next().is_none_or(|next| due < next);
        self.messages.insert((due, self.count), (message, size));
        next
    }

    fn next(&self) -> Option<Instant> {
        self.messages.first_key_value().map(|((due, _), _)| *due)
    }

    fn take_due(&mut self, now: Instant) -> Option<(Message, usize)> {
        let first = self.messages.first_entry().filter(|entry| entry.key().0 <= now)?;
        let (message, size) = first.remove();
        self.bytes -= size;
        Some((message, size))
    }
}

/// The error of everything that is asked of a broker that was shut down.
pub(crate) fn shut() -> Error {
    Error::new(ErrorKind::BusIsShutdown, "the memory broker was shut down").fix("make a new one")
}
