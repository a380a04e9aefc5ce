//! What a connection is told, and the settings of librdkafka's clients that follow from it.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::security::Security;

/// Whether topics are made, looked for, or taken for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Create {
    /// A topic that is not there is made.
    #[default]
    Missing,
    /// A topic that is not there is an error.
    Never,
    /// Nobody looks: for users without the right to.
    Assume,
}

/// How the members of a group share its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Each rebalance gives all partitions back first. The shortest silence when members come and go, as long as
    /// handlers end soon.
    #[default]
    Range,
    /// Only partitions that move are given back: for handlers that run long.
    Cooperative,
    /// The group protocol of KIP-848, led by the broker. Its session and heartbeat are the broker's settings.
    Consumer,
}

/// What commits in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transactions {
    /// Nothing. What a handler publishes is written and confirmed before its message is acknowledged, and may be there
    /// twice after a crash.
    #[default]
    None,
    /// What a handler publishes by this connection commits with the position of its message, or neither does.
    Handlers,
}

/// How a message lies in a record. All of them are read, whatever is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wire {
    /// Id and content type as headers, as the Go toolkit *streams* has them.
    #[default]
    Streams,
    /// CloudEvents 1.0 in binary mode: attributes as headers `ce_*`, the data as it is.
    CloudEvents {
        /// The attribute `source` of messages that do not carry one, such as `/shop`.
        source: String,
    },
    /// CloudEvents 1.0 in structured mode: attributes and data as one JSON object. Tombstones are written in binary mode.
    CloudEventsJson {
        /// As above.
        source: String,
    },
}

/// In whose words dead letters say what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeadLetterHeaders {
    /// Millstream's own, `millstream-dl-*`.
    #[default]
    Millstream,
    /// And in those of Spring Kafka too, `kafka_dlt-*`, for tools that read these.
    Spring,
}

/// Everything a connection is told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) brokers: String,
    pub(crate) client_id: String,
    pub(crate) create: Create,
    pub(crate) partitions: Option<u32>,
    pub(crate) replication: Option<u16>,
    pub(crate) retention_age: Option<Duration>,
    pub(crate) retention_size: Option<u64>,
    pub(crate) max_message: usize,
    pub(crate) lease: Duration,
    pub(crate) protocol: Protocol,
    pub(crate) instance: Option<String>,
    pub(crate) revoke_within: Duration,
    pub(crate) compression: String,
    pub(crate) write_within: Duration,
    pub(crate) security: Security,
    pub(crate) transactions: Transactions,
    pub(crate) dead_letter_headers: DeadLetterHeaders,
    pub(crate) wire: Wire,
}

/// How long a question to a broker may take.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long a member may go without polling before the group takes its partitions. Our own thread polls, so only a
/// process that stands still is meant.
pub(crate) const MAX_POLL: Duration = Duration::from_secs(300);

/// What a partition's queue holds at least, in bytes: a message that is larger comes all the same.
const QUEUE_LEAST: usize = 64 << 10;

/// What the client takes for a message beside its payload, in bytes.
const AROUND: usize = 512;

impl Settings {
    pub(crate) fn new(brokers: String) -> Self {
        Self {
            brokers,
            client_id: "millstream".to_owned(),
            create: Create::default(),
            partitions: None,
            replication: None,
            retention_age: None,
            retention_size: None,
            max_message: 1_000_000,
            lease: Duration::from_secs(10),
            protocol: Protocol::default(),
            instance: None,
            revoke_within: Duration::from_secs(20),
            compression: "lz4".to_owned(),
            write_within: Duration::from_secs(30),
            security: Security::default(),
            transactions: Transactions::default(),
            dead_letter_headers: DeadLetterHeaders::default(),
            wire: Wire::default(),
        }
    }

    /// What every client needs.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            // A link that is dead at one end shows by itself.
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", ANSWER_WITHIN.as_millis().to_string())
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.max.ms", "2000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("allow.auto.create.topics", "false");
        self.security.apply(&mut config);
        // At this level it tells why a broker hung up. All of it goes to our own log, as details.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// A consumer that never joins its group: it asks, and commits for groups without members.
    pub(crate) fn asking(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config.set("group.id", group).set("enable.auto.commit", "false");
        config
    }

