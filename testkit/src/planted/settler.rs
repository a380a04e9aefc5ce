//! The settling half of a planted driver.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Epoch, PartitionId, Result, Settled, Settlement, Settler, Token, Verdict};
use tokio::sync::Mutex;

use super::{Bug, SharedBook, lock};
use crate::sim::SimSettler;

#[derive(Debug)]
pub(super) struct PlantedSettler {
    pub(super) inner: Arc<Mutex<SimSettler>>,
    pub(super) bug: Option<Bug>,
    pub(super) book: SharedBook,
}

impl PlantedSettler {
    /// What the bug makes of one settlement.
    fn harm(&self, bug: Bug, mut settlement: Settlement) -> Settlement {
        let id = settlement.token.id();
        let message = lock(&self.book).held.remove(&id);
        match (bug, &settlement.verdict) {
            (Bug::CommitsPastAGap, _) => {
                if let Some(highest) = lock(&self.book).highest.get(&id.partition.0) {
                    settlement.token = Token::new(id.partition, id.epoch, highest.id);
                }
            }
            (Bug::RetryLosesItsPlace, Verdict::Retry { after }) => {
                let at = std::time::SystemTime::now() + *after;
                settlement.along_mut().emit.extend(message.map(|m| m.with_deliver_at(at)));
                settlement.verdict = Verdict::Ack;
            }
            (Bug::RetryDoesNotWait, Verdict::Retry { .. }) => settlement.verdict = Verdict::Release,
            (Bug::ReleaseWaits, Verdict::Release) => {
                settlement.verdict = Verdict::Retry { after: Duration::from_secs(3600) };
            }
            (Bug::ParksWithoutNote, Verdict::Park(park)) => {
                settlement.verdict = Verdict::Retry { after: park.after.unwrap_or_default() };
            }
            (Bug::ParksByRepublishing, Verdict::Park(park)) => {
                let at = std::time::SystemTime::now() + park.after.unwrap_or_default();
                settlement.along_mut().emit.extend(message.map(|m| m.with_deliver_at(at)));
                settlement.verdict = Verdict::Ack;
            }
            (Bug::ForgetsTheOthers, _) => settlement.along_mut().others.clear(),
            (Bug::DropsDeadLetters, Verdict::Dead(_)) => settlement.verdict = Verdict::Ack,
            _ => {}
        }
        settlement
    }
}

impl Settler for PlantedSettler {
    async fn settle(&mut self, mut batch: Vec<Settlement>) -> Vec<Settled> {
        let Some(bug) = self.bug else { return self.inner.lock().await.settle(batch).await };
        let count = batch.len();
        if bug == Bug::OneVerdictForAll && batch.iter().any(|s| matches!(s.verdict, Verdict::Release)) {
            batch.iter_mut().for_each(|s| s.verdict = Verdict::Release);
        }
        if bug == Bug::ForgetsAcks && batch.iter().all(|s| matches!(s.verdict, Verdict::Ack)) {
            return (0..count).map(|_| Settled::Done).collect();
        }
        if bug == Bug::TheLastOfABatchIsNotSettled && count > 1 {
            batch.pop();
        }
        let mut inner = self.inner.lock().await;
        let mut outcomes = Vec::with_capacity(count);
        for settlement in batch {
            let mut settlement = self.harm(bug, settlement);
            if bug == Bug::EmitsAnyway {
                inner.write_beside(std::mem::take(&mut settlement.along_mut().emit));
            }
            outcomes.extend(inner.settle(vec![settlement]).await);
        }
        outcomes.resize_with(count, || Settled::Done);
        let blind =
            [Bug::StaleTokensAreDone, Bug::OldEpochsAreDone, Bug::RefusalsAreDone, Bug::AcksOnDelivery];
        if blind.contains(&bug) {
            outcomes.iter_mut().filter(|o| matches!(o, Settled::Lost)).for_each(|o| *o = Settled::Done);
        }
        outcomes
    }

    async fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> Result<()> {
        match self.bug {
            Some(Bug::ForgetsMarks) => Ok(()),
            _ => self.inner.lock().await.mark(partition, epoch, note).await,
        }
    }

    async fn close(self) -> Result<()> {
        // The settler's half of the simulated broker has nothing to wait for.
        Ok(())
    }
}
