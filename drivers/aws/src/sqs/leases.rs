//! Extending leases, by a client that lives on whichever thread drives it and shares no connection with any other.

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Leases, Result, TokenId};

use crate::aws::{Aws, Purpose};
use crate::sqs::client::Sqs;
use crate::sqs::queues::Queue;
use crate::sqs::receipts;
use crate::sqs::shelf::Shelf;

/// Extends the leases of one subscription.
#[derive(Debug)]
pub struct SqsLeases {
    aws: Aws,
    queue: Arc<Queue>,
    shelf: Arc<Shelf>,
    sqs: Option<Sqs>,
}

impl SqsLeases {
    pub(crate) fn new(aws: Aws, queue: Arc<Queue>, shelf: Arc<Shelf>) -> Self {
        Self { aws, queue, shelf, sqs: None }
    }
}

impl Leases for SqsLeases {
    async fn connect(&mut self) -> Result<()> {
        self.sqs = Some(Sqs::new(&self.aws, Purpose::Leases(self.shelf.lease)));
        Ok(())
    }

    async fn extend(&mut self, held: &[TokenId]) -> Result<Vec<bool>> {
        let Some(sqs) = &self.sqs else {
            return Err(Error::new(
                ErrorKind::Internal,
                "leases were to be extended before they were connected",
            )
            .fix("report it"));
        };
        let ours: Vec<_> = held.iter().filter_map(|token| self.shelf.extendable(*token)).collect();
        if ours.is_empty() {
            return Ok(vec![false; held.len()]);
        }
        let extended = receipts::extend(sqs, &self.queue.url, &self.shelf, ours).await;
        Ok(held.iter().map(|token| extended.contains(&token.id)).collect())
    }
}
