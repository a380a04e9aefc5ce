//! A mounted disk as a process meets it. Where FUSE is not allowed these tests say so and test nothing.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use millstream_disk::{Change, Disk, Failure, Fault, Lasts, NOTES, Operation, PowerCut, Survives};
use tempfile::TempDir;

struct Mounted {
    disk: Disk,
    _folder: TempDir,
}

impl Mounted {
    fn file(&self, name: &str) -> PathBuf {
        self.disk.point().join(name)
    }
}

fn mount() -> Option<Mounted> {
    let folder = tempfile::tempdir().unwrap();
    match Disk::mount(folder.path()) {
        Ok(disk) => Some(Mounted { disk, _folder: folder }),
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            None
        }
    }
}

fn fault(operation: Operation, nth: u64, failure: Failure, lasts: Lasts) -> Fault {
    Fault { operation, nth, failure, lasts }
}

#[test]
fn files_are_written_read_renamed_linked_cut_and_deleted_as_on_any_disk() {
    let Some(mounted) = mount() else { return };
    let (one, two) = (mounted.file("one"), mounted.file("two"));
    fs::write(&one, "hello").unwrap();
    assert_eq!(fs::read_to_string(&one).unwrap(), "hello");
    fs::hard_link(&one, &two).unwrap();
    assert_eq!(fs::metadata(&one).unwrap().ino(), fs::metadata(&two).unwrap().ino());
    assert_eq!(fs::hard_link(&one, &two).unwrap_err().kind(), ErrorKind::AlreadyExists);
    fs::remove_file(&one).unwrap();
    fs::rename(&two, &one).unwrap();
    OpenOptions::new().write(true).open(&one).unwrap().set_len(2).unwrap();
    assert_eq!(fs::read_to_string(&one).unwrap(), "he");
    let names: Vec<_> =
        fs::read_dir(mounted.disk.point()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [NOTES, "one"]);
}

#[test]
fn a_file_that_is_deleted_while_open_lives_on_for_who_has_it() {
    let Some(mounted) = mount() else { return };
    let path = mounted.file("a");
    fs::write(&path, "hello").unwrap();
    let mut file = File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "other").unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn the_nth_write_fails_and_the_disk_has_nothing_of_it() {
    let Some(mounted) = mount() else { return };
    let mut file = File::create(mounted.file("a")).unwrap();
    mounted.disk.arm(fault(Operation::Write, 2, Failure::NoSpace, Lasts::Once));
    file.write_all(b"1").unwrap();
    assert_eq!(file.write_all(b"2").unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_all(b"3").unwrap();
    assert_eq!(mounted.disk.failed(), 1);
    assert_eq!(fs::read_to_string(mounted.file("a")).unwrap(), "13");
}

#[test]
fn every_kind_of_operation_can_fail_until_it_is_healed() {
    let Some(mounted) = mount() else { return };
    let path = mounted.file("a");
    let attempt = |operation| match operation {
        Operation::Open => File::create(mounted.file("new")).map(drop),
        Operation::Read => fs::read(&path).map(drop),
        Operation::Write => OpenOptions::new().write(true).open(&path).and_then(|mut f| f.write_all(b"x")),
        Operation::Sync => OpenOptions::new().write(true).open(&path).and_then(|f| f.sync_all()),
        Operation::Truncate => OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(1)),
        Operation::Unlink => fs::remove_file(&path),
        Operation::Rename => fs::rename(&path, mounted.file("b")),
        Operation::Any => fs::remove_file(mounted.file("b")),
    };
    for operation in Operation::ALL {
        fs::write(&path, "hello").unwrap();
        mounted.disk.arm(fault(operation, 1, Failure::Io, Lasts::UntilHealed));
        for _ in 0..2 {
            let error = attempt(operation).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{operation:?}: {error}");
        }
        mounted.disk.heal();
        attempt(operation).unwrap();
    }
}

#[test]
fn syncing_the_folder_makes_names_durable_and_can_fail_too() {
    let Some(mounted) = mount() else { return };
    let file = File::create(mounted.file("a")).unwrap();
    file.sync_all().unwrap();
    let folder = File::open(mounted.disk.point()).unwrap();
    mounted.disk.arm(fault(Operation::Sync, 1, Failure::Io, Lasts::Once));
    folder.sync_all().unwrap_err();
    let nothing = |disk: &Disk| {
        let record = disk.record();
        record.after(PowerCut { after: record.changes().len(), survives: Survives::Nothing, seed: 0 })
    };
    assert_eq!(nothing(&mounted.disk).names().count(), 0);
    folder.sync_all().unwrap();
    assert_eq!(nothing(&mounted.disk).names().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn the_record_tells_what_happened_and_what_was_said_in_one_order() {
    let Some(mounted) = mount() else { return };
    let mut notes = OpenOptions::new().append(true).open(mounted.file(NOTES)).unwrap();
    let mut file = File::create(mounted.file("a")).unwrap();
    file.write_all(b"hello").unwrap();
    notes.write_all(b"written").unwrap();
    file.sync_all().unwrap();
    notes.write_all(b"synced").unwrap();
    let record = mounted.disk.record();
    let [Change::Named { name, file }, changes @ ..] = record.changes() else { panic!("{record:?}") };
    assert_eq!(name, "a");
    let file = *file;
    let expected = [
        Change::Written { file, offset: 0, data: (*b"hello").into() },
        Change::Note((*b"written").into()),
        Change::Synced { file },
        Change::Note((*b"synced").into()),
    ];
    assert_eq!(changes, expected);
}

#[test]
fn an_image_is_written_into_a_folder() {
    let Some(mounted) = mount() else { return };
    fs::write(mounted.file("a"), "hello").unwrap();
    let record = mounted.disk.record();
    let cut = PowerCut { after: record.changes().len(), survives: Survives::Everything, seed: 0 };
    let folder = tempfile::tempdir().unwrap();
    record.after(cut).write_to(folder.path()).unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("a")).unwrap(), "hello");
}
