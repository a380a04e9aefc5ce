//! The deduplication store in a file against a model, under random use.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::time::Duration;

use common::File;
use millstream_testkit::store_model::{Bounds, Step, check};
use proptest::prelude::*;

/// Leases that are over at once, or not before the test is: its clock is the machine's.
fn step() -> impl Strategy<Value = Step> {
    let lease = prop_oneof![Just(Duration::ZERO), Just(Duration::from_secs(3_600))];
    prop_oneof![
        4 => (prop::collection::vec(0..6u8, 1..4), lease).prop_map(|(ids, lease)| Step::Reserve { ids, lease }),
        3 => any::<usize>().prop_map(Step::Confirm),
        2 => any::<usize>().prop_map(Step::Release),
        1 => (0..6u8).prop_map(Step::Contains),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_a_file_answers_as_a_list_and_a_table_do(steps in prop::collection::vec(step(), 20..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let checked = runtime.block_on(async {
            let file = File::new();
            let store = file.open().await.dedup_store(Duration::from_secs(3_600));
            check(&store, Bounds { entries: None, window: None }, &steps).await
        });
        prop_assert_eq!(checked, Ok(()));
    }
}
