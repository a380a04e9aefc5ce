//! What a case works with: a connection, a topic of its own, and the ledger.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::admin::TopicSettings;
use millstream_core::{
    Capabilities, Connection, Message, OpenRequest, Order, WriteOutcome, WriterCapabilities,
};

use super::member::Member;
use super::{Checked, Failure, Harness, Scale, ensure};
use crate::invariants::{Promised, Rules, check};
use crate::ledger::{Ledger, Record};

/// What a case works with. Cloning shares it.
#[derive(Clone)]
pub(super) struct World {
    inner: Arc<Inner>,
}

struct Inner {
    harness: Arc<dyn Harness>,
    connection: Connection,
    can: Capabilities,
    writer_can: WriterCapabilities,
    scale: Scale,
    topic: ByteString,
    ledger: Ledger,
    next: AtomicU64,
    members: AtomicUsize,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("topic", &self.inner.topic).finish_non_exhaustive()
    }
}

impl World {
    pub(super) async fn new(harness: Arc<dyn Harness>, case: &str) -> Checked<Self> {
        let connection = harness.connect().await?;
        let (can, writer_can) = (connection.reader.capabilities(), connection.writer.capabilities());
        let scale = harness.scale();
        let short: String = case.chars().filter(char::is_ascii_lowercase).take(24).collect();
        let topic = harness.topic(&short).into();
        let world = Self {
            inner: Arc::new(Inner {
                harness,
                connection,
                can,
                writer_can,
                scale,
                topic,
                ledger: Ledger::in_memory(),
                next: AtomicU64::new(0),
                members: AtomicUsize::new(0),
            }),
        };
        world.make(&world.inner.topic).await?;
        Ok(world)
    }

    async fn make(&self, topic: &ByteString) -> Checked {
        if let Some(admin) = &self.inner.connection.admin {
            // Enough to share and to move.
            let settings = match self.inner.can.partitions {
                true => TopicSettings::partitions(4),
                false => TopicSettings::default(),
            };
            admin.ensure_topic(topic, settings).await?;
        }
        Ok(())
    }

    pub(super) fn can(&self) -> &Capabilities {
        &self.inner.can
    }

    pub(super) fn writer_can(&self) -> &WriterCapabilities {
        &self.inner.writer_can
    }

    pub(super) fn harness(&self) -> &dyn Harness {
        &*self.inner.harness
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    pub(super) fn scale(&self) -> &Scale {
        &self.inner.scale
    }

    /// How long a message may take that comes again: a lease has to end first.
    pub(super) fn again_within(&self) -> Duration {
        self.inner.scale.patience + self.inner.can.lease.unwrap_or_default()
    }

    /// The case's topic.
    pub(super) fn topic(&self) -> &ByteString {
        &self.inner.topic
    }

    /// Another topic.
    pub(super) async fn another_topic(&self, name: &str) -> Checked<ByteString> {
        let topic = self.inner.harness.topic(name).into();
        self.make(&topic).await?;
        Ok(topic)
    }

    /// A message with an id that was never used, a key of this name, and a payload that names it.
    pub(super) fn message(&self, key: &str) -> Message {
        let n = self.inner.next.fetch_add(1, Ordering::Relaxed);
        Message::new(self.topic().clone(), format!("payload {n}"))
            .with_id(format!("{}-{n}", self.topic()))
            .with_key(key.to_owned())
            .with_header("number", n.to_string())
            .with_content_type("text/plain")
    }

    /// So many messages over 16 keys.
    pub(super) fn messages(&self, count: usize) -> Vec<Message> {
        (0..count).map(|n| self.message(&format!("key {}", n % 16))).collect()
    }

    /// Writes messages, in calls as large as the writer takes, and wants each confirmed.
    pub(super) async fn publish(&self, messages: Vec<Message>) -> Checked {
        let connection = self.inner.connection.clone();
        self.publish_by(&connection, messages).await
    }

    /// The same through another connection.
    pub(super) async fn publish_by(&self, connection: &Connection, messages: Vec<Message>) -> Checked {
        for outcome in self.try_publish(connection, messages).await? {
            match outcome {
                WriteOutcome::Written(_) => {}
                WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) => {
                    return Err(Failure::from(format!("a message was not written: {error:?}")));
                }
                _ => return Err(Failure::from("an outcome that the suite does not know".to_owned())),
            }
        }
        Ok(())
    }

    /// Writes messages and gives their outcomes, which are written down.
    pub(super) async fn try_publish(
        &self,
        connection: &Connection,
        messages: Vec<Message>,
    ) -> Checked<Vec<WriteOutcome>> {
        let mut outcomes = Vec::with_capacity(messages.len());
        for batch in messages.chunks(self.inner.writer_can.max_batch.max(1)) {
            for message in batch {
                let seq = self.inner.next.fetch_add(1, Ordering::Relaxed);
                self.inner.ledger.write(Record::intent(message, seq));
            }
            let report = connection.writer.write(batch.to_vec()).await;
            if report.is_err() {
                // The contract: then nothing was written.
                return Ok(report.map(millstream_core::WriteReport::into_outcomes)?);
            }
            let report = report?.into_outcomes();
            ensure!(
                report.len() == batch.len(),
                "a write of {} messages reported on {}",
                batch.len(),
                report.len()
            );
            for (message, outcome) in batch.iter().zip(&report) {
                let id = message.id.clone();
                match outcome {
                    WriteOutcome::Written(_) => self.inner.ledger.write(Record::Acked { id }),
                    WriteOutcome::Unknown(_) => self.inner.ledger.write(Record::MaybeWritten { id }),
                    _ => self.inner.ledger.write(Record::RolledBack { id }),
                }
            }
            outcomes.extend(report);
        }
        Ok(outcomes)
    }

    /// A member of a group on the case's topic, through a connection of its own.
    pub(super) async fn join(&self, group: &str) -> Checked<Member> {
        self.open(OpenRequest::new(self.topic().clone()).group(group.to_owned())).await
    }

    /// A subscription, through a connection of its own.
    pub(super) async fn open(&self, mut request: OpenRequest) -> Checked<Member> {
        request.group = request.group.map(|group| self.inner.harness.group(&group).into());
        let connection = self.inner.harness.connect().await?;
        let number = self.inner.members.fetch_add(1, Ordering::Relaxed);
        Member::open(self.clone(), &connection, request, number).await
    }

    /// Publishes to the case's topic for a group. Where a group does not see what was there before it, its
    /// member is opened first.
    pub(super) async fn publish_and_join(&self, messages: Vec<Message>, group: &str) -> Checked<Member> {
        if self.can().starts.earliest {
            self.publish(messages).await?;
            return self.join(group).await;
        }
        let member = self.join(group).await?;
        self.publish(messages).await?;
        Ok(member)
    }

    /// What holds in every case, and the order that the driver promises.
    pub(super) fn rules(&self) -> Rules {
        let order = match self.can().order {
            Order::None => Promised::Nothing,
            _ => Promised::PerKey,
        };
        Rules::default().effects_recorded().order(order)
    }

    /// Checks the ledger.
    pub(super) fn verify(&self, rules: Rules) -> Checked {
        check(&self.inner.ledger, rules).into_result().map_err(Failure::from)
    }
}
