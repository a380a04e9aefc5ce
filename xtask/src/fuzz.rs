//! `cargo xtask fuzz`: lets libFuzzer loose on the targets in `fuzz/`, on any stable compiler.
//!
//! Coverage is LLVM's own pass, which stable `rustc` runs when it is asked to; only the sanitizers want a nightly.
//! The working corpus lies among the build results; what is kept for good is in `fuzz/corpus`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::Result;
use crate::command::{Run, root};

#[derive(Args)]
pub(crate) struct Options {
    /// Which targets, such as codec_json; all of them by default.
    targets: Vec<String>,
    /// How long each runs.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// What becomes of the inputs that found something new.
    #[arg(long, value_enum, default_value_t = Finds::Leave)]
    finds: Finds,
    /// Names the targets and runs none.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Finds {
    /// They stay among the build results, for the next run.
    Leave,
    /// A smallest set that reaches all that was reached becomes the kept corpus.
    Keep,
}

/// The longest input. Longer ones find the same, slower; the bounds on memory are proportional.
const LONGEST: u32 = 4_096;

/// What the compiler is told, so that libFuzzer sees which code an input reaches and what it is compared with.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

pub(crate) fn run(options: &Options) -> Result {
    let all = targets()?;
    let chosen: Vec<_> = if options.targets.is_empty() {
        all.clone()
    } else {
        options.targets.iter().map(|name| known(name, &all)).collect::<Result<_>>()?
    };
    if options.list {
        chosen.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    let programs = build()?;
    let sum = programs.fuzz_all(&chosen, Length::Time(Duration::from_secs(options.seconds)))?;
    println!("{:<16}{sum}", format!("{} targets", chosen.len()));
    if options.finds == Finds::Keep {
        for name in &chosen {
            programs.keep(name)?;
        }
    }
    Ok(())
}

/// A few thousand inputs of each target, on top of what is kept, always the same ones. Says what it came to.
pub(crate) fn ci() -> Result<String> {
    let all = targets()?;
    let sum = build()?.fuzz_all(&all, Length::Inputs(3_000))?;
    Ok(format!("{} targets, {} inputs, nothing found", all.len(), sum.executions))
}

/// The names of all targets: those of the programs.
fn targets() -> Result<Vec<String>> {
    let mut names: Vec<_> = fs::read_dir(root().join("fuzz/fuzz_targets"))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn known(name: &str, all: &[String]) -> Result<String> {
    if all.iter().any(|known| known == name) {
        return Ok(name.to_owned());
    }
    Err(format!("there is no fuzz target {name}; there are: {}", all.join(", ")).into())
}

fn build() -> Result<Programs> {
    let host = host()?;
    // With the target named, proc macros and build scripts are left as they are.
    Run::cargo("build --release --bins --manifest-path fuzz/Cargo.toml --target")
        .arg(host.as_str())
        .env("RUSTFLAGS", COVERAGE.join(" "))
        .run()?;
    let metadata =
        Run::cargo("metadata --no-deps --format-version 1 --manifest-path fuzz/Cargo.toml").output()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let folder = metadata["target_directory"].as_str().ok_or("cargo metadata names no target_directory")?;
    let folder = PathBuf::from(folder);
    Ok(Programs { programs: folder.join(host).join("release"), corpus: folder.join("corpus") })
}

fn host() -> Result<String> {
    let version = Run::new("rustc").arg("-vV").output()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not name its host".into())
}

/// The built targets, and the folder where inputs are collected.
struct Programs {
    programs: PathBuf,
    corpus: PathBuf,
}

/// How long a target runs.
#[derive(Debug, Clone, Copy)]
enum Length {
    /// On the clock, other inputs each time.
    Time(Duration),
    /// So many, the same each time.
    Inputs(u32),
}

impl Length {
    fn options(self) -> Vec<String> {
        match self {
            Self::Time(time) => vec![format!("-max_total_time={}", time.as_secs())],
            Self::Inputs(count) => vec![format!("-runs={count}"), "-seed=1".to_owned()],
        }
    }
}

impl Programs {
    fn fuzz_all(&self, names: &[String], each: Length) -> Result<Outcome> {
        let mut sum = Outcome::default();
        for name in names {
            let outcome = self.fuzz(name, each)?;
            println!("{name:<16}{outcome}");
            sum.executions += outcome.executions;
            sum.took += outcome.took;
        }
        Ok(sum)
    }

    /// Lets libFuzzer run for a while.
    fn fuzz(&self, name: &str, length: Length) -> Result<Outcome> {
        let collected = self.collected(name)?;
        let artifacts = root().join("fuzz/artifacts");
        fs::create_dir_all(&artifacts)?;
        let begun = Instant::now();
        let log = self.libfuzzer(
            name,
            Some(&collected),
            &[
                length.options(),
                vec![
                    // What an input works is bounded by the target itself; this is for one that waits for ever.
                    "-timeout=20".to_owned(),
                    format!("-artifact_prefix={}/{name}-", artifacts.display()),
                    "-print_final_stats=1".to_owned(),
                ],
            ]
            .concat(),
            &[&collected, &kept(name)],
        )?;
        Ok(Outcome { executions: executions(&log)?, took: begun.elapsed() })
    }

    /// Makes the smallest set of inputs that reaches as much as all of them the kept corpus.
    fn keep(&self, name: &str) -> Result {
        let (collected, kept) = (self.collected(name)?, kept(name));
        let smallest = self.corpus.join(format!("{name}.smallest"));
        if smallest.exists() {
            fs::remove_dir_all(&smallest)?;
        }
        fs::create_dir_all(&smallest)?;
        // Short ones, and one for each place that is reached: the repository stays small.
        let options =
            ["-merge=1", "-set_cover_merge=1", "-use_counters=0", "-max_len=256"].map(str::to_owned);
        self.libfuzzer(name, None, &options, &[&smallest, &collected, &kept])?;
        fs::remove_dir_all(&kept)?;
        fs::create_dir_all(&kept)?;
        let (mut files, mut bytes) = (0, 0);
        for entry in fs::read_dir(&smallest)? {
            let entry = entry?;
            bytes += fs::copy(entry.path(), kept.join(entry.file_name()))?;
            files += 1;
        }
        println!("{name:<16}{files:>8} inputs kept {bytes:>9} bytes");
        Ok(())
    }

    /// The folder of the inputs so far.
    fn collected(&self, name: &str) -> Result<PathBuf> {
        let folder = self.corpus.join(name);
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(kept(name))?;
        Ok(folder)
    }

    /// Runs a target's program; gives what it said. If it found something, that is the error.
    ///
    /// `seeds` is where it writes its seeds before it reads any folder.
    fn libfuzzer(
        &self,
        name: &str,
        seeds: Option<&Path>,
        options: &[String],
        folders: &[&Path],
    ) -> Result<String> {
        let log = self.corpus.join(format!("{name}.log"));
        let program = self.programs.join(name);
        let status = Command::new(&program)
            .arg(format!("-max_len={LONGEST}"))
            .args(options)
            .args(folders.iter().map(AsRef::<OsStr>::as_ref))
            .envs(seeds.map(|folder| ("MILLSTREAM_FUZZ_SEEDS", folder)))
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .status()?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if status.success() {
            return Ok(text);
        }
        Err(format!("{name} ended with {status}; all it said is in {}:\n{}", log.display(), found(&text))
            .into())
    }
}

/// What was found, out of all that libFuzzer says: the panic, the frames of our own code, the input.
fn found(log: &str) -> String {
    let mut lines = log.lines().skip_while(|line| !line.contains("panicked at") && !line.contains("ERROR:"));
    let mut told = Vec::new();
    while let Some(line) = lines.next() {
        let tells =
            ["ERROR:", "SUMMARY:", "Test unit written", "Base64:"].iter().any(|what| line.contains(what));
        if line.contains("panicked at") {
            told.extend([Some(line), lines.next()].into_iter().flatten());
        } else if tells || line.trim_start().starts_with("at ./") {
            told.push(line);
        }
    }
    if told.is_empty() {
        told.extend(log.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev());
    }
    told.truncate(TOLD);
    told.join("\n")
}

/// The most lines that are told of what was found.
const TOLD: usize = 20;

fn kept(name: &str) -> PathBuf {
    root().join("fuzz/corpus").join(name)
}

/// The number of inputs that libFuzzer says it ran.
fn executions(log: &str) -> Result<u64> {
    let number = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let number = number.and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| "libFuzzer did not say how many inputs it ran".into())
}

#[derive(Debug, Default)]
struct Outcome {
    executions: u64,
    took: Duration,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>12} inputs {:>7.1} s, nothing found", self.executions, self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_found_the_panic_our_own_frames_and_the_input_are_told() {
        let log = "#100 pulse\nthread 'x' panicked at drivers/sqlite/src/check.rs:177:29:\nit overflowed\n\
                   stack backtrace:\n   0: begin\n             at /rustc/1/std.rs:1\n   3: log\n             \
                   at ./drivers/sqlite/src/check.rs:177\nSUMMARY: libFuzzer: deadly signal\n0x1,0x2a,\nBase64: ASoB\n";
        let told = found(log);
        let lines: Vec<_> = told.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "thread 'x' panicked at drivers/sqlite/src/check.rs:177:29:",
                "it overflowed",
                "at ./drivers/sqlite/src/check.rs:177",
                "SUMMARY: libFuzzer: deadly signal",
                "Base64: ASoB"
            ]
        );
        assert_eq!(found("a\nb"), "a\nb");
    }

    #[test]
    fn the_number_of_inputs_is_read_from_the_closing_lines() {
        let log =
            "#2 INITED\nstat::number_of_executed_units: 1048576\nstat::average_exec_per_sec:     9999\n";
        assert_eq!(executions(log).unwrap(), 1_048_576);
    }

    #[test]
    fn a_run_that_does_not_say_how_much_it_did_is_an_error() {
        assert!(executions("Done 5 runs\n").is_err());
    }

    #[test]
    fn an_unknown_target_names_those_there_are() {
        let error = known("no", &["a".to_owned(), "b".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "there is no fuzz target no; there are: a, b");
    }
}
