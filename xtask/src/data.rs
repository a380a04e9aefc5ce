//! The real input of the flights example: 231,083 flight records out of npm's `vega-datasets`.
//!
//! It is not in the repository. It is fetched once into the cache, and used only if its length and digest are
//! those that the example's expected figures were computed from.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use sha2::{Digest, Sha256};

use crate::command::Run;
use crate::{Error, cache};

// The last version in which the file has all 231,083 records; 3.x has 200,000.
const VERSION: &str = "2.11.0";
const MEMBER: &str = "package/data/flights-200k.json";
const LENGTH: usize = 11_137_926;
const SHA256: &str = "d03c0a44048361d8ca452c404911c506247b65a5f3e7371369bd0f717c23ce04";
const REGISTRY: &str = "https://registry.npmjs.org/";

/// Why there is no data.
#[derive(Debug)]
pub(crate) enum NoData {
    /// The registry did not answer: nothing is wrong with the checkout.
    Unreachable(String),
    /// What came is not what was asked for, or could not be stored.
    Broken(String),
}

impl fmt::Display for NoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Broken(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NoData {}

impl From<Error> for NoData {
    fn from(error: Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<io::Error> for NoData {
    fn from(error: io::Error) -> Self {
        Self::Broken(format!("the data set could not be stored in the cache: {error}"))
    }
}

/// The path of `flights-200k.json`, which is fetched first if it is not in the cache.
///
/// # Errors
/// [`NoData::Unreachable`] without a network, [`NoData::Broken`] for anything else.
pub(crate) fn flights() -> Result<PathBuf, NoData> {
    let dir = cache::dir()?.join("data").join(format!("vega-datasets-{VERSION}"));
    let path = dir.join("flights-200k.json");
    if fs::read(&path).is_ok_and(|bytes| check(&bytes).is_ok()) {
        return Ok(path);
    }
    // A folder of our own until the file is whole: a run that is cut, or a second one beside us, harms nothing.
    let work = dir.join(format!("fetching-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let fetched = fetch(&work, &path);
    fs::remove_dir_all(&work)?;
    fetched.map(|()| path)
}

fn fetch(work: &Path, path: &Path) -> Result<(), NoData> {
    let registry = registry();
    let archive = work.join("vega-datasets.tgz");
    Run::new("curl")
        .args("--fail --location --silent --show-error --retry 2 --connect-timeout 20 --output".split(' '))
        .arg(archive.to_string_lossy())
        .arg(format!("{registry}vega-datasets/-/vega-datasets-{VERSION}.tgz"))
        .run()
        .map_err(|e| {
            NoData::Unreachable(format!("vega-datasets could not be fetched from {registry}: {e}"))
        })?;
    Run::new("tar")
        .arg("-xzf")
        .arg(archive.to_string_lossy())
        .arg("-C")
        .arg(work.to_string_lossy())
        .arg(MEMBER)
        .run()?;
    let member = work.join(MEMBER);
    check(&fs::read(&member)?).map_err(NoData::Broken)?;
    fs::rename(member, path)?;
    Ok(())
}

/// The registry that npm is set to, where there is an npm; else the public one. With a slash at the end.
fn registry() -> String {
    let asked = Run::new("npm").args(["config", "get", "registry"]);
    let npm = if Run::new("npm").arg("--version").succeeds() { asked.output().ok() } else { None };
    let mut registry = npm
        .map(|text| text.trim().to_owned())
        .filter(|text| text.starts_with("http"))
        .unwrap_or_else(|| REGISTRY.to_owned());
    if !registry.ends_with('/') {
        registry.push('/');
    }
    registry
}

fn check(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() != LENGTH {
        return Err(format!("{MEMBER} has {} bytes, not {LENGTH}", bytes.len()));
    }
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if digest == SHA256 { Ok(()) } else { Err(format!("{MEMBER} has the SHA-256 {digest}, not {SHA256}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_wrong_length_is_refused() {
        assert_eq!(check(b"[]").unwrap_err(), format!("{MEMBER} has 2 bytes, not {LENGTH}"));
    }

    #[test]
    fn a_file_of_the_right_length_and_other_bytes_is_refused() {
        let error = check(&vec![b' '; LENGTH]).unwrap_err();
        assert!(error.contains("SHA-256"), "{error}");
    }
}
