//! How a worker is started: as it is, or in a world where something is wrong, such as the clock or the disk.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;

use crate::cgroup::Cgroup;

/// What stands before a worker's command line, and what its environment has beside ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    before: Vec<OsString>,
    envs: Vec<(&'static str, OsString)>,
    /// The syncs that fail in it, if some do.
    pub(crate) failing: Option<FailingSyncs>,
    /// How long some of its handlers hang, deaf to everything; zero: none does.
    pub(crate) hang: Duration,
    /// Whether it takes no part in the group with a deduplication store.
    pub(crate) without_dedup: bool,
}

/// Syncs of one life that fail.
#[derive(Debug, Clone)]
pub(crate) struct FailingSyncs {
    pub(crate) which: Which,
    /// Of which file.
    of: PathBuf,
    /// Where each is written down, by `strace`: a file for each life.
    log: PathBuf,
}

/// Which syncs fail, counted for each thread from its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// One in so many, from the `first` on.
    Every { first: u32, step: u32 },
    /// Some in a row.
    Some { first: u32, last: u32 },
    /// All from the `first` on.
    From { first: u32 },
}

impl Which {
    /// Leaves the worker some syncs to open the file with.
    pub(crate) fn any(random: &mut Rng) -> Self {
        let first = random.u32(15..60);
        match random.u8(..4) {
            0 => Self::From { first },
            1 => Self::Some { first, last: first + random.u32(1..5) },
            _ => Self::Every { first, step: random.u32(5..40) },
        }
    }

    /// As `strace` wants it.
    fn when(self) -> String {
        match self {
            Self::Every { first, step } => format!("{first}+{step}"),
            Self::Some { first, last } => format!("{first}..{last}"),
            Self::From { first } => format!("{first}+"),
        }
    }
}

impl Launch {
    /// The program and the arguments that start this one with those arguments.
    pub(crate) fn command(&self, program: &Path, arguments: Vec<String>) -> Command {
        let mut words = self.before.clone();
        words.push(program.into());
        words.extend(arguments.into_iter().map(OsString::from));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.envs.iter().map(|(name, value)| (name, value)));
        // Its handlers panic on purpose, and to look up the names of a backtrace takes a processor up to a second.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Lets syncs of one file fail with EIO: the kernel is not asked at all.
    pub(crate) fn with_failing_syncs(which: Which, of: PathBuf) -> Self {
        Self { failing: Some(FailingSyncs { which, of, log: PathBuf::new() }), ..Self::default() }
    }

    /// The launch of one life, which has a file of its own for what is written down of it.
    pub(crate) fn of_one_life(&self, log: PathBuf) -> Self {
        let mut own = self.clone();
        if let Some(failing) = &mut own.failing {
            failing.log = log;
            own.before = failing.tracer();
        }
        own
    }

    /// Gives it a wall clock that goes wrong by what is in a file, such as `+3600`; the others are right.
    pub(crate) fn with_wall_clock(library: &Path, offset: &Path) -> Self {
        let envs = vec![
            ("LD_PRELOAD", library.into()),
            ("FAKETIME_TIMESTAMP_FILE", offset.into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_DONT_RESET", "1".into()),
        ];
        // The store looks at the clock by itself: without it, only the file's own threads do.
        Self { envs, without_dedup: true, ..Self::default() }
    }

    /// Runs it in a control group.
    pub(crate) fn within(group: &Cgroup) -> Self {
        Self { before: group.entering(), ..Self::default() }
    }

    /// Lets some of its handlers hang.
    pub(crate) fn with_hanging_handlers(hang: Duration) -> Self {
        Self { hang, ..Self::default() }
    }

    /// Shifts the clocks that count from the boot, as seen by it alone.
    pub(crate) fn with_boot_offset(seconds: i64) -> Self {
        let before = vec![
            "unshare".into(),
            "--time".into(),
            format!("--boottime={seconds}").into(),
            format!("--monotonic={seconds}").into(),
            "--".into(),
        ];
        Self { before, ..Self::default() }
    }
}

/// How the driver calls the thread that commits.
const WRITER: &str = "<ms-sqlite-write>";

impl FailingSyncs {
    /// The tracer is nobody's parent, so that the worker stays a child of ours, with its own number.
    fn tracer(&self) -> Vec<OsString> {
        let calls = "fsync,fdatasync";
        let mut before: Vec<OsString> =
            ["strace", "--daemonize", "-f", "-Y", "--seccomp-bpf", "-q", "-ttt", "-o"]
                .map(OsString::from)
                .into();
        before.push(self.log.clone().into());
        before.push("-P".into());
        before.push(self.of.clone().into());
        before.extend(["-e".into(), format!("trace={calls}").into()]);
        before.extend(["-e".into(), "signal=none".into()]);
        before.extend(["-e".into(), format!("inject={calls}:error=EIO:when={}", self.which.when()).into()]);
        before
    }

