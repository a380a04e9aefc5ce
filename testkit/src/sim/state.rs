//! What the broker keeps, behind one lock, and how its clients wait for it to change.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytestring::ByteString;
use millstream_core::{Error, ErrorKind, Message, Result, StoreId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::control::SettleEntry;
use super::coordinator::Coordinator;
use super::faults::{FaultId, Faults, Injury, Operation};
use super::pool::Pool;
use super::shape::Shape;
use super::store::Topic;

/// How many settlements, and how many effects, are remembered.
const HISTORY: usize = 100_000;

#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) shape: Shape,
    pub(super) capacity: usize,
    pub(super) max_message: Option<usize>,
    pub(super) revoke_within: Duration,
    pub(super) answer_within: Duration,
    pub(super) create_topics: bool,
    pub(super) count_deliveries: bool,
    pub(super) transactions: bool,
    pub(super) seed: u64,
    pub(super) store: StoreId,
    pub(super) clock: fn() -> SystemTime,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shape: Shape::WholeLog,
            capacity: 1_000_000,
            max_message: None,
            revoke_within: Duration::from_secs(10),
            answer_within: Duration::from_secs(10),
            create_topics: true,
            count_deliveries: true,
            transactions: false,
            seed: 0,
            store: StoreId::unique(),
            clock: SystemTime::now,
        }
    }
}

/// A topic and a group. A queue without groups has the group "".
pub(super) type GroupKey = (ByteString, ByteString);

/// What outlives the members.
#[derive(Debug)]
pub(super) struct State {
    pub(super) topics: BTreeMap<ByteString, Topic>,
    pub(super) pools: BTreeMap<GroupKey, Pool>,
    pub(super) coordinators: BTreeMap<GroupKey, Coordinator>,
    pub(super) faults: Faults,
    pub(super) next_member: u32,
    pub(super) settled: VecDeque<SettleEntry>,
    pub(super) effects: VecDeque<String>,
    /// How often each of them committed.
    pub(super) effect_counts: BTreeMap<String, u64>,
    pub(super) random: fastrand::Rng,
}

impl State {
    pub(super) fn remember(&mut self, entry: SettleEntry) {
        if self.settled.len() == HISTORY {
            self.settled.pop_front();
        }
        self.settled.push_back(entry);
    }

    pub(super) fn happened(&mut self, effect: String) {
        if self.effects.len() == HISTORY {
            self.forget_oldest_effect();
        }
        *self.effect_counts.entry(effect.clone()).or_default() += 1;
        self.effects.push_back(effect);
    }

    fn forget_oldest_effect(&mut self) {
        let Some(oldest) = self.effects.pop_front() else { return };
        if let Some(count) = self.effect_counts.get_mut(&oldest) {
            *count -= 1;
            if *count == 0 {
                self.effect_counts.remove(&oldest);
            }
        }
    }

    /// The topic, made if that is allowed.
    pub(super) fn topic(&mut self, name: &ByteString, config: &Config) -> Result<&mut Topic> {
        if !self.topics.contains_key(name) && !config.create_topics {
            return Err(no_topic(name));
        }
        Ok(self.topics.entry(name.clone()).or_insert_with(|| Topic::new(config.shape.partitions())))
    }

    /// Whether so many more messages fit into a topic.
    pub(super) fn room(&self, topic: &ByteString, more: usize, config: &Config) -> Result<()> {
        if self.topics.get(topic).map_or(0, Topic::len) + more <= config.capacity {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Full, format!("the topic holds {} messages", config.capacity))
            .topic(topic)
            .fix("give the simulated broker a larger capacity"))
    }

    /// Appends a message to its topic.
    pub(super) fn append(
        &mut self,
        message: Message,
        config: &Config,
        now: Instant,
    ) -> Result<Option<millstream_core::Position>> {
        self.room(&message.topic, 1, config)?;
        let name = message.topic.clone();
        Ok(self.topic(&name, config)?.append(message, now, (config.clock)()))
    }
}

pub(super) fn no_topic(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "the topic does not exist").topic(name).fix("create it with ensure_topic")
}

/// The broker: its settings, its state, and the bell that rings when something changes.
pub(super) struct Shared {
    pub(super) config: Config,
    state: Mutex<State>,
    changed: Notify,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let state = State {
            topics: BTreeMap::new(),
            pools: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            faults: Faults::default(),
            next_member: 1,
            settled: VecDeque::new(),
            effects: VecDeque::new(),
            effect_counts: BTreeMap::new(),
            random: fastrand::Rng::with_seed(config.seed),
        };
        Self { config, state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere must not hide behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all who wait for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, &Config, Instant) -> T) -> T {
        let result = change(&mut self.lock(), &self.config, Instant::now());
        self.changed.notify_waiters();
        result
    }

    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Hurts one call, if it is its turn: waits out delays and hangs, and says what remains to be done.
    pub(super) async fn suffer(&self, operation: Operation, topic: &str) -> Suffered {
        let Some(hurt) = self.lock().faults.strike(operation, topic) else { return Suffered::Nothing };
        self.endure(hurt).await
    }

    /// Waits out a delay or a hang.
    pub(super) async fn endure(&self, (id, injury): (FaultId, Injury)) -> Suffered {
        match injury {
            Injury::Fail(kind) => Suffered::Failed(kind),
            Injury::Refuse(kind) => Suffered::Refused(kind),
            Injury::Unknown => Suffered::Unknown,
            Injury::AnswerLost => Suffered::AnswerLost,
            Injury::Lost => Suffered::Lost,
            Injury::Delay(time) => {
                tokio::time::sleep(time).await;
                Suffered::Nothing
            }
            Injury::Hang => match tokio::time::timeout(self.config.answer_within, self.healed(id)).await {
                Ok(()) => Suffered::Nothing,
                Err(_) => Suffered::Unknown,
            },
        }
    }

    async fn healed(&self, id: FaultId) {
        loop {
            let changed = self.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.lock().faults.in_force(id) {
                return;
            }
            changed.await;
        }
    }
}

/// What an injury leaves to be done, its waiting over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suffered {
    Nothing,
    Failed(ErrorKind),
    Refused(ErrorKind),
    Unknown,
    AnswerLost,
    Lost,
}

/// The error of an injected fault.
pub(super) fn injected(kind: ErrorKind, topic: &str) -> Error {
    Error::new(kind, "a fault that the test injected").topic(topic)
}

/// An effect for [`Along::effects`](millstream_core::Along::effects): its name shows in
/// [`Control::effects`](super::Control::effects) once the settlement has committed, and never before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimEffect {
    pub(super) name: String,
    pub(super) fails: bool,
}

impl SimEffect {
    /// An effect that succeeds.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), fails: false }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An effect that fails, and undoes its settlement.
    #[must_use]
    pub fn failing(name: impl Into<String>) -> Self {
        Self { name: name.into(), fails: true }
    }
}
