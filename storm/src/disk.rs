//! A small disk of its own for a storm, which can be filled and freed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// A small file system in memory, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts one; says why if that is not allowed.
    pub(crate) fn mount(point: &Path, size: &str) -> Result<Result<Self, String>> {
        fs::create_dir(point)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "millstream-storm"]).arg(point);
        let output = match mount.output() {
            Ok(output) => output,
            Err(error) => return Ok(Err(format!("`mount` did not start: {error}"))),
        };
        if output.status.success() {
            return Ok(Ok(Self(point.to_owned())));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Ok(Err(said.lines().next().unwrap_or("`mount` does not say why").to_owned()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all the room there is.
    pub(crate) fn fill(&self) -> Result {
        let mut file = File::options().create(true).append(true).open(self.ballast())?;
        let mut size = 1 << 20;
        let block = vec![0; size];
        while size > 0 {
            match file.write(&block[..size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free(&self) -> Result {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: it is gone from its place at once, whoever still has a file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
