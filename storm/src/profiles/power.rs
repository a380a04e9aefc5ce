//! The power is cut while processes publish, handle and checkpoint: what may be left of their disk is opened, and
//! nothing that was confirmed may be missing, doubled or wrong.
//!
//! The processes work on a disk that records every write, sync and name. From the record come images: all that was
//! synced before the cut, and of the rest any part. Each is opened by the driver, checked, read to its end by every
//! group, and held against what the processes had been told.

pub(super) mod handling;
pub(super) mod look;
pub(super) mod recorded;
mod recovery;
pub(super) mod story;

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use millstream_disk::{Disk, Record, Survives};

use self::look::Looked;
pub(crate) use self::recorded::{Options, run as run_recorded};
use self::story::Story;
use super::Scale;
use crate::report::Row;
use crate::{Result, scratch};

/// How long a process may take for its life.
const LIFE: Duration = Duration::from_secs(60);
/// How long a look at an image may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a GiB may take to open after a crash.
const RECOVERY: Duration = Duration::from_secs(1);
/// Problems that are told in words.
const TOLD: usize = 20;

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let folder = scratch::folder("power")?;
    if let Err(why) = try_disk(folder.path()) {
        return Ok(Row::skipped(why));
    }
    let (recordings, images) = scale.of((40, 500), (4, 250));
    let total = Total::default();
    let panics = count_panics();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::AcqRel);
                    if number >= recordings {
                        return;
                    }
                    let seed = seed.wrapping_add(number as u64);
                    let folder = folder.path().join(number.to_string());
                    if let Err(error) = one_recording(&folder, seed, images, &total) {
                        let error = format!("recording of seed {seed}: {error}");
                        *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    }
                    let _ = fs::remove_dir_all(&folder);
                }
            });
        }
    });
    drop(panic::take_hook());
    let mut row = total.row();
    row.problems.extend(failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    let panicked = panics.load(Ordering::Acquire);
    if panicked > 0 {
        row.problems.push(format!("{panicked} panics"));
    }
    row.detail = format!("{recordings} recordings of seeds from {seed} on; {}", row.detail);
    recover(folder.path(), scale, &mut row)?;
    Ok(row)
}

/// Opens a large file after a crash.
fn recover(folder: &Path, scale: Scale, row: &mut Row) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bytes = scale.of(1 << 30, 64 << 20);
    let opened = runtime.block_on(recovery::open_after_crash(&folder.join("large"), bytes))?;
    let mib = |bytes: u64| bytes >> 20;
    row.detail += &format!(
        "; {} MiB with {} MiB in the log opened in {:.0} ms",
        mib(opened.file),
        mib(opened.log),
        opened.took.as_secs_f64() * 1e3
    );
    if opened.took > RECOVERY.mul_f64(bytes as f64 / f64::from(1 << 30)).max(RECOVERY) {
        row.problems.push(format!("{} MiB took {:?} to open", mib(opened.file), opened.took));
    }
    Ok(())
}

/// Sees whether a disk can be mounted here.
pub(super) fn try_disk(folder: &Path) -> Result<(), String> {
    let point = folder.join("try");
    fs::create_dir(&point).map_err(|e| e.to_string())?;
    Disk::mount(&point).map(drop).map_err(|e| e.to_string())
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts panics, wherever they happen.
pub(super) fn count_panics() -> &'static AtomicU64 {
    PANICS.store(0, Ordering::Release);
    panic::set_hook(Box::new(|_| {
        PANICS.fetch_add(1, Ordering::AcqRel);
    }));
    &PANICS
}

/// What all came to.
#[derive(Debug, Default)]
struct Total(Mutex<Sum>);

#[derive(Debug, Default)]
struct Sum {
    images: u64,
    changes: u64,
    published: u64,
    confirmed: u64,
    settled: u64,
    lost: u64,
    effects_double: u64,
    effects_missing: u64,
    longest: Duration,
    problems: Vec<String>,
    unlisted: u64,
}

