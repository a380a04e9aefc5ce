//! What is known of messages and groups while the records pass by.

use std::collections::HashMap;

use bytestring::ByteString;
use foldhash::fast::FixedState;

use crate::ledger::{Ending, Outcome, Record};

type Map<K, V> = HashMap<K, V, FixedState>;

/// A number that stands for a name.
pub(super) type Index = u32;

/// Names and their numbers.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: Map<ByteString, Index>,
    pub(super) names: Vec<ByteString>,
}

impl Names {
    fn number(&mut self, name: &ByteString) -> Index {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = Index::try_from(self.names.len()).unwrap_or(Index::MAX);
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }
}

/// What is known of a message, whoever reads it.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) topic: Option<Index>,
    pub(super) key: Option<Index>,
    pub(super) seq: u64,
    pub(super) digest: u64,
    /// How often somebody set out to write it.
    pub(super) intents: u32,
    pub(super) intent: Option<usize>,
    /// The last confirmation.
    pub(super) acked: Option<usize>,
    pub(super) maybe: u32,
    pub(super) rolled_back: Option<usize>,
}

/// What is known of a message in a group.
#[derive(Debug, Default, Clone)]
pub(super) struct Fate {
    pub(super) deliveries: u32,
    pub(super) last_delivery: Option<usize>,
    /// Deliveries that are not settled and that no fault struck since.
    out: u32,
    /// Deliveries that were unsettled when a fault struck: each may come once more.
    struck: u32,
    /// Faults there had been at the last record of this message and group.
    faults_then: u64,
    /// Times it was given back or sent again on purpose.
    pub(super) given_back: u32,
    /// Deliveries that were not due when they came: they use up none that are due later.
    beyond: u32,
    pub(super) effects: u32,
    pub(super) last_effect: Option<usize>,
    pub(super) acked: Option<usize>,
    pub(super) dead: Option<usize>,
    pub(super) suppressed: Option<usize>,
    pub(super) discarded: Option<usize>,
    pub(super) redriven: bool,
    pub(super) last_settled: Option<usize>,
}

impl Published {
    /// How often the message may lie in its topic.
    pub(super) fn copies(&self) -> u32 {
        self.intents.max(1) + self.maybe
    }
}

impl Fate {
    /// Whether a delivery now is one that is due anyway: a copy that did not come yet, or one given back.
    pub(super) fn is_owed(&self, copies: u32) -> bool {
        self.deliveries < copies + self.given_back + self.beyond
    }

    /// Whether a fault struck a delivery of it that was unsettled, and that did not come again since.
    pub(super) fn was_struck(&self, faults: u64) -> bool {
        self.struck > 0 || (faults > self.faults_then && self.out > 0)
    }

    /// Learns of faults: whatever is out may come once more.
    fn strike(&mut self, faults: u64) {
        if faults > self.faults_then {
            self.struck += std::mem::take(&mut self.out);
            self.faults_then = faults;
        }
    }

    /// One delivery found its end; if a fault struck, it was not this one that it hurt.
    fn end_one(&mut self) {
        let from = if self.out > 0 { &mut self.out } else { &mut self.struck };
        *from = from.saturating_sub(1);
    }
}

/// A group that must see a topic's messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subscription {
    pub(super) group: Index,
    pub(super) topic: Index,
    /// Only messages confirmed behind this record.
    pub(super) from: usize,
}

/// A record with what it speaks of, looked up once.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) at: usize,
    pub(super) record: &'a Record,
    pub(super) message: Option<Index>,
    pub(super) group: Option<Index>,
}

/// All that is known so far.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) ids: Names,
    pub(super) groups: Names,
    pub(super) topics: Names,
    pub(super) keys: Names,
    pub(super) published: Vec<Published>,
    pub(super) fates: Map<(Index, Index), Fate>,
    pub(super) subscriptions: Vec<Subscription>,
    subscribed: Map<(Index, Index), ()>,
    /// The messages of each topic.
    pub(super) by_topic: Vec<Vec<Index>>,
    faults_of_all: u64,
    faults_of: Map<Index, u64>,
    /// Work done so far: look-ups and visits, for the proof that it is linear.
    pub(super) steps: u64,
}

