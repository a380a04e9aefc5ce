//! The client alone, reading: a queue for each partition, all of them on one thread, and positions committed each second
//! without waiting, the last ones with.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use bench_harness::{Result, Stopwatch};
use bytes::Bytes;
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, DefaultConsumerContext};
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::load::{self, Reading};
use crate::{Measured, brokers, group, raw_produce};
use bench_load::Arrivals;

/// Messages of a partition before the next has its turn.
const TURN: usize = 32;
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// What the driver asks for, for a topic of twelve partitions and the default budget of 64 MiB.
fn config() -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers()?)
        .set("group.id", group())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("check.crcs", "true")
        .set("partition.assignment.strategy", "range")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "20");
    Ok(config)
}

/// The bound of a partition's queue, as the driver reckons it.
fn bound(config: &mut ClientConfig, partitions: usize) {
    let queue = (64 << 20) / 3 / partitions.max(1);
    config
        .set("queued.max.messages.kbytes", (queue >> 10).to_string())
        .set("queued.min.messages", (queue / 512).clamp(1, 100_000).to_string())
        .set("fetch.message.max.bytes", (queue / 4).clamp(64 << 10, 1 << 20).to_string())
        .set("fetch.max.bytes", ((64 << 20) / 3).to_string());
}

type Client = BaseConsumer<DefaultConsumerContext>;

/// A member of a group, with the queues of its partitions.
struct Member {
    client: Arc<Client>,
    queues: BTreeMap<i32, PartitionQueue<DefaultConsumerContext>>,
    topic: String,
    reader: Thread,
    positions: BTreeMap<i32, i64>,
    committed: Instant,
}

impl Member {
    fn join(topic: &str) -> Result<Self> {
        let mut config = config()?;
        let asker = Client::from_config(&config)?;
        let metadata = asker.fetch_metadata(Some(topic), Duration::from_secs(10))?;
        let partitions = metadata.topics().first().map_or(1, |topic| topic.partitions().len());
        bound(&mut config, partitions);
        let client = Arc::new(Client::from_config(&config)?);
        client.subscribe(&[topic])?;
        Ok(Self {
            client,
            queues: BTreeMap::new(),
            topic: topic.to_owned(),
            reader: std::thread::current(),
            positions: BTreeMap::new(),
            committed: Instant::now(),
        })
    }

    /// Splits off the queues of what was assigned.
    fn split(&mut self) -> Result {
        for element in self.client.assignment()?.elements() {
            let partition = element.partition();
            if let Some(mut queue) = self.client.split_partition_queue(&self.topic, partition) {
                let reader = self.reader.clone();
                queue.set_nonempty_callback(move || reader.unpark());
                self.queues.insert(partition, queue);
            }
        }
        Ok(())
    }

    /// Takes what is there, in turn; says how many. What comes before the queues are split off comes by the common one.
    fn turn(&mut self, mut take: impl FnMut(&BorrowedMessage<'_>) -> Result) -> Result<usize> {
        let mut count = 0;
        let wait = if self.queues.is_empty() { Duration::from_millis(20) } else { Duration::ZERO };
        if let Some(record) = self.client.poll(wait) {
            let record = record?;
            take(&record)?;
            self.positions.insert(record.partition(), record.offset() + 1);
            count += 1;
        }
        if self.queues.is_empty() {
            self.split()?;
        }
        for (partition, queue) in &self.queues {
            let mut next = None;
            for _ in 0..TURN {
                let Some(record) = queue.poll(Duration::ZERO) else { break };
                let record = record?;
                take(&record)?;
                next = Some(record.offset() + 1);
                count += 1;
            }
            if let Some(next) = next {
                self.positions.insert(*partition, next);
            }
        }
        if self.committed.elapsed() >= COMMIT_EVERY {
            self.commit(CommitMode::Async)?;
        }
        Ok(count)
    }

    fn commit(&mut self, mode: CommitMode) -> Result {
        self.committed = Instant::now();
        if self.positions.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(self.positions.len());
        for (partition, next) in &self.positions {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next))?;
        }
        self.positions.clear();
        Ok(self.client.commit(&list, mode)?)
    }
}

