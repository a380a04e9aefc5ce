//! What is left of files after a power cut.

use std::collections::HashSet;

use super::*;

const FILE: FileId = 7;

fn named(name: &str, file: FileId) -> Change {
    Change::Named { name: name.into(), file }
}

fn written(offset: u64, data: impl AsRef<[u8]>) -> Change {
    Change::Written { file: FILE, offset, data: data.as_ref().into() }
}

/// A record of a file whose name is durable, and what happened to it.
fn record(changes: impl IntoIterator<Item = Change>) -> Record {
    Record::of([named("a", FILE), Change::FolderSynced].into_iter().chain(changes).collect())
}

fn left(record: &Record, survives: Survives, seed: u64) -> Image {
    record.after(PowerCut { after: record.changes().len(), survives, seed })
}

/// All that may be left of the file.
fn all_left(record: &Record) -> HashSet<Vec<u8>> {
    let images = Survives::ALL.into_iter().flat_map(|s| (0..200).map(move |seed| left(record, s, seed)));
    images.map(|image| image.file("a").unwrap().to_vec()).collect()
}

#[test]
fn what_was_synced_is_there_whatever_survives() {
    let record = record([written(0, "one"), Change::Synced { file: FILE }]);
    assert_eq!(all_left(&record), HashSet::from([b"one".to_vec()]));
}

#[test]
fn of_what_was_not_synced_there_may_be_any_part_or_zeros_where_the_file_grew() {
    let record = record([written(0, "1"), Change::Synced { file: FILE }, written(1, "2"), written(2, "3")]);
    let all = all_left(&record);
    for expected in [&b"1"[..], b"12", b"123", b"1\x003", b"1\0"] {
        assert!(all.contains(expected), "{expected:?} is not among {all:?}");
    }
    assert_eq!(left(&record, Survives::Nothing, 1).file("a").unwrap(), b"1");
    assert_eq!(left(&record, Survives::Everything, 1).file("a").unwrap(), b"123");
}

#[test]
fn a_write_is_torn_between_sectors_and_never_within_one() {
    // Given a write from the middle of a sector to the middle of the next but one.
    let record = record([
        Change::Resized { file: FILE, size: 2_048 },
        Change::Synced { file: FILE },
        written(256, vec![b'x'; 1_024]),
    ]);
    let mut torn = 0;
    for data in all_left(&record) {
        let parts = [256..512, 512..1_024, 1_024..1_280];
        let set: Vec<bool> = parts.clone().map(|part| data[part.start] == b'x').into();
        for (part, set) in parts.into_iter().zip(&set) {
            assert!(data[part].iter().all(|byte| (*byte == b'x') == *set), "torn within a sector");
        }
        torn += usize::from(set.contains(&true) && set.contains(&false));
    }
    assert_eq!(torn, 6, "each part alone, and each two of them");
}

#[test]
fn a_name_is_there_once_its_folder_was_synced() {
    let unsynced = Record::of(vec![named("a", FILE), written(0, "x"), Change::Synced { file: FILE }]);
    assert_eq!(left(&unsynced, Survives::Nothing, 1).file("a"), None);
    let mut changes = unsynced.changes().to_vec();
    changes.push(Change::FolderSynced);
    assert_eq!(left(&Record::of(changes), Survives::Nothing, 1).file("a").unwrap(), b"x");
}

#[test]
fn a_rename_happens_as_a_whole_or_not_at_all() {
    let record = record([
        named("b", 8),
        Change::FolderSynced,
        Change::Renamed { from: "b".into(), to: "a".into(), file: 8 },
    ]);
    let names: HashSet<Vec<&str>> = (0..100)
        .map(|seed| left(&record, Survives::Some, seed))
        .map(|image| ["a", "b"].into_iter().filter(|name| image.file(name).is_some()).collect())
        .collect();
    assert_eq!(names, HashSet::from([vec!["a"], vec!["a", "b"]]));
}

#[test]
fn after_a_sync_that_failed_a_later_one_does_not_make_it_durable() {
    let record =
        record([written(0, "1234"), Change::SyncFailed { file: FILE }, Change::Synced { file: FILE }]);
    assert_eq!(left(&record, Survives::Nothing, 1).file("a").unwrap(), b"");
    // Written again and synced, it is: that part of it.
    let mut changes = record.changes().to_vec();
    changes.extend([written(1, "xx"), Change::Synced { file: FILE }]);
    let again = Record::of(changes);
    assert_eq!(left(&again, Survives::Nothing, 1).file("a").unwrap(), b"\0xx");
    assert_eq!(left(&again, Survives::Everything, 1).file("a").unwrap(), b"1xx4");
}

#[test]
fn the_same_seed_leaves_the_same() {
    let record = record((0..50).map(|n| written(n * 300, vec![b'x'; 700])));
    for survives in Survives::ALL {
        assert_eq!(left(&record, survives, 5), left(&record, survives, 5));
    }
    assert_ne!(left(&record, Survives::Torn, 5), left(&record, Survives::Torn, 6));
}

#[test]
fn going_on_from_one_cut_to_the_next_is_as_starting_anew() {
    let record = record([
        written(0, "1"),
        Change::Synced { file: FILE },
        written(1, "2"),
        Change::Unnamed { name: "a".into() },
        Change::FolderSynced,
    ]);
    let mut replay = record.replay();
    for after in 0..=record.changes().len() {
        replay.advance(after);
        for survives in Survives::ALL {
            assert_eq!(replay.cut(survives, 9), record.after(PowerCut { after, survives, seed: 9 }));
        }
    }
}
