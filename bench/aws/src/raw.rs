//! The SDK alone on SQS: one runtime on one thread, and requests beside each other in one task.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Credentials;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message as Raw, MessageAttributeValue, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use bench_harness::{Result, Stopwatch, one_thread};
use bench_load::{Ages, CONTENT_TYPE, Reading};
use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use millstream_aws::{CONTENT_TYPE as TYPE_ATTRIBUTE, MESSAGE_ID, MESSAGE_TIME, STREAM_KEY, STREAM_NAME};
use uuid::Uuid;

use crate::Measured;
use crate::load::{self, BATCH, IN_FLIGHT, Job, LEASE, WAIT, endpoint};

/// As the driver has it, for a service at this address.
pub(crate) async fn config(endpoint: String) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(5) + WAIT);
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.build_https())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(timeouts.build())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new("test", "test", None, None, "bench"))
        .load()
        .await
}

async fn client() -> Result<Client> {
    Ok(Client::new(&config(endpoint("MILLSTREAM_SQS")?).await))
}

async fn url(client: &Client, queue: &str) -> Result<String> {
    let answer = client.get_queue_url().queue_name(queue).send().await?;
    answer.queue_url.ok_or_else(|| format!("{queue} has no address").into())
}

pub(crate) fn make(queue: &str) -> Result {
    one_thread()?.block_on(async {
        let request = client().await?.create_queue().queue_name(queue);
        let request = match queue.ends_with(".fifo") {
            true => request.attributes(QueueAttributeName::FifoQueue, "true"),
            false => request,
        };
        request.send().await?;
        Ok(())
    })
}

pub(crate) fn remove(queues: &[String]) -> Result {
    one_thread()?.block_on(async {
        let client = client().await?;
        for queue in queues {
            // Dead letters have a queue only where there were some.
            if let Ok(url) = url(&client, queue).await {
                client.delete_queue().queue_url(url).send().await?;
            }
        }
        Ok(())
    })
}

// ---- Writing -------------------------------------------------------------------------------------------------

/// The parts of a message.
struct Parts<'a> {
    id: String,
    queue: &'a str,
    key: &'a str,
    time: SystemTime,
    body: Cow<'a, str>,
}

fn string(value: impl Into<String>) -> Result<MessageAttributeValue> {
    Ok(MessageAttributeValue::builder().data_type("String").string_value(value).build()?)
}

fn entry(index: usize, parts: Parts<'_>) -> Result<SendMessageBatchRequestEntry> {
    let mut entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(parts.body);
    if parts.queue.ends_with(".fifo") {
        entry = entry.message_group_id(parts.key).message_deduplication_id(&parts.id);
    }
    let millis = parts.time.duration_since(UNIX_EPOCH)?.as_millis().to_string();
    let entry = entry
        .message_attributes(MESSAGE_ID, string(parts.id)?)
        .message_attributes(STREAM_NAME, string(parts.queue)?)
        .message_attributes(STREAM_KEY, string(parts.key)?)
        .message_attributes(TYPE_ATTRIBUTE, string(CONTENT_TYPE)?)
        .message_attributes(MESSAGE_TIME, string(millis)?);
    Ok(entry.build()?)
}

/// Payloads that are there already.
pub(crate) fn send(job: &Job) -> Measured {
    let pool = load::messages(job)?;
    run(job, |number| {
        let message = &pool[number % pool.len()];
        Ok(Parts {
            id: load::id(number),
            queue: &job.queue,
            key: std::str::from_utf8(message.key.as_deref().unwrap_or_default())?,
            time: message.time,
            body: std::str::from_utf8(message.data.as_deref().unwrap_or_default())?.into(),
        })
    })
}

/// Events: JSON and an id are made for each.
pub(crate) fn send_typed(job: &Job) -> Measured {
    let pool = bench_load::readings(job.size)?;
    run(job, |number| {
        let reading = &pool[number % pool.len()];
        Ok(Parts {
            id: Uuid::now_v7().to_string(),
            queue: &job.queue,
            key: &reading.sensor,
            time: SystemTime::now(),
            body: serde_json::to_string(reading)?.into(),
        })
    })
}

fn run<'a>(job: &'a Job, parts: impl Fn(usize) -> Result<Parts<'a>>) -> Measured {
    one_thread()?.block_on(async {
        let client = client().await?;
        let url = url(&client, &job.queue).await?;
        let mut ages = Ages::new()?;
        let mut under_way = FuturesUnordered::new();
        let watch = Stopwatch::start()?;
        for numbers in job.batches() {
            if under_way.len() == IN_FLIGHT
                && let Some(age) = under_way.next().await
            {
                ages.add(age?);
            }
            let entries = numbers.enumerate().map(|(index, number)| entry(index, parts(number)?));
            under_way.push(send_batch(&client, &url, entries.collect::<Result<_>>()?));
        }
        while let Some(age) = under_way.next().await {
            ages.add(age?);
        }
        Ok((watch.stop()?, Some(ages.latency())))
    })
}