impl State {
    /// Looks up what a record speaks of.
    pub(super) fn resolve<'a>(&mut self, at: usize, record: &'a Record) -> Seen<'a> {
        let (id, group) = speaks_of(record);
        self.steps += 1 + u64::from(id.is_some()) + u64::from(group.is_some());
        let message = id.map(|id| self.ids.number(id));
        if let Some(message) = message
            && message as usize == self.published.len()
        {
            self.published.push(Published::default());
        }
        Seen { at, record, message, group: group.map(|g| self.groups.number(g)) }
    }

    /// What is known of the record's message in its group.
    pub(super) fn fate(&self, seen: &Seen<'_>) -> Option<&Fate> {
        self.fates.get(&(seen.group?, seen.message?))
    }

    /// What is known of the record's message.
    pub(super) fn message(&self, seen: &Seen<'_>) -> Option<&Published> {
        self.published.get(seen.message? as usize)
    }

    /// Faults so far that concern a group.
    pub(super) fn faults(&self, group: Option<Index>) -> u64 {
        self.faults_of_all + group.and_then(|g| self.faults_of.get(&g)).copied().unwrap_or(0)
    }

    /// Learns a record.
    pub(super) fn apply(&mut self, seen: &Seen<'_>) {
        self.steps += 1;
        match (seen.record, seen.message, seen.group) {
            (Record::Subscribed { topic, from_now, .. }, _, Some(group)) => {
                let topic = self.topic(topic);
                self.subscribe(group, topic, if *from_now { seen.at } else { 0 });
            }
            (Record::Fault { .. }, _, Some(group)) => *self.faults_of.entry(group).or_default() += 1,
            (Record::Fault { .. } | Record::Healed { .. }, _, None) => self.faults_of_all += 1,
            (record, Some(message), None) => self.apply_published(record, message, seen.at),
            (record, Some(message), Some(group)) => {
                if let Record::Delivered { topic, .. } = record {
                    let topic = self.topic(topic);
                    self.subscribe(group, topic, 0);
                }
                let faults = self.faults(Some(group));
                let copies = self.published[message as usize].copies();
                let fate = self.fates.entry((group, message)).or_default();
                fate.strike(faults);
                if matches!(record, Record::Delivered { .. }) && !fate.is_owed(copies) {
                    fate.struck = fate.struck.saturating_sub(1);
                    fate.beyond += 1;
                }
                apply_fate(fate, record, seen.at);
            }
            _ => {}
        }
    }

    fn apply_published(&mut self, record: &Record, message: Index, at: usize) {
        match record {
            Record::Intent { topic, key, seq, digest, .. } => {
                let topic = self.topic(topic);
                let key = key.as_ref().map(|k| self.keys.number(k));
                let entry = &mut self.published[message as usize];
                entry.intents += 1;
                if entry.intent.is_none() {
                    (entry.topic, entry.key, entry.seq, entry.digest) = (Some(topic), key, *seq, *digest);
                    entry.intent = Some(at);
                    self.by_topic[topic as usize].push(message);
                }
            }
            Record::Acked { .. } => self.published[message as usize].acked = Some(at),
            Record::MaybeWritten { .. } => self.published[message as usize].maybe += 1,
            Record::RolledBack { .. } => self.published[message as usize].rolled_back = Some(at),
            _ => {}
        }
    }

    fn topic(&mut self, name: &ByteString) -> Index {
        self.steps += 1;
        let topic = self.topics.number(name);
        if topic as usize == self.by_topic.len() {
            self.by_topic.push(Vec::new());
        }
        topic
    }

    fn subscribe(&mut self, group: Index, topic: Index, from: usize) {
        self.steps += 1;
        if self.subscribed.insert((group, topic), ()).is_none() {
            self.subscriptions.push(Subscription { group, topic, from });
        }
    }
}

fn apply_fate(fate: &mut Fate, record: &Record, at: usize) {
    match record {
        Record::Delivered { .. } => {
            fate.deliveries += 1;
            fate.last_delivery = Some(at);
            fate.out += 1;
        }
        Record::Effect { .. } => {
            fate.effects += 1;
            fate.last_effect = Some(at);
        }
        Record::Settled { verdict, outcome, .. } => {
            fate.last_settled = Some(at);
            match (verdict, outcome) {
                (Ending::Ack | Ending::Dead, Outcome::Done) => {
                    fate.acked = Some(at);
                    fate.end_one();
                }
                // Undone with its effects: it runs, and so may be delivered, again.
                (_, Outcome::Done | Outcome::EffectsFailed) => {
                    fate.given_back += 1;
                    fate.end_one();
                }
                _ => {}
            }
        }
        Record::DeadLettered { .. } => fate.dead = Some(at),
        Record::Suppressed { .. } => fate.suppressed = Some(at),
        Record::Discarded { .. } => fate.discarded = Some(at),
        Record::Redriven { .. } => {
            // It starts anew: what ended it does not count any more.
            fate.redriven = true;
            fate.given_back += 1;
            (fate.acked, fate.dead, fate.discarded) = (None, None, None);
        }
        _ => {}
    }
}

/// The message and the group a record names.
fn speaks_of(record: &Record) -> (Option<&ByteString>, Option<&ByteString>) {
    match record {
        Record::Intent { id, .. }
        | Record::Acked { id }
        | Record::MaybeWritten { id }
        | Record::RolledBack { id } => (Some(id), None),
        Record::Delivered { id, group, .. }
        | Record::Effect { id, group }
        | Record::Settled { id, group, .. }
        | Record::DeadLettered { id, group, .. }
        | Record::Suppressed { id, group }
        | Record::Discarded { id, group }
        | Record::Redriven { id, group } => (Some(id), Some(group)),
        Record::Subscribed { group, .. } | Record::Committed { group, .. } => (None, Some(group)),
        Record::Fault { group, .. } => (None, group.as_ref()),
        Record::Healed { .. } | Record::Gauge { .. } => (None, None),
    }
}
