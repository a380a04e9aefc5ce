//! The disk fails at one operation of a script, at every one in turn: with `EIO` and with `ENOSPC`, once and until it
//! is healed. Nothing may be confirmed that is not there, nothing may hang or panic, every error has to say what to do,
//! and when the disk works again the program has to go on.
//!
//! After each run two things are looked at: the files as they are, and what is left of them if the power is cut now.
//! So it is seen, too, that nothing was confirmed after an `fsync` that failed without having been written again.

mod scripted;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream_disk::{Disk, Failure, Fault, Lasts, Operation, PowerCut, Record, Survives};

use self::scripted::{Ending, Script};
pub(crate) use self::scripted::{Options, run as run_scripted};
use super::Scale;
use super::power::look::{Looked, look};
use super::power::story::Story;
use super::power::{count_panics, try_disk};
use crate::report::Row;
use crate::{Result, scratch};

/// How long a run of a script may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Runs at a time, for each core: most of a run is waiting.
const LANES: usize = 8;
/// A disk that is gone goes at one in so many operations.
const ANY_STEP: u64 = 5;
/// Problems that are told in words.
const TOLD: usize = 40;
/// Of one run.
const TOLD_OF_ONE: usize = 4;

/// A run of a script, and what fails in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Case {
    script: Script,
    fault: Fault,
    /// How many operations of the kind the script has, when nothing fails.
    usual: u64,
}

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let folder = scratch::folder("ioerror")?;
    if let Err(why) = try_disk(folder.path()) {
        return Ok(Row::skipped(why));
    }
    let queue = Mutex::new(cases(folder.path(), scale, seed)?);
    let sum = Mutex::new(Sum::default());
    let panics = count_panics();
    let lanes = std::thread::available_parallelism().map_or(2, usize::from) * LANES;
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (queue, sum, folder) = (&queue, &sum, folder.path().join(lane.to_string()));
            scope.spawn(move || {
                let mut number = 0;
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(case) = next else { return };
                    number += 1;
                    let judged =
                        judge(&folder.join(number.to_string()), case, seed).unwrap_or_else(|error| Judged {
                            problems: vec![format!("it could not be run: {error}")],
                            ..Judged::default()
                        });
                    // Failing, a script may have more operations: on until it passes without meeting the fault.
                    if judged.struck > 0 && case.fault.nth > case.usual {
                        queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(case.next());
                    }
                    sum.lock().unwrap_or_else(PoisonError::into_inner).add(case, judged);
                }
            });
        }
    });
    drop(std::panic::take_hook());
    let mut row = sum.into_inner().unwrap_or_else(PoisonError::into_inner).row();
    let panicked = panics.load(Ordering::Acquire);
    if panicked > 0 {
        row.problems.push(format!("{panicked} panics while looking at what was left"));
    }
    Ok(row)
}

// ---- The cases -----------------------------------------------------------------------------------------------

impl Case {
    fn next(mut self) -> Self {
        self.fault.nth += 1;
        self
    }

    fn name(self) -> String {
        let Self { script, fault: Fault { operation, nth, failure, lasts }, .. } = self;
        format!("{}: {operation:?} {nth}, {failure:?}, {lasts:?}", script.name())
    }
}

/// Runs only the cases whose names have this in them, such as `whole: Sync 7, Io, Once`.
const ONLY: &str = "MILLSTREAM_STORM_CASES";

/// Every operation of every script; of the smaller scale one in ten, which ones the seed decides.
fn cases(folder: &Path, scale: Scale, seed: u64) -> Result<VecDeque<Case>> {
    let mut random = Rng::with_seed(seed);
    let only = std::env::var(ONLY).ok();
    let step = if only.is_some() { 1 } else { scale.of(1, 10) };
    let mut cases = Vec::new();
    for script in Script::ALL {
        let usual = count(folder, script)?;
        // Not its reads: SQLite maps one of its files, and what cannot be read into a mapping ends any process.
        for (operation, usual) in usual.into_iter().filter(|(operation, _)| *operation != Operation::Read) {
            for failure in [Failure::Io, Failure::NoSpace] {
                for lasts in [Lasts::Once, Lasts::UntilHealed] {
                    // Each is one of another kind, too: failing once it is looked at there.
                    if operation == Operation::Any && lasts == Lasts::Once {
                        continue;
                    }
                    let step = if operation == Operation::Any { step * ANY_STEP } else { step };
                    let first = 1 + random.u64(0..step);
                    for nth in (first..=usual + 1).step_by(usize::try_from(step)?) {
                        let fault = Fault { operation, nth, failure, lasts };
                        cases.push(Case { script, fault, usual });
                    }
                }
            }
        }
    }
    if let Some(only) = only {
        cases.retain(|case| case.name().contains(&only));
    }
    // Those that wait long first: others run meanwhile.
    cases.sort_by_key(|case| case.script != Script::Retention);
    Ok(cases.into())
}

