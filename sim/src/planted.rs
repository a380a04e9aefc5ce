//! Bugs in the world around the engine: brokers, writers and stores that break their contract. Each must be
//! caught, or a run without violations proves nothing.
//!
//! A bug sits between the engine and the simulated broker, or in the deduplication store. What is written down is
//! what the engine was told, so that a lie shows only by what comes of it. `tests/planted.rs` runs them all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::{Outage, Retry};
use millstream_core::{
    Bytes, Capabilities, Delivery, Epoch, LeasePlan, Leases, Message, OpenRequest, Opened, Order,
    PartitionId, Read, ReadLimits, Reader, Result, Settled, Settlement, Settler, Source, Token, TokenId,
    Verdict, WriteOutcome, WriteReport, Writer, WriterCapabilities,
};
use millstream_testkit::sim::{MemberId, Shape, SimLeases, SimReader, SimSettler, SimSource, SimWriter};
use tokio::time::sleep;

use crate::fault::Fault;
use crate::judge::Check;
use crate::plan::{Dedup, Plan, Weather};

/// Defines the bugs: each with the broker and the weather that show it, and the checks of which one must fail.
macro_rules! defects {
    ($($(#[doc = $doc:literal])+ $name:ident: $shape:expr, $weather:ident => $($check:ident)|+,)+) => {
        /// A bug in the engine's world.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Defect {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Defect {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// The broker that shows it.
            #[must_use]
            pub fn shape(self) -> Shape {
                match self {
                    $(Self::$name => $shape,)+
                }
            }

            /// The weather that shows it.
            #[must_use]
            pub fn weather(self) -> Weather {
                match self {
                    $(Self::$name => Weather::$weather,)+
                }
            }

            /// The checks that it breaks: one of them must say so.
            #[must_use]
            pub fn caught_by(self) -> &'static [Check] {
                match self {
                    $(Self::$name => &[$(Check::$check),+],)+
                }
            }
        }
    };
}

const LOG: Shape = Shape::WholeLog;
const PARTITIONED: Shape = Shape::Partitioned { partitions: 4 };
const QUEUE: Shape = Shape::LeaseQueue { order: Order::None, visibility: Duration::from_secs(2) };
const FIFO: Shape = Shape::LeaseQueue { order: Order::Key, visibility: Duration::from_secs(2) };

defects! {
    /// The store says "duplicate" of what is only reserved.
    StoreConfirmsEarly: PARTITIONED, Calm => EarlyAck,
    /// The store forgets what was confirmed.
    StoreForgets: PARTITIONED, Calm => SingleEffect,
    /// The store lets a copy run beside the first.
    StoreLetsCopiesRun: QUEUE, Calm => SingleEffect,
    /// The store does not tell groups apart.
    StoreMixesGroups: PARTITIONED, Calm => EarlyAck,
    /// The store keeps what was released.
    StoreNeverReleases: PARTITIONED, Calm => Leaks | Liveness,
    /// The writer says that events are written, and drops some.
    WriterDropsEvents: QUEUE, Calm => NoLoss,
    /// The writer says that dead letters are written, and drops them.
    WriterDropsLetters: QUEUE, Calm => Letters,
    /// The writer says that parked messages are written, and drops them.
    WriterDropsParked: PARTITIONED, Calm => NoLoss,
    /// The writer writes some messages twice.
    WriterWritesTwice: PARTITIONED, Calm => Duplicates,
    /// The writer cuts payloads.
    WriterTruncates: LOG, Calm => Bytes,
    /// The writer loses keys.
    WriterLosesKeys: LOG, Calm => Bytes,
    /// The writer loses headers.
    WriterLosesHeaders: FIFO, Calm => Bytes,
    /// The writer says that failed messages are written.
    WriterHidesFailures: PARTITIONED, Stormy => NoLoss,
    /// The writer takes silence for success.
    WriterTrustsSilence: PARTITIONED, Stormy => NoLoss,
    /// The settler says that acknowledgements are done, and keeps some to itself.
    SettlerLies: FIFO, Calm => Duplicates,
    /// The settler takes silence for success.
    SettlerTrustsSilence: LOG, Stormy => Duplicates | SingleEffect,
    /// The settler acknowledges what is to be parked.
    SettlerAcksParked: LOG, Calm => NoLoss | Liveness,
    /// The settler acknowledges what is to be retried.
    SettlerAcksRetries: FIFO, Calm => NoLoss,
    /// The settler acknowledges what is given back.
    SettlerAcksReleases: LOG, Calm => NoLoss,
    /// The settler acknowledges dead letters, and keeps none.
    SettlerBuriesNothing: LOG, Calm => Letters,
    /// The settler commits and does not write what goes with it.
    SettlerDropsEmitted: LOG, Calm => NoLoss,
    /// The settler commits everything that was delivered.
    SettlerCommitsTooFar: PARTITIONED, Stormy => NoLoss,
    /// The source always says that it is the first delivery.
    SourceCountsNothing: QUEUE, Stormy => Liveness,
    /// The source delivers batches back to front.
    SourceReorders: FIFO, Calm => Order,
    /// The source loses what it has in hand when a read is cut.
    SourceLosesWhatIsCut: PARTITIONED, Calm => NoLoss | Order,
    /// The source keeps no marks.
    SourceForgetsMarks: PARTITIONED, Stormy => Liveness,
    /// The source gives partitions back without asking.
    SourceHidesRevocations: PARTITIONED, Calm => Duplicates | Exclusive,
    /// Leases are said to be extended, and are not.
    LeasesExtendNothing: QUEUE, Calm => Duplicates | TooLate,
}

