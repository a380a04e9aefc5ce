//! Administration: topics, groups, positions, dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use millstream_core::admin::{Finding, GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream_core::{
    Admin, Assignment, End, Error, ErrorKind, Message, OpenRequest, PartitionId, Position, Read, ReadLimits,
    Reader as _, Result, Source as _, Start,
};
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::cluster::{Asker, Cluster, options};
use crate::member::number;
use crate::positions::{self, Place};
use crate::reader::KafkaReader;
use crate::settings::{ANSWER_WITHIN, Create};
use crate::{doctor, errors, spring, wire};

/// Names of the broker's own topics begin like this.
const INTERNAL: &str = "__";

/// Bits of an offset in the id of a dead letter; above them is the partition.
const OFFSET_BITS: u32 = 44;

/// And above that, in which topic it lies: 0 is ours, whose letters have the ids that they always had.
const KIND_SHIFT: u32 = 61;

/// Groups that are asked at the same time how far they are.
const AT_ONCE: usize = 16;

/// How long to wait before a question is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// Bytes of dead letters read ahead.
const PAGE_BYTES: usize = 16 << 20;

/// Administers a cluster. Cloning shares it.
#[derive(Debug, Clone)]
pub struct KafkaAdmin {
    cluster: Arc<Cluster>,
}

impl KafkaAdmin {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    /// The partitions of a topic that is there.
    async fn partitions(&self, topic: &str) -> Result<Vec<i32>> {
        match self.there(topic).await? {
            Some(partitions) => Ok(partitions),
            None => Err(Error::new(ErrorKind::NotFound, "there is no such topic")
                .topic(topic)
                .fix("check its name, or publish to it first")),
        }
    }

    async fn find(&self, topic: &str) -> Result<Option<Vec<i32>>> {
        wire::check_topic(topic)?;
        let found = self.cluster.look(topic).await?;
        Ok(found.map(|topic| (0..topic.partitions).map(|p| number(PartitionId(p))).collect()))
    }

    /// The partitions of a topic, also of one that has no leader for some.
    async fn there(&self, topic: &str) -> Result<Option<Vec<i32>>> {
        wire::check_topic(topic)?;
        let name = topic.to_owned();
        let found = self.cluster.ask(move |asker| {
            let metadata = asker.fetch_metadata(Some(&name), ANSWER_WITHIN)?;
            let topic = metadata.topics().iter().find(|t| t.name() == name && t.error().is_none());
            Ok(topic.map(|topic| {
                topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect()
            }))
        });
        found.await.map_err(|e: KafkaError| self.cluster.unreachable(&e).topic(topic))
    }

