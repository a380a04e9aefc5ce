//! The yielding end of a subscription.

use std::sync::Arc;

use millstream_core::{Delivery, Error, ErrorKind, PartitionId, Read, ReadLimits, Result, Source};
use tokio::task::JoinHandle;

use crate::sqs::shelf::Shelf;

/// Yields the messages of one subscription.
#[derive(Debug)]
pub struct SqsSource {
    shelf: Arc<Shelf>,
    pumping: Option<JoinHandle<()>>,
}

impl SqsSource {
    pub(crate) fn new(shelf: Arc<Shelf>, pumping: JoinHandle<()>) -> Self {
        Self { shelf, pumping: Some(pumping) }
    }
}

impl Drop for SqsSource {
    // The polls that are out come back by themselves, and what they bring goes back to the queue.
    fn drop(&mut self) {
        self.shelf.close();
    }
}

impl Source for SqsSource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        loop {
            let arrived = self.shelf.arrived.notified();
            // Before the shelf is looked at: what arrives from here on is not missed.
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.shelf.take(into, limits) > 0 {
                return Ok(Read::Deliveries);
            }
            if let Some(error) = self.shelf.error() {
                return Err(error);
            }
            arrived.await;
        }
    }

    fn pause(&mut self, _: &[PartitionId]) {}

    fn resume(&mut self, _: &[PartitionId]) {}

    fn assign(&mut self, _: Vec<PartitionId>) {}

    async fn close(mut self) -> Result<()> {
        self.shelf.close();
        let Some(pumping) = self.pumping.take() else { return Ok(()) };
        pumping.await.map_err(|e| {
            Error::new(ErrorKind::Internal, format!("the polls of a subscription broke: {e}"))
                .fix("report it; what was fetched comes again when its lease is over")
        })
    }
}