impl Defect {
    /// Makes a plan in which it can show.
    pub(crate) fn prepare(self, plan: &mut Plan) {
        let slowly = Retry::fixed(Duration::from_secs(30)).attempts(12);
        for sub in &mut plan.subs {
            sub.outage = Outage::never();
            match self {
                Self::StoreConfirmsEarly
                | Self::StoreForgets
                | Self::StoreNeverReleases
                | Self::StoreMixesGroups => {
                    (sub.dedup, sub.batch) = (Dedup::Store, None);
                }
                Self::StoreLetsCopiesRun => {
                    (sub.dedup, sub.batch, sub.concurrency, sub.max_in_flight) =
                        (Dedup::Store, None, 16, 128);
                }
                Self::WriterDropsParked | Self::SettlerAcksParked | Self::SettlerAcksRetries => {
                    (sub.retry, sub.park_after) = (slowly.clone(), Duration::from_secs(2));
                }
                _ => sub.discards = false,
            }
        }
        match self {
            Self::StoreConfirmsEarly | Self::StoreForgets | Self::StoreLetsCopiesRun => {
                (plan.mix.copied, plan.mix.unkeyed) = (100, 300);
            }
            Self::StoreNeverReleases => plan.mix.poison = 20,
            Self::StoreMixesGroups => plan.read_by_two_groups(),
            Self::WriterDropsLetters | Self::SettlerBuriesNothing => plan.mix.poison = 20,
            Self::SourceCountsNothing | Self::SourceForgetsMarks => {
                (plan.mix.killer, plan.patience) = (true, Duration::from_secs(1_800));
            }
            Self::WriterHidesFailures => plan.breaks_first(Fault::WriteFails),
            Self::WriterTrustsSilence => plan.breaks_first(Fault::WriteLost),
            Self::SettlerTrustsSilence => plan.breaks_first(Fault::SettleLost),
            Self::SettlerCommitsTooFar => plan.breaks_first(Fault::Crash),
            Self::SettlerAcksReleases | Self::SourceHidesRevocations => {
                (plan.processes, plan.mix.slow) = (3, 30);
            }
            Self::LeasesExtendNothing => plan.mix.slow = 30,
            _ => {}
        }
    }
}

/// Says of each n-th call that it is one.
#[derive(Debug, Default)]
struct Nth(AtomicU64);

