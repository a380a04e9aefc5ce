//! The files in memory, without anything of FUSE: one folder, names, bytes, and what is written down of each change.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use crate::faults::Faults;
use crate::mount::NOTES;
use crate::record::{Change, FileId, Record};

/// The folder's own number, as FUSE has it.
pub(crate) const FOLDER: FileId = 1;
/// The file that takes notes.
const NOTES_FILE: FileId = 2;

/// All of a disk.
#[derive(Debug)]
pub(crate) struct Files {
    names: BTreeMap<OsString, FileId>,
    files: HashMap<FileId, File>,
    next: FileId,
    pub(crate) faults: Faults,
    record: Record,
}

#[derive(Debug)]
pub(crate) struct File {
    data: Vec<u8>,
    names: u32,
    /// How often the kernel was told of it and has not forgotten it: it is kept for so long, also without a name.
    known: u64,
    pub(crate) changed: SystemTime,
}

impl File {
    pub(crate) fn size(&self) -> u64 {
        self.data.len() as u64
    }

    pub(crate) fn names(&self) -> u32 {
        self.names
    }

    pub(crate) fn read(&self, offset: u64, size: usize) -> &[u8] {
        let start = place(offset).min(self.data.len());
        &self.data[start..self.data.len().min(start.saturating_add(size))]
    }
}

