//! Nobody subscribes to objects: a reader that says so.

use millstream_core::{
    Capabilities, Delivery, Epoch, Error, ErrorKind, NoLeases, OpenRequest, Opened, PartitionId, Read,
    ReadLimits, Reader, Result, Settled, Settlement, Settler, Source,
};

/// The reader of a place whose objects are not subscribed to. [`open`](Reader::open) refuses.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct NoReader;

impl NoReader {
    pub(crate) fn new() -> Self {
        Self
    }
}

/// A subscription that there is none of.
#[derive(Debug)]
pub enum NoSubscription {}

impl Reader for NoReader {
    type Source = NoSubscription;
    type Settler = NoSubscription;
    type Leases = NoLeases;

    fn capabilities(&self) -> Capabilities {
        Capabilities::minimal()
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<NoSubscription, NoSubscription, NoLeases>> {
        Err(Error::new(ErrorKind::Unsupported, "an object store cannot be subscribed to")
            .topic(&*request.topic)
            .fix("redrive its dead letters to a broker, and subscribe there"))
    }
}

impl Source for NoSubscription {
    async fn read(&mut self, _: &mut Vec<Delivery>, _: ReadLimits) -> Result<Read> {
        match *self {}
    }
    fn pause(&mut self, _: &[PartitionId]) {
        match *self {}
    }
    fn resume(&mut self, _: &[PartitionId]) {
        match *self {}
    }
    fn assign(&mut self, _: Vec<PartitionId>) {
        match *self {}
    }
    async fn close(self) -> Result<()> {
        match self {}
    }
}

impl Settler for NoSubscription {
    async fn settle(&mut self, _: Vec<Settlement>) -> Vec<Settled> {
        match *self {}
    }
    async fn mark(&mut self, _: PartitionId, _: Epoch, _: String) -> Result<()> {
        match *self {}
    }
    async fn close(self) -> Result<()> {
        match self {}
    }
}
