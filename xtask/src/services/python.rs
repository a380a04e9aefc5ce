//! Python programs from the packages of PyPI, each in an environment of its own.

use std::path::PathBuf;

use super::process::text;
use crate::command::Run;
use crate::{Result, cache, tools};

/// An environment with these packages.
pub(super) struct Python {
    /// Below which folder of the cache.
    pub(super) kind: &'static str,
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// As pip takes them, versions pinned.
    pub(super) packages: &'static [&'static str],
    /// Python that fails unless all is there.
    pub(super) probe: &'static str,
}

impl Python {
    fn folder(&self) -> Result<PathBuf> {
        Ok(cache::dir()?.join(self.kind).join(format!("{}-{}", self.name, self.version)))
    }

    /// A program of the environment.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        Ok(self.folder()?.join("bin").join(name))
    }

    /// The interpreter, whose environment is brought into the cache if it is not there.
    pub(super) fn install(&self) -> Result<PathBuf> {
        let (folder, python) = (self.folder()?, self.program("python")?);
        if Run::new(text(&python)).args(["-c", self.probe]).succeeds() {
            return Ok(python);
        }
        tools::system("python3-venv", || Run::new("python3").args(["-c", "import ensurepip"]).succeeds())?;
        Run::new("python3").args(["-m", "venv", "--clear"]).arg(text(&folder)).run()?;
        Run::new(text(&python))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(self.packages.iter().copied())
            .run()?;
        Ok(python)
    }
}
