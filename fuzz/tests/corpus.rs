//! What is kept in `corpus/`, and the seeds, through every target: no fuzzer is needed, and any stable compiler does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use millstream_fuzz::targets::ALL;

fn kept(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("listed").path())
        .collect();
    files.sort();
    files
}

fn names_in(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| {
            let path = entry.expect("listed").path();
            path.file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let names: BTreeSet<_> = ALL.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), ALL.len(), "names are unique");
    assert_eq!(names_in("fuzz_targets"), names);
    assert_eq!(names_in("corpus"), names);
}

/// One test for all: what an input allocates is told apart only while nothing else runs.
#[test]
fn all_that_must_hold_holds_of_every_seed_and_of_the_kept_corpus() {
    for target in ALL {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        target.warm_up();
        seeds.iter().for_each(|seed| target.check(seed));
        for path in kept(target.name) {
            println!("{}", path.display());
            target.check(&fs::read(&path).expect("readable"));
        }
    }
}