impl Total {
    fn add(&self, add: impl FnOnce(&mut Sum)) {
        add(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn problems(&self) -> u64 {
        let sum = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sum.problems.len() as u64 + sum.unlisted
    }

    fn row(self) -> Row {
        let sum = self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut problems = sum.problems;
        if sum.unlisted > 0 {
            problems.push(format!("and {} more", sum.unlisted));
        }
        Row {
            faults: sum.images,
            messages: sum.published,
            acknowledged: sum.confirmed,
            lost: sum.lost,
            effects_double: sum.effects_double,
            effects_missing: sum.effects_missing,
            detail: format!(
                "{} changes of the disk, {} settlements confirmed, the longest opening {:.0} ms",
                sum.changes,
                sum.settled,
                sum.longest.as_secs_f64() * 1e3
            ),
            problems,
            ..Row::default()
        }
    }
}

// ---- Recording -----------------------------------------------------------------------------------------------

fn one_recording(folder: &Path, seed: u64, images: usize, total: &Total) -> Result {
    fs::create_dir(folder)?;
    let record = record(folder, seed)?;
    let before = total.problems();
    let story = Story::of(&record)?;
    let all = story.before(usize::MAX);
    total.add(|sum| {
        sum.changes += record.changes().len() as u64;
        sum.published += all.publishing.values().sum::<usize>() as u64;
        sum.confirmed += all.published.values().sum::<usize>() as u64;
        sum.settled += all.settled.len() as u64;
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut random = Rng::with_seed(seed);
    let mut replay = record.replay();
    for (number, after) in places(&record, &story, images, &mut random).into_iter().enumerate() {
        replay.advance(after);
        let survives = Survives::ALL[random.usize(..Survives::ALL.len())];
        let own = random.u64(..);
        let place = folder.join(format!("image-{number}"));
        fs::create_dir(&place)?;
        replay.cut(survives, own).write_to(&place)?;
        let known = story.before(after);
        let looking = async { tokio::time::timeout(PATIENCE, look::look(&place, &known)).await };
        let looked = match runtime.block_on(looking) {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => Looked::failed(error.to_string()),
            Err(_) => Looked::failed(format!("still looked at after {PATIENCE:?}")),
        };
        fs::remove_dir_all(&place)?;
        let which = format!("recording of seed {seed}, cut after change {after}, {survives:?} of seed {own}");
        total.add(|sum| sum.take(looked, &which));
    }
    if total.problems() > before {
        let kept = std::env::temp_dir().join(format!("millstream-storm-power-{seed}.record"));
        record.save(&kept)?;
        println!("  all that happened to the disk in the recording of seed {seed} is in {}", kept.display());
    }
    Ok(())
}

impl Sum {
    fn take(&mut self, looked: Looked, which: &str) {
        self.images += 1;
        self.lost += looked.lost;
        self.effects_double += looked.effects_double;
        self.effects_missing += looked.effects_missing;
        self.longest = self.longest.max(looked.opened);
        for problem in looked.problems {
            if self.problems.len() < TOLD {
                self.problems.push(format!("{which}: {problem}"));
            } else {
                self.unlisted += 1;
            }
        }
    }
}

/// Where the power is cut, in order: half of the cuts right behind a confirmation.
fn places(record: &Record, story: &Story, images: usize, random: &mut Rng) -> Vec<usize> {
    let mut places: Vec<usize> = (0..images)
        .map(|number| match story.confirmations.get(random.usize(..story.confirmations.len().max(1))) {
            Some(place) if number % 2 == 0 => place + 1,
            _ => random.usize(0..=record.changes().len()),
        })
        .collect();
    places.sort_unstable();
    places
}

/// Lets processes work on a recorded disk, one after the other and two at a time.
fn record(folder: &Path, seed: u64) -> Result<Record> {
    let mut random = Rng::with_seed(seed);
    let point = folder.join("disk");
    fs::create_dir(&point)?;
    let disk = Disk::mount(&point)?;
    let boot = folder.join("boot");
    let mut life = 0;
    for _ in 0..random.u8(2..4) {
        let together = random.usize(1..3);
        let children: Vec<Child> = (0..together)
            .map(|_| {
                life += 1;
                let messages = random.u32(40..200);
                start(&Options { folder: point.clone(), seed, life, messages }, &boot)
            })
            .collect::<Result<_>>()?;
        for child in children {
            end(child)?;
        }
    }
    Ok(disk.record())
}

/// Starts one in a boot of its own, if that can be had: after a power cut the machine has booted again.
fn start(options: &Options, boot: &PathBuf) -> Result<Child> {
    let Options { folder, seed, life, messages } = options;
    let program = std::env::current_exe()?;
    let mut command = if life % 3 == 0 {
        Command::new(program)
    } else {
        fs::write(boot, "11111111-2222-3333-4444-555555555555\n")?;
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id 2>/dev/null; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(boot).arg(program);
        command
    };
    command.arg("recorded").arg("--folder").arg(folder);
    command.args([
        "--seed",
        &seed.to_string(),
        "--life",
        &life.to_string(),
        "--messages",
        &messages.to_string(),
    ]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

fn end(mut child: Child) -> Result {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(());
            }
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                std::io::Read::read_to_string(&mut stderr, &mut said)?;
            }
            return Err(format!("a recorded process ended with {status}: {said}").into());
        }
        if begun.elapsed() > LIFE {
            child.kill()?;
            child.wait()?;
            return Err(format!("a recorded process did not end within {LIFE:?}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
