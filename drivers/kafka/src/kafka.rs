//! A connection in code, and how it is told what it shall do.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Connection, Error, ErrorKind, Result};
use tokio::task::spawn_blocking;

use crate::cluster::Cluster;
use crate::errors;
use crate::security::{Sasl, Tls, Transport};
use crate::settings::{Create, DeadLetterHeaders, Protocol, Settings, Transactions, Wire};
use crate::{KafkaAdmin, KafkaAtomicWriter, KafkaReader, KafkaWriter};

/// A connection to a cluster. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Kafka {
    cluster: Arc<Cluster>,
    writer: KafkaWriter,
}

impl Kafka {
    /// Starts to describe a connection to these brokers: `host:port`, several with commas between them.
    pub fn builder(brokers: impl Into<String>) -> KafkaBuilder {
        KafkaBuilder { settings: Settings::new(brokers.into()) }
    }

    /// Reads.
    #[must_use]
    pub fn reader(&self) -> KafkaReader {
        KafkaReader::new(Arc::clone(&self.cluster))
    }

    /// Writes. All writers of a connection share one producer, and are closed together.
    #[must_use]
    pub fn writer(&self) -> KafkaWriter {
        self.writer.clone()
    }

    /// Writes each batch in a transaction of its own: whole or not at all, over any topics.
    ///
    /// The id names the writer to the brokers, over restarts: whoever connects with it ends what was left open under it,
    /// and the one before is refused from then on. Two that live at the same time need two ids.
    #[must_use]
    pub fn atomic_writer(&self, id: impl Into<String>) -> KafkaAtomicWriter {
        KafkaAtomicWriter::new(Arc::clone(&self.cluster), self.writer.clone(), id.into())
    }

    /// Administers.
    #[must_use]
    pub fn admin(&self) -> KafkaAdmin {
        KafkaAdmin::new(Arc::clone(&self.cluster))
    }

    /// All three, as a driver gives them for a URL.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(self.reader(), self.writer()).with_admin(self.admin())
    }
}

/// Describes a connection. The defaults are those of [`driver`](crate::driver()).
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct KafkaBuilder {
    pub(crate) settings: Settings,
}

impl KafkaBuilder {
    /// What happens to a topic that is not there.
    pub fn create(mut self, create: Create) -> Self {
        self.settings.create = create;
        self
    }

    /// Partitions of a topic that is made.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.settings.partitions = Some(partitions);
        self
    }

    /// Replicas of a topic that is made.
    pub fn replication(mut self, replicas: u16) -> Self {
        self.settings.replication = Some(replicas);
        self
    }

    /// How long a topic that is made keeps messages, read or not.
    pub fn retention_age(mut self, age: Duration) -> Self {
        self.settings.retention_age = Some(age);
        self
    }

    /// Up to how many bytes a partition a topic that is made keeps messages, read or not.
    pub fn retention_size(mut self, bytes: u64) -> Self {
        self.settings.retention_size = Some(bytes);
        self
    }

    /// Bytes of a message at most, with key and headers. Raise the topic's `max.message.bytes` with it.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.settings.max_message = bytes;
        self
    }

    /// How long a member that says nothing is taken to live. Not with [`Protocol::Consumer`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How members share partitions.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.settings.protocol = protocol;
        self
    }

    /// The name of this member, under which it keeps its partitions over a restart that is shorter than the lease.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.settings.instance = Some(name.into());
        self
    }

    /// How long handlers may run on when the group wants a partition back.
    pub fn revoke_within(mut self, within: Duration) -> Self {
        self.settings.revoke_within = within;
        self
    }

    /// How batches are compressed: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub fn compression(mut self, kind: impl Into<String>) -> Self {
        self.settings.compression = kind.into();
        self
    }

    /// How long a write is tried before its outcome is unknown.
    pub fn write_within(mut self, within: Duration) -> Self {
        self.settings.write_within = within;
        self
    }

    /// What commits in one transaction.
    pub fn transactions(mut self, transactions: Transactions) -> Self {
        self.settings.transactions = transactions;
        self
    }

    /// How messages are written.
    pub fn wire(mut self, wire: Wire) -> Self {
        self.settings.wire = wire;
        self
    }

    /// In whose words dead letters say what happened. All are read, whoever wrote them.
    pub fn dead_letter_headers(mut self, headers: DeadLetterHeaders) -> Self {
        self.settings.dead_letter_headers = headers;
        self
    }

    /// The client's name in the broker's log.
    pub fn client_id(mut self, name: impl Into<String>) -> Self {
        self.settings.client_id = name.into();
        self
    }

    /// Encrypts connections. Who logs in does so with [`Tls::system`] if nothing else is said.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.settings.security.transport = Some(Transport::Tls(tls));
        self
    }

    /// Does not encrypt connections. For whoever logs in that is a risk, and [`connect`](Self::connect) warns: who
    /// listens on the network reads a password or a token, or, with SCRAM, may try to guess it.
    pub fn plain_text(mut self) -> Self {
        self.settings.security.transport = Some(Transport::Open);
        self
    }

    /// Logs in.
    pub fn sasl(mut self, sasl: Sasl) -> Self {
        self.settings.security.sasl = Some(sasl);
        self
    }

    /// Connects, and waits for a broker's first answer.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for settings that contradict each other, files that cannot be read,
    /// and a listener that speaks otherwise than is said here; [`Denied`](ErrorKind::Denied) if the broker refuses who
    /// logs in, or one of the two the other's certificate; [`Unavailable`](ErrorKind::Unavailable) if no broker answers
    /// within 5 s. All with the connection's own reason.
    pub async fn connect(self) -> Result<Kafka> {
        let longest = crate::settings::MAX_POLL / 2;
        if self.settings.revoke_within > longest {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("revoke_within is {:?}, and may be {longest:?}", self.settings.revoke_within),
            )
            .fix("lower it: the whole group waits that long for a slow handler"));
        }
        if let Wire::CloudEvents { source } | Wire::CloudEventsJson { source } = &self.settings.wire
            && source.is_empty()
        {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "a CloudEvent needs a source, and this one is empty",
            )
            .fix("name this program or its place by a URI reference, such as /shop"));
        }
        let security = self.settings.security.clone();
        spawn_blocking(move || security.check()).await.map_err(|e| errors::broken(&e))??;
        if self.settings.security.shows_a_secret() {
            tracing::warn!(
                brokers = self.settings.brokers,
                "kafka: logging in without TLS: who listens on the network reads the password or the token, or, with \
                 SCRAM, may try to guess it"
            );
        }
        let cluster = Cluster::connect(self.settings).await?;
        let writer = KafkaWriter::new(Arc::clone(&cluster))?;
        Ok(Kafka { cluster, writer })
    }
}
