//! Acknowledges what was printed, and says so if the broker did not take it.

use std::time::Duration;

use millstream::core::erased::DynSettler;
use millstream::core::{Delivery, Settled, Settlement};
use millstream::{Error, ErrorKind, Result};

/// How often an acknowledgement that failed is sent again.
const TRIES: u32 = 5;
/// The wait before.
const WAIT: Duration = Duration::from_millis(200);

/// Settles deliveries.
pub(crate) struct Acknowledger {
    settler: Box<dyn DynSettler>,
    /// Who only looks on has nobody to answer to: settling then just frees what the driver keeps.
    in_group: bool,
    /// Printed, and not known to be acknowledged.
    refused: u64,
}

impl Acknowledger {
    pub(crate) fn new(settler: Box<dyn DynSettler>, in_group: bool) -> Self {
        Self { settler, in_group, refused: 0 }
    }

    pub(crate) async fn acknowledge(&mut self, deliveries: impl Iterator<Item = Delivery>) -> Result<()> {
        let mut batch: Vec<_> = deliveries.map(|delivery| Settlement::ack(delivery.token)).collect();
        for tried in 1.. {
            if batch.is_empty() {
                break;
            }
            let mut failure = None;
            let outcomes = self.settler.settle(std::mem::take(&mut batch)).await;
            if !self.in_group {
                break;
            }
            for settled in outcomes {
                match settled {
                    Settled::Done => {}
                    Settled::Failed { error, settlement } => {
                        batch.push(*settlement);
                        failure = Some(error);
                    }
                    _ => self.refused += 1,
                }
            }
            if let Some(error) = failure {
                if tried == TRIES || !error.is_retryable() {
                    return Err(not_acknowledged(batch.len() as u64, error.kind()).source(error));
                }
                tokio::time::sleep(WAIT).await;
            }
        }
        Ok(())
    }

    /// Waits for what was settled.
    pub(crate) async fn close(self) -> Result<()> {
        self.settler.close().await?;
        match self.refused {
            0 => Ok(()),
            refused => Err(not_acknowledged(refused, ErrorKind::LeaseLost)),
        }
    }
}

fn not_acknowledged(messages: u64, kind: ErrorKind) -> Error {
    let what = if messages == 1 { "message was" } else { "messages were" };
    Error::new(kind, format!("{messages} {what} printed, and the broker did not confirm the acknowledgement"))
        .fix("the group gets them again; take those that are printed twice for one")
}
