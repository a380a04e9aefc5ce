//! A subscription's state: its partitions, what is to be told, and what was asked back. The thread that polls changes
//! it, the source reads from it, the settler commits what it has.
//!
//! Each partition has a queue of its own in the client, and is read straight from there when the scheduler asks: a
//! partition that is not read is a queue that is not looked at. Kafka's own pause would throw away what was fetched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use millstream_core::{
    Assigned, Delivery, Epoch, Error, Lost, Message, PartitionId, Position, Read, ReadLimits, Result,
    Revoking, Start, Token,
};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::arguments::{Lies, Metadata};
use crate::awake::Awake;
use crate::cluster::Cluster;
use crate::poll::Listener;
use crate::positions::Place;
use crate::together::Emit;
use crate::wire;

/// The client of a subscription.
pub(crate) type Client = BaseConsumer<Listener>;

/// Messages taken from one partition before the next has its turn.
const TURN: usize = 32;

/// A partition under an assignment.
type Owned = (PartitionId, Epoch);

/// One subscription.
pub(crate) struct Member {
    pub(crate) topic: ByteString,
    pub(crate) group: Option<ByteString>,
    pub(crate) start: Start,
    /// Where partitions ended when it was opened, for a start at what comes from then on.
    pub(crate) from: BTreeMap<i32, i64>,
    /// The caller chooses the partitions.
    pub(crate) manual: bool,
    /// Where each partition ends, if reading ends at all.
    pub(crate) ends: Option<BTreeMap<i32, i64>>,
    pub(crate) revoke_within: Duration,
    /// Where there is a group that may go on without it.
    pub(crate) awake: Option<Awake>,
    /// What handlers are told of where their messages lie.
    pub(crate) metadata: Option<Metadata>,
    /// Held while something is committed.
    gate: Mutex<()>,
    pub(crate) client: OnceLock<Weak<Client>>,
    pub(crate) bell: Arc<Notify>,
    pub(crate) closing: AtomicBool,
    state: Mutex<State>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(crate) struct State {
    parts: BTreeMap<i32, Part>,
    events: VecDeque<Event>,
    epochs: u32,
    /// Where the round of the partitions goes on.
    cursor: i32,
    /// Room for the messages that come next.
    block: BytesMut,
    /// What the group gave and is not assigned yet: first it is asked where it starts.
    pub(crate) given: Option<TopicPartitionList>,
    /// The partitions of the caller's choice, if it chose anew.
    pub(crate) wanted: Option<Vec<i32>>,
    pub(crate) asked: Vec<Asked>,
}

enum Event {
    Assigned(Vec<Assigned>),
    Revoking(Revoking),
    Lost(Vec<Owned>),
    Failed(Error),
}

/// Partitions that were asked back, and are let go when the scheduler has answered.
pub(crate) struct Asked {
    partitions: Vec<Owned>,
    pub(crate) list: TopicPartitionList,
    answer: oneshot::Receiver<()>,
    deadline: Instant,
}

impl Asked {
    pub(crate) fn is_over(&mut self) -> bool {
        !matches!(self.answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
            || self.deadline <= Instant::now()
    }
}

/// One partition that is ours.
struct Part {
    epoch: u32,
    /// None where there is nothing to read.
    queue: Option<PartitionQueue<Listener>>,
    /// Taken from the queue and not yet yielded.
    held: VecDeque<(i64, Message)>,
    /// Where reading began.
    start: i64,
    next: i64,
    /// Its end, as far as is known.
    high: i64,
    end: Option<i64>,
    ended: bool,
    /// The scheduler knows that it is ours.
    announced: bool,
    paused: bool,
    revoking: bool,
    committed: i64,
    mark: Option<String>,
}

/// A partition that is ours from now on.
pub(crate) struct New {
    pub(crate) partition: i32,
    pub(crate) place: Place,
    pub(crate) queue: Option<PartitionQueue<Listener>>,
}

/// How far each partition is to be committed: its last finished message.
pub(crate) type Finished = BTreeMap<(i32, u32), i64>;

/// A partition, its position and the note beside that.
pub(crate) type Committing = (i32, i64, Option<String>);

impl Member {
    pub(crate) fn new(
        topic: ByteString,
        group: Option<ByteString>,
        start: Start,
        manual: bool,
        ends: Option<BTreeMap<i32, i64>>,
        revoke_within: Duration,
    ) -> Self {
        Self {
            topic,
            group,
            start,
            from: BTreeMap::new(),
            manual,
            ends,
            revoke_within,
            awake: None,
            metadata: None,
            gate: Mutex::default(),
            client: OnceLock::new(),
            bell: Arc::new(Notify::new()),
            closing: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is in its group, and its commits are a member's.
    pub(crate) fn is_in(&self) -> bool {
        !self.manual && !self.closing.load(Ordering::Acquire)
    }

    /// One look at what there is, without waiting. Nothing is taken that is not handed over.
    pub(crate) fn turn(&self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Option<Read>> {
        let mut state = self.lock();
        if let Some(event) = state.events.pop_front() {
            return match event {
                Event::Assigned(assigned) => {
                    for part in &assigned {
                        if let Some(part) = state.part(part.partition, part.epoch) {
                            part.announced = true;
                        }
                    }
                    Ok(Some(Read::Assigned(assigned)))
                }
                Event::Revoking(revoking) => Ok(Some(Read::Revoking(revoking))),
                Event::Lost(partitions) => Ok(Some(Read::Lost(Lost { partitions }))),
                Event::Failed(error) => Err(error),
            };
        }
        // Its messages may be another's by now. Neither is it at an end: that is for whoever has them to say.
        if self.awake.as_ref().is_some_and(Awake::is_in_doubt) {
            return Ok(None);
        }
        if state.fetch(&self.topic, self.metadata.as_ref(), into, limits) {
            return Ok(Some(Read::Deliveries));
        }
        Ok(state.is_at_end(self.ends.is_some()).then_some(Read::End))
    }

    /// Stops or goes on yielding.
    pub(crate) fn pause(&self, partitions: &[PartitionId], paused: bool) {
        let mut state = self.lock();
        for partition in partitions {
            if let Some(part) = state.parts.get_mut(&number(*partition)) {
                part.paused = paused;
            }
        }
    }

    /// The caller chooses these partitions; what it leaves out is gone at once.
    pub(crate) fn choose(&self, partitions: &[PartitionId]) {
        let wanted: Vec<i32> = partitions.iter().copied().map(number).collect();
        let mut state = self.lock();
        let gone: Vec<i32> = state.parts.keys().copied().filter(|p| !wanted.contains(p)).collect();
        let dropped = state.remove(&gone);
        state.wanted = Some(wanted);
        drop(state);
        drop(dropped);
    }

    /// Partitions are ours, and are read from their queues.
    pub(crate) fn assigned(&self, new: Vec<New>) {
        let mut assigned = Vec::with_capacity(new.len());
        let mut state = self.lock();
        state.epochs += 1;
        let epoch = state.epochs;
        for New { partition, place, queue } in new {
            let mut told = Assigned::new(PartitionId(partition.unsigned_abs()), Epoch(epoch));
            told.start = Some(position(place.start));
            told.end = Some(position(place.end));
            told.mark.clone_from(&place.mark);
            assigned.push(told);
            let end = self.ends.as_ref().map(|ends| ends.get(&partition).copied().unwrap_or(0));
            let part = Part {
                epoch,
                queue,
                held: VecDeque::new(),
                start: place.start,
                next: place.start,
                high: place.end,
                end,
                ended: end.is_some_and(|end| place.start >= end),
                announced: false,
                paused: false,
                revoking: false,
                committed: place.committed.unwrap_or(place.start),
                mark: place.mark,
            };
            state.parts.insert(partition, part);
        }
        if !assigned.is_empty() {
            state.events.push_back(Event::Assigned(assigned));
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Partitions are to be given back. Says whether that can be done at once, since nobody has anything of them.
    pub(crate) fn revoking(&self, partitions: &[i32], list: TopicPartitionList) -> bool {
        let mut state = self.lock();
        state.given = None;
        let unknown = |state: &State, p: &i32| state.parts.get(p).is_none_or(|part| !part.announced);
        let silent: Vec<i32> = partitions.iter().copied().filter(|p| unknown(&state, p)).collect();
        let dropped = state.remove(&silent);
        let mut asked = Vec::new();
        for p in partitions {
            if let Some(part) = state.parts.get_mut(p) {
                part.revoking = true;
                asked.push((PartitionId(p.unsigned_abs()), Epoch(part.epoch)));
            }
        }
        let at_once = asked.is_empty();
        if !at_once {
            let deadline = Instant::now() + self.revoke_within;
            let (revoking, answer) = Revoking::new(asked.clone(), deadline);
            state.events.push_back(Event::Revoking(revoking));
            state.asked.push(Asked { partitions: asked, list, answer, deadline });
        }
        drop(state);
        drop(dropped);
        self.bell.notify_one();
        at_once
    }

    /// Partitions are gone.
    pub(crate) fn lost(&self, partitions: &[i32]) {
        let mut state = self.lock();
        state.given = None;
        let dropped = state.remove(partitions);
        let known: Vec<Owned> =
            dropped.iter().filter(|(_, part)| part.announced).map(|(p, part)| owned(*p, part)).collect();
        if !known.is_empty() {
            state.events.push_back(Event::Lost(known));
        }
        drop(state);
        drop(dropped);
        self.bell.notify_one();
    }

    /// Lets go of what was asked back and is answered or overdue, or of all that was, if the group took it.
    pub(crate) fn let_go(&self, all: bool) -> Vec<Asked> {
        // What the group took it refuses by itself. Everything else waits for a commit that is under way.
        let gate = self.gate.try_lock();
        if !all && matches!(gate, Err(TryLockError::WouldBlock)) {
            return Vec::new();
        }
        let mut state = self.lock();
        let mut over = Vec::new();
        let mut at = 0;
        while at < state.asked.len() {
            if all || state.asked[at].is_over() {
                over.push(state.asked.swap_remove(at));
            } else {
                at += 1;
            }
        }
        let mut dropped = Vec::new();
        for asked in &over {
            let partitions: Vec<i32> = asked.partitions.iter().map(|(p, _)| number(*p)).collect();
            dropped.extend(state.remove(&partitions));
            // Whoever did not come to read the question learns that they are gone.
            let unread =
                |event: &Event| matches!(event, Event::Revoking(r) if r.partitions == asked.partitions);
            let read = !state.events.iter().any(unread);
            if all || !read {
                state.events.retain(|event| !unread(event));
                state.events.push_back(Event::Lost(asked.partitions.clone()));
            }
        }
        drop(state);
        drop(dropped);
        if !over.is_empty() {
            self.bell.notify_one();
        }
        over
    }

    /// A read is to end with this error.
    pub(crate) fn fail(&self, error: Error) {
        let mut state = self.lock();
        let told = state.events.iter().any(|event| matches!(event, Event::Failed(_)));
        if !told {
            state.events.push_back(Event::Failed(error));
        }
        drop(state);
        self.bell.notify_one();
    }

    /// A message that came past the queue of its partition.
    pub(crate) fn strayed(&self, partition: i32, offset: i64, message: Message) {
        let mut state = self.lock();
        if let Some(part) = state.parts.get_mut(&partition) {
            part.held.push_back((offset, message));
        }
        drop(state);
        self.bell.notify_one();
    }

    /// The partitions there are.
    pub(crate) fn partitions(&self) -> Vec<i32> {
        self.lock().parts.keys().copied().collect()
    }

    /// Where partitions end now.
    pub(crate) fn ending(&self, places: &BTreeMap<i32, Place>) {
        let mut state = self.lock();
        for (partition, place) in places {
            if let Some(part) = state.parts.get_mut(partition) {
                part.high = place.end;
            }
        }
    }

    /// Which of these partitions are not there.
    pub(crate) fn missing(&self, partitions: &[i32]) -> Vec<i32> {
        let state = self.lock();
        partitions.iter().copied().filter(|p| !state.parts.contains_key(p)).collect()
    }

    /// Gives up everything; what it had is dropped by the caller, outside of the lock.
    pub(crate) fn leave(&self) -> State {
        let mut state = self.lock();
        let epochs = state.epochs;
        let left = std::mem::take(&mut *state);
        state.epochs = epochs;
        left
    }

    /// Commits what is finished, and waits for the broker's answer; says what of it is still ours. Blocks.
    ///
    /// The gate is held from the look at what is ours until the answer, and whoever gives partitions back needs it: a
    /// commit can never reach the broker after the partition has another owner.
    pub(crate) fn commit(&self, cluster: &Cluster, finished: &Finished) -> (Finished, KafkaResult<()>) {
        let _gate = self.gate();
        let (ours, positions) = self.ours(finished);
        if ours.is_empty() {
            return (ours, Ok(()));
        }
        let sent = self.send(cluster, &positions, CommitMode::Sync);
        if sent.is_ok() {
            self.committed(&ours);
        }
        (ours, sent)
    }

    /// What of this is still ours, and the positions that follow from it.
    pub(crate) fn ours(&self, finished: &Finished) -> (Finished, Vec<Committing>) {
        let (mut ours, mut positions) = (Finished::new(), Vec::with_capacity(finished.len()));
        let state = self.lock();
        for ((p, epoch), last) in finished {
            if let Some(part) = state.parts.get(p).filter(|part| part.epoch == *epoch) {
                positions.push((*p, *last + 1, part.mark.clone()));
                ours.insert((*p, *epoch), *last);
            }
        }
        (ours, positions)
    }

    /// Which of these are committed already, as far as we were told.
    pub(crate) fn stale(&self, emits: &[Emit]) -> BTreeSet<((i32, u32), i64)> {
        let state = self.lock();
        let done =
            |(p, _): &(i32, u32), offset| state.parts.get(p).is_some_and(|part| offset < part.committed);
        emits
            .iter()
            .filter(|(part, offset, ..)| done(part, *offset))
            .map(|(part, offset, ..)| (*part, *offset))
            .collect()
    }

    /// The broker confirmed this.
    pub(crate) fn committed(&self, ours: &Finished) {
        let mut state = self.lock();
        for ((p, epoch), last) in ours {
            if let Some(part) = state.parts.get_mut(p).filter(|part| part.epoch == *epoch) {
                part.committed = part.committed.max(last + 1);
            }
        }
    }

    /// Stores a note beside a partition's position; says whether the partition is ours. Blocks.
    pub(crate) fn mark(
        &self,
        cluster: &Cluster,
        partition: PartitionId,
        epoch: Epoch,
        note: String,
    ) -> KafkaResult<bool> {
        let _gate = self.gate();
        let position = {
            let mut state = self.lock();
            let Some(part) = state.part(partition, epoch) else { return Ok(false) };
            // Whatever is committed from now on has it, too.
            part.mark = Some(note).filter(|note| !note.is_empty());
            (number(partition), part.committed, part.mark.clone())
        };
        self.send(cluster, &[position], CommitMode::Sync).map(|()| true)
    }

    /// Where partitions start that have no position yet, so that it is the group's from now on. Nobody waits for it: it
    /// is where reading would start again anyway, unless it starts at what comes from now on.
    pub(crate) fn begin(&self, cluster: &Cluster, positions: &[Committing]) {
        if positions.is_empty() {
            return;
        }
        let mode = if self.start == Start::Earliest { CommitMode::Async } else { CommitMode::Sync };
        if let Err(error) = self.send(cluster, positions, mode) {
            tracing::warn!(topic = %self.topic, %error, "where the group starts was not committed");
        }
    }

    /// Nothing is given back while this is held.
    pub(crate) fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who chose its partitions itself commits by a member of its group, if there is one here.
    ///
    /// The client says nothing of a commit that is not waited for, and of one that is, only whether it failed as a whole.
    /// All positions are of one topic and one group, which a broker refuses together.
    fn send(&self, cluster: &Cluster, positions: &[Committing], mode: CommitMode) -> KafkaResult<()> {
        self.as_committer(cluster, |client| client.commit(&self.list(positions)?, mode))
    }

    /// Calls with the client that commits, whose partitions nobody gives back meanwhile.
    pub(crate) fn as_committer<T>(
        &self,
        cluster: &Cluster,
        call: impl FnOnce(&Client) -> KafkaResult<T>,
    ) -> KafkaResult<T> {
        let member = self.group.as_ref().filter(|_| self.manual).and_then(|group| cluster.member_of(group));
        let _gate = member.as_ref().map(|member| member.gate());
        let gone = || KafkaError::ConsumerCommit(Code::State);
        let client =
            member.as_deref().unwrap_or(self).client.get().and_then(Weak::upgrade).ok_or_else(gone)?;
        call(&client)
    }

    /// Positions as the client takes them.
    pub(crate) fn list(&self, positions: &[Committing]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, next, mark) in positions {
            let mut element = list.add_partition(&self.topic, *partition);
            element.set_offset(Offset::Offset(*next))?;
            if let Some(mark) = mark {
                element.set_metadata(mark);
            }
        }
        Ok(list)
    }
}

impl State {
    fn part(&mut self, partition: PartitionId, epoch: Epoch) -> Option<&mut Part> {
        self.parts.get_mut(&number(partition)).filter(|part| part.epoch == epoch.0)
    }

    /// Takes partitions out, also of assignments that nobody read yet.
    fn remove(&mut self, partitions: &[i32]) -> Vec<(i32, Part)> {
        for event in &mut self.events {
            if let Event::Assigned(assigned) = event {
                assigned.retain(|a| !partitions.contains(&number(a.partition)));
            }
        }
        self.events.retain(|event| !matches!(event, Event::Assigned(none) if none.is_empty()));
        partitions.iter().filter_map(|p| self.parts.remove(p).map(|part| (*p, part))).collect()
    }

    /// Takes messages of all partitions in turn; says whether there were any.
    fn fetch(
        &mut self,
        topic: &ByteString,
        metadata: Option<&Metadata>,
        into: &mut Vec<Delivery>,
        limits: ReadLimits,
    ) -> bool {
        let (before, count) = (into.len(), self.parts.len());
        let (mut messages, mut bytes, mut idle) = (limits.messages, limits.bytes, 0);
        while messages > 0 && idle < count {
            let next = self.parts.range(self.cursor..).next().or_else(|| self.parts.first_key_value());
            let Some(p) = next.map(|(p, _)| *p) else { break };
            self.cursor = p.saturating_add(1);
            let Some(part) = self.parts.get_mut(&p) else { break };
            idle += 1;
            for _ in 0..TURN.min(messages) {
                let Some((offset, mut message)) = part.next(topic, &mut self.block) else { break };
                if let Some(metadata) = metadata {
                    let (start, end) = (part.start, part.high);
                    metadata.tell(&mut message, &Lies { partition: p, offset, start, end });
                }
                let size = message.size();
                if into.len() > before && size > bytes {
                    part.held.push_front((offset, message));
                    return true;
                }
                part.next = offset + 1;
                part.ended = part.end.is_some_and(|end| part.next >= end);
                let token =
                    Token::new(PartitionId(p.unsigned_abs()), Epoch(part.epoch), offset.unsigned_abs());
                into.push(Delivery::new(message, token).at(position(offset)));
                (messages, bytes, idle) = (messages - 1, bytes.saturating_sub(size), 0);
            }
        }
        into.len() > before
    }

    fn is_at_end(&self, ends: bool) -> bool {
        ends && !self.parts.is_empty() && self.given.is_none() && self.parts.values().all(|part| part.ended)
    }
}

impl Part {
    /// The next message, if it may be yielded.
    fn next(&mut self, topic: &ByteString, block: &mut BytesMut) -> Option<(i64, Message)> {
        if !self.announced || self.paused || self.revoking || self.ended {
            return None;
        }
        loop {
            let (offset, message) = match self.held.pop_front() {
                Some(held) => held,
                None => match self.queue.as_ref()?.poll(Duration::ZERO)? {
                    Ok(record) => (record.offset(), wire::message(&record, topic, block)),
                    Err(KafkaError::PartitionEOF(_)) => {
                        // Behind the last message there may be places without one: marks of transactions.
                        self.ended = self.end.is_some();
                        return None;
                    }
                    Err(error) => {
                        tracing::warn!(%topic, %error, "reading a partition failed; it is tried again");
                        return None;
                    }
                },
            };
            if self.end.is_some_and(|end| offset >= end) {
                self.ended = true;
                return None;
            }
            if offset >= self.next {
                return Some((offset, message));
            }
        }
    }
}

fn owned(partition: i32, part: &Part) -> Owned {
    (PartitionId(partition.unsigned_abs()), Epoch(part.epoch))
}

pub(crate) fn number(partition: PartitionId) -> i32 {
    i32::try_from(partition.0).unwrap_or(i32::MAX)
}

fn position(offset: i64) -> Position {
    Position(offset.unsigned_abs())
}
