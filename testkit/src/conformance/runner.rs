//! Runs cases, one runtime each, and reports.

use std::fmt;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Trial};
use tokio::runtime::{Builder, Runtime};

use super::{Case, Failure, Harness, Need, World, all};

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The driver keeps the rule.
    Passed,
    /// It does not; why.
    Failed(String),
    /// The rule is not one for this driver; why.
    NotApplicable(&'static str),
}

/// How each case ended.
#[derive(Debug, Clone)]
#[must_use = "a report that nobody reads proves nothing"]
pub struct Report {
    /// By case, in the suite's order.
    pub cases: Vec<(&'static str, Status)>,
}

impl Report {
    /// Whether no case failed.
    #[must_use]
    pub fn is_green(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &'static str> {
        self.cases.iter().filter(|(_, s)| matches!(s, Status::Failed(_))).map(|(name, _)| *name)
    }

    /// How many passed, failed, and do not apply.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |pick: fn(&Status) -> bool| self.cases.iter().filter(|(_, s)| pick(s)).count();
        (
            count(|s| matches!(s, Status::Passed)),
            count(|s| matches!(s, Status::Failed(_))),
            count(|s| matches!(s, Status::NotApplicable(_))),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, status) in &self.cases {
            match status {
                Status::Passed => writeln!(f, "passed          {name}")?,
                Status::NotApplicable(why) => writeln!(f, "not applicable  {name}: {why}")?,
                Status::Failed(why) => writeln!(f, "FAILED          {name}\n{why}")?,
            }
        }
        let (passed, failed, other) = self.counts();
        write!(f, "{passed} passed, {failed} failed, {other} not applicable")
    }
}

/// Runs the cases that `only` picks, by name, one after the other.
pub fn run(harness: impl Harness, only: impl Fn(&str) -> bool) -> Report {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    let picked = all().into_iter().filter(|case| only(case.name));
    Report { cases: picked.map(|case| (case.name, run_case(&case, &harness))).collect() }
}

/// A harness's name and how it is made.
pub type Named<H> = (&'static str, fn() -> H);

/// Runs the suite for each named harness as `cargo test` expects of a test program: with its arguments, a
/// line a case, and counts. A harness is made anew for each case.
#[must_use = "the exit code says whether all passed"]
pub fn main<H: Harness>(harnesses: Vec<Named<H>>) -> ExitCode {
    run_as_told(harnesses, &Arguments::from_args())
}

/// The same with so many cases beside each other, if the arguments do not say how many (`--test-threads`): for drivers of
/// which most cases wait for a server most of their time.
#[must_use = "the exit code says whether all passed"]
pub fn main_beside<H: Harness>(cases: NonZeroUsize, harnesses: Vec<Named<H>>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(cases.get());
    run_as_told(harnesses, &arguments)
}

fn run_as_told<H: Harness>(harnesses: Vec<Named<H>>, arguments: &Arguments) -> ExitCode {
    let mut trials = Vec::new();
    for (kind, make) in harnesses {
        for case in all() {
            let name = case.name;
            let test = move || {
                let harness: Arc<dyn Harness> = Arc::new(make());
                match run_case(&case, &harness) {
                    Status::Passed => Ok(Completion::Completed),
                    Status::NotApplicable(why) => Ok(Completion::ignored_with(why)),
                    Status::Failed(why) => Err(why.into()),
                }
            };
            trials.push(Trial::ignorable_test(name, test).with_kind(kind));
        }
    }
    libtest_mimic::run(arguments, trials).exit_code()
}

fn run_case(case: &Case, harness: &Arc<dyn Harness>) -> Status {
    let scale = harness.scale();
    let runtime = match runtime(scale.paused_clock) {
        Ok(runtime) => runtime,
        Err(error) => return Status::Failed(format!("the runtime does not start: {error}")),
    };
    let status = runtime.block_on(async {
        let limited = tokio::time::timeout(scale.case, attempt(case, harness));
        match limited.await {
            Ok(Ok(Need::Applies)) => Status::Passed,
            Ok(Ok(Need::NotApplicable(why))) => Status::NotApplicable(why),
            Ok(Err(Failure { not_applicable: Some(why), .. })) => Status::NotApplicable(why),
            Ok(Err(failure)) => Status::Failed(format!("{}\n    the rule: {}", failure.what, case.contract)),
            Err(_) => Status::Failed(format!(
                "it did not end within {:?}\n    the rule: {}",
                scale.case, case.contract
            )),
        }
    });
    // A driver's own threads must not hold the suite up.
    runtime.shutdown_background();
    status
}

async fn attempt(case: &Case, harness: &Arc<dyn Harness>) -> Result<Need, Failure> {
    let world = World::new(Arc::clone(harness), case.name).await?;
    let need = (case.needs)(world.can(), world.writer_can());
    if need == Need::Applies {
        // In a task of its own, so that a panic in a driver is a failed case.
        let run = tokio::spawn((case.run)(world));
        run.await.map_err(|error| Failure::from(format!("the case panicked: {error}")))??;
    }
    Ok(need)
}

fn runtime(paused: bool) -> std::io::Result<Runtime> {
    match paused {
        true => Builder::new_current_thread().enable_all().start_paused(true).build(),
        false => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
    }
}
