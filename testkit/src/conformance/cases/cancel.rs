//! A read that is dropped loses nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use millstream_core::ReadLimits;

use super::{always, case};
use crate::conformance::member::{Event, Member, PLENTY};
use crate::conformance::{Case, Checked, World};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "cancel",
            a_read_dropped_at_any_poll_loses_nothing,
            always,
            "reading is safe to cancel (reader, rule 2; faults.md H3)"
        ),
        case!(
            "cancel",
            reads_under_a_short_time_limit_lose_nothing,
            always,
            "reading is safe to cancel (reader, rule 2; faults.md S1, X4)"
        ),
    ]
}

/// Reads, and drops the read after so many polls.
async fn read_for(member: &mut Member, polls: usize) -> Checked<Option<Event>> {
    let limits = ReadLimits::new(1, PLENTY);
    let mut into = Vec::new();
    let ready = {
        let mut read = pin!(member.source.read(&mut into, limits));
        let mut ready = None;
        for _ in 0..polls {
            ready = poll_fn(|cx| {
                Poll::Ready(match read.as_mut().poll(cx) {
                    Poll::Ready(read) => Some(read),
                    Poll::Pending => None,
                })
            })
            .await;
            if ready.is_some() {
                break;
            }
            // Whatever the driver waits for gets a chance to happen.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ready
    };
    match ready {
        Some(read) => Ok(Some(member.event(read?, into, limits)?)),
        None if into.is_empty() => Ok(None),
        None => Err("a read that was dropped had put messages where nobody looks for them".to_owned().into()),
    }
}

async fn a_read_dropped_at_any_poll_loses_nothing(world: World) -> Checked {
    let mut member = world.join("g").await?;
    let rounds = 60;
    let mut handled = 0;
    for round in 0..rounds {
        // The message is there before the read, or comes while it waits.
        if round % 2 == 0 {
            world.publish(vec![world.message("k")]).await?;
        }
        let event = read_for(&mut member, 1 + round % 6).await?;
        if round % 2 == 1 {
            world.publish(vec![world.message("k")]).await?;
        }
        match event {
            Some(Event::Deliveries(some)) => {
                handled += some.len();
                member.handle(some).await?;
            }
            Some(Event::Revoking(revoking)) => revoking.done(),
            _ => {}
        }
    }
    member.work(rounds - handled).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn reads_under_a_short_time_limit_lose_nothing(world: World) -> Checked {
    let mut member = world.join("g").await?;
    let count = world.scale().messages;
    let publishing = tokio::spawn({
        let world = world.clone();
        async move {
            for message in world.messages(count) {
                world.publish(vec![message]).await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Checked::Ok(())
        }
    });
    let mut handled = 0;
    let until = tokio::time::Instant::now() + world.scale().patience;
    for limit in [1, 2, 3, 5].into_iter().cycle().map(Duration::from_millis) {
        if handled == count || tokio::time::Instant::now() >= until {
            break;
        }
        let read = member.next(ReadLimits::new(4, PLENTY));
        match tokio::time::timeout(limit, read).await {
            Ok(Ok(Event::Deliveries(some))) => {
                handled += some.len();
                member.handle(some).await?;
            }
            Ok(Ok(Event::Revoking(revoking))) => revoking.done(),
            Ok(Err(failure)) => return Err(failure),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    publishing.await.map_err(|e| format!("the publishing task panicked: {e}"))??;
    member.work(count - handled).await?;
    world.verify(world.rules())
}