/// How many operations of each kind a script has.
fn count(folder: &Path, script: Script) -> Result<Vec<(Operation, u64)>> {
    let folder = folder.join(script.name());
    let ran = with_disk(&folder, |disk| {
        let mut process = Process::start(disk, script)?;
        disk.count();
        process.go()?;
        let ended = process.end()?;
        let counted = Operation::ALL.map(|operation| (operation, disk.counted(operation)));
        Ok((ended, counted, disk.record()))
    })?;
    let ((ending, said), counted, record) = ran;
    let mut judged = Judged::default();
    look_at(&folder, &record, 0, &mut judged)?;
    if ending != Some(Ending::Done) || !judged.problems.is_empty() {
        let problems = judged.problems.join("; ");
        return Err(
            format!("the script {} fails by itself: {ending:?} {said} {problems}", script.name()).into()
        );
    }
    Ok(counted.into())
}

// ---- A run ---------------------------------------------------------------------------------------------------

/// A script in a process of its own.
struct Process(Child);

impl Process {
    /// Starts it and waits until it is where the disk may fail.
    fn start(disk: &Disk, script: Script) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("scripted")
            .arg("--folder")
            .arg(disk.point())
            .args(["--script", script.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let mut process = Self(child);
        if line.trim() != "ready" {
            let (ending, said) = process.end()?;
            return Err(format!("it ended before it was ready: {ending:?} {said}").into());
        }
        Ok(process)
    }

    fn go(&mut self) -> Result {
        if let Some(stdin) = &mut self.0.stdin {
            stdin.write_all(b"go\n")?;
        }
        Ok(())
    }

    fn is_running(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// Waits for its end: how it ended, if it knows, and what it said.
    fn end(&mut self) -> Result<(Option<Ending>, String)> {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait()? {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                return Ok((None, format!("it did not end within {PATIENCE:?}")));
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        let ending = status.code().and_then(Ending::of);
        let said = said.trim().to_owned();
        Ok((ending, if ending.is_some() { said } else { format!("{status}: {said}") }))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mounts a disk in a folder for a while.
fn with_disk<T>(folder: &Path, work: impl FnOnce(&Disk) -> Result<T>) -> Result<T> {
    let point = folder.join("disk");
    fs::create_dir_all(&point)?;
    let disk = Disk::mount(&point)?;
    let worked = work(&disk);
    drop(disk);
    fs::remove_dir_all(folder)?;
    worked
}

/// What a run came to.
#[derive(Debug, Default)]
struct Judged {
    struck: u64,
    gave_up: bool,
    published: u64,
    confirmed: u64,
    lost: u64,
    effects_double: u64,
    effects_missing: u64,
    /// From when the disk worked again to the end of the script.
    went_on: Duration,
    problems: Vec<String>,
}

/// Runs a case and looks at what is left.
fn judge(folder: &Path, case: Case, seed: u64) -> Result<Judged> {
    let mut random = Rng::with_seed(seed ^ case.fault.nth);
    let mut judged = Judged::default();
    let record = with_disk(folder, |disk| {
        let mut process = Process::start(disk, case.script)?;
        disk.arm(case.fault);
        process.go()?;
        while disk.failed() == 0 && process.is_running()? {
            std::thread::sleep(Duration::from_millis(1));
        }
        if case.fault.lasts == Lasts::UntilHealed && disk.failed() > 0 {
            std::thread::sleep(Duration::from_millis(random.u64(1..400)));
            disk.heal();
        }
        let healed = Instant::now();
        let (ending, said) = process.end()?;
        judged.went_on = healed.elapsed();
        judged.struck = disk.failed();
        match ending {
            Some(Ending::Done) => {}
            Some(Ending::GaveUp) if case.fault.failure == Failure::Io => judged.gave_up = true,
            _ => judged.problems.push(format!("{ending:?}: {said}")),
        }
        // Now, before whoever still has the files open lets them go.
        Ok(disk.record())
    })?;
    if judged.struck > 0 {
        look_at(folder, &record, random.u64(..), &mut judged)?;
    }
    if !judged.problems.is_empty() {
        let kept =
            std::env::temp_dir().join(format!("millstream-storm-{}.record", case.name().replace(": ", "-")));
        record.save(&kept)?;
        judged.problems.push(format!("all that happened to the disk is in {}", kept.display()));
    }
    Ok(judged)
}

/// Holds what is left, with power and without, against what was confirmed.
fn look_at(folder: &Path, record: &Record, seed: u64, judged: &mut Judged) -> Result {
    let known = Story::of(record)?.before(usize::MAX);
    judged.published = known.publishing.values().sum::<usize>() as u64;
    judged.confirmed = known.published.values().sum::<usize>() as u64;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for survives in [Survives::Everything, Survives::Nothing, Survives::Torn] {
        // A place for each: whoever looked closes its files a little later, and deletes the log by its name.
        let place = folder.join(format!("left-{survives:?}"));
        fs::create_dir_all(&place)?;
        let cut = PowerCut { after: record.changes().len(), survives, seed };
        record.after(cut).write_to(&place)?;
        let looking = async { tokio::time::timeout(PATIENCE, look(&place, &known)).await };
        let looked = match runtime.block_on(looking) {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => Looked::failed(error.to_string()),
            Err(_) => Looked::failed(format!("still looked at after {PATIENCE:?}")),
        };
        judged.lost += looked.lost;
        judged.effects_double += looked.effects_double;
        judged.effects_missing += looked.effects_missing;
        let which = format!("what is left ({survives:?}, seed {seed})");
        judged.problems.extend(looked.problems.into_iter().map(|problem| format!("{which}: {problem}")));
    }
    Ok(fs::remove_dir_all(folder)?)
}

// ---- The sum -------------------------------------------------------------------------------------------------

/// What all runs came to.
#[derive(Debug, Default)]
struct Sum {
    cases: u64,
    faults: u64,
    unmet: u64,
    gave_up: u64,
    row: Row,
    went_on: Vec<Duration>,
    unlisted: u64,
}

impl Sum {
    fn add(&mut self, case: Case, judged: Judged) {
        self.cases += 1;
        self.faults += u64::from(judged.struck > 0);
        self.unmet += u64::from(judged.struck == 0);
        self.gave_up += u64::from(judged.gave_up);
        self.row.messages += judged.published;
        self.row.acknowledged += judged.confirmed;
        self.row.lost += judged.lost;
        self.row.effects_double += judged.effects_double;
        self.row.effects_missing += judged.effects_missing;
        if judged.struck > 0 && !judged.gave_up {
            self.went_on.push(judged.went_on);
        }
        for (number, problem) in judged.problems.into_iter().enumerate() {
            if self.row.problems.len() < TOLD && number < TOLD_OF_ONE {
                self.row.problems.push(format!("{}: {problem}", case.name()));
            } else {
                self.unlisted += 1;
            }
        }
    }

    fn row(mut self) -> Row {
        self.went_on.sort_unstable();
        if self.unlisted > 0 {
            self.row.problems.push(format!("and {} more", self.unlisted));
        }
        self.row.faults = self.faults;
        let longest = self.went_on.last().copied().unwrap_or_default();
        self.row.detail = format!(
            "{} runs, {} passed without meeting their fault, {} ended with an error that names the fix, the others \
             went on, the slowest done {:.1} s after the disk worked",
            self.cases,
            self.unmet,
            self.gave_up,
            longest.as_secs_f64()
        );
        self.row
    }
}
