//! UUIDs of version 7 by the million: no call to the system for each.
//!
//! RFC 9562 leaves it to the maker what follows the 48 bits of milliseconds. Here 12 bits go on with the time, in
//! steps of 1/4096 ms (its method 3), and each id takes a step of its own, so that ids of one process grow strictly;
//! if they are made faster than that, they run a little ahead of the clock. The other 62 bits are the operating
//! system's random ones, fetched a block at a time: one by one they cost a system call each, which takes longer than
//! all else that publishing does.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The next id.
///
/// # Errors
/// If the operating system gives no random bits.
pub(crate) fn next() -> Result<uuid::Uuid, getrandom::Error> {
    let step = next_step(now());
    let random = random()?;
    let mut rest = [0; 10];
    rest[..2].copy_from_slice(&(step as u16 & 0xfff).to_be_bytes());
    rest[2..].copy_from_slice(&random);
    Ok(uuid::Builder::from_unix_timestamp_millis(step >> 12, &rest).into_uuid())
}

/// The time in 1/4096 ms since 1970; 0 before.
fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::from(time.subsec_nanos());
    let millis = time.as_secs() * 1_000 + nanos / 1_000_000;
    (millis << 12) | (((nanos % 1_000_000) << 12) / 1_000_000)
}

/// A step that no id of this process has: the one of now, or the next after the last.
fn next_step(now: u64) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let mut last = LAST.load(Ordering::Relaxed);
    loop {
        let next = now.max(last + 1);
        // Nothing else is handed over with it: its own order is enough.
        match LAST.compare_exchange_weak(last, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return next,
            Err(other) => last = other,
        }
    }
}

/// Eight random bytes.
fn random() -> Result<[u8; 8], getrandom::Error> {
    const BLOCK: usize = 1 << 10;
    struct Block {
        bytes: [u8; BLOCK],
        used: usize,
    }
    thread_local! {
        static BYTES: RefCell<Block> = const { RefCell::new(Block { bytes: [0; BLOCK], used: BLOCK }) };
    }
    BYTES.with_borrow_mut(|block| {
        if block.used == BLOCK {
            getrandom::fill(&mut block.bytes)?;
            block.used = 0;
        }
        let mut random = [0; 8];
        random.copy_from_slice(&block.bytes[block.used..block.used + 8]);
        block.used += 8;
        Ok(random)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_says_its_version_its_variant_and_the_time() {
        let before = now() >> 12;

        let id = next().unwrap();

        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        let millis = seconds * 1_000 + u64::from(nanos) / 1_000_000;
        assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        assert!((before..before + 10_000).contains(&millis), "{before} and {millis}");
    }

    #[test]
    fn ids_of_many_threads_are_unique_and_grow_in_each() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..20_000).map(|_| next().unwrap()).collect::<Vec<_>>()))
            .collect();
        let ids: Vec<Vec<_>> = threads.into_iter().map(|t| t.join().unwrap()).collect();

        assert!(ids.iter().all(|of_thread| of_thread.is_sorted_by(|a, b| a < b)));
        assert_eq!(ids.iter().flatten().collect::<HashSet<_>>().len(), 80_000);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_bring_an_id_back() {
        let ahead = next_step(now() + 4_096);
        assert!(next_step(now()) > ahead);
    }

    #[test]
    fn random_bits_differ_past_the_end_of_a_block() {
        let random: HashSet<_> = (0..1_000).map(|_| random().unwrap()).collect();
        assert_eq!(random.len(), 1_000);
    }
}
