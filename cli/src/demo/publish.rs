//! Publishes the orders of a run: in batches, some twice, some broken on purpose, never too far ahead.

use std::time::Duration;

use millstream::core::WriteOutcome;
use millstream::{ByteString, Message, PublishOptions, Publisher, Result};

use super::plan::{Plan, Poison};
use super::shop::{Order, Shop};

/// Messages handed over at once.
const BATCH: usize = 100;
/// How far publishing may run ahead of the slowest group. More would only measure how long messages lie in a
/// queue of our own making.
const AHEAD: u64 = 4_000;
/// How long publishing waits before it looks again how far the groups are.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Publishes all orders; `ended` says how many messages came to an end in the slowest group, `published` is told
/// how many were acknowledged.
pub(crate) async fn publish(
    publisher: &Publisher,
    shop: &Shop,
    ended: impl Fn() -> u64,
    published: impl Fn(u64),
) -> Result<()> {
    let mut sent = 0;
    let mut batch = Vec::with_capacity(BATCH + BATCH / 10);
    for first in (0..shop.plan.orders).step_by(BATCH) {
        while sent > ended() + AHEAD {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let orders = first..shop.plan.orders.min(first + BATCH as u32);
        let copies = orders.clone().filter(|order| shop.plan.is_copied(*order));
        batch.clear();
        batch.extend(orders.clone().chain(copies));
        sent += send(publisher, shop, &batch).await?;
        published(sent);
    }
    Ok(())
}

async fn send(publisher: &Publisher, shop: &Shop, orders: &[u32]) -> Result<u64> {
    let messages: Result<Vec<_>> =
        orders.iter().map(|order| message(publisher, &shop.plan, *order)).collect();
    orders.iter().for_each(|order| shop.ledger.meant(*order));
    let report = publisher.publish_messages(messages?).await?;
    let mut refused = None;
    for (order, outcome) in orders.iter().zip(report.into_outcomes()) {
        match outcome {
            WriteOutcome::Written(_) => shop.ledger.acknowledged(*order),
            WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) => refused = refused.or(Some(error)),
            // What a later version of the contract adds is no acknowledgement.
            _ => {}
        }
    }
    refused.map_or(Ok(orders.len() as u64), Err)
}

/// The message of an order. Its id follows from the order's number, so that a copy has the same one.
fn message(publisher: &Publisher, plan: &Plan, number: u32) -> Result<Message> {
    let order = Order { number, customer: plan.customer(number), cents: plan.cents(number) };
    let mut message = publisher.message_with(&order, PublishOptions::new().id(id(number)))?;
    if plan.poison(number) == Some(Poison::CutShort)
        && let Some(data) = &mut message.data
    {
        data.truncate(data.len() / 2);
    }
    Ok(message)
}

fn id(order: u32) -> ByteString {
    format!("order-{order}").into()
}

/// The order's number out of its message's id.
pub(crate) fn order_of(id: &str) -> Option<u32> {
    id.strip_prefix("order-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_known_by_the_id_of_its_message() {
        assert_eq!(order_of(&id(17)), Some(17));
        assert_eq!(order_of("somebody-else-17"), None);
    }
}
