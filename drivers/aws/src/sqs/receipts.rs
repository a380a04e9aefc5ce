//! Deleting messages and changing how long they are hidden, in batches of ten with an outcome for each.

use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
};
use aws_smithy_runtime_api::client::result::SdkError;
use futures_util::StreamExt as _;
use futures_util::stream;
use millstream_core::{Error, ErrorKind};
use tokio::time::Instant;

use crate::errors::{self, Failure, Fate};
use crate::retry::{Repeat, Tries};
use crate::sqs::client::Sqs;
use crate::sqs::settings::{BATCH, SETTLE_WITHIN};
use crate::sqs::shelf::{Held, Shelf};

/// Requests beside each other.
const BESIDE: usize = 16;

/// What is done with a message that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It is deleted.
    Delete,
    /// It is hidden for so many seconds from now on.
    Hide(i32),
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Done {
    /// SQS confirmed it.
    Yes,
    /// The handle is not valid any more.
    Lost,
    /// Surely not done.
    No(Error),
    /// Nobody knows.
    Unknown(Error),
}

/// Does it with each, for at most so long; the outcomes are in no order.
pub(crate) async fn each<T: Send + Sync>(
    sqs: &Sqs,
    url: &str,
    deeds: Vec<(Held, Deed, T)>,
    within: Duration,
) -> Vec<(Held, T, Done)> {
    let (deletes, hides): (Vec<_>, Vec<_>) =
        deeds.into_iter().partition(|(_, deed, _)| *deed == Deed::Delete);
    let mut requests = Vec::new();
    for mut all in [deletes, hides] {
        while !all.is_empty() {
            let rest = all.split_off(all.len().min(BATCH));
            requests.push(std::mem::replace(&mut all, rest));
        }
    }
    let mut asking =
        stream::iter(requests.into_iter().map(|r| request(sqs, url, r, within))).buffer_unordered(BESIDE);
    let mut done = Vec::new();
    while let Some(some) = asking.next().await {
        done.extend(some);
    }
    done
}

async fn request<T: Send + Sync>(
    sqs: &Sqs,
    url: &str,
    entries: Vec<(Held, Deed, T)>,
    within: Duration,
) -> Vec<(Held, T, Done)> {
    let mut tries = Tries::within(within);
    let mut left: Vec<_> = entries.into_iter().map(Some).collect();
    let mut done = Vec::with_capacity(left.len());
    loop {
        let failed = match ask(sqs, url, &left, &mut tries).await {
            Ok(failed) => failed,
            Err(failure) => {
                let unknown = failure.fate == Fate::Unknown || tries.unknown;
                done.extend(left.into_iter().flatten().map(|(held, _, with)| {
                    let error = errors::copy(&failure.error);
                    (held, with, if unknown { Done::Unknown(error) } else { Done::No(error) })
                }));
                return done;
            }
        };
        let mut again = Vec::new();
        let mut why = None;
        for refused in failed {
            let index = refused.id.parse::<usize>().unwrap_or(usize::MAX);
            let Some((held, deed, with)) = left.get_mut(index).and_then(Option::take) else { continue };
            let message = refused.message.unwrap_or_default();
            if refused.sender_fault {
                let said = errors::said_by(&refused.code, &message, 400, "the message was not settled").error;
                // Whatever is wrong with the handle: it does not settle anything any more.
                let done_so = match said.kind() {
                    // An attempt without an answer may be why.
                    ErrorKind::LeaseLost if tries.unknown => Done::Unknown(said),
                    ErrorKind::LeaseLost | ErrorKind::InvalidConfig | ErrorKind::NotFound => Done::Lost,
                    _ => Done::No(said),
                };
                done.push((held, with, done_so));
            } else {
                let said = errors::said_by(&refused.code, &message, 503, "the message was not settled").error;
                why = Some(errors::as_kind(&said, ErrorKind::Unavailable));
                again.push(Some((held, deed, with)));
            }
        }
        done.extend(left.into_iter().flatten().map(|(held, _, with)| (held, with, Done::Yes)));
        let Some(why) = why else { return done };
        left = again;
        if !tries.again(Fate::Throttled).await {
            done.extend(
                left.into_iter().flatten().map(|(held, _, with)| (held, with, Done::No(errors::copy(&why)))),
            );
            return done;
        }
    }
}

