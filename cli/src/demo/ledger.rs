//! The independent ledger: what was meant, what was acknowledged, what took effect in each group, what was found
//! among the dead letters. It knows nothing of the toolkit's own counts, so that it can contradict them.
//!
//! An order is *lost* in a group if the broker acknowledged it and it neither took effect there nor lies among
//! the dead letters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use millstream::Result;

use super::latency::{Latencies, Latency};

/// Who takes orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Charges, and sends invoices.
    Billing,
    /// Takes goods off the shelf.
    Stock,
    /// Writes to the customer.
    Mail,
}

impl Group {
    pub(crate) const ALL: [Self; 3] = [Self::Billing, Self::Stock, Self::Mail];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Billing => "billing",
            Self::Stock => "stock",
            Self::Mail => "mail",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }
}

/// The books of one run. All methods may be called from anywhere at any time.
#[derive(Debug)]
pub(crate) struct Ledger {
    begun: Instant,
    orders: Vec<Line>,
    books: [Book; 3],
    /// Over all groups.
    latencies: Latencies,
    invoices: AtomicU64,
    /// Effects, invoices and dead letters of orders that nobody meant to send.
    ghosts: AtomicU64,
    dead_without_reason: AtomicU64,
}

/// What is known of one order. Counts, since each of these must not happen twice.
#[derive(Debug, Default)]
struct Line {
    /// When it was first meant to be sent, in µs since the start.
    meant_at: AtomicU64,
    meant: AtomicU16,
    acknowledged: AtomicU16,
    invoices: AtomicU16,
    effects: [AtomicU16; 3],
    dead: [AtomicU16; 3],
}

/// What is known of one group.
#[derive(Debug)]
struct Book {
    /// Of each customer, one more than the highest order that took effect.
    next: Vec<AtomicU32>,
    out_of_order: AtomicU64,
    latencies: Latencies,
    dead_by_class: Mutex<BTreeMap<String, u64>>,
}

/// What the books say when they are closed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Messages that the broker acknowledged, copies included.
    pub(crate) acknowledged: u64,
    /// Orders that were lost in one group or more.
    pub(crate) lost: u64,
    /// Invoices seen.
    pub(crate) invoices: u64,
    /// Orders that were billed and have not just one invoice, or were not billed and have one.
    pub(crate) wrong_invoices: u64,
    /// Effects, invoices and dead letters of orders that nobody meant to send.
    pub(crate) ghosts: u64,
    /// Dead letters that do not say why.
    pub(crate) dead_without_reason: u64,
    /// Over all groups.
    pub(crate) latency: Latency,
    /// Of each group, in the order of [`Group::ALL`].
    pub(crate) groups: [GroupVerdict; 3],
}

/// What the books say of a group.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct GroupVerdict {
    /// Orders that took effect.
    pub(crate) effects: u64,
    /// Dead letters.
    pub(crate) dead_lettered: u64,
    /// Those that say why, by their class.
    pub(crate) dead_by_class: BTreeMap<String, u64>,
    /// Orders that were acknowledged and ended nowhere.
    pub(crate) lost: u64,
    /// Orders that ended twice: two effects, two dead letters, or one of each.
    pub(crate) twice: u64,
    /// Orders that took effect behind a later one of the same customer.
    pub(crate) out_of_order: u64,
    /// From intent to effect.
    pub(crate) latency: Latency,
}

/// A dead letter as it was read back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadLetter<'a> {
    pub(crate) order: Option<u32>,
    pub(crate) group: Option<&'a str>,
    pub(crate) class: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
}

impl Ledger {
    /// Empty books for so many orders of so many customers.
    pub(crate) fn new(orders: u32, customers: u32) -> Result<Self> {
        Ok(Self {
            begun: Instant::now(),
            orders: (0..orders).map(|_| Line::default()).collect(),
            books: [Book::new(customers)?, Book::new(customers)?, Book::new(customers)?],
            latencies: Latencies::new()?,
            invoices: AtomicU64::new(0),
            ghosts: AtomicU64::new(0),
            dead_without_reason: AtomicU64::new(0),
        })
    }

    /// A message with this order is about to be sent.
    pub(crate) fn meant(&self, order: u32) {
        let line = &self.orders[order as usize];
        if add(&line.meant) == 0 {
            let now = self.begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
            line.meant_at.store(now, Ordering::Relaxed);
        }
    }