    /// A consumer of a subscription, whose fetched messages stay within a third of its budget: what was fetched, what is
    /// on its way, and what the scheduler holds.
    pub(crate) fn consumer(&self, group: &str, partitions: usize, budget: usize, ends: bool) -> ClientConfig {
        let queue = (budget / 3 / partitions.max(1)).max(QUEUE_LEAST);
        let mut config = self.asking(group);
        config
            .set("enable.auto.offset.store", "false")
            // Never silently past what was not read: librdkafka's own default is the end.
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", if ends { "true" } else { "false" })
            .set("check.crcs", "true")
            .set("max.poll.interval.ms", MAX_POLL.as_millis().to_string())
            // The default of a second starves small messages.
            .set("fetch.queue.backoff.ms", "10")
            // One request at a time asks a broker for all its partitions but those whose queues are full. Where the others
            // have nothing new it stays there for so long, and what is emptied meanwhile is not asked for: at 100 one
            // partition of 48 that had all the messages came at 13,000 a second, at 20 at 50,000.
            .set("fetch.wait.max.ms", "20")
            .set("queued.max.messages.kbytes", (queue >> 10).to_string())
            // The client counts payloads, and takes more than half a KiB for each message beside its payload. The default
            // of 100,000 messages in each partition would be most of the memory where they are small.
            .set("queued.min.messages", (queue / AROUND).clamp(1, 100_000).to_string())
            // What is fetched at once comes on top of what the queue holds, and may be compressed. Less was tried: it is as
            // much work, and the reader waits for the next answer.
            .set("fetch.message.max.bytes", (queue / 4).clamp(QUEUE_LEAST, 1 << 20).to_string())
            .set("fetch.max.bytes", (budget / 3).clamp(1 << 20, 50 << 20).max(self.max_message).to_string());
        match self.protocol {
            Protocol::Range => config.set("partition.assignment.strategy", "range"),
            Protocol::Cooperative => config.set("partition.assignment.strategy", "cooperative-sticky"),
            Protocol::Consumer => config.set("group.protocol", "consumer"),
        };
        if self.protocol != Protocol::Consumer {
            let lease = self.lease.as_millis().max(1);
            config.set("session.timeout.ms", lease.to_string());
            config.set("heartbeat.interval.ms", (lease / 4).max(1).to_string());
        }
        config
    }

    /// A producer of transactions. What a process leaves open when it dies holds up readers, and the next owner of its
    /// partitions, until the brokers end it: after its lease, as they do with its membership.
    pub(crate) fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.producer();
        let lease = self.lease.max(Duration::from_secs(1));
        let answer = lease.min(ANSWER_WITHIN).as_millis().to_string();
        let lease = lease.as_millis().to_string();
        config
            .set("transactional.id", id)
            // A question may not take longer than the transaction it belongs to.
            .set("socket.timeout.ms", answer)
            .set("transaction.timeout.ms", &lease)
            .set("message.timeout.ms", &lease)
            // The brokers are still busy with the last transaction when the next begins; the default is 100.
            .set("retry.backoff.ms", "5");
        config
    }

    /// The producer. Idempotent, so that what it sends again is neither twice there nor out of order.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // As Java's client and all that follow it: two hashes would break the order of a key.
            .set("partitioner", "murmur2_random")
            // Callers bring batches: waiting for more gains nothing.
            .set("linger.ms", "0")
            .set("compression.type", &self.compression)
            .set("message.timeout.ms", self.write_within.as_millis().to_string())
            .set("message.max.bytes", (self.max_message + OVERHEAD).to_string())
            // The defaults are 100,000 messages and 1 GiB.
            .set("queue.buffering.max.messages", "10000")
            .set(
                "queue.buffering.max.kbytes",
                (((self.max_message + OVERHEAD) >> 10) + (32 << 10)).to_string(),
            );
        config
    }
}

/// What a record has beside its payload, key and headers, generously.
pub(crate) const OVERHEAD: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_of_all_partitions_stay_within_a_third_of_the_budget() {
        let settings = Settings::new("h:1".to_owned());
        let kib = |partitions, budget| {
            let config = settings.consumer("g", partitions, budget, false);
            config.get("queued.max.messages.kbytes").and_then(|v| v.parse::<usize>().ok()).unwrap()
        };
        assert_eq!(kib(12, 64 << 20), (64 << 10) / 3 / 12);
        assert_eq!(kib(10_000, 64 << 20), 64, "a queue holds something all the same");
    }

    #[test]
    fn librdkafka_knows_every_setting() {
        use rdkafka::config::FromClientConfig as _;
        for protocol in [Protocol::Range, Protocol::Cooperative, Protocol::Consumer] {
            let settings = Settings { protocol, ..Settings::new("127.0.0.1:1".to_owned()) };
            rdkafka::consumer::BaseConsumer::<rdkafka::consumer::DefaultConsumerContext>::from_config(
                &settings.consumer("g", 1, 1 << 20, true),
            )
            .unwrap();
        }
        let settings = Settings::new("127.0.0.1:1".to_owned());
        type Producer = rdkafka::producer::BaseProducer<rdkafka::producer::DefaultProducerContext>;
        drop(Producer::from_config(&settings.producer()).unwrap());
        for lease in [1, 6, 10, 60].map(Duration::from_secs) {
            let settings = Settings { lease, ..settings.clone() };
            drop(Producer::from_config(&settings.transactional("id")).unwrap());
        }
    }
}
