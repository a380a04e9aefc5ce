//! The process of a server: started apart from us, found again by its folder, stopped with all that it started.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::command::{Run, root};

/// Whoever stops a server removes what it wrote: there is nothing to wait for.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// How long a process that starts may not be there: one that is being loaded has no command line yet, by which it is known.
const GONE_FOR: Duration = Duration::from_secs(1);

/// Lines of a log that an error repeats.
const TOLD: usize = 20;

/// A process that has a folder to itself. Its command line names that folder, with a slash behind it: whoever gets its
/// number later does not.
#[derive(Debug)]
pub(super) struct Process {
    home: PathBuf,
}

impl Process {
    pub(super) fn of(home: PathBuf) -> Self {
        Self { home }
    }

    /// The part of the command line by which it is known.
    pub(super) fn mark(home: &Path) -> String {
        format!("{}/", home.display())
    }

    /// Starts it in its folder. What it says goes to the file `log` there.
    pub(super) fn launch(&self, mut command: Command) -> Result {
        fs::create_dir_all(&self.home)?;
        let log = File::create(self.log())?;
        let child = command
            .current_dir(&self.home)
            .stdout(log.try_clone()?)
            .stderr(log)
            // An interrupt at the terminal is for us, not for it.
            .process_group(0)
            .spawn()?;
        fs::write(self.home.join("pid"), child.id().to_string())?;
        Ok(())
    }

    /// Its number, if it lives.
    pub(super) fn pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.home.join("pid")).ok()?.trim().parse().ok()?;
        let ps =
            Command::new("ps").args(["-ww", "-o", "stat=,command=", "-p", &pid.to_string()]).output().ok()?;
        let line = String::from_utf8_lossy(&ps.stdout).into_owned();
        (line.contains(&Self::mark(&self.home)) && !line.trim_start().starts_with('Z')).then_some(pid)
    }

    /// Waits until it answers.
    pub(super) fn wait(&self, until: Instant, answers: impl Fn() -> bool) -> Result {
        let mut seen = Instant::now();
        while !answers() {
            if self.pid().is_some() {
                seen = Instant::now();
            }
            if seen.elapsed() > GONE_FOR || Instant::now() > until {
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(TOLD)..].join("\n");
                let what = format!("it did not come up; the end of {}:\n{end}", self.log().display());
                return Err(what.into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// To it and to all that it started.
    fn signal(&self, signal: &str) {
        if let Some(pid) = self.pid() {
            let _ = Run::new("kill").args(["-s", signal, "--"]).arg(format!("-{pid}")).succeeds();
        }
    }
}

/// Asks all to end, waits until they have, and ends those that take too long; says whether any was running.
pub(super) fn stop(processes: &[Process]) -> bool {
    let running: Vec<_> = processes.iter().filter(|process| process.pid().is_some()).collect();
    for process in &running {
        process.signal("TERM");
    }
    let until = Instant::now() + STOP_WITHIN;
    for process in &running {
        while process.pid().is_some() {
            if Instant::now() > until {
                process.signal("KILL");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    !running.is_empty()
}

/// A program that runs by itself: nobody types for it.
pub(super) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// Where servers have their folders.
pub(super) fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target).join("services")
}

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_folder_and_stopped_with_what_it_started() {
        let home = std::env::temp_dir().join(format!("millstream-process-{}", std::process::id()));
        let process = Process::of(home.clone());
        assert_eq!(process.pid(), None);
        let mut command = program("sh");
        command.args(["-c", "sleep 60 & echo $! > child; wait", &Process::mark(&home)]);
        process.launch(command).unwrap();
        process.wait(Instant::now() + Duration::from_secs(10), || home.join("child").exists()).unwrap();
        assert!(process.pid().is_some());

        assert!(stop(&[Process::of(home.clone())]));

        assert_eq!(process.pid(), None);
        assert!(!stop(&[process]), "it is stopped already");
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn one_that_ends_instead_of_answering_is_told_with_what_it_said() {
        let home = std::env::temp_dir().join(format!("millstream-process-ends-{}", std::process::id()));
        let process = Process::of(home.clone());
        let mut command = program("sh");
        command.args(["-c", "echo no memory", &Process::mark(&home)]);
        process.launch(command).unwrap();
        let error = process.wait(Instant::now() + Duration::from_secs(10), || false).unwrap_err();
        assert!(error.to_string().ends_with("log:\nno memory"), "{error}");
        fs::remove_dir_all(home).unwrap();
    }
}
