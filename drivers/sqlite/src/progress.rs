//! How far a group is in a slot, as a row of `millstream_slot`, and what it has parked, under checksums.

use std::time::Duration;

use crc32fast::Hasher;

use crate::row::Damage;

/// Everything up to `front` is done, except the holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) front: u64,
    /// Ascending numbers at or below the front that are not done, and how often each was delivered.
    pub(crate) holes: Vec<(u64, u32)>,
    /// Messages that are parked in this slot: they are no holes, each has a row of its own.
    pub(crate) parked: u32,
}

/// Bytes of a hole: its number and its deliveries.
const HOLE: usize = 12;

impl Progress {
    /// The holes as bytes.
    pub(crate) fn encode_holes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.holes.len() * HOLE);
        for (seq, deliveries) in &self.holes {
            bytes.extend_from_slice(&seq.to_le_bytes());
            bytes.extend_from_slice(&deliveries.to_le_bytes());
        }
        bytes
    }

    /// The checksum of the slot's row. Who owns it is not part of it: that changes without its progress.
    pub(crate) fn crc(&self, group: i64, slot: usize, holes: &[u8]) -> u32 {
        let mut crc = Hasher::new();
        crc.update(&group.to_le_bytes());
        crc.update(&(slot as u64).to_le_bytes());
        crc.update(&self.front.to_le_bytes());
        crc.update(&self.parked.to_le_bytes());
        crc.update(holes);
        crc.finalize()
    }

    /// Reads it back from the row's columns.
    pub(crate) fn read(
        group: i64,
        slot: usize,
        front: i64,
        holes: &[u8],
        parked: i64,
        crc: i64,
    ) -> Result<Self, Damage> {
        let damage = |what: &str| Damage(format!("slot {slot} of group {group} {what}"));
        let front = u64::try_from(front).map_err(|_| damage("has a front below 0"))?;
        let parked = u32::try_from(parked).map_err(|_| damage("has an odd count of what is parked"))?;
        let (chunks, rest) = holes.as_chunks::<HOLE>();
        if !rest.is_empty() {
            return Err(damage("has holes that end early"));
        }
        let decoded = chunks.iter().map(|chunk| {
            let (seq, deliveries) = chunk.split_at(8);
            (
                u64::from_le_bytes(seq.try_into().unwrap_or_default()),
                u32::from_le_bytes(deliveries.try_into().unwrap_or_default()),
            )
        });
        let progress = Self { front, holes: decoded.collect(), parked };
        if i64::from(progress.crc(group, slot, holes)) != crc {
            return Err(damage("does not fit its checksum"));
        }
        Ok(progress)
    }

    /// The lowest number that is not done, or the one behind the front.
    pub(crate) fn lowest(&self) -> u64 {
        self.holes.first().map_or(self.front + 1, |(seq, _)| *seq)
    }
}

/// When a parked message may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// Wall-clock nanoseconds.
    pub(crate) at: i64,
    /// How long that was when it was parked, in nanoseconds. Whoever parked it may have had a wrong clock: nobody waits
    /// longer than this.
    pub(crate) wait: i64,
}

impl Due {
    /// So long after now.
    pub(crate) fn after(wait: Duration, wall: i64) -> Self {
        let wait = i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX);
        Self { at: wall.saturating_add(wait), wait }
    }

    /// What is left of the wait.
    pub(crate) fn left(self, wall: i64) -> Duration {
        let left = self.at.saturating_sub(wall).min(self.wait);
        Duration::from_nanos(u64::try_from(left).unwrap_or(0))
    }
}

/// A row of `millstream_parked` without its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParkedRow {
    pub(crate) seq: u64,
    pub(crate) slot: usize,
    pub(crate) key: Option<Vec<u8>>,
    /// None behind others of its key.
    pub(crate) due: Option<Due>,
    pub(crate) attempts: u32,
    /// Since it was parked.
    pub(crate) deliveries: u32,
    pub(crate) first_failure: Option<i64>,
    pub(crate) error: String,
}

impl ParkedRow {
    pub(crate) fn crc(&self, group: i64) -> u32 {
        let mut crc = Hasher::new();
        crc.update(&group.to_le_bytes());
        crc.update(&self.seq.to_le_bytes());
        crc.update(&(self.slot as u64).to_le_bytes());
        for time in [self.due.map(|due| due.at), self.due.map(|due| due.wait), self.first_failure] {
            crc.update(&[u8::from(time.is_some())]);
            crc.update(&time.unwrap_or_default().to_le_bytes());
        }
        crc.update(&self.attempts.to_le_bytes());
        crc.update(&self.deliveries.to_le_bytes());
        crc.update(&self.key.as_ref().map_or(u64::MAX, |key| key.len() as u64).to_le_bytes());
        crc.update(self.key.as_deref().unwrap_or_default());
        crc.update(self.error.as_bytes());
        crc.finalize()
    }