impl Nth {
    fn is(&self, n: u64) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) % n == n - 1
    }
}

#[derive(Debug)]
pub(crate) struct BuggyReader {
    inner: SimReader,
    defect: Option<Defect>,
}

impl BuggyReader {
    pub(crate) fn new(inner: SimReader, defect: Option<Defect>) -> Self {
        Self { inner, defect }
    }
}

impl Reader for BuggyReader {
    type Source = BuggySource;
    type Settler = BuggySettler;
    type Leases = BuggyLeases;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<BuggySource, BuggySettler, BuggyLeases>> {
        let defect = self.defect;
        let opened = self.inner.open(request).await?;
        let highest = std::sync::Arc::<std::sync::Mutex<Vec<TokenId>>>::default();
        let source = BuggySource { inner: opened.source, defect, highest: highest.clone() };
        let settler = BuggySettler { inner: opened.settler, defect, highest, acks: Nth::default() };
        let mut buggy = Opened::new(source, settler);
        buggy.leases = opened.leases.map(|plan| LeasePlan {
            duration: plan.duration,
            leases: BuggyLeases { inner: plan.leases, defect },
        });
        Ok(buggy)
    }
}

#[derive(Debug)]
pub(crate) struct BuggySource {
    inner: SimSource,
    defect: Option<Defect>,
    highest: std::sync::Arc<std::sync::Mutex<Vec<TokenId>>>,
}

impl BuggySource {
    pub(crate) fn member(&self) -> MemberId {
        self.inner.member()
    }

    fn note(&self, delivery: &Delivery) {
        let token = delivery.token.id();
        let mut highest = self.highest.lock().expect("no panics");
        highest.retain(|other| other.partition != token.partition);
        highest.push(token);
    }
}

