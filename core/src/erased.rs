//! The `dyn` twins of the driver traits, so that a bus is not generic over drivers.
//!
//! Every implementor of a static trait gets its twin by a blanket impl: nobody implements these by hand. A
//! call boxes one future, and is made once a batch.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::{Finding, GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use crate::{
    Admin, BoxFuture, Capabilities, DedupKey, DedupScope, DedupStore, Delivery, Effect, Epoch, LeasePlan,
    Leases, Message, OpenRequest, Opened, PartitionId, Read, ReadLimits, Reader, Reservation, Reserve,
    Result, Settled, Settlement, Settler, Source, Start, TokenId, WriteNow, WriteReport, Writer,
    WriterCapabilities,
};

/// The parts of a subscription, erased.
pub type DynOpened = Opened<Box<dyn DynSource>, Box<dyn DynSettler>, Box<dyn DynLeases>>;

/// [`Reader`], erased.
pub trait DynReader: Send + Sync + 'static {
    /// As [`Reader::capabilities`].
    fn capabilities(&self) -> Capabilities;
    /// As [`Reader::open`].
    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<DynOpened>>;
}

impl<R: Reader> DynReader for R {
    fn capabilities(&self) -> Capabilities {
        Reader::capabilities(self)
    }
    fn open(&self, request: OpenRequest) -> BoxFuture<'_, Result<DynOpened>> {
        Box::pin(async move {
            let Opened { source, settler, leases } = Reader::open(self, request).await?;
            Ok(Opened {
                source: Box::new(source) as Box<dyn DynSource>,
                settler: Box::new(settler) as Box<dyn DynSettler>,
                leases: leases.map(|plan| LeasePlan {
                    duration: plan.duration,
                    leases: Box::new(plan.leases) as Box<dyn DynLeases>,
                }),
            })
        })
    }
}

/// [`Source`], erased.
pub trait DynSource: Send + 'static {
    /// As [`Source::read`].
    fn read<'a>(&'a mut self, into: &'a mut Vec<Delivery>, limits: ReadLimits)
    -> BoxFuture<'a, Result<Read>>;
    /// As [`Source::pause`].
    fn pause(&mut self, partitions: &[PartitionId]);
    /// As [`Source::resume`].
    fn resume(&mut self, partitions: &[PartitionId]);
    /// As [`Source::assign`].
    fn assign(&mut self, partitions: Vec<PartitionId>);
    /// As [`Source::close`].
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

impl<S: Source> DynSource for S {
    fn read<'a>(
        &'a mut self,
        into: &'a mut Vec<Delivery>,
        limits: ReadLimits,
    ) -> BoxFuture<'a, Result<Read>> {
        Box::pin(Source::read(self, into, limits))
    }
    fn pause(&mut self, partitions: &[PartitionId]) {
        Source::pause(self, partitions);
    }
    fn resume(&mut self, partitions: &[PartitionId]) {
        Source::resume(self, partitions);
    }
    fn assign(&mut self, partitions: Vec<PartitionId>) {
        Source::assign(self, partitions);
    }
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(Source::close(*self))
    }
}

/// [`Settler`], erased.
pub trait DynSettler: Send + 'static {
    /// As [`Settler::settle`].
    fn settle(&mut self, batch: Vec<Settlement>) -> BoxFuture<'_, Vec<Settled>>;
    /// As [`Settler::mark`].
    fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> BoxFuture<'_, Result<()>>;
    /// As [`Settler::close`].
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

impl<S: Settler> DynSettler for S {
    fn settle(&mut self, batch: Vec<Settlement>) -> BoxFuture<'_, Vec<Settled>> {
        Box::pin(Settler::settle(self, batch))
    }
    fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> BoxFuture<'_, Result<()>> {
        Box::pin(Settler::mark(self, partition, epoch, note))
    }
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(Settler::close(*self))
    }
}

/// [`Leases`], erased.
pub trait DynLeases: Send + 'static {
    /// As [`Leases::connect`].
    fn connect(&mut self) -> BoxFuture<'_, Result<()>>;
    /// As [`Leases::extend`].
    fn extend<'a>(&'a mut self, held: &'a [TokenId]) -> BoxFuture<'a, Result<Vec<bool>>>;
}

impl<L: Leases> DynLeases for L {
    fn connect(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Leases::connect(self))
    }
    fn extend<'a>(&'a mut self, held: &'a [TokenId]) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(Leases::extend(self, held))
    }
}

/// [`Writer`], erased.
pub trait DynWriter: Send + Sync + 'static {
    /// As [`Writer::capabilities`].
    fn capabilities(&self) -> WriterCapabilities;
    /// As [`Writer::write`].
    fn write(&self, batch: Vec<Message>) -> BoxFuture<'_, Result<WriteReport>>;
    /// As [`Writer::write_now`].
    fn write_now(&self, message: Arc<Message>) -> WriteNow;
    /// As [`Writer::check`].
    fn check<'a>(&'a self, batch: &'a [Message]) -> BoxFuture<'a, Result<WriteReport>>;
    /// As [`Writer::close`].
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

impl<W: Writer> DynWriter for W {
    fn capabilities(&self) -> WriterCapabilities {
        Writer::capabilities(self)
    }
    fn write(&self, batch: Vec<Message>) -> BoxFuture<'_, Result<WriteReport>> {
        Box::pin(Writer::write(self, batch))
    }
    fn write_now(&self, message: Arc<Message>) -> WriteNow {
        Writer::write_now(self, message)
    }
    fn check<'a>(&'a self, batch: &'a [Message]) -> BoxFuture<'a, Result<WriteReport>> {
        Box::pin(Writer::check(self, batch))
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Writer::close(self))
    }
}

