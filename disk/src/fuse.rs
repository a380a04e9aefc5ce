//! The files as FUSE asks for them.
//!
//! Nothing is bypassed: without `direct_io` the kernel's page cache is between a process and us, as it is with a real
//! disk, so that files can be mapped; it writes through, so that each `write` comes here as it is made. One thread
//! serves a disk: what happens has one order.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use crate::faults::{Failure, Operation};
use crate::files::{FOLDER, File, Files};
use crate::mount::Shared;
use crate::record::FileId;

/// How long the kernel may keep what it was told: nobody else changes it.
const KEPT: Duration = Duration::from_secs(3_600);
const BLOCK: u32 = 512;

/// A mounted disk.
pub(crate) struct Session(BackgroundSession);

impl Session {
    pub(crate) fn mount(point: &Path, files: Shared) -> io::Result<Self> {
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("millstream-disk".into()), MountOption::NoSuid, MountOption::NoDev];
        fuser::spawn_mount(Served(files), point, &config).map(Self)
    }

    /// Waits until nobody has a file open any more; whoever still has after a moment is cut off.
    pub(crate) fn unmount(self, point: &Path) {
        if self.0.umount_and_join().is_err() {
            // Its session ends when the last file is closed.
            let _ = Command::new("umount").arg("--lazy").arg(point).status();
        }
    }
}

#[derive(Debug)]
struct Served(Shared);

type Reply<T> = Result<T, Errno>;

fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::Io => Errno::EIO,
        Failure::NoSpace => Errno::ENOSPC,
    }
}

/// Fails if a fault says so.
fn may(files: &mut Files, operation: Operation) -> Reply<()> {
    files.faults.strike(operation).map_or(Ok(()), |failure| Err(errno(failure)))
}

fn attributes(id: FileId, file: &File) -> FileAttr {
    let changed = file.changed;
    FileAttr {
        ino: INodeNo(id),
        size: file.size(),
        blocks: file.size().div_ceil(u64::from(BLOCK)),
        atime: changed,
        mtime: changed,
        ctime: changed,
        crtime: changed,
        kind: FileType::RegularFile,
        perm: 0o600,
        nlink: file.names(),
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4_096,
        flags: 0,
    }
}

fn folder() -> FileAttr {
    let always = std::time::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo::ROOT,
        size: 0,
        blocks: 0,
        atime: always,
        mtime: always,
        ctime: always,
        crtime: always,
        kind: FileType::Directory,
        perm: 0o700,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4_096,
        flags: 0,
    }
}

impl Served {
    /// A file that the kernel will know from now on.
    fn entry(files: &mut Files, id: FileId) -> Reply<FileAttr> {
        files.known(id);
        files.get(id).map(|file| attributes(id, file)).ok_or(Errno::ENOENT)
    }

    fn make(&self, name: &OsStr) -> Reply<FileAttr> {
        let files = &mut *self.0.lock();
        may(files, Operation::Open)?;
        if files.find(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let id = files.create(name);
        Self::entry(files, id)
    }

    fn attributes(&self, id: FileId) -> Reply<FileAttr> {
        if id == FOLDER {
            return Ok(folder());
        }
        self.0.lock().get(id).map(|file| attributes(id, file)).ok_or(Errno::ENOENT)
    }

    fn resize(&self, id: FileId, size: u64) -> Reply<()> {
        let files = &mut *self.0.lock();
        may(files, Operation::Truncate)?;
        files.resize(id, size).ok_or(Errno::ENOENT)
    }

    fn sync(&self, id: FileId) -> Reply<()> {
        let files = &mut *self.0.lock();
        if let Err(error) = may(files, Operation::Sync) {
            files.sync_failed(id);
            return Err(error);
        }
        files.synced(id);
        Ok(())
    }

    fn name_again(&self, id: FileId, name: &OsStr) -> Reply<FileAttr> {
        let files = &mut *self.0.lock();
        may(files, Operation::Rename)?;
        if files.find(name).is_some() {
            return Err(Errno::EEXIST);
        }
        files.link(id, name);
        Self::entry(files, id)
    }

    fn rename(&self, from: &OsStr, to: &OsStr, flags: RenameFlags) -> Reply<()> {
        let files = &mut *self.0.lock();
        may(files, Operation::Rename)?;
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && files.find(to).is_some() {
            return Err(Errno::EEXIST);
        }
        if flags.intersects(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        files.rename(from, to).ok_or(Errno::ENOENT)
    }
}

/// Answers without a value.
fn answer(done: Reply<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn answer_entry(entry: &Reply<FileAttr>, reply: ReplyEntry) {
    match entry {
        Ok(attributes) => reply.entry(&KEPT, attributes, Generation(0)),
        Err(error) => reply.error(*error),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let files = &mut *self.0.lock();
        let entry = match files.find(name) {
            Some(id) => Self::entry(files, id),
            None => Err(Errno::ENOENT),
        };
        answer_entry(&entry, reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        self.0.lock().forget(ino.0, times);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino.0) {
            Ok(attributes) => reply.attr(&KEPT, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Rights and times are of no concern here.
        let resized = size.map_or(Ok(()), |size| self.resize(ino.0, size));
        match resized.and_then(|()| self.attributes(ino.0)) {
            Ok(attributes) => reply.attr(&KEPT, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        answer_entry(&self.make(name), reply);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(name) {
            Ok(attributes) => {
                reply.created(&KEPT, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let files = &mut *self.0.lock();
        if files.is_notes(ino.0) {
            // Through the cache a note could come in two parts.
            reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            return;
        }
        match may(files, Operation::Open) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let files = &mut *self.0.lock();
        let done = may(files, Operation::Read);
        match done.and_then(|()| files.get(ino.0).ok_or(Errno::ENOENT)) {
            Ok(file) => reply.data(file.read(offset, size as usize)),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let files = &mut *self.0.lock();
        // Out of a mapping: nobody waits for it who could be told.
        let counted = !flags.contains(WriteFlags::FUSE_WRITE_CACHE) && !files.is_notes(ino.0);
        let done = if counted { may(files, Operation::Write) } else { Ok(()) };
        match done.and_then(|()| files.write(ino.0, offset, data).ok_or(Errno::ENOENT)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        answer(self.sync(ino.0), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let files = &mut *self.0.lock();
        let done = may(files, Operation::Sync);
        if done.is_ok() {
            files.folder_synced();
        }
        answer(done, reply);
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let files = &mut *self.0.lock();
        let done = may(files, Operation::Unlink);
        answer(done.and_then(|()| files.unlink(name).ok_or(Errno::ENOENT)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        from: &OsStr,
        _: INodeNo,
        to: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(self.rename(from, to, flags), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(&self.name_again(ino.0, name), reply);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let files = self.0.lock();
        for (place, (name, id)) in (1..).zip(files.names()).skip(usize::try_from(offset).unwrap_or(0)) {
            if reply.add(INodeNo(id), place, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let many = 1 << 30;
        reply.statfs(many, many, many, many, many, BLOCK, 255, BLOCK);
    }
}
