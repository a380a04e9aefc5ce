//! The settling end of a subscription: acknowledged is deleted, given back is hidden for as long as it has to wait.

use std::sync::Arc;

use millstream_core::{
    Epoch, Error, ErrorKind, PartitionId, Result, Settled, Settlement, Settler, Token, Verdict,
};
use tokio::time::Instant;

use crate::sqs::queues::{Known, Queue};
use crate::sqs::receipts::{self, Deed, Done};
use crate::sqs::settings::{SETTLE_WITHIN, seconds};
use crate::sqs::shelf::{Held, Shelf};

/// Takes the verdicts of one subscription.
#[derive(Debug)]
pub struct SqsSettler {
    known: Arc<Known>,
    queue: Arc<Queue>,
    shelf: Arc<Shelf>,
}

/// A settlement on its way: its place in the call, and what it said.
struct Said {
    index: usize,
    token: Token,
    verdict: Verdict,
}

impl SqsSettler {
    pub(crate) fn new(known: Arc<Known>, queue: Arc<Queue>, shelf: Arc<Shelf>) -> Self {
        Self { known, queue, shelf }
    }
}

/// What a verdict asks of SQS; none for what was never promised.
fn deed(verdict: &Verdict, held: &Held) -> Option<Deed> {
    match verdict {
        Verdict::Ack => Some(Deed::Delete),
        Verdict::Retry { after } => {
            let left = held.last.saturating_duration_since(Instant::now());
            Some(Deed::Hide(seconds((*after).min(left))))
        }
        Verdict::Release => Some(Deed::Hide(0)),
        _ => None,
    }
}

impl Settler for SqsSettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        let mut outcomes: Vec<Settled> = batch.iter().map(|_| Settled::Lost).collect();
        let (mut deeds, mut behind) = (Vec::new(), Vec::new());
        // Dropped from the table before anything is asked: a lease that is extended meanwhile is not this one's.
        let taken = self.shelf.end(batch.iter().map(|settlement| settlement.token.id()));
        for (index, (settlement, held)) in batch.into_iter().zip(taken).enumerate() {
            let Some(held) = held else { continue };
            let Some(deed) = deed(&settlement.verdict, &held) else {
                self.shelf.keep(held);
                let error = Error::new(ErrorKind::Unsupported, "SQS does not know such a verdict");
                let settlement = Box::new(settlement);
                outcomes[index] = Settled::Failed { error: error.fix("report it"), settlement };
                continue;
            };
            if deed != Deed::Delete
                && let Some(group) = &held.group
            {
                behind.extend(self.shelf.behind(group));
            }
            let Settlement { token, verdict, .. } = settlement;
            deeds.push((held, deed, Said { index, token, verdict }));
        }
        if deeds.is_empty() {
            return outcomes;
        }
        let (known, queue, shelf) =
            (Arc::clone(&self.known), Arc::clone(&self.queue), Arc::clone(&self.shelf));
        let settling = self.known.aws.io().run(async move {
            let hidden =
                deeds.iter().filter(|(_, deed, _)| *deed != Deed::Delete).map(|(held, ..)| held.token);
            shelf.still(&hidden.collect::<Vec<_>>()).await;
            // While the first of a group is out nobody gets these, so they go back before it.
            receipts::give_back(&known.calls, &queue.url, &shelf, behind).await;
            let done = Box::pin(receipts::each(&known.calls, &queue.url, deeds, SETTLE_WITHIN)).await;
            let mut settled = Vec::with_capacity(done.len());
            let mut behind = Vec::new();
            for (held, said, done) in done {
                let index = said.index;
                settled.push((index, ended(&shelf, held, said, done, &mut behind)));
            }
            receipts::give_back(&known.calls, &queue.url, &shelf, behind).await;
            settled
        });
        match settling.await {
            Ok(settled) => {
                for (index, outcome) in settled {
                    outcomes[index] = outcome;
                }
            }
            // Those it was about are lost: their leases end.
            Err(error) => tracing::error!(%error, "aws: a settlement broke"),
        }
        outcomes
    }

    async fn mark(&mut self, _: PartitionId, _: Epoch, _: String) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "a queue keeps no notes")
            .fix("report it: nobody is to ask for it"))
    }

    async fn close(self) -> Result<()> {
        // Every settle waited for its answer.
        Ok(())
    }
}

/// What became of a settlement. Those of its group that have to go back as well are added to `behind`.
fn ended(shelf: &Shelf, held: Held, said: Said, done: Done, behind: &mut Vec<Held>) -> Settled {
    // Past its lease it may be with somebody else, whatever SQS answers.
    let ours = held.until > Instant::now();
    let (outcome, next) = match done {
        Done::Yes if ours => {
            if matches!(said.verdict, Verdict::Release) {
                shelf.gave_back(&held.id);
            }
            (Settled::Done, matches!(said.verdict, Verdict::Ack))
        }
        Done::No(error) if ours => {
            let settlement = Box::new(Settlement::new(said.token, said.verdict));
            shelf.keep(held);
            return Settled::Failed { error, settlement };
        }
        Done::Unknown(error) => (Settled::Unknown(error), false),
        _ => (Settled::Lost, false),
    };
    if let Some(group) = &held.group {
        if !next {
            behind.extend(shelf.behind(group));
        }
        shelf.free(group);
    }
    outcome
}