    /// Asks as a group, on a thread that may block. The group's client is not kept.
    async fn as_group<T: Send + 'static>(
        &self,
        group: &str,
        question: impl FnOnce(&Asker) -> T + Send + 'static,
    ) -> Result<T> {
        let asker = self.cluster.new_group(group)?;
        spawn_blocking(move || question(&asker)).await.map_err(|e| errors::broken(&e))
    }

    /// Begins to ask how far a group is. The client can only ask for the positions of its own group, so each is asked by a
    /// client of its own, which is not kept.
    fn ask_group(
        &self,
        group: &str,
        topic: &str,
        ends: &BTreeMap<i32, Place>,
    ) -> Result<JoinHandle<Result<BTreeMap<i32, Place>>>> {
        Ok(take_committed(self.cluster.new_group(group)?, topic, ends.clone()))
    }

    /// The ends of all partitions of a topic.
    async fn ends(&self, topic: &str, partitions: &[i32]) -> Result<Vec<(i32, Place)>> {
        let (name, partitions) = (topic.to_owned(), partitions.to_vec());
        let ask = move |asker: &Asker| positions::ask(asker, &name, &partitions, Start::Earliest, false);
        Ok(self.cluster.ask(ask).await?.into_iter().collect())
    }

    /// Names and members of all groups.
    async fn all_groups(&self) -> Result<Vec<(String, u32)>> {
        let listed = self
            .cluster
            .ask(|asker| {
                let list = asker.fetch_group_list(None, ANSWER_WITHIN)?;
                let info = |g: &rdkafka::groups::GroupInfo| {
                    (g.name().to_owned(), u32::try_from(g.members().len()).unwrap_or(u32::MAX))
                };
                Ok(list.groups().iter().map(info).collect())
            })
            .await;
        listed.map_err(|e: KafkaError| errors::of(&e, "the groups cannot be listed"))
    }

    /// Members of a group.
    async fn members(&self, group: &str) -> Result<u32> {
        let name = group.to_owned();
        let listed = self.cluster.ask(move |asker| {
            let list = asker.fetch_group_list(Some(&name), ANSWER_WITHIN)?;
            let members = list.groups().iter().find(|g| g.name() == name).map_or(0, |g| g.members().len());
            Ok(u32::try_from(members).unwrap_or(u32::MAX))
        });
        listed.await.map_err(|e: KafkaError| errors::of(&e, "the group cannot be looked at").group(group))
    }

    /// Messages of a topic. Of one whose leader is away none are known, and it is told of all the same.
    async fn messages(&self, topic: &str, partitions: &[i32]) -> u64 {
        let ends = self.ends(topic, partitions).await.unwrap_or_default();
        ends.iter().map(|(_, p)| (p.end - p.low).unsigned_abs()).sum()
    }

    /// How far a group is, if it reads this topic.
    async fn info(
        &self,
        topic: &str,
        name: String,
        members: u32,
        places: &BTreeMap<i32, Place>,
    ) -> Option<GroupInfo> {
        if places.values().all(|place| place.committed.is_none()) {
            return None;
        }
        let mut info = GroupInfo::new(name);
        info.members = members;
        let mut behind = BTreeMap::new();
        for (partition, place) in places {
            let at = place.committed.unwrap_or(place.low);
            let unread = (place.end - place.start).max(0);
            info.lag += unread.unsigned_abs();
            info.committed.push((PartitionId(partition.unsigned_abs()), Position(at.unsigned_abs())));
            if unread > 0 {
                behind.insert(*partition, place.start);
            }
        }
        info.oldest = self.oldest(topic, behind).await;
        Some(info)
    }

    /// When the oldest of the messages at these places was published, as far as that is to be learnt.
    async fn oldest(&self, topic: &str, behind: BTreeMap<i32, i64>) -> Option<SystemTime> {
        if behind.is_empty() {
            return None;
        }
        match self.cluster.ages.look(&self.cluster, topic, behind).await {
            Ok(times) => times.into_values().min(),
            Err(error) => {
                tracing::debug!(topic, %error, "lag is told without an age");
                None
            }
        }
    }

    /// Up to so many messages of a partition, from a position to the end there is now.
    async fn browse(
        &self,
        topic: &str,
        partition: i32,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Message)>> {
        let mut request =
            OpenRequest::new(topic.to_owned()).start(Start::Position(Position(from))).end(End::Latest);
        request.assignment = Assignment::Manual(vec![PartitionId(partition.unsigned_abs())]);
        request.max_bytes = PAGE_BYTES;
        let mut source = KafkaReader::new(Arc::clone(&self.cluster)).open(request).await?.source;
        let mut found = Vec::new();
        while found.len() < limit {
            let mut into = Vec::new();
            let read = source.read(&mut into, ReadLimits::new(limit - found.len(), PAGE_BYTES)).await?;
            found.extend(into.into_iter().map(|delivery| {
                let at = delivery.position.map_or(0, |p| p.0);
                (at, Arc::unwrap_or_clone(delivery.message))
            }));
            if matches!(read, Read::End) {
                break;
            }
        }
        source.close().await?;
        Ok(found)
    }
}

