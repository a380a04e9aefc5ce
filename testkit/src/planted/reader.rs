//! The reading half of a planted driver.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use millstream_core::{
    Args, Assignment, Capabilities, Delivery, End, Error, ErrorKind, Exclusivity, LeasePlan, Leases,
    OpenRequest, Opened, Order, PartitionId, Position, Read, ReadLimits, Reader, Result, Revoking,
    Settlement, Settler as _, Source, Start, Token, TokenId,
};
use tokio::sync::Mutex;

use super::settler::PlantedSettler;
use super::{Bug, SharedBook, lock};
use crate::sim::{SimLeases, SimReader, SimSettler, SimSource};

#[derive(Debug)]
pub(super) struct PlantedReader {
    inner: SimReader,
    bug: Option<Bug>,
    graveyard: Graveyard,
}

/// Sources that were closed and never left.
pub(super) type Graveyard = Arc<Mutex<Vec<SimSource>>>;

impl PlantedReader {
    pub(super) fn new(inner: SimReader, bug: Option<Bug>, graveyard: Graveyard) -> Self {
        Self { inner, bug, graveyard }
    }
}

impl Reader for PlantedReader {
    type Source = PlantedSource;
    type Settler = PlantedSettler;
    type Leases = PlantedLeases;

    fn capabilities(&self) -> Capabilities {
        let mut can = self.inner.capabilities();
        if self.bug == Some(Bug::SharesAKey) {
            can.order = Order::Key;
        }
        can
    }

    async fn open(
        &self,
        mut request: OpenRequest,
    ) -> Result<Opened<PlantedSource, PlantedSettler, PlantedLeases>> {
        match self.bug {
            Some(Bug::TakesAnyArgument) => request.args = Args::default(),
            Some(Bug::NewGroupsSkipOldMessages) => request.start = Start::Latest,
            Some(Bug::LatestIsEarliest) => request.start = Start::Earliest,
            Some(Bug::PositionIsOffByOne) => {
                if let Start::Position(at) = &mut request.start {
                    at.0 += 1;
                }
            }
            Some(Bug::GroupsAreOne) => request.group = request.group.map(|_| "all".into()),
            Some(Bug::ManualIsIgnored) => request.assignment = Assignment::Group,
            Some(Bug::NeverEnds) => request.end = End::Never,
            Some(Bug::IgnoresExclusivity) => request.exclusivity = Exclusivity::Shared,
            Some(Bug::DeliversToEachMember) => {
                static NEXT: AtomicU32 = AtomicU32::new(0);
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                request.group = request.group.map(|g| format!("{g}#{number}").into());
            }
            Some(Bug::StartBeatsProgress) if request.start == Start::Latest => {
                // A group of its own for those who ask to start at the end.
                request.group = request.group.map(|g| format!("{g}#latest").into());
            }
            _ => {}
        }
        let bound = (self.bug == Some(Bug::BrowsersHaveToSettle) && request.group.is_none())
            .then_some(request.max_in_flight);
        let opened = self.inner.open(request).await?;
        let book = SharedBook::default();
        let settler = Arc::new(Mutex::new(opened.settler));
        let source = PlantedSource {
            inner: Some(opened.source),
            settler: Arc::clone(&settler),
            bug: self.bug,
            book: Arc::clone(&book),
            fetched: VecDeque::new(),
            delivered: 0,
            bound,
            graveyard: Arc::clone(&self.graveyard),
        };
        let planted = Opened::new(source, PlantedSettler { inner: settler, bug: self.bug, book });
        Ok(match opened.leases {
            Some(LeasePlan { duration, leases }) => {
                planted.with_leases(duration, PlantedLeases { inner: leases, bug: self.bug })
            }
            None => planted,
        })
    }
}

#[derive(Debug)]
pub(super) struct PlantedSource {
    /// There until it is closed.
    inner: Option<SimSource>,
    settler: Arc<Mutex<SimSettler>>,
    bug: Option<Bug>,
    book: SharedBook,
    /// Fetched ahead.
    fetched: VecDeque<Delivery>,
    delivered: u64,
    /// Messages that it hands out and that nobody settled, at most.
    bound: Option<usize>,
    graveyard: Graveyard,
}

