//! When the oldest message that a group has not read was published. A position tells no time, so of each partition one
//! message is read: by a client of its own that the connection keeps, since a new one costs threads and logins each time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_core::Result;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::cluster::Asker;
use crate::ears::Ears;
use crate::settings::Settings;
use crate::{errors, positions, wire};

/// How long one look may take: what has not come by then is not known this time.
const WITHIN: Duration = Duration::from_secs(2);

/// Bytes asked for of each partition at first.
const FETCH: usize = 32 << 10;

/// Looks one after the other.
#[derive(Default)]
pub(crate) struct Ages {
    client: Mutex<Option<Asker>>,
}

impl Ages {
    /// When the first message from each of these offsets on was published. Blocks.
    pub(crate) fn look(
        &self,
        (settings, ears): (&Settings, &Ears),
        topic: &str,
        offsets: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, SystemTime>> {
        let failed = |e: &KafkaError| errors::of(e, "the age of what is unread is not known").topic(topic);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(|e| failed(&e))?;
        }
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match &mut *kept {
            Some(client) => client,
            none => none.insert(client(settings, ears).map_err(|e| failed(&e))?),
        };
        client.assign(&list).map_err(|e| failed(&e))?;
        let times = first_times(client, topic, offsets);
        // A pause outlasts the assignment.
        if let Err(error) = client.resume(&list).and_then(|()| client.unassign()) {
            tracing::debug!(topic, %error, "the next look begins with a new client");
            *kept = None;
        }
        Ok(times)
    }
}

fn client(settings: &Settings, ears: &Ears) -> Result<Asker, KafkaError> {
    let mut config = settings.asking("millstream-ages");
    config
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "100")
        // Most batches fit. Of those that do not, a broker gives one at least; for the others the client asks for twice as
        // much again and again, each time after what it takes for an error.
        .set("fetch.message.max.bytes", FETCH.to_string())
        .set("fetch.error.backoff.ms", "1")
        // And one whose queue was full is asked again after that; the default is a second.
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "1");
    Asker::from_config_and_context(&config, ears.for_another())
}

/// What comes first of each partition.
fn first_times(client: &Asker, topic: &str, offsets: &BTreeMap<i32, i64>) -> BTreeMap<i32, SystemTime> {
    let (mut times, mut nothing) = (BTreeMap::new(), 0);
    let until = Instant::now() + WITHIN;
    while times.len() + nothing < offsets.len() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match client.poll(left) {
            Some(Ok(record)) if record.topic() == topic => {
                let time = record.timestamp().to_millis().map_or(UNIX_EPOCH, wire::time);
                times.entry(record.partition()).or_insert(time);
                // No more of it is fetched. To give it up would begin anew with all the others.
                let seen = positions::list(topic, &[record.partition()]);
                if let Err(error) = client.pause(&seen) {
                    tracing::debug!(topic, %error, "more is fetched than one message");
                }
            }
            // Behind it there are only marks of transactions.
            Some(Err(KafkaError::PartitionEOF(partition))) if !times.contains_key(&partition) => nothing += 1,
            Some(Err(error)) => tracing::debug!(topic, %error, "the age of what is unread is asked for"),
            Some(Ok(_)) | None => {}
        }
    }
    times
}