/// Begins to ask, as a group, what it has committed; into what is known of the partitions. Asked again while the group's
/// coordinator is being chosen or loads.
fn take_committed(
    asker: Arc<Asker>,
    topic: &str,
    mut places: BTreeMap<i32, Place>,
) -> JoinHandle<Result<BTreeMap<i32, Place>>> {
    let (topic, partitions) = (topic.to_owned(), places.keys().copied().collect::<Vec<_>>());
    spawn_blocking(move || {
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            match positions::take_committed(&asker, &topic, &partitions, &mut places) {
                Err(error) if error.is_retryable() && Instant::now() + AGAIN < until => {
                    std::thread::sleep(AGAIN);
                }
                asked => return asked.map(|()| places),
            }
        }
    })
}

/// The topics that may hold a topic's dead letters: ours first, then Spring Kafka's.
fn dead_letters_of(topic: &str) -> [String; 3] {
    let [new, old] = spring::SUFFIXES;
    [".dlq", new, old].map(|suffix| format!("{topic}{suffix}"))
}

/// The id of a dead letter: in which of those topics, in which partition and where there.
fn id_of(kind: usize, partition: i32, offset: u64) -> u64 {
    ((kind as u64) << KIND_SHIFT) | (u64::from(partition.unsigned_abs()) << OFFSET_BITS) | offset
}

/// The same taken apart.
fn parts_of(id: u64) -> (usize, u64, u64) {
    let partition = (id & ((1 << KIND_SHIFT) - 1)) >> OFFSET_BITS;
    (usize::try_from(id >> KIND_SHIFT).unwrap_or(usize::MAX), partition, id & ((1 << OFFSET_BITS) - 1))
}

impl Admin for KafkaAdmin {
    async fn ensure_topic(&self, topic: &str, settings: TopicSettings) -> Result<bool> {
        if self.cluster.settings.create == Create::Assume {
            return Ok(false);
        }
        let conflict = |there: usize, wanted: u32| {
            Err(Error::new(
                ErrorKind::Conflict,
                format!("the topic has {there} partitions, and {wanted} are wanted"),
            )
            .topic(topic)
            .fix("give it as many, by the broker's own tools; a park needs as many as its topic"))
        };
        if let Some(there) = self.find(topic).await? {
            return match settings.partitions {
                Some(wanted) if wanted as usize != there.len() => conflict(there.len(), wanted),
                _ => Ok(false),
            };
        }
        if self.cluster.settings.create == Create::Never {
            return Err(Error::new(ErrorKind::NotFound, "there is no such topic")
                .topic(topic)
                .fix("make it first, or leave out `create` in the URL so that it is made"));
        }
        let made = self.cluster.make(topic, settings.partitions).await?;
        self.cluster.wait_for(topic).await?;
        Ok(made)
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let listed = self
            .cluster
            .ask(|asker| {
                let metadata = asker.fetch_metadata(None, ANSWER_WITHIN)?;
                let ours = metadata.topics().iter().filter(|t| !t.name().starts_with(INTERNAL));
                Ok(ours.map(|t| (t.name().to_owned(), t.partitions().len())).collect::<Vec<_>>())
            })
            .await
            .map_err(|e: KafkaError| errors::of(&e, "the topics cannot be listed"))?;
        let mut topics = Vec::with_capacity(listed.len());
        for (name, count) in listed {
            let partitions: Vec<i32> = (0..count).filter_map(|p| i32::try_from(p).ok()).collect();
            let mut info = TopicInfo::new(name.clone());
            info.partitions = u32::try_from(count).unwrap_or(u32::MAX);
            info.messages = self.messages(&name, &partitions).await;
            topics.push(info);
        }
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let dead: Vec<u64> = topics
            .iter()
            .map(|t| {
                let names = dead_letters_of(&t.name);
                topics.iter().filter(|d| names.iter().any(|name| *d.name == **name)).map(|d| d.messages).sum()
            })
            .collect();
        topics.iter_mut().zip(dead).for_each(|(topic, dead)| topic.dead_letters = dead);
        Ok(topics)
    }