    /// When each failed, ascending, in nanoseconds since 1970.
    pub(crate) fn times(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.log().lines().filter_map(injected_at).collect();
        times.sort_unstable();
        times
    }

    /// When the first commit's did.
    pub(crate) fn commits_failed_from(&self) -> Option<u64> {
        self.log().lines().filter(|line| line.contains(WRITER)).filter_map(injected_at).min()
    }

    fn log(&self) -> String {
        // A life that died early has none.
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// When a call failed on purpose: the line is `PID<THREAD> SECONDS.MICROS fsync(9) = -1 EIO (…) (INJECTED)`.
fn injected_at(line: &str) -> Option<u64> {
    if !line.ends_with("(INJECTED)") {
        return None;
    }
    let time = line.split('>').nth(1)?.split_whitespace().next()?;
    let (seconds, micros) = time.split_once('.')?;
    let (seconds, micros): (u64, u64) = (seconds.parse().ok()?, micros.parse().ok()?);
    Some(seconds * 1_000_000_000 + micros * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_launch_is_the_program_with_its_arguments() {
        let command = Launch::default().command(Path::new("/bin/storm"), vec!["worker".into()]);
        assert_eq!(command.get_program(), "/bin/storm");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["worker"]);
    }

    #[test]
    fn what_stands_before_comes_first_and_the_worker_follows_whole() {
        let launch = Launch::with_boot_offset(-5);
        let command = launch.command(Path::new("/bin/storm"), vec!["worker".into(), "--place".into()]);
        let line: Vec<_> = command.get_args().collect();
        assert_eq!(command.get_program(), "unshare");
        assert_eq!(line[line.len() - 3..], ["/bin/storm", "worker", "--place"]);
    }

    #[test]
    fn only_calls_that_failed_on_purpose_are_told_with_their_times() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(
            &log,
            "7<ms-sqlite-write> 12.000345 fsync(9) = -1 EIO (Input/output error) (INJECTED)\n\
             7<ms-sqlite-write> 12.000200 fsync(9) = 0\n\
             8<other one> 11.000001 fsync(9</x>) = -1 EIO (Input/output error) (INJECTED)\n\
             8<other one> 13.0 +++ killed by SIGKILL +++\n",
        )
        .unwrap();
        let failing = FailingSyncs { which: Which::From { first: 1 }, of: "app.db-wal".into(), log };
        assert_eq!(failing.times(), [11_000_001_000, 12_000_345_000]);
        assert_eq!(failing.commits_failed_from(), Some(12_000_345_000));
    }

    #[test]
    fn each_life_with_failing_syncs_writes_them_down_in_a_file_of_its_own() {
        let launch = Launch::with_failing_syncs(Which::From { first: 20 }, "app.db-wal".into());
        let line = |log: &str| {
            let command = launch.of_one_life(log.into()).command(Path::new("/bin/storm"), Vec::new());
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            words.join(" ")
        };
        assert!(line("3.14.strace").contains(" -o 3.14.strace "), "{}", line("3.14.strace"));
        assert!(line("3.17.strace").contains(" -o 3.17.strace "), "{}", line("3.17.strace"));
    }
}
