//! A disk that fails on demand and remembers all that was written to it, for tests of what files survive.
//!
//! A [`Disk`] is a folder of files in memory, mounted by FUSE: a real process opens, maps, locks and syncs them as it
//! would on any other disk. What a real disk does once in years, this one does when it is told to:
//!
//! - it fails the k-th operation of a kind, once or until it is healed ([`Fault`]);
//! - its power is cut: from the [`Record`] of all that happened to its files come [`Image`]s of what may be left of
//!   them ([`PowerCut`]).
//!
//! The process that works on it must be another than the one that serves it, if it maps files: see [`Apart`].
//!
//! What it takes for durable is what POSIX promises and no more: a file's bytes and its size by `fsync` of the file, its
//! name by `fsync` of the folder. Of what was not synced, any part may survive, torn within a write at sectors of 512
//! bytes. After an `fsync` that failed, nothing of what it was to sync counts as synced by a later one that succeeds:
//! Linux marks such pages clean ([Rebello et al., ATC '20][1]).
//!
//! [1]: https://www.usenix.org/conference/atc20/presentation/rebello

mod apart;
mod faults;
mod files;
#[cfg(target_os = "linux")]
mod fuse;
mod image;
mod mount;
mod record;

pub use apart::{Apart, serve};
pub use faults::{Failure, Fault, Lasts, Operation};
pub use image::{Image, PowerCut, Survives};
pub use mount::{Disk, NOTES, NotMounted};
pub use record::{Change, FileId, Record};
