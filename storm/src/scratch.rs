//! Where a storm's files are: in memory if the machine has such a file system, for what `fsync` costs differs from
//! disk to disk and is not what is tested here.

use std::io;
use std::path::Path;
use std::process::Command;

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

/// A folder that is not in memory; says why there is none.
pub(crate) fn folder_on_disk(name: &str) -> io::Result<Result<TempDir, String>> {
    let folder = Builder::new().prefix(&format!("millstream-{name}-")).tempdir()?;
    let mut stat = Command::new("stat");
    stat.args(["--file-system", "--format", "%T"]).arg(folder.path());
    let system = stat.output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())?;
    if matches!(system.as_str(), "tmpfs" | "ramfs") {
        let place = folder.path().display();
        return Ok(Err(format!("{place} is in memory: set TMPDIR to a folder on a disk")));
    }
    Ok(Ok(folder))
}
