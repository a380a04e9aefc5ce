//! Each bug planted in the engine's world is caught, by a check that is meant to catch it.

use millstream_sim::{Check, Defect, Keep, Plan, run};

/// Worlds in which a bug may stay hidden before it has to show.
const WORLDS: u64 = 12;

fn is_caught(defect: Defect) {
    let mut others = Vec::new();
    for seed in 0..WORLDS {
        let plan = Plan::with(seed, defect.shape(), defect.weather()).planted(defect);
        let violations = run(plan, Keep::Hash).violations;
        if violations.iter().any(|violation| defect.caught_by().contains(&violation.check)) {
            return;
        }
        others.extend(violations.into_iter().take(2));
    }
    panic!("{} was not caught by {:?}, but by {others:#?}", defect.name(), defect.caught_by());
}

/// A test for each bug, by a name of its own, and the list of them.
macro_rules! caught {
    ($($test:ident: $defect:ident,)+) => {
        $(#[test]
        fn $test() {
            is_caught(Defect::$defect);
        })+

        const TESTED: &[Defect] = &[$(Defect::$defect,)+];
    };
}

caught! {
    a_store_that_confirms_early_is_caught: StoreConfirmsEarly,
    a_store_that_forgets_is_caught: StoreForgets,
    a_store_that_lets_copies_run_is_caught: StoreLetsCopiesRun,
    a_store_that_mixes_groups_is_caught: StoreMixesGroups,
    a_store_that_never_releases_is_caught: StoreNeverReleases,
    a_writer_that_drops_events_is_caught: WriterDropsEvents,
    a_writer_that_drops_dead_letters_is_caught: WriterDropsLetters,
    a_writer_that_drops_parked_messages_is_caught: WriterDropsParked,
    a_writer_that_writes_twice_is_caught: WriterWritesTwice,
    a_writer_that_truncates_is_caught: WriterTruncates,
    a_writer_that_loses_keys_is_caught: WriterLosesKeys,
    a_writer_that_loses_headers_is_caught: WriterLosesHeaders,
    a_writer_that_hides_failures_is_caught: WriterHidesFailures,
    a_writer_that_trusts_silence_is_caught: WriterTrustsSilence,
    a_settler_that_lies_is_caught: SettlerLies,
    a_settler_that_trusts_silence_is_caught: SettlerTrustsSilence,
    a_settler_that_acknowledges_what_is_parked_is_caught: SettlerAcksParked,
    a_settler_that_acknowledges_retries_is_caught: SettlerAcksRetries,
    a_settler_that_acknowledges_what_is_given_back_is_caught: SettlerAcksReleases,
    a_settler_that_buries_nothing_is_caught: SettlerBuriesNothing,
    a_settler_that_drops_what_commits_with_it_is_caught: SettlerDropsEmitted,
    a_settler_that_commits_too_far_is_caught: SettlerCommitsTooFar,
    a_source_that_counts_nothing_is_caught: SourceCountsNothing,
    a_source_that_reorders_is_caught: SourceReorders,
    a_source_that_loses_what_is_cut_is_caught: SourceLosesWhatIsCut,
    a_source_that_forgets_marks_is_caught: SourceForgetsMarks,
    a_source_that_hides_revocations_is_caught: SourceHidesRevocations,
    leases_that_extend_nothing_are_caught: LeasesExtendNothing,
}

#[test]
fn every_planted_bug_has_a_test() {
    assert_eq!(TESTED, Defect::ALL);
}

#[test]
fn every_check_that_must_catch_something_does() {
    // Bounds, counts, health and ghosts are the engine's own: no bug of its world breaks them.
    let own = [Check::NoGhost, Check::Counts, Check::Bounds, Check::Health];
    let caught: Vec<Check> = Defect::ALL.iter().flat_map(|defect| defect.caught_by()).copied().collect();
    for check in [
        Check::NoLoss,
        Check::Duplicates,
        Check::Order,
        Check::SingleEffect,
        Check::Bytes,
        Check::EarlyAck,
        Check::Exclusive,
        Check::Liveness,
        Check::Leaks,
        Check::Letters,
        Check::TooLate,
    ] {
        assert!(caught.contains(&check) && !own.contains(&check), "no planted bug is for {check:?}");
    }
}