/// Reads so many messages.
pub(crate) fn run(
    topic: &str,
    messages: usize,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> Result,
) -> Measured {
    let mut member = Member::join(topic)?;
    let (mut count, mut watch) = (0, None);
    while count < messages {
        let came = member.turn(|record| {
            if watch.is_none() {
                watch = Some(Stopwatch::start()?);
            }
            take(record)
        })?;
        count += came;
        if came == 0 {
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    member.commit(CommitMode::Sync)?;
    let took = watch.ok_or("nothing came")?.stop()?;
    Ok((took, None))
}

/// What is kept of a message once the client has it back.
struct Owned {
    data: Bytes,
    key: Option<Bytes>,
    id: Bytes,
    content_type: Bytes,
    millis: Option<i64>,
    offset: i64,
}

/// Copies payload, key and the two headers, as whoever hands messages on must.
pub(crate) fn take(record: &BorrowedMessage<'_>) -> Result {
    let mut owned = body(record);
    if let Some(headers) = record.headers() {
        for header in headers.iter() {
            let value = Bytes::copy_from_slice(header.value.unwrap_or_default());
            match header.key {
                millstream_kafka::MESSAGE_ID => owned.id = value,
                millstream_kafka::CONTENT_TYPE => owned.content_type = value,
                _ => {}
            }
        }
    }
    keep(owned);
    Ok(())
}

/// Copies payload and key.
pub(crate) fn take_body(record: &BorrowedMessage<'_>) -> Result {
    keep(body(record));
    Ok(())
}

fn body(record: &BorrowedMessage<'_>) -> Owned {
    Owned {
        data: Bytes::copy_from_slice(record.payload().unwrap_or_default()),
        key: record.key().map(Bytes::copy_from_slice),
        id: Bytes::new(),
        content_type: Bytes::new(),
        millis: record.timestamp().to_millis(),
        offset: record.offset(),
    }
}

fn keep(owned: Owned) {
    let Owned { data, key, id, content_type, millis, offset } = owned;
    black_box((data, key, id, content_type, millis, offset));
}

/// The same, and decodes.
pub(crate) fn take_typed(record: &BorrowedMessage<'_>) -> Result {
    take(record)?;
    black_box(decode(record)?);
    Ok(())
}

fn decode(record: &BorrowedMessage<'_>) -> Result<Reading> {
    Ok(serde_json::from_slice(record.payload().unwrap_or_default())?)
}

/// Reads what another thread writes at a steady pace.
pub(crate) fn paced(topic: &str, messages: usize) -> Measured {
    let arrivals = Arrivals::new(messages)?;
    let mut member = Member::join(topic)?;
    while member.queues.is_empty() {
        member.turn(|_| Ok(()))?;
    }
    let (clock, topic) = (arrivals.clone(), topic.to_owned());
    let writer = std::thread::spawn(move || -> Result {
        let mut send = raw_produce::sender()?;
        let mut reading = load::readings(100)?.swap_remove(0);
        // The first one waits until the client knows its brokers, as it does once in a program's life.
        load::vary(&mut reading, 0, clock.now());
        send(&topic, &reading)?;
        std::thread::sleep(load::WARM);
        let begun = Instant::now();
        for number in 1..messages {
            std::thread::sleep(load::due(number).saturating_sub(begun.elapsed()));
            load::vary(&mut reading, number, clock.now());
            send(&topic, &reading)?;
        }
        // It is dropped with the last one on its way, unless that had its time.
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    });
    while !arrivals.is_done() {
        let came = member.turn(|record| {
            take(record)?;
            arrivals.arrived_after(decode(record)?.id);
            Ok(())
        })?;
        if came == 0 && !arrivals.is_done() {
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
    member.commit(CommitMode::Sync)?;
    let took = arrivals.took()?;
    writer.join().map_err(|_| "the writer panicked")??;
    Ok((took, Some(arrivals.latency())))
}
