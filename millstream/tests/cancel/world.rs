//! What the cases share: a broker that waits in everything it does, and ways to see what it holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::core::admin::{GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream::core::erased::{DynAdmin, DynReader, DynSettler, DynSource, DynWriter};
use millstream::core::{
    Admin, Capabilities, Delivery, Epoch, NoLeases, OpenRequest, Opened, PartitionId, Read, ReadLimits,
    Settled, Settlement, Settler, Source, Start, WriterCapabilities,
};
use millstream::{Connection, Event, Message, Reader, Result, WriteReport, Writer};
use millstream_memory::MemoryBroker;
use millstream_testkit::cancel::{Cut, Tally, at_every_poll};
use serde::{Deserialize, Serialize};
use tokio::task::yield_now;

pub(crate) const TOPIC: &str = "order.placed";

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[event(topic = "order.placed", key = "customer")]
pub(crate) struct OrderPlaced {
    pub(crate) id: String,
    pub(crate) customer: String,
}

pub(crate) fn order(id: &str) -> OrderPlaced {
    OrderPlaced { id: id.to_owned(), customer: format!("customer {}", id.len() % 3) }
}

pub(crate) type Checked = std::result::Result<(), String>;

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

/// Runs a case with every cut and seed, each sweep on a runtime of its own.
#[allow(clippy::needless_pass_by_value, reason = "a case is written where it is swept")]
pub(crate) fn sweep(name: &str, case: impl AsyncFn(&Cut, u64) -> Checked) -> Tally {
    let seeds = std::env::var("CANCEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let mut tally = Tally::default();
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let limited = async |cut: &Cut| {
            let ended = tokio::time::timeout(Duration::from_secs(24 * 3_600), case(cut, seed)).await;
            ended.unwrap_or_else(|_| Err("it did not end within a day".to_owned()))
        };
        let swept = runtime.unwrap().block_on(at_every_poll(limited));
        tally.add(swept.unwrap_or_else(|what| panic!("{name}, seed {seed}: {what}")));
    }
    println!("{name:<40}{tally}");
    tally
}

/// A broker in memory, and a connection to it that waits before and after everything it does.
pub(crate) struct World {
    pub(crate) broker: MemoryBroker,
    /// What was handled, by the orders' ids, and how often.
    pub(crate) handled: Handled,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Handled(Arc<Mutex<BTreeMap<String, u32>>>);

impl Handled {
    pub(crate) fn add(&self, id: &str) {
        *self.0.lock().unwrap().entry(id.to_owned()).or_default() += 1;
    }

    pub(crate) fn all(&self) -> BTreeMap<String, u32> {
        self.0.lock().unwrap().clone()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self { broker: MemoryBroker::new(), handled: Handled::default() }
    }

    pub(crate) fn connection(&self) -> Connection {
        let Connection { reader, writer, admin, .. } = self.broker.connection();
        Connection::new(YieldingReader(reader), YieldingWriter(writer))
            .with_admin(YieldingAdmin(admin.unwrap()))
    }

    pub(crate) async fn publish(&self, ids: &[&str]) {
        let batch = ids.iter().map(|id| self.message(id)).collect();
        Writer::write(&self.broker.writer(), batch).await.unwrap().into_result().unwrap();
    }

    pub(crate) fn message(&self, id: &str) -> Message {
        let order = order(id);
        Message::new(TOPIC, serde_json::to_vec(&order).unwrap())
            .with_id(id.to_owned())
            .with_key(order.customer)
            .with_content_type("application/json")
    }

    /// The ids of the orders that a topic holds, in order.
    pub(crate) async fn orders(&self, topic: &str) -> Vec<String> {
        self.messages(topic).await.iter().map(|m| m.decode::<OrderPlaced>().unwrap().id).collect()
    }

    /// What a topic holds and a group has not finished, in order.
    pub(crate) async fn messages(&self, topic: &str) -> Vec<Message> {
        let request = OpenRequest::new(topic.to_owned()).end(millstream::End::Latest);
        let mut opened = Reader::open(&self.broker.reader(), request).await.unwrap();
        let mut into = Vec::new();
        let limits = ReadLimits::new(100, usize::MAX);
        while !matches!(Source::read(&mut opened.source, &mut into, limits).await.unwrap(), Read::End) {}
        let deliveries = into.into_iter().map(|delivery| Arc::unwrap_or_clone(delivery.message));
        deliveries.collect()
    }

