//! The conformance suite: what every driver must do, as tests that any driver author can run.
//!
//! Implement [`Harness`] for your driver and call [`main`] from a test without the usual harness:
//!
//! ```toml
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! ```no_run
//! use std::process::ExitCode;
//! use millstream_core::{BoxFuture, Connection, Result};
//! use millstream_testkit::conformance::{self, Harness};
//! use millstream_testkit::sim::{Shape, SimBroker};
//!
//! struct Mine(SimBroker);
//!
//! impl Harness for Mine {
//!     fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
//!         Box::pin(async { Ok(self.0.connection()) })
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     conformance::main(vec![("mine", || Mine(SimBroker::new(Shape::WholeLog)))])
//! }
//! ```
//!
//! Each case appears as a test of its own; `cargo test -- <part of a name>` runs some. A case that asks for
//! what the driver's [`Capabilities`] deny is reported as ignored, with the reason. Under plain `#[test]`,
//! call [`run`] and assert that the [`Report`] is green.
//!
//! | file in `cases/` | proves |
//! |---|---|
//! | `delivery` | all comes, byte for byte, once |
//! | `cancel` | a read that is dropped loses nothing |
//! | `lifecycle` | opening, closing, vanishing, restarting |
//! | `groups` | each group gets all, members share, starts and ends |
//! | `order` | order per key, per partition, in total, also of what comes back |
//! | `settling` | verdicts, counts, parks, dead letters, atomic emits |
//! | `leases` | leases end, last when extended, and stale tokens are lost |
//! | `partitions` | assignments, revocations, positions, marks |
//! | `writing` | reports, limits, delays, closing |
//!
//! Cases check with the [ledger](crate::ledger) where loss, duplicates, order and bytes are concerned. None
//! waits for ever: each has a time limit, and says what did not come.

mod cases;
mod corpus;
mod member;
mod runner;
mod world;

use std::fmt;
use std::time::Duration;

use millstream_core::{BoxFuture, Capabilities, Connection, Result, WriterCapabilities};

pub use runner::{Named, Report, Status, main, main_beside, run};
use world::World;

/// How the suite reaches a driver.
pub trait Harness: Send + Sync + 'static {
    /// Connects anew, as another process would: the broker is the same, the client is not. A driver that
    /// lives in the process gives its one broker.
    fn connect(&self) -> BoxFuture<'_, Result<Connection>>;

    /// A topic name that was never used, from a short name in lower case. Default: that, with a number.
    fn topic(&self, name: &str) -> String {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("conformance.{name}.{}.{number}", std::process::id())
    }

    /// The name of a group, from a short name that is the same in every case. Default: that. A broker whose groups span
    /// topics needs others in each case, since cases run beside each other; the harness is made anew for each.
    fn group(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Restarts the server, if the test can; what it keeps durably must survive. Default: it cannot.
    fn restart(&self) -> Option<BoxFuture<'_, Result<()>>> {
        None
    }

    /// How much and how long.
    fn scale(&self) -> Scale {
        Scale::default()
    }
}

/// How much a suite sends and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scale {
    /// Messages of an ordinary case. Default 100; cases about throughput and concurrency send ten times that.
    pub messages: usize,
    /// How long anything that must come may take. Default 10 s.
    pub patience: Duration,
    /// How long nothing must come for it to be believed that nothing will. Default 200 ms.
    pub quiet: Duration,
    /// How long a case may take in all. Default 60 s.
    pub case: Duration,
    /// Whether the clock is paused while nothing runs, so that waiting takes no time. Only for drivers that
    /// live in the process and take all their time from `tokio::time`. Default: no.
    pub paused_clock: bool,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            messages: 100,
            patience: Duration::from_secs(10),
            quiet: Duration::from_millis(200),
            case: Duration::from_secs(60),
            paused_clock: false,
        }
    }
}

impl Scale {
    /// For drivers in the process: the clock is paused, and a case may take a day of it.
    #[must_use]
    pub fn paused() -> Self {
        Self { case: Duration::from_secs(24 * 3600), paused_clock: true, ..Self::default() }
    }
}

/// Whether a case applies to a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// It does.
    Applies,
    /// It does not, because …
    NotApplicable(&'static str),
}

type Run = fn(World) -> BoxFuture<'static, Checked>;

/// One test of the suite.
#[derive(Clone)]
#[non_exhaustive]
pub struct Case {
    /// Its name: file and sentence.
    pub name: &'static str,
    /// The rule it proves, and where that is written.
    pub contract: &'static str,
    /// Whether it applies.
    pub needs: fn(&Capabilities, &WriterCapabilities) -> Need,
    run: Run,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every case.
#[must_use]
pub fn all() -> Vec<Case> {
    cases::all()
}

/// Why a case failed, or turned out not to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    what: String,
    not_applicable: Option<&'static str>,
}

impl Failure {
    /// The case does not apply, which shows only when it runs.
    fn not_applicable(why: &'static str) -> Self {
        Self { what: String::new(), not_applicable: Some(why) }
    }
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self { what, not_applicable: None }
    }
}

impl From<millstream_core::Error> for Failure {
    fn from(error: millstream_core::Error) -> Self {
        Self::from(format!("the driver gave an error where none was due: {error:?}"))
    }
}

type Checked<T = ()> = std::result::Result<T, Failure>;

/// Fails the case with a message, unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::from(format!($($message)+)));
        }
    };
}
use ensure;
