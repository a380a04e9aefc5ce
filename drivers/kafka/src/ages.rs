//! When the oldest message that a group has not read was published. A position tells no time, so of each partition one
//! message is read: by a client of its own that the connection keeps, since a new one costs threads and logins each time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_core::Result;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::sync::{Mutex, oneshot};
use tokio::task::spawn_blocking;

use crate::cluster::{Asker, Cluster};
use crate::{errors, positions, wire};

/// How long one look may take: what has not come by then is not known this time.
const WITHIN: Duration = Duration::from_secs(2);

/// How long it goes on when nobody waits for it any more: a program that ends waits for its threads.
const SLICE: Duration = Duration::from_millis(50);

/// Bytes asked for of each partition at first.
const FETCH: usize = 32 << 10;

/// Looks one after the other.
#[derive(Default)]
pub(crate) struct Ages {
    client: Arc<Mutex<Option<Asker>>>,
}

impl Ages {
    /// When the first message from each of these offsets on was published.
    pub(crate) async fn look(
        &self,
        cluster: &Arc<Cluster>,
        topic: &str,
        offsets: BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, SystemTime>> {
        let failed = |e: &KafkaError| errors::of(e, "the age of what is unread is not known").topic(topic);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in &offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(|e| failed(&e))?;
        }
        // Before there is a thread for it: who waits for its turn can still be dropped.
        let mut kept = Arc::clone(&self.client).lock_owned().await;
        let (tell, told) = oneshot::channel();
        let (cluster, name) = (Arc::clone(cluster), topic.to_owned());
        spawn_blocking(move || {
            let looked = Look { topic: &name, list: &list }.run(&mut kept, &cluster, || tell.is_closed());
            drop(kept);
            // Nobody may wait for it.
            let _ = tell.send(looked);
        });
        // Without an answer the thread's runtime is at its end.
        told.await.unwrap_or(Err(KafkaError::Canceled)).map_err(|e| failed(&e))
    }
}

/// One look at where a topic is unread.
struct Look<'a> {
    topic: &'a str,
    list: &'a TopicPartitionList,
}

impl Look<'_> {
    fn run(
        &self,
        kept: &mut Option<Asker>,
        cluster: &Cluster,
        is_over: impl Fn() -> bool,
    ) -> Result<BTreeMap<i32, SystemTime>, KafkaError> {
        let client = match &mut *kept {
            Some(client) => client,
            none => none.insert(client(cluster)?),
        };
        client.assign(self.list)?;
        let times = self.first_times(client, is_over);
        // A pause outlasts the assignment.
        if let Err(error) = client.resume(self.list).and_then(|()| client.unassign()) {
            tracing::debug!(topic = self.topic, %error, "the next look begins with a new client");
            *kept = None;
        }
        Ok(times)
    }

    /// What comes first of each partition.
    fn first_times(&self, client: &Asker, is_over: impl Fn() -> bool) -> BTreeMap<i32, SystemTime> {
        let topic = self.topic;
        let (mut times, mut nothing) = (BTreeMap::new(), BTreeSet::new());
        let until = Instant::now() + WITHIN;
        while times.len() + nothing.len() < self.list.count() && Instant::now() < until && !is_over() {
            match client.poll(SLICE) {
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
                Some(Err(KafkaError::PartitionEOF(partition))) if !times.contains_key(&partition) => {
                    nothing.insert(partition);
                }
                Some(Err(error)) => tracing::debug!(topic, %error, "the age of what is unread is asked for"),
                Some(Ok(_)) | None => {}
            }
        }
        times
    }
}

fn client(cluster: &Cluster) -> Result<Asker, KafkaError> {
    let mut config = cluster.settings.asking("millstream-ages");
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
    Asker::from_config_and_context(&config, cluster.ears.for_another())
}
