//! Items by number, which come in ascending order and leave from the front, but for a few.
//!
//! A tree moves its items about within its nodes, and these are large.

use std::collections::VecDeque;

/// Items by number.
#[derive(Debug)]
pub(crate) struct Ascending<T>(VecDeque<(u64, T)>);

impl<T> Ascending<T> {
    pub(crate) const fn new() -> Self {
        Self(VecDeque::new())
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        // At the ends, as nearly always.
        match (self.0.front(), self.0.back()) {
            (Some((first, _)), _) if *first == number => Ok(0),
            (_, Some((last, _))) if *last >= number => {
                self.0.binary_search_by_key(&number, |(number, _)| *number)
            }
            _ => Err(self.0.len()),
        }
    }

    /// Adds an item; one that has the number already is replaced and given.
    pub(crate) fn insert(&mut self, number: u64, item: T) -> Option<T> {
        match self.find(number) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, item)),
            Err(at) => {
                self.0.insert(at, (number, item));
                None
            }
        }
    }

    pub(crate) fn first(&self) -> Option<(u64, &T)> {
        self.0.front().map(|(number, item)| (*number, item))
    }

    pub(crate) fn get(&self, number: u64) -> Option<&T> {
        self.find(number).ok().map(|at| &self.0[at].1)
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let at = self.find(number).ok()?;
        Some(&mut self.0[at].1)
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<T> {
        let at = self.find(number).ok()?;
        self.0.remove(at).map(|(_, item)| item)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u64, &T) -> bool) {
        self.0.retain(|(number, item)| keep(*number, item));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.0.iter().map(|(number, item)| (*number, item))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_by_number_whatever_order_items_come_and_go_in(
            steps in proptest::collection::vec((any::<bool>(), 0u64..20), 0..100)
        ) {
            let (mut map, mut items) = (BTreeMap::new(), Ascending::new());
            for (n, (comes, number)) in steps.into_iter().enumerate() {
                if comes {
                    prop_assert_eq!(items.insert(number, n), map.insert(number, n));
                } else {
                    prop_assert_eq!(items.remove(number), map.remove(&number));
                }
                prop_assert_eq!(items.get(number), map.get(&number));
                prop_assert_eq!(items.first(), map.first_key_value().map(|(number, item)| (*number, item)));
            }
            let both: Vec<_> = items.iter().map(|(number, item)| (number, *item)).collect();
            prop_assert_eq!(both, map.into_iter().collect::<Vec<_>>());
        }
    }
}