impl PlantedSource {
    fn inner(&mut self) -> Result<&mut SimSource> {
        self.inner.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "read after close"))
    }

    /// Writes down what is delivered.
    fn note(&self, deliveries: &[Delivery]) {
        let mut book = lock(&self.book);
        for delivery in deliveries {
            let token = delivery.token.id();
            let highest = book.highest.entry(token.partition.0).or_insert(token);
            *highest = token.max(*highest);
            book.held.insert(token, (*delivery.message).clone());
        }
    }

    /// What the bug makes of a batch.
    async fn harm(&mut self, batch: &mut Vec<Delivery>) -> Result<()> {
        match self.bug {
            Some(Bug::DropsOnCancelledRead) if !batch.is_empty() => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Some(Bug::PositionsStandStill) => batch.iter_mut().for_each(|d| d.position = Some(Position(0))),
            Some(Bug::ReordersAKey) => batch.reverse(),
            Some(Bug::CountsThroughParks) => {
                for delivery in batch.iter_mut().filter(|d| d.parked.is_some()) {
                    self.delivered += 1;
                    delivery.deliveries += u32::try_from(self.delivered).unwrap_or(u32::MAX);
                }
            }
            Some(Bug::CountsNothing) => batch.iter_mut().for_each(|d| d.deliveries = 1),
            Some(Bug::DeliversTwice) => {
                self.delivered += 1;
                if let Some(last) = batch.last()
                    && self.delivered.is_multiple_of(3)
                {
                    let token = again(last.token.id());
                    batch.push(Delivery::new(last.message.clone(), token));
                }
            }
            Some(Bug::AcksOnDelivery) => {
                let acks = batch.iter().map(|d| Settlement::ack(again(d.token.id()))).collect();
                self.settler.lock().await.settle(acks).await;
            }
            Some(Bug::StopsAtForeignMessages) if batch.iter().any(|d| d.message.id.is_empty()) => {
                return Err(Error::new(ErrorKind::InvalidMessage, "a message without an id"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads ahead, and yields from what it has.
    async fn read_ahead(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        if self.fetched.is_empty() {
            let mut batch = Vec::new();
            let read = self.inner()?.read(&mut batch, ReadLimits::new(10, limits.bytes)).await?;
            if batch.is_empty() {
                return Ok(read);
            }
            self.fetched = batch.into();
        }
        let some = self.fetched.len().min(limits.messages);
        into.extend(self.fetched.drain(..some));
        Ok(Read::Deliveries)
    }
}

/// The same token once more, as no driver should be able to make it.
fn again(id: TokenId) -> Token {
    Token::new(id.partition, id.epoch, id.id)
}

impl Source for PlantedSource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        let limits = match self.bug {
            Some(Bug::IgnoresLimits) if limits != ReadLimits::NOTHING => ReadLimits::new(1_000, 1 << 30),
            Some(Bug::DeliversWhileDraining) => ReadLimits::new(limits.messages.max(1), limits.bytes.max(1)),
            _ => limits,
        };
        if self.bug == Some(Bug::LeaksWhatItFetched) {
            return self.read_ahead(into, limits).await;
        }
        loop {
            let waits = self.bug == Some(Bug::ReadsWaitForSettlements);
            while waits && !lock(&self.book).held.is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            while self.bound.is_some_and(|most| lock(&self.book).held.len() >= most) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let mut batch = Vec::new();
            let read = match self.bug {
                Some(Bug::PollsRarely) => match self.inner()?.read(&mut batch, limits).now_or_never() {
                    Some(read) => read?,
                    None => {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                        continue;
                    }
                },
                // Taken out, and not yet handed over.
                Some(_) => self.inner()?.read(&mut batch, limits).await?,
                None => return self.inner()?.read(into, limits).await,
            };
            self.harm(&mut batch).await?;
            self.note(&batch);
            into.append(&mut batch);
            return Ok(match (read, self.bug) {
                (Read::Assigned(_), Some(Bug::TellsNoAssignment)) => continue,
                (Read::Revoking(revoking), Some(Bug::DoesNotWaitForTheAnswer)) => {
                    let (told, _nobody_listens) =
                        Revoking::new(revoking.partitions.clone(), revoking.deadline);
                    revoking.done();
                    Read::Revoking(told)
                }
                (read, _) => read,
            });
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        if self.bug != Some(Bug::IgnoresPause)
            && let Some(inner) = &mut self.inner
        {
            inner.pause(partitions);
        }
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        if let Some(inner) = &mut self.inner {
            inner.resume(partitions);
        }
    }

    fn assign(&mut self, partitions: Vec<PartitionId>) {
        if let Some(inner) = &mut self.inner {
            inner.assign(partitions);
        }
    }

    async fn close(mut self) -> Result<()> {
        self.end();
        while self.bug == Some(Bug::CloseWaitsForSettlements) && !lock(&self.book).held.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let Some(inner) = self.inner.take() else { return Ok(()) };
        if self.bug == Some(Bug::NeverLeaves) {
            self.graveyard.lock().await.push(inner);
            return Ok(());
        }
        inner.close().await
    }
}

impl PlantedSource {
    /// What the bug does when a subscription ends.
    fn end(&mut self) {
        if !matches!(self.bug, Some(Bug::AcksOnDrop | Bug::GivesBackAtTheEnd)) {
            return;
        }
        let mut held: Vec<_> = lock(&self.book).held.drain().collect();
        held.sort_unstable_by_key(|(id, _)| *id);
        let again = |(id, message)| {
            let mut settlement = Settlement::ack(again(id));
            if self.bug == Some(Bug::GivesBackAtTheEnd) {
                settlement.along_mut().emit.push(message);
            }
            settlement
        };
        if let Ok(mut settler) = self.settler.try_lock() {
            // The simulated broker answers at the first poll.
            let _ = settler.settle(held.into_iter().map(again).collect()).now_or_never();
        }
    }
}

impl Drop for PlantedSource {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Debug)]
pub(super) struct PlantedLeases {
    inner: SimLeases,
    bug: Option<Bug>,
}

impl Leases for PlantedLeases {
    async fn connect(&mut self) -> Result<()> {
        self.inner.connect().await
    }

    async fn extend(&mut self, held: &[TokenId]) -> Result<Vec<bool>> {
        match self.bug {
            Some(Bug::ExtendsNothing) => Ok(vec![true; held.len()]),
            _ => self.inner.extend(held).await,
        }
    }
}