/// A place in memory. One that does not fit into it is behind every file.
fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Puts bytes into a file, which grows if need be.
pub(crate) fn put(data: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if data.len() < offset + bytes.len() {
        data.resize(offset + bytes.len(), 0);
    }
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Default for Files {
    fn default() -> Self {
        let mut files = Self {
            names: BTreeMap::new(),
            files: HashMap::new(),
            next: NOTES_FILE + 1,
            faults: Faults::default(),
            record: Record::default(),
        };
        let notes = File { data: Vec::new(), names: 1, known: 0, changed: SystemTime::now() };
        files.files.insert(NOTES_FILE, notes);
        files.names.insert(NOTES.into(), NOTES_FILE);
        files
    }
}

impl Files {
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = (&OsStr, FileId)> {
        self.names.iter().map(|(name, file)| (&**name, *file))
    }

    pub(crate) fn get(&self, file: FileId) -> Option<&File> {
        self.files.get(&file)
    }

    pub(crate) fn find(&self, name: &OsStr) -> Option<FileId> {
        self.names.get(name).copied()
    }

    fn write_down(&mut self, change: Change) {
        self.record.changes.push(change);
    }

    pub(crate) fn is_notes(&self, file: FileId) -> bool {
        file == NOTES_FILE
    }

    /// The kernel was told of a file.
    pub(crate) fn known(&mut self, file: FileId) {
        if let Some(file) = self.files.get_mut(&file) {
            file.known += 1;
        }
    }

    pub(crate) fn forget(&mut self, file: FileId, times: u64) {
        if let Some(known) = self.files.get_mut(&file) {
            known.known = known.known.saturating_sub(times);
        }
        self.drop_unused(file);
    }

    fn drop_unused(&mut self, file: FileId) {
        if self.files.get(&file).is_some_and(|file| file.names == 0 && file.known == 0) {
            self.files.remove(&file);
        }
    }

    pub(crate) fn create(&mut self, name: &OsStr) -> FileId {
        let file = self.next;
        self.next += 1;
        let new = File { data: Vec::new(), names: 0, known: 0, changed: SystemTime::now() };
        self.files.insert(file, new);
        self.link(file, name);
        file
    }

    /// Gives a file a name that nothing has.
    pub(crate) fn link(&mut self, file: FileId, name: &OsStr) {
        if let Some(linked) = self.files.get_mut(&file) {
            linked.names += 1;
        }
        self.names.insert(name.to_owned(), file);
        self.write_down(Change::Named { name: name.to_owned(), file });
    }

    /// Says whether there was something of this name.
    pub(crate) fn unlink(&mut self, name: &OsStr) -> Option<()> {
        let file = self.names.remove(name)?;
        self.lose_name(file);
        self.write_down(Change::Unnamed { name: name.to_owned() });
        Some(())
    }

    fn lose_name(&mut self, file: FileId) {
        if let Some(unlinked) = self.files.get_mut(&file) {
            unlinked.names -= 1;
        }
        self.drop_unused(file);
    }

    /// Says whether there was something of this name.
    pub(crate) fn rename(&mut self, from: &OsStr, to: &OsStr) -> Option<()> {
        let file = self.find(from)?;
        if self.find(to) == Some(file) {
            // Two names of one file: nothing happens (rename(2)).
            return Some(());
        }
        self.names.remove(from);
        if let Some(replaced) = self.names.insert(to.to_owned(), file) {
            self.lose_name(replaced);
        }
        self.write_down(Change::Renamed { from: from.to_owned(), to: to.to_owned(), file });
        Some(())
    }

    pub(crate) fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> Option<()> {
        if file == NOTES_FILE {
            self.write_down(Change::Note(data.into()));
            return Some(());
        }
        let written = self.files.get_mut(&file)?;
        written.changed = SystemTime::now();
        put(&mut written.data, place(offset), data);
        self.write_down(Change::Written { file, offset, data: data.into() });
        Some(())
    }

    pub(crate) fn resize(&mut self, file: FileId, size: u64) -> Option<()> {
        let resized = self.files.get_mut(&file)?;
        resized.changed = SystemTime::now();
        resized.data.resize(place(size), 0);
        if file != NOTES_FILE {
            self.write_down(Change::Resized { file, size });
        }
        Some(())
    }

    pub(crate) fn synced(&mut self, file: FileId) {
        self.write_down(Change::Synced { file });
    }

    pub(crate) fn sync_failed(&mut self, file: FileId) {
        self.write_down(Change::SyncFailed { file });
    }

    pub(crate) fn folder_synced(&mut self) {
        self.write_down(Change::FolderSynced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(files: &Files, name: &str) -> Option<Vec<u8>> {
        let file = files.get(files.find(name.as_ref())?)?;
        Some(file.read(0, usize::MAX).to_vec())
    }

    #[test]
    fn a_write_behind_the_end_leaves_zeros_in_between() {
        let mut files = Files::default();
        let file = files.create("a".as_ref());
        files.write(file, 2, b"xy").unwrap();
        assert_eq!(contents(&files, "a").unwrap(), b"\0\0xy");
        assert_eq!(files.get(file).unwrap().read(3, 100), b"y");
        assert_eq!(files.get(file).unwrap().read(9, 100), b"");
    }

    #[test]
    fn a_file_without_a_name_lives_while_it_is_known() {
        let mut files = Files::default();
        let file = files.create("a".as_ref());
        files.known(file);
        files.unlink("a".as_ref()).unwrap();
        files.write(file, 0, b"x").unwrap();
        files.forget(file, 1);
        assert!(files.get(file).is_none());
        assert_eq!(files.unlink("a".as_ref()), None);
    }

    #[test]
    fn renaming_over_a_file_replaces_it() {
        let mut files = Files::default();
        let (old, new) = (files.create("old".as_ref()), files.create("new".as_ref()));
        files.write(new, 0, b"new").unwrap();
        files.rename("new".as_ref(), "old".as_ref()).unwrap();
        assert_eq!(contents(&files, "old").unwrap(), b"new");
        assert!(files.find("new".as_ref()).is_none() && files.get(old).is_none());
        let last = files.record().changes().last().unwrap();
        assert_eq!(*last, Change::Renamed { from: "new".into(), to: "old".into(), file: new });
    }

    #[test]
    fn what_is_written_to_the_notes_is_told_in_order_and_is_no_file() {
        let mut files = Files::default();
        let file = files.create("a".as_ref());
        files.write(NOTES_FILE, 7, b"hello").unwrap();
        files.synced(file);
        let notes: Vec<_> = files.record().notes().collect();
        assert_eq!(notes, [(1, &b"hello"[..])]);
        assert_eq!(contents(&files, NOTES).unwrap(), b"");
    }
}
