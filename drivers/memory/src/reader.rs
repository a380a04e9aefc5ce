//! The reading side: a source and a settler that share one membership of a group.

use std::sync::Arc;

use millstream_core::{
    Assignment, Capabilities, DeadLetters, Delivery, Durability, Epoch, Error, ErrorKind, NoLeases,
    OpenRequest, Opened, Order, Parking, PartitionId, Read, ReadLimits, Reader, Result, SettleMode, Settled,
    Settlement, Settler, Source, Starts,
};
use tokio::time::timeout_at;

use crate::broker::Shared;
use crate::group::{FAR, Taken};
use crate::topic::Membership;

/// Opens subscriptions on a [`MemoryBroker`](crate::MemoryBroker). Cloning shares it.
///
/// A topic that does not exist is made. A request without a group browses: it reads from its start what
/// other groups have not finished, settles for itself alone, and is forgotten when it ends.
#[derive(Debug, Clone)]
pub struct MemoryReader {
    shared: Arc<Shared>,
}

impl MemoryReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Reader for MemoryReader {
    type Source = MemorySource;
    type Settler = MemorySettler;
    type Leases = NoLeases;

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::minimal();
        can.order = Order::Total;
        can.settle = SettleMode::Individual;
        can.groups = true;
        can.browse = true;
        can.starts = Starts::ALL;
        can.durability = Durability::Process;
        can.redelivery_count = true;
        can.retry_after = Some(FAR);
        can.parking = Parking::Native;
        can.dead_letters = DeadLetters::Topic;
        can
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<MemorySource, MemorySettler, NoLeases>> {
        let located = |error: Error| match &request.group {
            Some(group) => error.topic(&*request.topic).group(&**group),
            None => error.topic(&*request.topic),
        };
        request.args.only(&[]).map_err(located)?;
        if let Assignment::Manual(_) = request.assignment {
            return Err(located(
                Error::new(ErrorKind::Unsupported, "the memory driver has no partitions to assign")
                    .fix("subscribe without naming partitions"),
            ));
        }
        let (topic, _) = self.shared.topic(&request.topic)?;
        let member = Arc::new(topic.join(&request).map_err(located)?);
        Ok(Opened::new(MemorySource { member: Arc::clone(&member), closed: false }, MemorySettler { member }))
    }
}

/// Yields the deliveries of one subscription.
///
/// Dropped without [`close`](Source::close), it gives back at once all that it yielded and nobody settled;
/// closed, it leaves that to the settler.
#[derive(Debug)]
pub struct MemorySource {
    member: Arc<Membership>,
    closed: bool,
}

impl Source for MemorySource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        // A reader that always finds something must let other tasks run, too.
        tokio::task::consume_budget().await;
        loop {
            // What is taken is in `into` before the next await: nothing can be cancelled in between.
            let due = match self.member.take(limits, into) {
                Taken::Some => return Ok(Read::Deliveries),
                Taken::End => return Ok(Read::End),
                Taken::Gone => {
                    return Err(Error::new(ErrorKind::Conflict, "the subscription's settler is gone")
                        .topic(&**self.member.topic.name())
                        .fix("keep the settler as long as the source, or open again"));
                }
                Taken::Nothing(due) => due,
            };
            let woken = self.member.wake.notified();
            match due {
                // Woken or due: either way it looks again.
                Some(due) => drop(timeout_at(due, woken).await),
                None => woken.await,
            }
        }
    }

    fn pause(&mut self, _: &[PartitionId]) {}

    fn resume(&mut self, _: &[PartitionId]) {}

    fn assign(&mut self, _: Vec<PartitionId>) {}

    async fn close(mut self) -> Result<()> {
        self.closed = true;
        self.member.stop_reading();
        Ok(())
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        if !self.closed {
            self.member.leave();
        }
    }
}

/// Takes the verdicts of one subscription. Closed or dropped, it gives back what is unsettled.
#[derive(Debug)]
pub struct MemorySettler {
    member: Arc<Membership>,
}

impl Settler for MemorySettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        self.member.settle(batch)
    }

    async fn mark(&mut self, _: PartitionId, _: Epoch, _: String) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "the memory driver stores no marks")
            .topic(&**self.member.topic.name())
            .fix("look at its capabilities first"))
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Drop for MemorySettler {
    fn drop(&mut self) {
        // Who only browses may have no use for a settler.
        if !self.member.browses {
            self.member.leave();
        }
    }
}
