//! Administration.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_core::admin::{GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream_core::{Admin, Error, ErrorKind, Limits, PartitionId, Position, Result, Start};

use super::state::{GroupKey, Shared, State, no_topic};
use super::store::Topic;

/// Administers a [`SimBroker`](super::SimBroker).
#[derive(Debug)]
pub struct SimAdmin {
    shared: Arc<Shared>,
}

impl SimAdmin {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Admin for SimAdmin {
    async fn ensure_topic(&self, topic: &str, settings: TopicSettings) -> Result<bool> {
        Limits::default().check_topic(topic)?;
        Ok(self.shared.change(|state, config, _| {
            let ours = config.shape.partitions();
            // Only the partitioned shape divides a topic.
            let partitions = settings.partitions.filter(|_| ours > 1).unwrap_or(ours);
            let name = ByteString::from(topic);
            let new = !state.topics.contains_key(&name);
            state.topics.entry(name).or_insert_with(|| Topic::new(partitions));
            new
        }))
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let state = self.shared.lock();
        let info = |(name, topic): (&ByteString, &Topic)| {
            let mut info = TopicInfo::new(name.clone());
            info.partitions = topic.logs.len() as u32;
            info.messages = topic.len() as u64;
            info.dead_letters = topic.dead.len() as u64;
            info
        };
        Ok(state.topics.iter().map(info).collect())
    }

    async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        let state = self.shared.lock();
        let stored = state.topics.get(topic).ok_or_else(|| no_topic(topic))?;
        let mut groups = Vec::new();
        for (key, pool) in state.pools.iter().filter(|(key, _)| key.0 == topic) {
            let mut info = GroupInfo::new(key.1.clone());
            info.members = pool.members().count() as u32;
            info.lag = pool.lag(&stored.logs[0]);
            info.in_flight = pool.in_flight() as u64;
            info.parked = pool.parked() as u64;
            info.committed = vec![(PartitionId(0), Position(pool.committed()))];
            groups.push(info);
        }
        for (key, coordinator) in state.coordinators.iter().filter(|(key, _)| key.0 == topic) {
            let committed = coordinator.committed();
            let mut info = GroupInfo::new(key.1.clone());
            info.members = coordinator.members().count() as u32;
            info.lag = stored.logs.iter().zip(&committed).map(|(log, c)| log.end().saturating_sub(*c)).sum();
            info.in_flight = coordinator.in_flight();
            info.committed =
                committed.iter().enumerate().map(|(p, c)| (PartitionId(p as u32), Position(*c))).collect();
            groups.push(info);
        }
        Ok(groups)
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        self.shared.change(|state, _, _| {
            let key: GroupKey = (topic.into(), group.into());
            let State { topics, pools, coordinators, .. } = state;
            let stored = topics.get(topic).ok_or_else(|| no_topic(topic))?;
            let starts: Vec<u64> = stored.logs.iter().map(|log| log.resolve(to)).collect();
            let (pool, coordinator) = (pools.get_mut(&key), coordinators.get_mut(&key));
            let members = pool.iter().map(|p| p.members().count()).sum::<usize>()
                + coordinator.iter().map(|c| c.members().count()).sum::<usize>();
            let error = |kind, what: &str, fix: &str| {
                Err(Error::new(kind, what.to_owned()).topic(topic).group(group).fix(fix))
            };
            if members > 0 {
                return error(ErrorKind::Conflict, "the group has members", "stop them first");
            }
            match (pool, coordinator) {
                (Some(pool), _) => pool.seek(starts[0]),
                (_, Some(coordinator)) => coordinator.seek(&starts),
                _ => return error(ErrorKind::NotFound, "there is no such group", "subscribe with it once"),
            }
            Ok(())
        })
    }

    async fn purge(&self, topic: &str) -> Result<u64> {
        self.shared.change(|state, _, _| {
            let stored = state.topics.get_mut(topic).ok_or_else(|| no_topic(topic))?;
            let count = stored.purge();
            let ends: Vec<u64> = stored.logs.iter().map(super::store::Log::end).collect();
            for (_, pool) in state.pools.iter_mut().filter(|(key, _)| key.0 == topic) {
                pool.seek(ends[0]);
            }
            Ok(count)
        })
    }

    async fn dead_letters(
        &self,
        topic: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDeadLetter>> {
        let state = self.shared.lock();
        let Some(stored) = state.topics.get(topic) else { return Ok(Vec::new()) };
        let from = after.map_or(0, |id| id.saturating_add(1));
        let page = stored.dead.range(from..).take(limit);
        Ok(page.map(|(id, message)| StoredDeadLetter::new(*id, message.clone())).collect())
    }

    async fn remove_dead_letter(&self, topic: &str, id: u64) -> Result<bool> {
        let mut state = self.shared.lock();
        Ok(state.topics.get_mut(topic).is_some_and(|t| t.dead.remove(&id).is_some()))
    }
}