    /// The columns that [`read`](Self::read) takes, in its order.
    pub(crate) const COLUMNS: &str =
        "seq, slot, key, due, wait, attempts, deliveries, first_failure, error, crc";

    /// Reads the columns of [`COLUMNS`](Self::COLUMNS).
    pub(crate) fn read(group: i64, row: &rusqlite::Row<'_>) -> Result<Self, Damage> {
        let odd =
            |e: rusqlite::Error| Damage(format!("a parked message of group {group} cannot be read: {e}"));
        let (at, wait): (Option<i64>, Option<i64>) = (row.get(3).map_err(odd)?, row.get(4).map_err(odd)?);
        let parked = Self {
            seq: row.get(0).map_err(odd)?,
            slot: row.get(1).map_err(odd)?,
            key: row.get(2).map_err(odd)?,
            due: at.zip(wait).map(|(at, wait)| Due { at, wait }),
            attempts: row.get(5).map_err(odd)?,
            deliveries: row.get(6).map_err(odd)?,
            first_failure: row.get(7).map_err(odd)?,
            error: row.get(8).map_err(odd)?,
        };
        let crc: i64 = row.get(9).map_err(odd)?;
        if i64::from(parked.crc(group)) != crc {
            return Err(Damage(format!(
                "the parked message {} of group {group} does not fit its checksum",
                parked.seq
            )));
        }
        Ok(parked)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_progress_comes_back_as_it_was_and_no_other_passes_for_it(
            group in 0..i64::MAX,
            slot in 0..64usize,
            front in 0..u64::try_from(i64::MAX).unwrap(),
            holes in proptest::collection::btree_map(any::<u64>(), any::<u32>(), 0..20),
            parked in any::<u32>(),
            flip in any::<usize>(),
        ) {
            let progress = Progress { front, holes: holes.clone().into_iter().collect(), parked };
            let mut bytes = progress.encode_holes();
            let crc = i64::from(progress.crc(group, slot, &bytes));
            let read = |bytes: &[u8], slot, front| Progress::read(group, slot, front, bytes, parked.into(), crc);
            let front = i64::try_from(front).unwrap();

            prop_assert_eq!(read(&bytes, slot, front), Ok(progress.clone()));
            let lowest = BTreeMap::first_key_value(&holes).map_or(progress.front + 1, |(seq, _)| *seq);
            prop_assert_eq!(progress.lowest(), lowest);
            prop_assert!(read(&bytes, slot + 1, front).is_err());
            prop_assert!(read(&bytes, slot, front ^ 1).is_err());
            if !bytes.is_empty() {
                let bit = flip % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(read(&bytes, slot, front).is_err(), "bit {}", bit);
            }
            bytes.push(0);
            prop_assert!(read(&bytes, slot, front).is_err());
        }

        #[test]
        fn no_bytes_are_too_odd_for_the_decoder_of_holes(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            (front, parked, crc) in any::<(i64, i64, i64)>(),
        ) {
            // Whatever it says, it says it.
            let _ = Progress::read(1, 0, front, &bytes, parked, crc);
        }
    }

    #[test]
    fn a_wait_is_over_after_its_own_time_whatever_the_clocks_say() {
        let (second, hour) = (Duration::from_secs(1), 3_600_000_000_000);
        let due = Due::after(second, 0);
        assert_eq!(due.left(400_000_000), Duration::from_millis(600));
        assert_eq!(due.left(hour), Duration::ZERO);
        // Parked by somebody whose clock was an hour ahead, or taken over by one whose is behind.
        assert_eq!(Due::after(second, hour).left(0), second);
        assert_eq!(due.left(-hour), second);
        assert_eq!(due.left(i64::MIN), second);
        assert_eq!(Due::after(Duration::MAX, i64::MAX).left(i64::MIN), Duration::from_nanos(i64::MAX as u64));
    }

    #[test]
    fn progress_comes_back_as_it_was_and_every_flipped_bit_is_seen() {
        let progress = Progress { front: 900, holes: vec![(7, 1), (800, 3)], parked: 2 };
        let holes = progress.encode_holes();
        let crc = i64::from(progress.crc(5, 9, &holes));
        assert_eq!(Progress::read(5, 9, 900, &holes, 2, crc), Ok(progress.clone()));
        assert_eq!(progress.lowest(), 7);
        for bit in 0..holes.len() * 8 {
            let mut flipped = holes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Progress::read(5, 9, 900, &flipped, 2, crc).is_err(), "bit {bit}");
        }
        assert!(Progress::read(5, 9, 901, &holes, 2, crc).is_err());
        assert!(Progress::read(5, 9, 900, &holes, 3, crc).is_err());
        assert!(Progress::read(5, 10, 900, &holes, 2, crc).is_err());
    }
}