    async fn topic(&self, topic: &str) -> Result<Option<TopicInfo>> {
        let Some(partitions) = self.there(topic).await? else { return Ok(None) };
        let mut info = TopicInfo::new(topic.to_owned());
        info.partitions = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
        info.messages = self.messages(topic, &partitions).await;
        for name in dead_letters_of(topic) {
            // Of a topic with the longest name there is none: its own would be longer.
            if wire::check_topic(&name).is_ok() {
                let dead = self.there(&name).await?.unwrap_or_default();
                info.dead_letters += self.messages(&name, &dead).await;
            }
        }
        Ok(Some(info))
    }

    async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        let partitions = self.partitions(topic).await?;
        let ends: BTreeMap<i32, Place> = self.ends(topic, &partitions).await?.into_iter().collect();
        let mut groups = Vec::new();
        let all = self.all_groups().await?;
        let mut asked = Vec::with_capacity(all.len());
        for some in all.chunks(AT_ONCE) {
            let asking: Vec<_> = some.iter().map(|(name, _)| self.ask_group(name, topic, &ends)).collect();
            for ((name, members), asking) in some.iter().zip(asking) {
                asked.push((name.clone(), *members, asking?.await.map_err(|e| errors::broken(&e))?));
            }
        }
        for (name, members, places) in asked {
            match places {
                Ok(places) => groups.extend(self.info(topic, name, members, &places).await),
                // Another group's trouble hides no group of ours that can be asked.
                Err(error) => tracing::warn!(topic, group = name, %error, "a group is left out"),
            }
        }
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }

    async fn group(&self, topic: &str, group: &str) -> Result<Option<GroupInfo>> {
        let partitions = self.partitions(topic).await?;
        let members = self.members(group).await?;
        let places: BTreeMap<i32, Place> = self.ends(topic, &partitions).await?.into_iter().collect();
        let asking = take_committed(self.cluster.group(group)?, topic, places);
        let places = asking.await.map_err(|e| errors::broken(&e))?.map_err(|e| e.group(group))?;
        Ok(self.info(topic, group.to_owned(), members, &places).await)
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        let partitions = self.partitions(topic).await?;
        let groups = self.all_groups().await?;
        let members = groups.iter().find(|(name, _)| name == group).map(|(_, members)| *members);
        let error = |kind, what: &str, fix: &str| {
            Err(Error::new(kind, what.to_owned()).topic(topic).group(group).fix(fix))
        };
        match members {
            None => return error(ErrorKind::NotFound, "there is no such group", "subscribe with it once"),
            Some(0) => {}
            Some(_) => return error(ErrorKind::Conflict, "the group has members", "stop them first"),
        }
        let name = topic.to_owned();
        let moved = self.as_group(group, move |asker| {
            let places = positions::ask(asker, &name, &partitions, to, false)?;
            let mut list = TopicPartitionList::with_capacity(places.len());
            let failed = |e: KafkaError| errors::of(&e, "the group was not moved");
            for (partition, place) in &places {
                list.add_partition_offset(&name, *partition, Offset::Offset(place.start)).map_err(failed)?;
            }
            match asker.commit(&list, CommitMode::Sync) {
                Ok(()) => Ok(()),
                Err(e) if e.rdkafka_error_code() == Some(Code::UnknownMemberId) => {
                    Err(Error::new(ErrorKind::Conflict, "the group has members").fix("stop them first"))
                }
                Err(e) => Err(failed(e)),
            }
        });
        moved.await?.map_err(|e: Error| e.topic(topic).group(group))
    }

    async fn purge(&self, topic: &str) -> Result<u64> {
        let partitions = self.partitions(topic).await?;
        let ends = self.ends(topic, &partitions).await?;
        self.delete_before(topic, ends.iter().map(|(p, place)| (*p, place.end))).await?;
        Ok(ends.iter().map(|(_, place)| (place.end - place.low).unsigned_abs()).sum())
    }

    async fn dead_letters(
        &self,
        topic: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDeadLetter>> {
        let (kind, from, at) = after.map_or((0, 0, 0), parts_of);
        let (mut from, mut at) = (from, if after.is_some() { at + 1 } else { at });
        let mut letters = Vec::new();
        for (kind, name) in dead_letters_of(topic).into_iter().enumerate().skip(kind) {
            let from = usize::try_from(std::mem::take(&mut from)).unwrap_or(usize::MAX);
            for partition in self.find(&name).await?.unwrap_or_default().into_iter().skip(from) {
                if letters.len() >= limit {
                    return Ok(letters);
                }
                let left = limit - letters.len();
                let found = self.browse(&name, partition, std::mem::take(&mut at), left).await?;
                letters.extend(found.into_iter().map(|(offset, mut letter)| {
                    spring::understand(&mut letter);
                    StoredDeadLetter::new(id_of(kind, partition, offset), letter)
                }));
            }
        }
        Ok(letters)
    }

    async fn remove_dead_letter(&self, topic: &str, id: u64) -> Result<bool> {
        let (kind, partition, offset) = parts_of(id);
        let Some(name) = dead_letters_of(topic).into_iter().nth(kind) else { return Ok(false) };
        let Some(partitions) = self.find(&name).await? else { return Ok(false) };
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let ends = self.ends(&name, &partitions).await?;
        let place = ends.into_iter().find(|(p, _)| u64::from(p.unsigned_abs()) == partition);
        let Some((partition, place)) = place else { return Ok(false) };
        if offset < place.low || offset >= place.end {
            return Ok(false);
        }
        if offset > place.low {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "Kafka deletes only what is oldest in its partition",
            )
            .topic(name)
            .fix("remove those before it first, or leave them to the topic's retention"));
        }
        self.delete_before(&name, std::iter::once((partition, offset + 1))).await?;
        Ok(true)
    }

    async fn diagnose(&self, topic: &str) -> Result<Vec<Finding>> {
        wire::check_topic(topic)?;
        let groups = match self.groups(topic).await {
            // Without a leader nobody can say where a partition ends: that is for the doctor to tell.
            Err(error) if error.is_retryable() => Vec::new(),
            groups => groups?,
        };
        doctor::diagnose(&self.cluster, topic, &groups, &self.parks(topic).await?).await
    }
}

