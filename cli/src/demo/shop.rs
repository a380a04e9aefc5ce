//! The order pipeline: its events, and a handler for each group that takes orders.

use std::sync::Arc;

use millstream::{Attempt, Event, Failure, Outcome, Publisher, State};
use serde::{Deserialize, Serialize};

use super::ledger::{Group, Ledger};
use super::plan::{Plan, Poison};

/// The topic of orders.
pub(crate) const ORDERS: &str = "demo.orders";

/// Somebody ordered something.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(topic = "demo.orders", key = "customer")]
pub(crate) struct Order {
    pub(crate) number: u32,
    pub(crate) customer: u32,
    pub(crate) cents: u64,
}

/// An order was charged.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(topic = "demo.invoices", key = "customer")]
pub(crate) struct Invoice {
    pub(crate) order: u32,
    pub(crate) customer: u32,
    pub(crate) cents: u64,
}

/// What all handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Shop {
    pub(crate) plan: Plan,
    pub(crate) ledger: Arc<Ledger>,
}

/// Flaky: some cards are declined at first. The invoice leaves with the success, never with a failed attempt.
pub(crate) async fn bill(
    order: Order,
    Attempt(attempt): Attempt,
    publisher: Publisher,
    State(shop): State<Shop>,
) -> Outcome {
    let Order { number, customer, cents } = order;
    // Before the card is charged, so that an invoice which left too early would be seen.
    publisher.publish(&Invoice { order: number, customer, cents }).await?;
    if attempt <= shop.plan.declines(number) {
        return Err(Failure::retry("the card was declined"));
    }
    shop.ledger.effect(Group::Billing, number, customer);
    Ok(())
}

/// Takes goods off the shelf: an order that comes twice must not take them twice.
pub(crate) async fn reserve_stock(order: Order, State(shop): State<Shop>) -> Outcome {
    shop.ledger.effect(Group::Stock, order.number, order.customer);
    Ok(())
}

/// What the panics say that the demo makes on purpose.
const PANIC: &str = "the mail's template breaks on this order";

/// Meets poison: orders that no retry can help.
pub(crate) async fn send_mail(order: Order, State(shop): State<Shop>) -> Outcome {
    match shop.plan.poison(order.number) {
        Some(Poison::NoAddress) => return Err(Failure::unrecoverable("the customer has no mail address")),
        Some(Poison::Panics) => std::panic::panic_any(PANIC),
        // Bytes that are cut short never come here.
        Some(Poison::CutShort) | None => {}
    }
    shop.ledger.effect(Group::Mail, order.number, order.customer);
    Ok(())
}

/// The ledger's own eye on what billing sends.
pub(crate) async fn see_invoice(invoice: Invoice, State(shop): State<Shop>) -> Outcome {
    shop.ledger.invoice(invoice.order);
    Ok(())
}

/// Keeps the panics that the demo makes on purpose off the screen; all others are shown as ever.
pub(crate) fn silence_own_panics() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let own = panic.payload().downcast_ref::<&str>().is_some_and(|text| *text == PANIC);
        if !own {
            show(panic);
        }
    }));
}
