//! What may be left of the files when the power is cut.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;

use crate::files::put;
use crate::record::{Change, FileId, Record};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// What survives of all that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Survives {
    /// Nothing: no byte, no size, no name.
    Nothing,
    /// Everything, as when a process is killed.
    Everything,
    /// What came before some moment, as if the disk wrote in order; the write of that moment is torn.
    Earlier,
    /// Some writes and some names, whole, in any combination. What is missing of a file that grew may be zeros.
    Some,
    /// Some sectors of some writes, and some names.
    Torn,
}

impl Survives {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Nothing, Self::Everything, Self::Earlier, Self::Some, Self::Torn];
}

/// The power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PowerCut {
    /// After so many changes of the record.
    pub after: usize,
    /// What survives.
    pub survives: Survives,
    /// Decides which of it.
    pub seed: u64,
}

/// The files that are left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    files: BTreeMap<OsString, Vec<u8>>,
}

impl Image {
    /// The bytes of a file.
    #[must_use]
    pub fn file(&self, name: impl AsRef<OsStr>) -> Option<&[u8]> {
        self.files.get(name.as_ref()).map(Vec::as_slice)
    }

    /// The names of the files, in their order.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.files.keys().map(|name| &**name)
    }

    /// Writes the files into a folder that is there.
    ///
    /// # Errors
    /// As the system has them.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        self.files.iter().try_for_each(|(name, data)| std::fs::write(folder.join(name), data))
    }
}

impl Record {
    /// What is left after a power cut.
    #[must_use]
    pub fn after(&self, cut: PowerCut) -> Image {
        let mut replay = self.replay();
        replay.advance(cut.after);
        replay.cut(cut.survives, cut.seed)
    }

    /// Goes through the record from its start, for many power cuts in their order.
    #[must_use]
    pub fn replay(&self) -> Replay<'_> {
        Replay { record: self, done: 0, files: HashMap::new(), names: BTreeMap::new(), naming: Vec::new() }
    }
}

/// A disk at some moment of its record.
#[derive(Debug, Clone)]
pub struct Replay<'r> {
    record: &'r Record,
    done: usize,
    files: HashMap<FileId, OnDisk>,
    /// The names that are durable, and what was done to them since.
    names: BTreeMap<OsString, FileId>,
    naming: Vec<(usize, Naming)>,
}

/// A file: what is durable of it, and what was done to it since.
#[derive(Debug, Clone, Default)]
struct OnDisk {
    durable: Vec<u8>,
    since: Vec<Unsynced>,
}

#[derive(Debug, Clone)]
struct Unsynced {
    place: usize,
    deed: Deed,
    /// A sync failed since: no later one makes it durable.
    doomed: bool,
}

#[derive(Debug, Clone)]
enum Deed {
    /// A part of a write.
    Write {
        offset: usize,
        data: Arc<[u8]>,
        from: usize,
        to: usize,
    },
    Resize(usize),
}

/// What happened to names, as one step.
#[derive(Debug, Clone)]
struct Naming {
    gone: Option<OsString>,
    new: Option<(OsString, FileId)>,
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<OsString, FileId>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, file)) = &self.new {
            names.insert(name.clone(), *file);
        }
    }
}

impl Deed {
    fn write(offset: u64, data: &Arc<[u8]>) -> Self {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Self::Write { offset, data: Arc::clone(data), from: 0, to: data.len() }
    }

    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data, from, to } => put(file, offset + from, &data[*from..*to]),
            Self::Resize(size) => file.resize(*size, 0),
        }
    }

    /// The parts of a write that lie in different sectors.
    fn sectors(&self) -> Vec<Self> {
        let Self::Write { offset, data, from, to } = self else { return vec![self.clone()] };
        let mut parts = Vec::new();
        let mut start = *from;
        while start < *to {
            let end = (*to).min(start + SECTOR - (offset + start) % SECTOR);
            parts.push(Self::Write { offset: *offset, data: Arc::clone(data), from: start, to: end });
            start = end;
        }
        parts
    }

    /// What is left of a write once something newer lies over it.
    fn under(&self, newer: &Self) -> Vec<Self> {
        let Self::Write { offset, data, from, to } = self else { return vec![self.clone()] };
        let (start, end) = match newer {
            Self::Write { offset, from, to, .. } => (offset + from, offset + to),
            Self::Resize(size) => (*size, usize::MAX),
        };
        let part = |from: usize, to: usize| Self::Write { offset: *offset, data: Arc::clone(data), from, to };
        let before = (*from, (*to).min(start.saturating_sub(*offset)));
        let behind = ((*from).max(end.saturating_sub(*offset)), *to);
        [before, behind].into_iter().filter(|(from, to)| from < to).map(|(from, to)| part(from, to)).collect()
    }

    fn end(&self) -> usize {
        match self {
            Self::Write { offset, to, .. } => offset + to,
            Self::Resize(size) => *size,
        }
    }
}

