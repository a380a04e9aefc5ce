//! A driver's reader with somebody who writes down what it delivers and what becomes of each settlement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytestring::ByteString;
use millstream_core::{
    Capabilities, Delivery, Epoch, LeasePlan, OpenRequest, Opened, PartitionId, Read, ReadLimits, Reader,
    Result, Settled, Settlement, Settler, Source, TokenId,
};
use millstream_testkit::ledger::{Ending, Record};

use crate::journal::{self, Journal};

/// A reader whose groups are watched. What is read without a group is not.
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
    /// The ids of what is delivered and not settled.
    out: Mutex<HashMap<TokenId, ByteString>>,
}

impl Watch {
    fn out(&self) -> MutexGuard<'_, HashMap<TokenId, ByteString>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
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
        let watch = request.group.clone().map(|group| {
            Arc::new(Watch {
                journal: Arc::clone(&self.journal),
                worker: self.worker.clone(),
                group,
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
                let record = Record::delivered(delivery, watch.group.clone(), watch.worker.clone());
                watch.journal.write(record);
                watch.out().insert(delivery.token.id(), delivery.message.id.clone());
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
            // Failed and undone ones are still ours, and are settled again.
            let ours = matches!(outcome, Settled::Failed { .. } | Settled::EffectsFailed(_));
            let mut out = watch.out();
            let id = if ours { out.get(&token).cloned() } else { out.remove(&token) };
            drop(out);
            if let Some(id) = id {
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