impl Source for BuggySource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        let Some(defect) = self.defect else { return self.inner.read(into, limits).await };
        let mut mine = Vec::new();
        let mut read = self.inner.read(&mut mine, limits).await?;
        match (defect, &mut read) {
            (Defect::SourceCountsNothing, _) => mine.iter_mut().for_each(|d| d.deliveries = 1),
            (Defect::SourceReorders, _) => mine.reverse(),
            (Defect::SourceForgetsMarks, Read::Assigned(news)) => {
                news.iter_mut().for_each(|assigned| assigned.mark = None);
            }
            (Defect::SourceLosesWhatIsCut, _) => sleep(Duration::from_millis(2)).await,
            (Defect::SettlerCommitsTooFar, _) => mine.iter().for_each(|delivery| self.note(delivery)),
            _ => {}
        }
        into.append(&mut mine);
        match read {
            Read::Revoking(asked) if defect == Defect::SourceHidesRevocations => {
                asked.done();
                Ok(Read::Deliveries)
            }
            read => Ok(read),
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        self.inner.pause(partitions);
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        self.inner.resume(partitions);
    }

    fn assign(&mut self, partitions: Vec<PartitionId>) {
        self.inner.assign(partitions);
    }

    async fn close(self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
pub(crate) struct BuggySettler {
    inner: SimSettler,
    defect: Option<Defect>,
    highest: std::sync::Arc<std::sync::Mutex<Vec<TokenId>>>,
    acks: Nth,
}

impl BuggySettler {
    fn harm(&self, defect: Defect, settlement: &mut Settlement) {
        let acks = match (&settlement.verdict, defect) {
            (Verdict::Park(_), Defect::SettlerAcksParked)
            | (Verdict::Retry { .. }, Defect::SettlerAcksRetries)
            | (Verdict::Release, Defect::SettlerAcksReleases)
            | (Verdict::Dead(_), Defect::SettlerBuriesNothing) => true,
            (_, Defect::SettlerDropsEmitted) => {
                settlement.along_mut().emit.clear();
                false
            }
            (_, Defect::SettlerCommitsTooFar) => {
                let token = settlement.token.id();
                let highest = self.highest.lock().expect("no panics");
                let highest =
                    highest.iter().find(|t| t.partition == token.partition && t.epoch == token.epoch);
                if let Some(highest) = highest {
                    settlement.token = Token::new(highest.partition, highest.epoch, highest.id);
                }
                false
            }
            _ => false,
        };
        if acks {
            settlement.verdict = Verdict::Ack;
        }
    }
}

impl Settler for BuggySettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        let Some(defect) = self.defect else { return self.inner.settle(batch).await };
        let mut outcomes = Vec::with_capacity(batch.len());
        for mut settlement in batch {
            self.harm(defect, &mut settlement);
            if defect == Defect::SettlerLies && matches!(settlement.verdict, Verdict::Ack) && self.acks.is(20)
            {
                outcomes.push(Settled::Done);
                continue;
            }
            let outcome = self.inner.settle(vec![settlement]).await.pop();
            outcomes.extend(outcome.map(|outcome| match outcome {
                Settled::Unknown(_) if defect == Defect::SettlerTrustsSilence => Settled::Done,
                outcome => outcome,
            }));
        }
        outcomes
    }

    async fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> Result<()> {
        self.inner.mark(partition, epoch, note).await
    }

    async fn close(self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
pub(crate) struct BuggyLeases {
    inner: SimLeases,
    defect: Option<Defect>,
}

impl Leases for BuggyLeases {
    async fn connect(&mut self) -> Result<()> {
        self.inner.connect().await
    }

    async fn extend(&mut self, held: &[TokenId]) -> Result<Vec<bool>> {
        if self.defect == Some(Defect::LeasesExtendNothing) {
            return Ok(vec![true; held.len()]);
        }
        self.inner.extend(held).await
    }
}

#[derive(Debug)]
pub(crate) struct BuggyWriter {
    inner: SimWriter,
    defect: Option<Defect>,
    writes: Nth,
}

impl BuggyWriter {
    pub(crate) fn new(inner: SimWriter, defect: Option<Defect>) -> Self {
        Self { inner, defect, writes: Nth::default() }
    }

    /// What the bug makes of a message; `None`: it drops it.
    fn harm(&self, defect: Defect, mut message: Message) -> Vec<Message> {
        let topic = &message.topic;
        let (letter, parked) = (topic.ends_with(".dlq"), topic.ends_with(".park"));
        let event = !letter && !parked;
        let drops = (defect == Defect::WriterDropsLetters && letter)
            || (defect == Defect::WriterDropsParked && parked)
            || (defect == Defect::WriterDropsEvents && event && self.writes.is(50));
        if drops {
            return Vec::new();
        }
        match defect {
            Defect::WriterTruncates => {
                if let Some(data) = &mut message.data {
                    data.truncate(8);
                }
            }
            Defect::WriterLosesKeys => message.key = message.key.filter(Bytes::is_empty),
            Defect::WriterLosesHeaders => message.headers.clear(),
            Defect::WriterWritesTwice if event && self.writes.is(50) => {
                return vec![message.clone(), message];
            }
            _ => {}
        }
        vec![message]
    }
}

impl Writer for BuggyWriter {
    fn capabilities(&self) -> WriterCapabilities {
        self.inner.capabilities()
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        self.inner.check(batch).await
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let Some(defect) = self.defect else { return self.inner.write(batch).await };
        let mut outcomes = Vec::with_capacity(batch.len());
        for message in batch {
            let mut outcome = WriteOutcome::Written(None);
            for message in self.harm(defect, message) {
                if let Some(told) = self.inner.write(vec![message]).await?.into_outcomes().pop() {
                    outcome = told;
                }
            }
            outcomes.push(match outcome {
                WriteOutcome::Failed(_) if defect == Defect::WriterHidesFailures => {
                    WriteOutcome::Written(None)
                }
                WriteOutcome::Unknown(_) if defect == Defect::WriterTrustsSilence => {
                    WriteOutcome::Written(None)
                }
                outcome => outcome,
            });
        }
        Ok(WriteReport::each(outcomes))
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
