//! Where partitions begin and end, what a group has committed, and where reading starts.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use millstream_core::{Error, ErrorKind, Result, Start};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::errors;
use crate::settings::ANSWER_WITHIN;

/// Where one partition stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// The oldest message there is.
    pub(crate) low: i64,
    /// One behind the newest.
    pub(crate) end: i64,
    /// What the group has committed.
    pub(crate) committed: Option<i64>,
    /// The note beside it.
    pub(crate) mark: Option<String>,
    /// Where reading starts.
    pub(crate) start: i64,
}

/// Asks where partitions stand; a few questions for all of them together. Blocks.
pub(crate) fn ask<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    start: Start,
    of_group: bool,
) -> Result<BTreeMap<i32, Place>> {
    let mut places: BTreeMap<i32, Place> = partitions.iter().map(|p| (*p, Place::default())).collect();
    if places.is_empty() {
        return Ok(places);
    }
    for (partition, offset) in offsets(consumer, topic, partitions, Offset::Beginning)? {
        places.entry(partition).or_default().low = offset;
    }
    for (partition, offset) in offsets(consumer, topic, partitions, Offset::End)? {
        places.entry(partition).or_default().end = offset;
    }
    let mut young = BTreeMap::new();
    if let Start::Time(time) = start {
        let millis = time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis());
        let at = Offset::Offset(i64::try_from(millis).unwrap_or(i64::MAX));
        young.extend(offsets(consumer, topic, partitions, at)?);
    }
    for (partition, place) in &mut places {
        place.start = match start {
            Start::Latest => place.end,
            Start::Position(at) => i64::try_from(at.0).unwrap_or(i64::MAX).min(place.end).max(place.low),
            // Nothing that young: what comes from now on.
            Start::Time(_) => young.get(partition).copied().unwrap_or(place.end).max(place.low),
            _ => place.low,
        };
    }
    if of_group {
        take_committed(consumer, topic, partitions, &mut places)?;
        tell_gaps(topic, &places);
    }
    Ok(places)
}

/// What a group has committed, and the start that follows from it.
pub(crate) fn take_committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    places: &mut BTreeMap<i32, Place>,
) -> Result<()> {
    let failed = |e| errors::of(&e, "the positions of the group cannot be asked for").topic(topic);
    let committed = consumer.committed_offsets(list(topic, partitions), ANSWER_WITHIN).map_err(failed)?;
    for element in committed.elements() {
        element.error().map_err(failed)?;
        let Some(place) = places.get_mut(&element.partition()) else { continue };
        let Offset::Offset(offset) = element.offset() else { continue };
        place.committed = Some(offset);
        place.mark = Some(element.metadata().to_owned()).filter(|mark| !mark.is_empty());
        place.start = if offset > place.end { place.low } else { offset.max(place.low) };
    }
    Ok(())
}

/// Says what a group that reads on from here has missed.
fn tell_gaps(topic: &str, places: &BTreeMap<i32, Place>) {
    for (partition, place) in places {
        let Some(offset) = place.committed else { continue };
        if offset < place.low {
            let unread = place.low - offset;
            tracing::error!(
                topic,
                partition,
                committed = offset,
                oldest = place.low,
                unread,
                "messages that the group had not read are gone: their retention ended, or they were deleted"
            );
        } else if offset > place.end {
            tracing::error!(
                topic,
                partition,
                committed = offset,
                end = place.end,
                "the group's position is behind the partition's end: was the topic made anew? It is read from its \
                 oldest message on"
            );
        }
    }
}

/// The offset in each partition at a time, or at one of its ends, which the protocol writes as times below zero.
fn offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    at: Offset,
) -> Result<Vec<(i32, i64)>> {
    let failed = |e| errors::of(&e, "the ends of the topic cannot be asked for").topic(topic);
    let mut wanted = list(topic, partitions);
    wanted.set_all_offsets(at).map_err(failed)?;
    let answers = consumer.offsets_for_times(wanted, ANSWER_WITHIN).map_err(failed)?;
    let mut found = Vec::with_capacity(partitions.len());
    for element in answers.elements() {
        element.error().map_err(failed)?;
        if let Offset::Offset(offset) = element.offset() {
            found.push((element.partition(), offset));
        } else if !matches!(at, Offset::Offset(_)) {
            return Err(Error::new(ErrorKind::Unavailable, "a broker did not say where a partition ends")
                .topic(topic)
                .fix("try again"));
        }
    }
    Ok(found)
}

/// These partitions of a topic.
pub(crate) fn list(topic: &str, partitions: &[i32]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    list
}
