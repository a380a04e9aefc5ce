//! Where the demo's broker is: what the user says, or a fresh file in a temporary folder.

use std::path::Path;

use millstream::{Error, ErrorKind, Result};
use tempfile::TempDir;

/// The file in the folder.
const FILE: &str = "demo.db";

/// The broker of a run. Dropping it removes what is not to be kept.
#[derive(Debug)]
pub(crate) struct Place {
    url: String,
    folder: Option<TempDir>,
}

impl Place {
    /// What the user says.
    pub(crate) fn of(url: String) -> Self {
        Self { url, folder: None }
    }

    /// A fresh file, which goes when this is dropped.
    pub(crate) fn fresh() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("millstream-demo-").tempdir().map_err(|error| {
            Error::new(ErrorKind::Io, "a temporary folder cannot be made")
                .fix("make room there, name another one in TMPDIR, or choose a broker with --url")
                .source(error)
        })?;
        Ok(Self { url: url_of(&folder.path().join(FILE)), folder: Some(folder) })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) {
        if let Some(folder) = self.folder.take() {
            drop(folder.keep());
        }
    }
}

/// The URL of a file by its full path.
fn url_of(path: &Path) -> String {
    let mut url = "sqlite://".to_owned();
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                url.push(byte.into());
            }
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_makes_a_url_that_means_it() {
        let path = "/tmp/ein Ordner/50%?#ä.db";
        let endpoint = millstream::core::Endpoint::parse(&url_of(Path::new(path))).unwrap();
        assert_eq!((endpoint.host(), endpoint.path()), ("", path));
    }

    #[test]
    fn a_fresh_place_is_removed_unless_it_is_kept() {
        let place = Place::fresh().unwrap();
        let folder = place.folder.as_ref().unwrap().path().to_owned();
        drop(place);
        assert!(!folder.exists());

        let place = Place::fresh().unwrap();
        let folder = place.folder.as_ref().unwrap().path().to_owned();
        place.keep();
        assert!(folder.exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
