//! A disk that another process serves, for a program that maps files on it itself.
//!
//! Who serves a disk and maps a file on it can wait for itself: a page fault holds a lock of the process's memory, which
//! the serving thread needs to answer that very fault. So a program of two parts mounts it: [`serve`] in a process that
//! does nothing else, and [`Apart`] where the work is done. They speak in lines.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::faults::{Failure, Fault, Lasts, Operation};
use crate::image::{PowerCut, Survives};
use crate::mount::{Disk, NotMounted};

/// What the serving process says once the disk is mounted.
const MOUNTED: &str = "mounted";
/// How long unmounting may take before the process is ended: it waits for whoever has a file open.
const PATIENCE: Duration = Duration::from_secs(10);

/// A disk that a process of its own serves until this is dropped.
pub struct Apart {
    point: PathBuf,
    child: Child,
    /// Closed, it lets the process unmount and end.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Apart {
    /// Mounts an empty disk on a folder that is there. The command is a program that calls [`serve`] with it.
    ///
    /// # Errors
    /// If the system does not allow it; then say so, and skip what needs it.
    ///
    /// # Panics
    /// If the command cannot be started, or says anything else.
    pub fn mount(command: &mut Command, point: impl Into<PathBuf>) -> Result<Self, NotMounted> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the serving process starts");
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        let mut disk = Self { point: point.into(), child, requests, answers };
        match disk.line().expect("the serving process says whether it mounted the disk") {
            said if said == MOUNTED => Ok(disk),
            why => Err(NotMounted::since(why)),
        }
    }

    /// The folder.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// As [`Disk::arm`].
    ///
    /// # Errors
    /// If the serving process is gone.
    pub fn arm(&mut self, fault: Fault) -> io::Result<()> {
        self.ask(&Request::Arm(fault)).map(drop)
    }

    /// As [`Disk::heal`].
    ///
    /// # Errors
    /// If the serving process is gone.
    pub fn heal(&mut self) -> io::Result<()> {
        self.ask(&Request::Heal).map(drop)
    }

    /// As [`Disk::failed`].
    ///
    /// # Errors
    /// If the serving process is gone.
    pub fn failed(&mut self) -> io::Result<u64> {
        self.ask(&Request::Failed)?.parse().map_err(io::Error::other)
    }

    /// Writes into a folder what is left of the files if the power is cut now.
    ///
    /// # Errors
    /// If the folder cannot be written, or the serving process is gone.
    pub fn write_left(&mut self, survives: Survives, seed: u64, folder: &Path) -> io::Result<()> {
        self.ask(&Request::Left { survives, seed, folder: folder.to_owned() }).map(drop)
    }

    fn ask(&mut self, request: &Request) -> io::Result<String> {
        let requests = self.requests.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(requests, "{request}")?;
        let said = self.line()?;
        said.strip_prefix(DONE).map(|answer| answer.trim().to_owned()).ok_or_else(|| io::Error::other(said))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.requests = None;
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").field("point", &self.point).finish_non_exhaustive()
    }
}

/// Mounts a disk and does what an [`Apart`] asks for, until that is gone. To be called in a process of its own.
///
/// # Errors
/// If standard input or output cannot be used.
pub fn serve(point: impl Into<PathBuf>) -> io::Result<()> {
    let disk = match Disk::mount(point) {
        Ok(disk) => disk,
        Err(why) => {
            println!("{}", why.to_string().replace('\n', " "));
            return Ok(());
        }
    };
    println!("{MOUNTED}");
    for line in io::stdin().lines() {
        let answered = line?.parse().and_then(|request: Request| request.answer(&disk));
        match answered {
            Ok(answer) => println!("{DONE} {answer}"),
            Err(error) => println!("{}", error.replace('\n', " ")),
        }
    }
    Ok(())
}

/// Before an answer; what does not begin so is an error.
const DONE: &str = "done";

/// What is asked of the serving process, as a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    Arm(Fault),
    Heal,
    Failed,
    Left { survives: Survives, seed: u64, folder: PathBuf },
}

impl Request {
    fn answer(self, disk: &Disk) -> Result<String, String> {
        match self {
            Self::Arm(fault) => disk.arm(fault),
            Self::Heal => disk.heal(),
            Self::Failed => return Ok(disk.failed().to_string()),
            Self::Left { survives, seed, folder } => {
                let record = disk.record();
                let cut = PowerCut { after: record.changes().len(), survives, seed };
                record.after(cut).write_to(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
            }
        }
        Ok(String::new())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arm(Fault { operation, nth, failure, lasts }) => {
                write!(f, "arm {operation:?} {nth} {failure:?} {lasts:?}")
            }
            Self::Heal => f.write_str("heal"),
            Self::Failed => f.write_str("failed"),
            // The folder last: it may have spaces.
            Self::Left { survives, seed, folder } => {
                write!(f, "left {survives:?} {seed} {}", folder.display())
            }
        }
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let read = || {
            let mut words = line.splitn(4, ' ');
            Some(match words.next()? {
                "arm" => {
                    let operation = named(&Operation::ALL, words.next()?)?;
                    let nth = words.next()?.parse().ok()?;
                    let (failure, lasts) = words.next()?.split_once(' ')?;
                    let failure = named(&[Failure::Io, Failure::NoSpace], failure)?;
                    let lasts = named(&[Lasts::Once, Lasts::UntilHealed], lasts)?;
                    Self::Arm(Fault { operation, nth, failure, lasts })
                }
                "heal" => Self::Heal,
                "failed" => Self::Failed,
                "left" => Self::Left {
                    survives: named(&Survives::ALL, words.next()?)?,
                    seed: words.next()?.parse().ok()?,
                    folder: words.next()?.into(),
                },
                _ => return None,
            })
        };
        read().ok_or_else(|| format!("what is asked is not understood: {line}"))
    }
}

/// The one of these that is called so.
fn named<T: Copy + fmt::Debug>(all: &[T], name: &str) -> Option<T> {
    all.iter().copied().find(|one| format!("{one:?}") == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_is_understood() {
        let mut all = vec![Request::Heal, Request::Failed];
        for operation in Operation::ALL {
            for failure in [Failure::Io, Failure::NoSpace] {
                for lasts in [Lasts::Once, Lasts::UntilHealed] {
                    all.push(Request::Arm(Fault { operation, nth: 7, failure, lasts }));
                }
            }
        }
        for survives in Survives::ALL {
            all.push(Request::Left { survives, seed: 9, folder: "/a folder/of mine here".into() });
        }
        for request in all {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for line in ["", "arm", "arm Write 1 Io", "arm Write x Io Once", "left Nothing 1", "mount /"] {
            assert!(line.parse::<Request>().is_err(), "{line}");
        }
    }
}