impl OnDisk {
    fn synced(&mut self) {
        let mut doomed: Vec<Unsynced> = Vec::new();
        for one in std::mem::take(&mut self.since) {
            if one.doomed {
                doomed.push(one);
                continue;
            }
            one.deed.apply(&mut self.durable);
            let left = |older: Unsynced| {
                older.deed.under(&one.deed).into_iter().map(move |deed| Unsynced { deed, ..older })
            };
            doomed = doomed.into_iter().flat_map(left).collect();
        }
        self.since = doomed;
    }

    fn sync_failed(&mut self) {
        for one in &mut self.since {
            // A size is the filesystem's own and in its journal.
            one.doomed |= matches!(one.deed, Deed::Write { .. });
        }
    }
}

impl Replay<'_> {
    /// Goes on until so many changes have happened; never back.
    pub fn advance(&mut self, to: usize) {
        while self.done < to.min(self.record.changes.len()) {
            self.step(self.done, &self.record.changes[self.done]);
            self.done += 1;
        }
    }

    fn step(&mut self, place: usize, change: &Change) {
        match change {
            Change::Named { name, file } => {
                self.files.entry(*file).or_default();
                self.naming.push((place, Naming { gone: None, new: Some((name.clone(), *file)) }));
            }
            Change::Unnamed { name } => {
                self.naming.push((place, Naming { gone: Some(name.clone()), new: None }));
            }
            Change::Renamed { from, to, file } => {
                let naming = Naming { gone: Some(from.clone()), new: Some((to.clone(), *file)) };
                self.naming.push((place, naming));
            }
            Change::Written { file, offset, data } => {
                let deed = Deed::write(*offset, data);
                self.file(*file).since.push(Unsynced { place, deed, doomed: false });
            }
            Change::Resized { file, size } => {
                let deed = Deed::Resize(usize::try_from(*size).unwrap_or(usize::MAX));
                self.file(*file).since.push(Unsynced { place, deed, doomed: false });
            }
            Change::Synced { file } => self.file(*file).synced(),
            Change::SyncFailed { file } => self.file(*file).sync_failed(),
            Change::FolderSynced => {
                for (_, naming) in std::mem::take(&mut self.naming) {
                    naming.apply(&mut self.names);
                }
                self.forget_nameless();
            }
            Change::Note(_) => {}
        }
    }

    fn file(&mut self, file: FileId) -> &mut OnDisk {
        self.files.entry(file).or_default()
    }

    /// Files that no name can lead to any more.
    fn forget_nameless(&mut self) {
        let named: Vec<FileId> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
    }

    /// What is left if the power is cut now.
    #[must_use]
    pub fn cut(&self, survives: Survives, seed: u64) -> Image {
        let mut chance = Chance::new(survives, self.oldest(), self.done, seed);
        let mut names = self.names.clone();
        for (place, naming) in &self.naming {
            if chance.keeps(*place) {
                naming.apply(&mut names);
            }
        }
        // In the order of the numbers: the same seed leaves the same.
        let mut left: BTreeMap<FileId, Vec<u8>> = names.values().map(|file| (*file, Vec::new())).collect();
        for (file, data) in &mut left {
            if let Some(file) = self.files.get(file) {
                data.clone_from(&file.durable);
                for one in &file.since {
                    chance.apply(one, data);
                }
            }
        }
        let files =
            names.into_iter().map(|(name, file)| (name, left.get(&file).cloned().unwrap_or_default()));
        Image { files: files.collect() }
    }

    /// The place of the oldest change that is not synced.
    fn oldest(&self) -> usize {
        let data = self.files.values().flat_map(|file| file.since.iter().map(|one| one.place));
        let names = self.naming.iter().map(|(place, _)| *place);
        data.chain(names).min().unwrap_or(self.done)
    }
}

/// Decides what survives.
struct Chance {
    survives: Survives,
    random: Rng,
    /// The moment of [`Survives::Earlier`].
    moment: usize,
    /// Of a hundred, how many survive.
    percent: u8,
}

impl Chance {
    fn new(survives: Survives, oldest: usize, done: usize, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let moment = random.usize(oldest..=done);
        let percent = random.u8(5..95);
        Self { survives, random, moment, percent }
    }

    fn hit(&mut self) -> bool {
        self.random.u8(0..100) < self.percent
    }

    /// Whether what happened at this place survives whole.
    fn keeps(&mut self, place: usize) -> bool {
        match self.survives {
            Survives::Nothing => false,
            Survives::Everything => true,
            Survives::Earlier => place < self.moment,
            Survives::Some | Survives::Torn => self.hit(),
        }
    }

    fn apply(&mut self, one: &Unsynced, data: &mut Vec<u8>) {
        let torn = match self.survives {
            Survives::Torn => true,
            Survives::Earlier => one.place == self.moment,
            _ => false,
        };
        if torn {
            for part in one.deed.sectors() {
                if self.hit() {
                    part.apply(data);
                }
            }
        } else if self.keeps(one.place) {
            one.deed.apply(data);
        } else if self.survives == Survives::Some && self.random.u8(0..4) == 0 {
            // It grew before its bytes came.
            data.resize(data.len().max(one.deed.end()), 0);
        }
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
