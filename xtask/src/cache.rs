//! Where tools and data are kept: outside the checkout, so that a clean checkout does not fetch them again.

use std::env;
use std::path::PathBuf;

use crate::Result;

/// `$MILLSTREAM_CACHE`, else `~/.cache/millstream`.
pub(crate) fn dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("MILLSTREAM_CACHE").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let home = env::home_dir().ok_or("there is no home directory: set MILLSTREAM_CACHE to a folder")?;
    Ok(home.join(".cache/millstream"))
}
