//! Every async function of the toolkit, dropped at every poll. `CANCEL_SEEDS=300` tries more variations than the usual
//! few.
//!
//! | module | drops |
//! |---|---|
//! | `publishing` | what publishes, and what closes a publisher |
//! | `running` | what connects, starts, runs and ends |
//! | `handlers` | handlers, with and without layers, also of `tower` |
//! | `letters` | what lists, redrives and discards dead letters |
//!
//! They run on the memory driver, behind a wrapper that waits before and after everything it does, so that there are
//! many polls; on paused time, so that what never comes is found at once.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod handlers;
mod letters;
mod publishing;
mod running;
mod world;

use std::path::Path;

use millstream_testkit::cancel::driver::STORE_FUNCTIONS;
use millstream_testkit::cancel::public::uncovered;

/// What the modules cover; the store in memory has its cases with those of the drivers.
fn covered() -> Vec<&'static str> {
    [publishing::FUNCTIONS, running::FUNCTIONS, handlers::FUNCTIONS, letters::FUNCTIONS, STORE_FUNCTIONS]
        .concat()
}

#[test]
fn every_async_function_of_the_toolkit_has_a_case() {
    let forgotten = uncovered(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), covered()).unwrap();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}