/// [`DedupStore`], erased.
pub trait DynDedupStore: Send + Sync + 'static {
    /// As [`DedupStore::scope`].
    fn scope(&self) -> DedupScope;
    /// As [`DedupStore::window`].
    fn window(&self) -> Option<Duration>;
    /// As [`DedupStore::reserve`].
    fn reserve(&self, keys: Vec<DedupKey>, lease: Duration) -> BoxFuture<'_, Result<Vec<Reserve>>>;
    /// As [`DedupStore::confirm`].
    fn confirm<'a>(&'a self, done: &'a [Reservation]) -> BoxFuture<'a, Result<Vec<bool>>>;
    /// As [`DedupStore::release`].
    fn release(&self, failed: Vec<Reservation>) -> BoxFuture<'_, Result<()>>;
    /// As [`DedupStore::contains`].
    fn contains<'a>(&'a self, key: &'a DedupKey) -> BoxFuture<'a, Result<bool>>;
    /// As [`DedupStore::confirm_as_effect`].
    fn confirm_as_effect(&self, reservation: &Reservation) -> Option<Effect>;
}

impl<D: DedupStore> DynDedupStore for D {
    fn scope(&self) -> DedupScope {
        DedupStore::scope(self)
    }
    fn window(&self) -> Option<Duration> {
        DedupStore::window(self)
    }
    fn reserve(&self, keys: Vec<DedupKey>, lease: Duration) -> BoxFuture<'_, Result<Vec<Reserve>>> {
        Box::pin(DedupStore::reserve(self, keys, lease))
    }
    fn confirm<'a>(&'a self, done: &'a [Reservation]) -> BoxFuture<'a, Result<Vec<bool>>> {
        Box::pin(DedupStore::confirm(self, done))
    }
    fn release(&self, failed: Vec<Reservation>) -> BoxFuture<'_, Result<()>> {
        Box::pin(DedupStore::release(self, failed))
    }
    fn contains<'a>(&'a self, key: &'a DedupKey) -> BoxFuture<'a, Result<bool>> {
        Box::pin(DedupStore::contains(self, key))
    }
    fn confirm_as_effect(&self, reservation: &Reservation) -> Option<Effect> {
        DedupStore::confirm_as_effect(self, reservation)
    }
}

/// [`Admin`], erased.
pub trait DynAdmin: Send + Sync + 'static {
    /// As [`Admin::ensure_topic`].
    fn ensure_topic<'a>(&'a self, topic: &'a str, settings: TopicSettings) -> BoxFuture<'a, Result<bool>>;
    /// As [`Admin::topics`].
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>>;
    /// As [`Admin::topic`].
    fn topic<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicInfo>>>;
    /// As [`Admin::groups`].
    fn groups<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Vec<GroupInfo>>>;
    /// As [`Admin::group`].
    fn group<'a>(&'a self, topic: &'a str, group: &'a str) -> BoxFuture<'a, Result<Option<GroupInfo>>>;
    /// As [`Admin::seek`].
    fn seek<'a>(&'a self, topic: &'a str, group: &'a str, to: Start) -> BoxFuture<'a, Result<()>>;
    /// As [`Admin::purge`].
    fn purge<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<u64>>;
    /// As [`Admin::dead_letters`].
    fn dead_letters<'a>(
        &'a self,
        topic: &'a str,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredDeadLetter>>>;
    /// As [`Admin::remove_dead_letter`].
    fn remove_dead_letter<'a>(&'a self, topic: &'a str, id: u64) -> BoxFuture<'a, Result<bool>>;
    /// As [`Admin::diagnose`].
    fn diagnose<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Vec<Finding>>>;
}

impl<A: Admin> DynAdmin for A {
    fn ensure_topic<'a>(&'a self, topic: &'a str, settings: TopicSettings) -> BoxFuture<'a, Result<bool>> {
        Box::pin(Admin::ensure_topic(self, topic, settings))
    }
    fn topics(&self) -> BoxFuture<'_, Result<Vec<TopicInfo>>> {
        Box::pin(Admin::topics(self))
    }
    fn topic<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<TopicInfo>>> {
        Box::pin(Admin::topic(self, topic))
    }
    fn groups<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Vec<GroupInfo>>> {
        Box::pin(Admin::groups(self, topic))
    }
    fn group<'a>(&'a self, topic: &'a str, group: &'a str) -> BoxFuture<'a, Result<Option<GroupInfo>>> {
        Box::pin(Admin::group(self, topic, group))
    }
    fn seek<'a>(&'a self, topic: &'a str, group: &'a str, to: Start) -> BoxFuture<'a, Result<()>> {
        Box::pin(Admin::seek(self, topic, group, to))
    }
    fn purge<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<u64>> {
        Box::pin(Admin::purge(self, topic))
    }
    fn dead_letters<'a>(
        &'a self,
        topic: &'a str,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredDeadLetter>>> {
        Box::pin(Admin::dead_letters(self, topic, after, limit))
    }
    fn remove_dead_letter<'a>(&'a self, topic: &'a str, id: u64) -> BoxFuture<'a, Result<bool>> {
        Box::pin(Admin::remove_dead_letter(self, topic, id))
    }
    fn diagnose<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Vec<Finding>>> {
        Box::pin(Admin::diagnose(self, topic))
    }
}