    pub(crate) async fn group(&self, topic: &str, group: &str) -> Option<GroupInfo> {
        let groups = Admin::groups(&self.broker.admin(), topic).await.unwrap_or_default();
        groups.into_iter().find(|info| info.name == group)
    }

    /// Waits until a group has settled everything.
    pub(crate) async fn settled(&self, group: &str) -> Checked {
        for _ in 0..10_000 {
            if self.group(TOPIC, group).await.is_some_and(|info| info.lag == 0) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(format!("{group} never settles: {:?}", self.group(TOPIC, group).await))
    }

    /// Waits until a group has no members.
    pub(crate) async fn no_members(&self, group: &str) -> Checked {
        for _ in 0..1_000 {
            if self.group(TOPIC, group).await.is_none_or(|info| info.members == 0) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("{group} still has members"))
    }
}

// ---- A connection that waits ---------------------------------------------------------------------------------

struct YieldingWriter(Arc<dyn DynWriter>);

impl Writer for YieldingWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = self.0.capabilities();
        // So that batches are written in parts.
        can.max_batch = 2;
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        yield_now().await;
        let report = self.0.write(batch).await;
        yield_now().await;
        report
    }

    async fn close(&self) -> Result<()> {
        yield_now().await;
        let closed = self.0.close().await;
        yield_now().await;
        closed
    }
}

struct YieldingReader(Arc<dyn DynReader>);

impl Reader for YieldingReader {
    type Source = YieldingSource;
    type Settler = YieldingSettler;
    type Leases = NoLeases;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<YieldingSource, YieldingSettler, NoLeases>> {
        yield_now().await;
        let opened = self.0.open(request).await?;
        yield_now().await;
        Ok(Opened::new(YieldingSource(opened.source), YieldingSettler(opened.settler)))
    }
}

pub(crate) struct YieldingSource(Box<dyn DynSource>);

impl Source for YieldingSource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        yield_now().await;
        self.0.read(into, limits).await
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        self.0.pause(partitions);
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        self.0.resume(partitions);
    }

    fn assign(&mut self, partitions: Vec<PartitionId>) {
        self.0.assign(partitions);
    }

    async fn close(self) -> Result<()> {
        yield_now().await;
        let closed = self.0.close().await;
        yield_now().await;
        closed
    }
}

pub(crate) struct YieldingSettler(Box<dyn DynSettler>);

impl Settler for YieldingSettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        yield_now().await;
        let settled = self.0.settle(batch).await;
        yield_now().await;
        settled
    }

    async fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> Result<()> {
        self.0.mark(partition, epoch, note).await
    }

    async fn close(self) -> Result<()> {
        yield_now().await;
        let closed = self.0.close().await;
        yield_now().await;
        closed
    }
}

struct YieldingAdmin(Arc<dyn DynAdmin>);

impl Admin for YieldingAdmin {
    async fn ensure_topic(&self, topic: &str, settings: TopicSettings) -> Result<bool> {
        yield_now().await;
        let made = self.0.ensure_topic(topic, settings).await;
        yield_now().await;
        made
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        yield_now().await;
        self.0.topics().await
    }

    async fn topic(&self, topic: &str) -> Result<Option<TopicInfo>> {
        yield_now().await;
        self.0.topic(topic).await
    }

    async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        yield_now().await;
        self.0.groups(topic).await
    }

    async fn group(&self, topic: &str, group: &str) -> Result<Option<GroupInfo>> {
        yield_now().await;
        self.0.group(topic, group).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        yield_now().await;
        self.0.seek(topic, group, to).await
    }

    async fn purge(&self, topic: &str) -> Result<u64> {
        yield_now().await;
        self.0.purge(topic).await
    }

    async fn dead_letters(
        &self,
        topic: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDeadLetter>> {
        yield_now().await;
        let letters = self.0.dead_letters(topic, after, limit).await;
        yield_now().await;
        letters
    }

    async fn remove_dead_letter(&self, topic: &str, id: u64) -> Result<bool> {
        yield_now().await;
        let removed = self.0.remove_dead_letter(topic, id).await;
        yield_now().await;
        removed
    }
}
