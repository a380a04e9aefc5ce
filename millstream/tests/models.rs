//! Public parts of the toolkit against models, under random use: the deduplication store in memory, and the schedule
//! of retries.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::time::Duration;

use millstream::{EmbeddedDedupStore, Jitter, Retry, Units};
use millstream_testkit::store_model::{Bounds, Step, check};
use proptest::prelude::*;

fn step() -> impl Strategy<Value = Step> {
    let lease = prop_oneof![Just(Duration::ZERO), (1..60_000u64).prop_map(Duration::from_millis)];
    prop_oneof![
        4 => (prop::collection::vec(0..8u8, 1..4), lease).prop_map(|(ids, lease)| Step::Reserve { ids, lease }),
        3 => any::<usize>().prop_map(Step::Confirm),
        2 => any::<usize>().prop_map(Step::Release),
        1 => (0..8u8).prop_map(Step::Contains),
        2 => (1..30_000u64).prop_map(|ms| Step::Time(Duration::from_millis(ms))),
    ]
}

proptest! {
    #[test]
    fn the_store_in_memory_answers_as_a_list_and_a_table_do(
        entries in 1..6usize,
        ttl in (1..120_000u64).prop_map(Duration::from_millis),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let checked = runtime.block_on(async {
            let store = EmbeddedDedupStore::new(entries).ttl(ttl);
            check(&store, Bounds { entries: Some(entries), window: Some(ttl) }, &steps).await
        });
        prop_assert_eq!(checked, Ok(()));
    }

    #[test]
    fn a_wait_is_drawn_below_a_ceiling_that_doubles_up_to_the_longest(
        first in (0..10_000u64).prop_map(Duration::from_millis),
        longest in (0..1_000_000u64).prop_map(Duration::from_millis),
        failed in prop_oneof![1..12u32, any::<u32>()],
        seed in any::<u64>(),
    ) {
        let retry = Retry::exponential(first, longest);
        let mut random = fastrand::Rng::with_seed(seed);
        let ceiling = retry.ceiling(failed);

        // By its definition, in numbers that cannot overflow.
        let doubled = first.as_nanos().saturating_mul(1 << u128::from(failed.saturating_sub(1).min(60)));
        prop_assert_eq!(ceiling.as_nanos(), doubled.min(longest.max(first).as_nanos()));
        prop_assert!(retry.wait(failed, &mut random) <= ceiling);
        prop_assert!(failed == u32::MAX || retry.ceiling(failed + 1) >= ceiling);
        prop_assert_eq!(retry.jitter(Jitter::None).wait(failed, &mut random), ceiling);
    }

    #[test]
    fn full_jitter_spreads_waits_over_the_whole_range(seed in any::<u64>()) {
        let retry = Retry::fixed(100.s()).jitter(Jitter::Full);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tenths = [0; 10];
        for _ in 0..1_000 {
            tenths[usize::try_from(retry.wait(1, &mut random).as_secs() / 10).unwrap().min(9)] += 1;
        }
        // 100 in each on average; 50 is more than five standard deviations away.
        prop_assert!(tenths.iter().all(|count| (50..150).contains(count)), "{:?}", tenths);
    }

    #[test]
    fn there_is_at_least_one_attempt_and_never_more_than_asked_for(attempts in any::<u32>()) {
        prop_assert_eq!(Retry::default().attempts(attempts).max_attempts(), attempts.max(1));
    }

    #[test]
    fn units_are_what_they_say(count in 0..1_000_000u32) {
        prop_assert_eq!(count.ms(), Duration::from_millis(u64::from(count)));
        prop_assert_eq!(count.s(), count.ms() * 1_000);
        prop_assert_eq!(count.mins(), count.s() * 60);
        prop_assert_eq!(count.hours(), count.mins() * 60);
    }
}
