//! The client alone, writing: one thread that fills the queue, one counter for each batch that its delivery reports bring
//! to zero, and nothing allocated for a message but its headers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bench_harness::{Result, Stopwatch};
use millstream::Message;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::load::{self, CONTENT_TYPE, Job, Reading};
use crate::{Measured, brokers};
use bench_load::Ages;

/// Batches under way.
struct Slots {
    slots: Vec<Slot>,
    failed: AtomicUsize,
    begun: Instant,
    sender: Thread,
}

#[derive(Default)]
struct Slot {
    left: AtomicUsize,
    /// Nanoseconds from the start of the run to the last report.
    ended: AtomicU64,
}

struct Reports(Arc<Slots>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        let slots = &*self.0;
        if result.is_err() {
            slots.failed.fetch_add(1, Ordering::Relaxed);
        }
        let Some(slot) = slots.slots.get(slot) else { return };
        if slot.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            slot.ended.store(nanos(slots.begun.elapsed()), Ordering::Release);
            slots.sender.unpark();
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The producer's settings, as the driver has them.
pub(crate) fn config() -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers()?)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "10000")
        .set("queue.buffering.max.kbytes", "33748");
    Ok(config)
}

/// Sends batches; `send` hands over one message by its number.
fn run(job: &Job, mut send: impl FnMut(&ThreadedProducer<Reports>, usize, usize) -> Result) -> Measured {
    let slots = Arc::new(Slots {
        slots: (0..job.outstanding).map(|_| Slot::default()).collect(),
        failed: AtomicUsize::new(0),
        begun: Instant::now(),
        sender: std::thread::current(),
    });
    let producer = ThreadedProducer::from_config_and_context(&config()?, Reports(Arc::clone(&slots)))?;
    let mut ages = Ages::new()?;
    let mut begun = vec![None; job.outstanding];
    // The topic, its leaders and the producer's own id are known before the clock starts, as they are to a program that runs.
    slots.slots[0].left.store(1, Ordering::Release);
    send(&producer, 0, 0)?;
    while slots.slots[0].left.load(Ordering::Acquire) > 0 {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let watch = Stopwatch::start()?;
    let mut wait = |slot: usize, begun: &mut Vec<Option<u64>>| {
        while slots.slots[slot].left.load(Ordering::Acquire) > 0 {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        if let Some(at) = begun[slot].take() {
            let ended = slots.slots[slot].ended.load(Ordering::Acquire);
            ages.add(Duration::from_nanos(ended.saturating_sub(at)));
        }
    };
    for (batch, first) in (0..job.messages).step_by(job.batch).enumerate() {
        let slot = batch % job.outstanding;
        wait(slot, &mut begun);
        let last = (first + job.batch).min(job.messages);
        begun[slot] = Some(nanos(slots.begun.elapsed()));
        slots.slots[slot].left.store(last - first, Ordering::Release);
        for number in first..last {
            send(&producer, number, slot)?;
        }
    }
    for slot in 0..job.outstanding {
        wait(slot, &mut begun);
    }
    let took = watch.stop()?;
    match slots.failed.load(Ordering::Relaxed) {
        0 => Ok((took, Some(ages.latency()))),
        failed => Err(format!("{failed} messages were not written").into()),
    }
}

fn headers(id: &[u8]) -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(2)
        .insert(Header { key: millstream_kafka::MESSAGE_ID, value: Some(id) })
        .insert(Header { key: millstream_kafka::CONTENT_TYPE, value: Some(CONTENT_TYPE) })
}

/// Messages leave the queue somewhat after their reports: it can be full for a moment.
fn send(producer: &ThreadedProducer<Reports>, mut record: BaseRecord<'_, [u8], [u8], usize>) -> Result {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, refused)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                record = refused;
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Payloads that are there already.
pub(crate) fn bytes(job: &Job) -> Measured {
    let pool = load::messages(&job.topic, job.size)?;
    run(job, |producer, number, slot| {
        let message = &pool[number % pool.len()];
        send_bytes(producer, message, message.data.as_deref().unwrap_or_default(), slot)
    })
}

fn send_bytes(producer: &ThreadedProducer<Reports>, message: &Message, data: &[u8], slot: usize) -> Result {
    let mut record = BaseRecord::with_opaque_to(&message.topic, slot).payload(data);
    record.key = message.key.as_deref();
    record.headers = Some(headers(message.id.as_bytes()));
    send(producer, record)
}

/// Events: JSON and an id are made for each.
pub(crate) fn typed(job: &Job) -> Measured {
    let pool = load::readings(job.size)?;
    let mut buffer = Vec::with_capacity(job.size);
    run(job, |producer, number, slot| {
        send_typed(producer, &job.topic, &pool[number % pool.len()], &mut buffer, slot)
    })
}

fn send_typed(
    producer: &ThreadedProducer<Reports>,
    topic: &str,
    reading: &Reading,
    buffer: &mut Vec<u8>,
    slot: usize,
) -> Result {
    buffer.clear();
    serde_json::to_writer(&mut *buffer, reading)?;
    let mut id = [0; Hyphenated::LENGTH];
    Uuid::now_v7().hyphenated().encode_lower(&mut id);
    let mut record =
        BaseRecord::with_opaque_to(topic, slot).payload(&buffer[..]).key(reading.sensor.as_bytes());
    record.headers = Some(headers(&id));
    send(producer, record)
}

/// Fills a topic to be read.
pub(crate) fn fill(topic: &str, messages: usize, size: usize, poison: Option<usize>) -> Result {
    let pool = load::messages(topic, size)?;
    let job = Job { topic: topic.to_owned(), messages, size, batch: 1_000, outstanding: 8 };
    run(&job, |producer, number, slot| {
        let message = &pool[number % pool.len()];
        let spoilt = poison.is_some_and(|every| number % every == every - 1);
        let data = message.data.as_deref().unwrap_or_default();
        send_bytes(producer, message, if spoilt { &data[..data.len() - 1] } else { data }, slot)
    })?;
    Ok(())
}

/// A producer whose reports nobody awaits, and how an event is sent by it: for who paces himself.
pub(crate) fn sender() -> Result<impl FnMut(&str, &Reading) -> Result> {
    let slot = Slot { left: AtomicUsize::new(usize::MAX), ended: AtomicU64::new(0) };
    let slots = Slots {
        slots: vec![slot],
        failed: AtomicUsize::new(0),
        begun: Instant::now(),
        sender: std::thread::current(),
    };
    let producer = ThreadedProducer::from_config_and_context(&config()?, Reports(Arc::new(slots)))?;
    let mut buffer = Vec::new();
    Ok(move |topic: &str, reading: &Reading| send_typed(&producer, topic, reading, &mut buffer, 0))
}