/// Asks once, as far as the answer comes; gives the entries that were refused. Both may be done twice.
async fn ask<T: Send + Sync>(
    sqs: &Sqs,
    url: &str,
    entries: &[Option<(Held, Deed, T)>],
    tries: &mut Tries,
) -> Result<Vec<BatchResultErrorEntry>, Failure> {
    let what = "the messages were not settled";
    // Built for each attempt: nearly always there is one, and a copy for another would cost as much.
    let numbered = || entries.iter().flatten().enumerate();
    if entries.iter().flatten().all(|(_, deed, _)| *deed == Deed::Delete) {
        let entry = |(id, (held, ..)): (usize, &(Held, Deed, T))| {
            let entry = DeleteMessageBatchRequestEntry::builder().id(id.to_string());
            entry.receipt_handle(&held.receipt).build()
        };
        let answer = sqs.ask(tries, Repeat::Anything, what, |client| async move {
            let request: Result<_, _> = numbered().map(entry).collect();
            let request = request.map_err(SdkError::construction_failure)?;
            client.delete_message_batch().queue_url(url).set_entries(Some(request)).send().await
        });
        return Ok(answer.await?.failed);
    }
    let entry = |(id, (held, deed, _)): (usize, &(Held, Deed, T))| {
        let seconds = if let Deed::Hide(seconds) = deed { *seconds } else { 0 };
        ChangeMessageVisibilityBatchRequestEntry::builder()
            .id(id.to_string())
            .receipt_handle(&held.receipt)
            .visibility_timeout(seconds)
            .build()
    };
    let answer = sqs.ask(tries, Repeat::Anything, what, |client| async move {
        let request: Result<_, _> = numbered().map(entry).collect();
        let request = request.map_err(SdkError::construction_failure)?;
        client.change_message_visibility_batch().queue_url(url).set_entries(Some(request)).send().await
    });
    Ok(answer.await?.failed)
}

/// Gives back messages that nobody has seen, for somebody else to have them at once.
pub(crate) async fn give_back(sqs: &Sqs, url: &str, shelf: &Shelf, unread: Vec<Held>) {
    if unread.is_empty() {
        return;
    }
    let count = unread.len();
    shelf.still(&unread.iter().map(|held| held.token).collect::<Vec<_>>()).await;
    let deeds = unread.into_iter().map(|held| (held, Deed::Hide(0), ())).collect();
    let mut kept = 0;
    for (held, (), done) in each(sqs, url, deeds, SETTLE_WITHIN).await {
        match done {
            Done::Yes => shelf.gave_back(&held.id),
            // It comes again when its lease is over.
            _ => kept += 1,
        }
    }
    tracing::debug!(count, kept, "aws: messages were given back unread");
}

/// Extends leases; says which were. The time counts from before SQS was asked.
pub(crate) async fn extend(sqs: &Sqs, url: &str, shelf: &Shelf, mut held: Vec<Held>) -> Vec<u64> {
    let _extending = shelf.extending(&mut held);
    let asked = Instant::now();
    let deeds = held
        .into_iter()
        .map(|held| {
            let left = held.last.saturating_duration_since(asked);
            (held, Deed::Hide(whole(shelf.lease.min(left))), ())
        })
        .collect();
    let done = each(sqs, url, deeds, shelf.lease / 3).await;
    let confirmed = done.into_iter().filter(|(_, (), done)| matches!(done, Done::Yes));
    confirmed.map(|(held, ..)| held.token).filter(|token| shelf.extended(*token, asked)).collect()
}

/// Whole seconds, rounded down.
fn whole(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}
