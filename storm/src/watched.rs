//! A driver's reader with somebody who writes down what it delivers and what becomes of each settlement.
//!
//! Of a log, a settlement is a position: it settles whatever was delivered before it in its partition. What is delivered
//! names its place there, behind the worker's name, such as `2.14 3/177`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytestring::ByteString;
use millstream_core::{
    Capabilities, Delivery, End, Epoch, LeasePlan, OpenRequest, Opened, PartitionId, Read, ReadLimits,
    Reader, Result, SettleMode, Settled, Settlement, Settler, Source, TokenId,
};
use millstream_testkit::ledger::{Ending, Record};

use crate::journal::{self, Journal};

/// A reader whose groups are watched. What is read without a group is not, nor is what is only looked through to an end.
#[derive(Debug)]
pub(crate) struct Watched<R> {
    inner: R,
    journal: Arc<Journal>,
    worker: ByteString,
}

impl<R> Watched<R> {
    pub(crate) fn new(inner: R, journal: Arc<Journal>, worker: ByteString) -> Self {
        Self { inner, journal, worker }
    }
}

/// What source and settler of a subscription share.
#[derive(Debug)]
struct Watch {
    journal: Arc<Journal>,
    worker: ByteString,
    group: ByteString,
    /// Settlements are positions.
    is_log: bool,
    /// The ids of what is delivered and not settled.
    out: Mutex<BTreeMap<TokenId, ByteString>>,
}

impl Watch {
    fn out(&self) -> MutexGuard<'_, BTreeMap<TokenId, ByteString>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self, delivery: &Delivery) {
        let TokenId { partition, id, .. } = delivery.token.id();
        let worker = if self.is_log {
            format!("{} {}/{id}", self.worker, partition.0).into()
        } else {
            self.worker.clone()
        };
        self.journal.write(Record::delivered(delivery, self.group.clone(), worker));
        self.out().insert(delivery.token.id(), delivery.message.id.clone());
    }

    /// Takes out what ended with the settlement of this token.
    fn take(&self, token: TokenId, outcome: &Settled) -> Vec<ByteString> {
        let mut out = self.out();
        match outcome {
            // These are still ours, and are settled again.
            Settled::Failed { .. } | Settled::EffectsFailed(_) => {
                out.get(&token).cloned().into_iter().collect()
            }
            // A later position settles it as well.
            Settled::Unknown(_) if self.is_log => out.get(&token).cloned().into_iter().collect(),
            _ if self.is_log => {
                let first = TokenId { id: 0, ..token };
                let tokens: Vec<TokenId> = out.range(first..=token).map(|(token, _)| *token).collect();
                tokens.into_iter().filter_map(|token| out.remove(&token)).collect()
            }
            _ => out.remove(&token).into_iter().collect(),
        }
    }
}

impl<R: Reader> Reader for Watched<R> {
    type Source = WatchedSource<R::Source>;
    type Settler = WatchedSettler<R::Settler>;
    type Leases = R::Leases;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<Self::Source, Self::Settler, Self::Leases>> {
        let watched = request.group.clone().filter(|_| request.end == End::Never);
        let watch = watched.map(|group| {
            Arc::new(Watch {
                journal: Arc::clone(&self.journal),
                worker: self.worker.clone(),
                group,
                is_log: self.capabilities().settle == SettleMode::Cumulative,
                out: Mutex::default(),
            })
        });
        let opened = self.inner.open(request).await?;
        let source = WatchedSource { inner: opened.source, watch: watch.clone() };
        let watched = Opened::new(source, WatchedSettler { inner: opened.settler, watch });
        Ok(match opened.leases {
            Some(LeasePlan { duration, leases }) => watched.with_leases(duration, leases),
            None => watched,
        })
    }
}

#[derive(Debug)]
pub(crate) struct WatchedSource<S> {
    inner: S,
    watch: Option<Arc<Watch>>,
}

impl<S: Source> Source for WatchedSource<S> {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        let before = into.len();
        let read = self.inner.read(into, limits).await?;
        // No await from here on: what was handed over is written down.
        if let Some(watch) = &self.watch {
            for delivery in into.iter().skip(before) {
                watch.delivered(delivery);
            }
        }
        Ok(read)
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
pub(crate) struct WatchedSettler<T> {
    inner: T,
    watch: Option<Arc<Watch>>,
}

impl<T: Settler> Settler for WatchedSettler<T> {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        let Some(watch) = self.watch.clone() else { return self.inner.settle(batch).await };
        let sent: Vec<(TokenId, Ending)> =
            batch.iter().map(|s| (s.token.id(), Ending::from(&s.verdict))).collect();
        let began = journal::now();
        let outcomes = self.inner.settle(batch).await;
        for ((token, verdict), outcome) in sent.into_iter().zip(&outcomes) {
            for id in watch.take(token, outcome) {
                watch.journal.write_at(began, Record::settled(id, watch.group.clone(), verdict, outcome));
            }
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
