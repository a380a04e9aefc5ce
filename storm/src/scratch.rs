//! Where a storm's files are: in memory if the machine has such a file system, for what `fsync` costs differs from
//! disk to disk and is not what is tested here.

use std::io;
use std::path::Path;

use tempfile::{Builder, TempDir};

/// A folder that goes when it is dropped.
pub(crate) fn folder(name: &str) -> io::Result<TempDir> {
    let prefix = format!("millstream-{name}-");
    let mut builder = Builder::new();
    builder.prefix(&prefix);
    let memory = Path::new("/dev/shm");
    if memory.is_dir()
        && let Ok(folder) = builder.tempdir_in(memory)
    {
        return Ok(folder);
    }
    builder.tempdir()
}
