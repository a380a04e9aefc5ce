//! Contiguous commit: what of a partition may be settled, when settling a position settles all before it.
//!
//! Each message read gets a number. Finished ones wait until all before them are finished; only then are
//! they handed out. The committed position therefore never passes an unfinished message.

use std::collections::VecDeque;

use millstream_core::Token;
use tokio::time::Instant;

/// What leaves with an acknowledgement, where it leaves in one transaction with it.
pub(crate) type Carry<C> = Option<Box<C>>;

#[derive(Debug)]
enum Slot<C> {
    Open,
    Done(Token, Carry<C>),
}

impl<C> Slot<C> {
    fn take_carry(&mut self) -> Carry<C> {
        match self {
            Self::Done(_, carry) => carry.take(),
            Self::Open => None,
        }
    }
}

/// The messages of one partition between the committed position and the newest read.
#[derive(Debug)]
pub(crate) struct Tracker<C> {
    slots: VecDeque<(Slot<C>, Instant)>,
    /// The number of the first slot.
    base: u64,
    /// Handed out to be settled and not yet confirmed by the broker.
    unconfirmed: usize,
    /// The first that was given back: nothing behind it can be settled any more.
    given_back: Option<u64>,
}

impl<C> Tracker<C> {
    pub(crate) fn new() -> Self {
        Self { slots: VecDeque::new(), base: 0, unconfirmed: 0, given_back: None }
    }

    /// A message was read: its number.
    pub(crate) fn read(&mut self, now: Instant) -> u64 {
        let number = self.base + self.slots.len() as u64;
        self.slots.push_back((Slot::Open, now));
        number
    }

    /// A message is finished. Unknown numbers are ignored: they belong to an assignment that is over. What can never leave,
    /// since one before it was given back, comes back at once.
    pub(crate) fn finish(&mut self, number: u64, token: Token, carry: Carry<C>) -> Carry<C> {
        if carry.is_some() && self.given_back.is_some_and(|first| number > first) {
            return carry;
        }
        let slot = number.checked_sub(self.base).and_then(|i| self.slots.get_mut(usize::try_from(i).ok()?));
        if let Some((slot @ Slot::Open, _)) = slot {
            *slot = Slot::Done(token, carry);
        }
        None
    }

    /// A message is given back: what waits behind it, to leave with a position that will not be reached.
    pub(crate) fn give_back(&mut self, number: u64) -> Vec<Box<C>> {
        let first = self.given_back.map_or(number, |first| first.min(number));
        self.given_back = Some(first);
        let behind = usize::try_from((first + 1).saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.slots.iter_mut().skip(behind).filter_map(|(slot, _)| slot.take_carry()).collect()
    }

    /// Everything that waits: the assignment is over.
    pub(crate) fn end(mut self) -> Vec<Box<C>> {
        self.slots.iter_mut().filter_map(|(slot, _)| slot.take_carry()).collect()
    }

    /// The next message to be settled, if all before it are finished. One that is followed by another to be
    /// settled and carries nothing need not be sent: the second value says so.
    pub(crate) fn advance(&mut self) -> Option<(Token, Carry<C>)> {
        if !matches!(self.slots.front(), Some((Slot::Done(..), _))) {
            return None;
        }
        let Some((Slot::Done(token, carry), _)) = self.slots.pop_front() else { return None };
        self.base += 1;
        self.unconfirmed += 1;
        Some((token, carry))
    }

    /// The broker confirmed so many.
    pub(crate) fn confirmed(&mut self, count: usize) {
        self.unconfirmed = self.unconfirmed.saturating_sub(count);
    }

    /// The newest that is finished and waits for one before it.
    pub(crate) fn newest_finished(&self) -> Option<u64> {
        let newest = self.slots.iter().rposition(|(slot, _)| matches!(slot, Slot::Done(..)))?;
        Some(self.base + newest as u64)
    }

    /// Messages between the confirmed position and the newest read.
    pub(crate) fn gap(&self) -> usize {
        self.slots.len() + self.unconfirmed
    }

    /// When the oldest unfinished message was read.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.slots.front().map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::{Epoch, PartitionId};
    use proptest::prelude::*;

    fn token(id: u64) -> Token {
        Token::new(PartitionId(0), Epoch(0), id)
    }

    fn drain(tracker: &mut Tracker<()>) -> Vec<u64> {
        std::iter::from_fn(|| tracker.advance().map(|(t, _)| t.id().id)).collect()
    }

    #[tokio::test]
    async fn a_message_behind_an_unfinished_one_waits() {
        let mut tracker = Tracker::new();
        let numbers: Vec<_> = (0..3).map(|_| tracker.read(Instant::now())).collect();
        tracker.finish(numbers[1], token(1), None);
        tracker.finish(numbers[2], token(2), None);
        assert_eq!(drain(&mut tracker), [] as [u64; 0]);
        assert_eq!(tracker.newest_finished(), Some(2));
        tracker.finish(numbers[0], token(0), None);
        assert_eq!(drain(&mut tracker), [0, 1, 2]);
        assert_eq!(tracker.newest_finished(), None);
    }

    #[tokio::test]
    async fn what_waits_behind_one_that_is_given_back_comes_back() {
        let mut tracker = Tracker::new();
        let numbers: Vec<_> = (0..5).map(|_| tracker.read(Instant::now())).collect();
        let carry = |n: u64| Some(Box::new(n));
        assert!(tracker.finish(numbers[1], token(1), carry(1)).is_none());
        assert!(tracker.finish(numbers[3], token(3), carry(3)).is_none());
        assert_eq!(tracker.give_back(numbers[2]), [Box::new(3)]);
        assert_eq!(tracker.finish(numbers[4], token(4), carry(4)), carry(4));
        // What lies before it may still be finished.
        tracker.finish(numbers[0], token(0), None);
        let left: Vec<_> = std::iter::from_fn(|| tracker.advance()).map(|(_, carry)| carry).collect();
        assert_eq!(left, [None, carry(1)]);
        assert!(tracker.end().is_empty());
    }

    proptest! {
        #[test]
        fn in_any_order_of_completion_nothing_passes_an_unfinished_message(
            order in Just((0..200u64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _guard = runtime.enter();
            let mut tracker = Tracker::new();
            for _ in 0..200 {
                tracker.read(Instant::now());
            }
            let mut finished = std::collections::BTreeSet::new();
            let mut settled = Vec::new();
            for number in order {
                tracker.finish(number, token(number), None);
                finished.insert(number);
                settled.extend(drain(&mut tracker));
                let lowest_open = (0..).find(|n| !finished.contains(n)).unwrap();
                prop_assert_eq!(settled.len() as u64, lowest_open);
            }
            prop_assert_eq!(settled, (0..200).collect::<Vec<_>>());
        }
    }
}