impl KafkaAdmin {
    /// The parks of a topic's groups, with their partitions.
    async fn parks(&self, topic: &str) -> Result<Vec<(String, usize)>> {
        let prefix = format!("{topic}.");
        let listed = self.cluster.ask(|asker| {
            let metadata = asker.fetch_metadata(None, ANSWER_WITHIN)?;
            Ok(metadata
                .topics()
                .iter()
                .map(|t| (t.name().to_owned(), t.partitions().len()))
                .collect::<Vec<_>>())
        });
        let listed = listed.await.map_err(|e: KafkaError| errors::of(&e, "the topics cannot be listed"))?;
        Ok(listed
            .into_iter()
            .filter(|(name, _)| name.starts_with(&prefix) && name.ends_with(".park"))
            .collect())
    }

    /// Deletes all messages before these positions.
    async fn delete_before(&self, topic: &str, ends: impl Iterator<Item = (i32, i64)>) -> Result<()> {
        let failed = |e: KafkaError| errors::of(&e, "the messages were not deleted").topic(topic);
        let mut list = TopicPartitionList::new();
        for (partition, end) in ends {
            list.add_partition_offset(topic, partition, Offset::Offset(end)).map_err(failed)?;
        }
        let deleted = self.cluster.admin()?.delete_records(&list, &options()).await.map_err(failed)?;
        for element in deleted.elements() {
            element.error().map_err(failed)?;
        }
        Ok(())
    }
}
