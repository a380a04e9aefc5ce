//! A control group with little memory: who takes more is killed, and it is counted.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Which of the two interfaces the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A group of our own, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    version: Version,
}

impl Cgroup {
    /// Makes one with so many bytes; says why that cannot be.
    pub(crate) fn with_memory(bytes: u64) -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| format!("no control groups: {e}"))?;
        let version = if Path::new(ROOT).join("memory").is_dir() { Version::One } else { Version::Two };
        // Below our own group, or where that cannot be seen or used, below the root.
        let mut why = String::new();
        for parent in [own_path(&own, version).unwrap_or_default(), String::new()] {
            match Self::below(&parent, version, bytes) {
                Ok(group) => return Ok(group),
                Err(error) => why = format!("a control group with {bytes} bytes cannot be made: {error}"),
            }
        }
        Err(why)
    }

    fn below(parent: &str, version: Version, bytes: u64) -> io::Result<Self> {
        let parent = match version {
            Version::One => Path::new(ROOT).join("memory"),
            Version::Two => PathBuf::from(ROOT),
        }
        .join(parent.trim_start_matches('/'));
        let path = parent.join(format!("millstream-storm-{}", std::process::id()));
        if version == Version::Two {
            fs::write(parent.join("cgroup.subtree_control"), "+memory")?;
        }
        fs::create_dir(&path)?;
        let group = Self { path, version };
        let limit = match version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        fs::write(group.path.join(limit), bytes.to_string())?;
        if version == Version::Two {
            // Nothing may be swapped out instead; where there is no swap, there is no such file.
            let _ = fs::write(group.path.join("memory.swap.max"), "0");
        }
        Ok(group)
    }

    /// What stands before a command that is to run in it.
    pub(crate) fn entering(&self) -> Vec<OsString> {
        let script = r#"echo $$ > "$0" && exec "$@""#;
        vec!["sh".into(), "-c".into(), script.into(), self.path.join("cgroup.procs").into()]
    }

    /// How many processes were killed for its limit.
    pub(crate) fn kills(&self) -> io::Result<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        Ok(figure(&fs::read_to_string(self.path.join(file))?, "oom_kill"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Our own group: a line is `NUMBER:CONTROLLERS:PATH`, for the second version without controllers.
fn own_path(groups: &str, version: Version) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let ours = match version {
            Version::One => controllers.split(',').any(|one| one == "memory"),
            Version::Two => controllers.is_empty(),
        };
        ours.then(|| path.to_owned())
    })
}

/// A line is `NAME FIGURE`.
fn figure(text: &str, name: &str) -> u64 {
    let found = text.lines().filter_map(|line| line.split_once(' ')).find(|(key, _)| *key == name);
    found.and_then(|(_, figure)| figure.trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_group_is_found_in_both_versions() {
        let both = "9:cpu,memory:/a:b\n4:pids:/c\n0::/d\n";
        assert_eq!(own_path(both, Version::One).as_deref(), Some("/a:b"));
        assert_eq!(own_path(both, Version::Two).as_deref(), Some("/d"));
        assert_eq!(own_path("", Version::Two), None);
    }

    #[test]
    fn a_figure_is_taken_by_its_whole_name() {
        assert_eq!(figure("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(figure("oom 0\n", "oom_kill"), 0);
    }
}