    /// The broker acknowledged a message with this order.
    pub(crate) fn acknowledged(&self, order: u32) {
        add(&self.orders[order as usize].acknowledged);
    }

    /// The order took effect in a group.
    pub(crate) fn effect(&self, group: Group, order: u32, customer: u32) {
        let book = &self.books[group as usize];
        let (Some(line), Some(next)) = (self.line(order), book.next.get(customer as usize)) else {
            self.ghosts.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if add(&line.effects[group as usize]) > 0 {
            return;
        }
        if next.fetch_max(order + 1, Ordering::Relaxed) > order {
            book.out_of_order.fetch_add(1, Ordering::Relaxed);
        }
        let meant_at = Duration::from_micros(line.meant_at.load(Ordering::Relaxed));
        let took = self.begun.elapsed().saturating_sub(meant_at);
        book.latencies.record(took);
        self.latencies.record(took);
    }

    /// An invoice for the order was seen.
    pub(crate) fn invoice(&self, order: u32) {
        match self.line(order) {
            Some(line) => {
                add(&line.invoices);
                self.invoices.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                self.ghosts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Invoices seen so far.
    pub(crate) fn invoices(&self) -> u64 {
        self.invoices.load(Ordering::Relaxed)
    }

    /// A dead letter was read back.
    pub(crate) fn dead_letter(&self, letter: DeadLetter<'_>) {
        let line = letter.order.and_then(|order| self.line(order));
        let (Some(line), Some(group)) = (line, letter.group.and_then(Group::named)) else {
            self.ghosts.fetch_add(1, Ordering::Relaxed);
            return;
        };
        add(&line.dead[group as usize]);
        match (letter.class, letter.error) {
            (Some(class), Some(error)) if !error.is_empty() => {
                let book = &self.books[group as usize];
                let mut classes = book.dead_by_class.lock().unwrap_or_else(PoisonError::into_inner);
                *classes.entry(class.to_owned()).or_default() += 1;
            }
            _ => {
                self.dead_without_reason.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Closes the books.
    pub(crate) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict {
            invoices: self.invoices(),
            ghosts: self.ghosts.load(Ordering::Relaxed),
            dead_without_reason: self.dead_without_reason.load(Ordering::Relaxed),
            latency: self.latencies.summary(),
            groups: self.books.each_ref().map(Book::verdict),
            ..Verdict::default()
        };
        for line in &self.orders {
            let acknowledged = line.acknowledged.load(Ordering::Relaxed);
            verdict.acknowledged += u64::from(acknowledged);
            let mut lost = false;
            for (index, group) in verdict.groups.iter_mut().enumerate() {
                let effects = line.effects[index].load(Ordering::Relaxed);
                let dead = line.dead[index].load(Ordering::Relaxed);
                let nowhere = acknowledged > 0 && effects == 0 && dead == 0;
                group.effects += u64::from(effects > 0);
                group.dead_lettered += u64::from(dead);
                group.lost += u64::from(nowhere);
                group.twice += u64::from(u32::from(effects) + u32::from(dead) > 1);
                lost |= nowhere;
            }
            verdict.lost += u64::from(lost);
            let billed = line.effects[Group::Billing as usize].load(Ordering::Relaxed) > 0;
            let invoices = line.invoices.load(Ordering::Relaxed);
            verdict.wrong_invoices += u64::from(invoices != u16::from(billed));
        }
        verdict
    }

    /// The line of an order, if somebody meant to send it.
    fn line(&self, order: u32) -> Option<&Line> {
        self.orders.get(order as usize).filter(|line| line.meant.load(Ordering::Relaxed) > 0)
    }
}

impl Book {
    fn new(customers: u32) -> Result<Self> {
        Ok(Self {
            next: (0..customers).map(|_| AtomicU32::new(0)).collect(),
            out_of_order: AtomicU64::new(0),
            latencies: Latencies::new()?,
            dead_by_class: Mutex::default(),
        })
    }

    fn verdict(&self) -> GroupVerdict {
        GroupVerdict {
            out_of_order: self.out_of_order.load(Ordering::Relaxed),
            dead_by_class: self.dead_by_class.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            latency: self.latencies.summary(),
            ..GroupVerdict::default()
        }
    }
}

/// Counts one more; says how many there were. Nothing but the count depends on it, so any order will do: what
/// reads it in the end comes after all tasks have ended.
fn add(counter: &AtomicU16) -> u16 {
    counter.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two orders of one customer, sent and acknowledged.
    fn sent() -> Ledger {
        let ledger = Ledger::new(2, 1).unwrap();
        for order in 0..2 {
            ledger.meant(order);
            ledger.acknowledged(order);
        }
        ledger
    }

    fn everywhere(ledger: &Ledger, order: u32) {
        Group::ALL.into_iter().for_each(|group| ledger.effect(group, order, 0));
        ledger.invoice(order);
    }

    fn letter(order: u32, group: Group) -> DeadLetter<'static> {
        let (class, error) = (Some("decode"), Some("no JSON"));
        DeadLetter { order: Some(order), group: Some(group.name()), class, error }
    }

    #[test]
    fn orders_that_took_effect_everywhere_in_order_are_fine() {
        let ledger = sent();
        everywhere(&ledger, 0);
        everywhere(&ledger, 1);
        let verdict = ledger.verdict();
        assert_eq!((verdict.lost, verdict.wrong_invoices, verdict.ghosts), (0, 0, 0));
        assert!(verdict.groups.iter().all(|g| (g.effects, g.twice, g.out_of_order) == (2, 0, 0)));
    }

    #[test]
    fn an_acknowledged_order_that_ended_nowhere_in_one_group_is_lost() {
        let ledger = sent();
        everywhere(&ledger, 0);
        ledger.effect(Group::Billing, 1, 0);
        ledger.effect(Group::Mail, 1, 0);
        let verdict = ledger.verdict();
        assert_eq!(verdict.lost, 1);
        assert_eq!(verdict.groups[Group::Stock as usize].lost, 1);
        assert_eq!(verdict.groups[Group::Mail as usize].lost, 0);
    }

    #[test]
    fn an_order_that_nobody_acknowledged_is_not_lost() {
        let ledger = Ledger::new(1, 1).unwrap();
        ledger.meant(0);
        assert_eq!(ledger.verdict().lost, 0);
    }

    #[test]
    fn a_dead_letter_is_a_known_place_and_counts_by_its_class() {
        let ledger = sent();
        everywhere(&ledger, 0);
        Group::ALL.into_iter().for_each(|group| ledger.dead_letter(letter(1, group)));
        let verdict = ledger.verdict();
        assert_eq!(verdict.lost, 0);
        assert_eq!(verdict.groups[0].dead_by_class, BTreeMap::from([("decode".to_owned(), 1)]));
    }

    #[test]
    fn a_dead_letter_without_a_reason_is_seen() {
        let ledger = sent();
        ledger.dead_letter(DeadLetter { error: None, ..letter(0, Group::Mail) });
        assert_eq!(ledger.verdict().dead_without_reason, 1);
    }

    #[test]
    fn an_order_that_ends_twice_in_a_group_is_seen() {
        let ledger = sent();
        ledger.effect(Group::Billing, 0, 0);
        ledger.effect(Group::Billing, 0, 0);
        ledger.effect(Group::Mail, 0, 0);
        ledger.dead_letter(letter(0, Group::Mail));
        let twice = ledger.verdict().groups.map(|group| group.twice);
        assert_eq!(twice, [1, 0, 1]);
    }

    #[test]
    fn an_effect_behind_a_later_one_of_its_customer_is_out_of_order() {
        let ledger = sent();
        ledger.effect(Group::Stock, 1, 0);
        ledger.effect(Group::Stock, 0, 0);
        assert_eq!(ledger.verdict().groups[Group::Stock as usize].out_of_order, 1);
    }

    #[test]
    fn an_order_that_nobody_sent_is_a_ghost() {
        let ledger = Ledger::new(1, 1).unwrap();
        ledger.effect(Group::Billing, 0, 0);
        ledger.invoice(77);
        ledger.dead_letter(DeadLetter { order: None, ..letter(0, Group::Mail) });
        assert_eq!(ledger.verdict().ghosts, 3);
    }

    #[test]
    fn an_invoice_too_few_or_too_many_is_wrong() {
        let ledger = sent();
        ledger.effect(Group::Billing, 0, 0);
        ledger.invoice(1);
        assert_eq!(ledger.verdict().wrong_invoices, 2);
    }
}
