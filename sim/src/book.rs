//! What is known of a world while it runs: who holds what, what has found its end, and how handlers fared.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use millstream_core::{Epoch, PartitionId, TokenId};

/// A message in a group.
pub(crate) type Case = (&'static str, ByteString);

/// A delivery that is not settled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Open {
    pub(crate) case: Case,
    /// It came out of the park.
    pub(crate) parked: bool,
}

/// Deliveries of one member, by token.
pub(crate) type Held = BTreeMap<TokenId, Open>;

#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Every delivery that a member has and has not settled.
    open: BTreeMap<u64, Held>,
    /// The newest assignment of each partition: by group, and whether it is the park's.
    newest: BTreeMap<(&'static str, bool, PartitionId), Epoch>,
    /// How often each of them is there.
    counts: BTreeMap<Open, u32>,
    /// Handled, dead-lettered or discarded, confirmed.
    pub(crate) finished: BTreeSet<Case>,
    /// Written to the park, confirmed.
    pub(crate) parked: BTreeSet<Case>,
    /// Acknowledged or buried with an answer that got lost.
    pub(crate) in_doubt: BTreeSet<Case>,
    /// Dead letters that were confirmed, and those of which nobody knows.
    pub(crate) letters: BTreeMap<Case, u64>,
    pub(crate) letters_in_doubt: u64,
    pub(crate) fates: BTreeMap<Case, Fate>,
    /// Effects that a broker's transactions committed, as far as they were written down.
    pub(crate) committed_effects: usize,
    pub(crate) runs: u64,
    pub(crate) handled: BTreeMap<&'static str, u64>,
    pub(crate) failed: BTreeMap<&'static str, u64>,
    pub(crate) discarded: BTreeMap<&'static str, u64>,
    /// Distinct messages that were confirmed to whoever published them.
    pub(crate) acked: BTreeSet<ByteString>,
    /// Settlements that came too late, and those of which nobody knows.
    pub(crate) too_late: u64,
    /// The most that a process held beyond its limit, and the limit.
    pub(crate) over_limit: Option<(usize, usize)>,
    /// What must never be: told at once, with its time.
    pub(crate) breaches: Vec<String>,
}

/// How a message fared in a group.
#[derive(Debug, Default, Clone)]
pub(crate) struct Fate {
    /// Runs of its handler, in all processes.
    pub(crate) runs: u32,
    /// Those of them that count as attempts.
    pub(crate) failed: u32,
    /// Runs that go on now.
    pub(crate) running: u32,
    /// It was hopeless at least once.
    pub(crate) hopeless: bool,
}

impl Book {
    pub(crate) fn hold(&mut self, member: u64, token: TokenId, open: Open) {
        *self.counts.entry(open.clone()).or_default() += 1;
        if let Some(before) = self.open.entry(member).or_default().insert(token, open) {
            self.uncount(&before);
        }
    }

    pub(crate) fn release(&mut self, member: u64, token: TokenId) -> Option<Open> {
        let open = self.open.get_mut(&member)?.remove(&token)?;
        self.uncount(&open);
        Some(open)
    }

    pub(crate) fn case_of(&self, member: u64, token: TokenId) -> Option<Case> {
        Some(self.open.get(&member)?.get(&token)?.case.clone())
    }

    /// Deliveries of a partition up to a position: what a cumulative settlement settles.
    pub(crate) fn up_to(&self, member: u64, token: TokenId) -> Vec<TokenId> {
        let Some(held) = self.open.get(&member) else { return Vec::new() };
        let first = TokenId { id: 0, ..token };
        held.range(first..=token).map(|(token, _)| *token).collect()
    }

    /// Forgets what a member held of partitions that it lost, and says what that was.
    pub(crate) fn lose(&mut self, member: u64, partitions: &[PartitionId]) -> Vec<Case> {
        let held = self.open.get(&member).into_iter().flat_map(BTreeMap::keys);
        let gone: Vec<TokenId> =
            held.filter(|token| partitions.contains(&token.partition)).copied().collect();
        gone.into_iter().filter_map(|token| self.release(member, token)).map(|open| open.case).collect()
    }

    pub(crate) fn forget(&mut self, member: u64) {
        for open in self.open.remove(&member).into_iter().flat_map(BTreeMap::into_values) {
            self.uncount(&open);
        }
    }

    /// Partitions were given out anew: what was held of them under earlier assignments is nobody's any more. Gives
    /// all of that, and what of it waited behind a gap. Of a park only what this member held: whoever looks into a park
    /// takes it from nobody.
    pub(crate) fn reassigned(
        &mut self,
        to: u64,
        group: &'static str,
        parked: bool,
        news: &[(PartitionId, Epoch)],
    ) -> (Vec<Case>, Vec<Case>) {
        for (partition, epoch) in news {
            let newest = self.newest.entry((group, parked, *partition)).or_insert(*epoch);
            *newest = (*newest).max(*epoch);
        }
        let mut gone = Vec::new();
        let mut behind = Vec::new();
        for (member, held) in self.open.iter().filter(|(member, _)| !parked || **member == to) {
            let old = held.iter().filter(|(token, open)| {
                let earlier =
                    |(p, epoch): &(PartitionId, Epoch)| token.partition == *p && token.epoch < *epoch;
                open.case.0 == group && open.parked == parked && news.iter().any(earlier)
            });
            let before = gone.len();
            gone.extend(old.map(|(token, _)| (*member, *token)));
            if gone.len() > before {
                behind.extend(self.behind_a_gap(*member));
            }
        }
        let dropped = gone.into_iter().filter_map(|(member, token)| self.release(member, token));
        (dropped.map(|open| open.case).collect(), behind)
    }

    /// What a member of a log has and cannot commit, though it was handled, since an earlier message of its partition
    /// waits: if the partition moves, it comes again, also in order. The earlier one may have been handled, too, by
    /// another member.
    pub(crate) fn behind_a_gap(&self, member: u64) -> Vec<Case> {
        let open = self.open.get(&member).into_iter().flat_map(BTreeMap::values);
        open.filter(|open| self.may_end(open)).map(|open| open.case.clone()).collect()
    }

    /// Whether a delivery is of an assignment that is over: whoever was cut off does not know.
    pub(crate) fn is_outdated(&self, group: &'static str, parked: bool, token: TokenId) -> bool {
        self.newest.get(&(group, parked, token.partition)).is_some_and(|newest| token.epoch < *newest)
    }

    pub(crate) fn is_open(&self, open: &Open) -> bool {
        self.counts.contains_key(open)
    }

    fn uncount(&mut self, open: &Open) {
        if let Some(count) = self.counts.get_mut(open) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(open);
            }
        }
    }

    /// Whether a delivery may be acknowledged.
    pub(crate) fn may_end(&self, open: &Open) -> bool {
        self.finished.contains(&open.case) || (!open.parked && self.parked.contains(&open.case))
    }

    /// What is out with members and does not run: after a fault it may come once more.
    pub(crate) fn unsettled(&self) -> Vec<ByteString> {
        let open = self.open.values().flat_map(BTreeMap::values);
        let idle = open.filter(|open| self.fates.get(&open.case).is_none_or(|fate| fate.running == 0));
        idle.map(|open| open.case.1.clone()).collect()
    }
}
