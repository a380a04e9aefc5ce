//! A disk, mounted, and the controls of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::faults::{Fault, Operation};
use crate::files::Files;
use crate::record::Record;

/// What a process writes to the file of this name becomes a [`Change::Note`](crate::Change::Note) in the record, a
/// note for each write: so it tells what it knows, such as that something was confirmed to it, in one order with what
/// happens to the files. No fault meets it.
pub const NOTES: &str = "notes";

/// A disk in memory, mounted on a folder until it is dropped.
///
/// It is one folder: files in it can have several names, but there are no folders within it.
pub struct Disk {
    point: PathBuf,
    files: Shared,
    #[cfg(target_os = "linux")]
    session: Option<crate::fuse::Session>,
}

/// Files that the mount serves and the controls look into.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Files>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no disk can be mounted here: the system has no FUSE, or does not allow it.
#[derive(Debug)]
pub struct NotMounted(String);

impl NotMounted {
    pub(crate) fn since(why: String) -> Self {
        Self(why)
    }
}

impl fmt::Display for NotMounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotMounted {}

impl Disk {
    /// Mounts an empty disk on a folder that is there. All that happens to its files is recorded, in memory.
    ///
    /// # Errors
    /// If the system does not allow it; then say so, and skip what needs it.
    pub fn mount(point: impl Into<PathBuf>) -> Result<Self, NotMounted> {
        Self::mount_on(point.into())
    }

    #[cfg(target_os = "linux")]
    fn mount_on(point: PathBuf) -> Result<Self, NotMounted> {
        if !Path::new("/dev/fuse").exists() {
            return Err(NotMounted("there is no /dev/fuse".into()));
        }
        let files = Shared(Arc::new(Mutex::new(Files::default())));
        let session = crate::fuse::Session::mount(&point, files.clone())
            .map_err(|e| NotMounted(format!("FUSE does not mount {}: {e}", point.display())))?;
        Ok(Self { point, files, session: Some(session) })
    }

    #[cfg(not(target_os = "linux"))]
    fn mount_on(_: PathBuf) -> Result<Self, NotMounted> {
        Err(NotMounted("only done on Linux".into()))
    }

    /// The folder.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Makes it fail from now on as the fault says, instead of what it was to do before.
    pub fn arm(&self, fault: Fault) {
        self.files.lock().faults.arm(fault);
    }

    /// It fails no more.
    pub fn heal(&self) {
        self.files.lock().faults.heal();
    }

    /// Counts operations from now on; nothing is armed any more.
    pub fn count(&self) {
        self.files.lock().faults.count();
    }

    /// How many operations of a kind there were since it was armed or told to count.
    #[must_use]
    pub fn counted(&self, operation: Operation) -> u64 {
        self.files.lock().faults.counted(operation)
    }

    /// How many operations failed since it was last armed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.files.lock().faults.failed()
    }

    /// All that happened so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.files.lock().record().clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(session) = self.session.take() {
            session.unmount(&self.point);
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("point", &self.point).finish_non_exhaustive()
    }
}
