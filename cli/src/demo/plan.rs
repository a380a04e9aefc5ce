//! What is to happen to each order, as a pure function of the seed and its number: a run repeats, and
//! publisher, handlers and tests agree without talking to each other.

use fastrand::Rng;

/// One order in so many is sent twice.
const COPY_EVERY: u32 = 50;
const COPY_AT: u32 = 3;
/// One order in so many is poison. The places differ modulo [`COPY_EVERY`], so that no poison is sent twice.
const POISON_EVERY: u32 = 500;
const POISON_AT: u32 = 7;
/// In a hundred orders so many are declined at first, once or twice.
const DECLINED_PER_CENT: u32 = 5;

/// The plan of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) orders: u32,
    pub(crate) seed: u64,
}

/// Why an order can never be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poison {
    /// Its bytes are cut short: no group can read it.
    CutShort,
    /// The mail handler says that no retry can help.
    NoAddress,
    /// The mail handler panics, at every attempt.
    Panics,
}

impl Plan {
    /// Customers among whom the orders are spread.
    pub(crate) fn customers(&self) -> u32 {
        (self.orders / 20).clamp(5, 1_000)
    }

    /// Whose order it is.
    pub(crate) fn customer(&self, order: u32) -> u32 {
        self.random(order, 1).u32(0..self.customers())
    }

    /// What it costs.
    pub(crate) fn cents(&self, order: u32) -> u64 {
        self.random(order, 2).u64(100..100_000)
    }

    /// How many attempts to bill it fail before one succeeds.
    pub(crate) fn declines(&self, order: u32) -> u32 {
        let mut random = self.random(order, 3);
        if random.u32(0..100) < DECLINED_PER_CENT { random.u32(1..=2) } else { 0 }
    }

    /// Whether it is sent twice, with the same id.
    pub(crate) fn is_copied(&self, order: u32) -> bool {
        order % COPY_EVERY == COPY_AT
    }

    /// How many orders are sent twice.
    pub(crate) fn copies(&self) -> u64 {
        (0..self.orders).filter(|order| self.is_copied(*order)).count() as u64
    }

    /// Whether and why it can never be handled.
    pub(crate) fn poison(&self, order: u32) -> Option<Poison> {
        if order % POISON_EVERY != POISON_AT {
            return None;
        }
        Some(match order / POISON_EVERY % 3 {
            0 => Poison::CutShort,
            1 => Poison::NoAddress,
            _ => Poison::Panics,
        })
    }

    fn random(&self, order: u32, use_: u64) -> Rng {
        // Odd factors spread numbers that follow each other over all seeds.
        let number = u64::from(order).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Rng::with_seed(self.seed ^ number ^ use_.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { orders: 30_000, seed: 1 };

    #[test]
    fn one_in_fifty_is_copied_and_no_poison_is() {
        assert_eq!(PLAN.copies(), 600);
        assert!(!(0..PLAN.orders).any(|n| PLAN.is_copied(n) && PLAN.poison(n).is_some()));
    }

    #[test]
    fn one_in_five_hundred_is_poison_and_each_kind_comes_as_often() {
        for kind in [Poison::CutShort, Poison::NoAddress, Poison::Panics] {
            assert_eq!((0..PLAN.orders).filter(|n| PLAN.poison(*n) == Some(kind)).count(), 20);
        }
    }

    #[test]
    fn about_one_in_twenty_is_declined_at_first() {
        let declined = (0..PLAN.orders).filter(|n| PLAN.declines(*n) > 0).count();
        assert!((1_300..1_700).contains(&declined), "{declined}");
    }

    #[test]
    fn customers_get_about_as_many_orders_each() {
        let mut orders = vec![0; PLAN.customers() as usize];
        (0..PLAN.orders).for_each(|n| orders[PLAN.customer(n) as usize] += 1);
        let (min, max) = (orders.iter().min().unwrap(), orders.iter().max().unwrap());
        assert!(*min > 5 && *max < 90, "{min} {max}");
    }

    #[test]
    fn another_seed_is_another_run() {
        let other = Plan { seed: 2, ..PLAN };
        assert!((0..100).any(|n| other.customer(n) != PLAN.customer(n)));
    }
}