async fn send_batch(
    client: &Client,
    url: &str,
    entries: Vec<SendMessageBatchRequestEntry>,
) -> Result<Duration> {
    let begun = Instant::now();
    let count = entries.len();
    let answer = client.send_message_batch().queue_url(url).set_entries(Some(entries)).send().await?;
    match answer.successful.len() == count {
        true => Ok(begun.elapsed()),
        false => Err(format!("{} entries were refused", answer.failed.len()).into()),
    }
}

// ---- Reading -------------------------------------------------------------------------------------------------

/// What a loop takes out of an answer: every part of the message.
struct Came {
    id: String,
    key: String,
    content_type: String,
    time: SystemTime,
    count: u32,
    body: String,
}

fn came(raw: Raw) -> Result<(Came, String)> {
    let mut attributes = raw.message_attributes.unwrap_or_default();
    let mut text = |name: &str| {
        attributes.remove(name).and_then(|value| value.string_value).ok_or("an attribute is not there")
    };
    let count = raw
        .attributes
        .as_ref()
        .and_then(|system| system.get(&MessageSystemAttributeName::ApproximateReceiveCount)?.parse().ok());
    let came = Came {
        id: text(MESSAGE_ID)?,
        key: text(STREAM_KEY)?,
        content_type: text(TYPE_ATTRIBUTE)?,
        time: UNIX_EPOCH + Duration::from_millis(text(MESSAGE_TIME)?.parse()?),
        count: count.ok_or("no count of deliveries")?,
        body: raw.body.ok_or("no body")?,
    };
    Ok((came, raw.receipt_handle.ok_or("no receipt")?))
}

/// Looks at every part, as whoever reads it does. Gives the receipt.
pub(crate) fn take(raw: Raw) -> Result<String> {
    let (came, receipt) = came(raw)?;
    let Came { id, key, content_type, time, count, body } = &came;
    black_box((id, key, content_type, time, count, body));
    Ok(receipt)
}

/// The same, with the payload decoded.
pub(crate) fn take_typed(raw: Raw) -> Result<String> {
    let (came, receipt) = came(raw)?;
    black_box((&came.id, &came.key, &came.content_type, &came.time, came.count));
    black_box(serde_json::from_str::<Reading>(&came.body)?);
    Ok(receipt)
}

/// What the pollers have in common.
struct Progress {
    left: Cell<usize>,
    watch: Cell<Option<Stopwatch>>,
    took: Cell<Option<bench_harness::Took>>,
    ages: RefCell<Ages>,
}

/// As many pollers as the driver has polls. Each deletes what it got before it asks again.
pub(crate) fn receive(queue: &str, messages: usize, take: fn(Raw) -> Result<String>) -> Measured {
    one_thread()?.block_on(async {
        let client = client().await?;
        let url = url(&client, queue).await?;
        let progress = Progress {
            left: Cell::new(messages),
            watch: Cell::new(None),
            took: Cell::new(None),
            ages: RefCell::new(Ages::new()?),
        };
        let pollers = (0..IN_FLIGHT).map(|_| poll(&client, &url, &progress, take));
        try_join_all(pollers).await?;
        let latency = progress.ages.borrow().latency();
        Ok((progress.took.get().ok_or("nothing came")?, Some(latency)))
    })
}

async fn poll(client: &Client, url: &str, progress: &Progress, take: fn(Raw) -> Result<String>) -> Result {
    let seconds = |time: Duration| i32::try_from(time.as_secs()).unwrap_or(1);
    while progress.left.get() > 0 {
        let answer = client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(BATCH)?)
            .wait_time_seconds(seconds(WAIT))
            .visibility_timeout(seconds(LEASE))
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
            .send()
            .await?;
        let messages = answer.messages.unwrap_or_default();
        if messages.is_empty() {
            continue;
        }
        let begun = Instant::now();
        if progress.watch.get().is_none() {
            progress.watch.set(Some(Stopwatch::start()?));
        }
        let entries: Vec<_> = messages
            .into_iter()
            .enumerate()
            .map(|(index, raw)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                Ok(entry.receipt_handle(take(raw)?).build()?)
            })
            .collect::<Result<_>>()?;
        let count = entries.len();
        let deleted = client.delete_message_batch().queue_url(url).set_entries(Some(entries)).send().await?;
        if deleted.successful.len() != count {
            return Err(format!("{} messages were not deleted", deleted.failed.len()).into());
        }
        progress.ages.borrow_mut().add(begun.elapsed());
        progress.left.set(progress.left.get().saturating_sub(count));
        if progress.left.get() == 0
            && progress.took.get().is_none()
            && let Some(watch) = progress.watch.get()
        {
            progress.took.set(Some(watch.stop()?));
        }
    }
    Ok(())
}
