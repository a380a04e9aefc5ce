//! The simulation: Millstream's engine on a simulated broker, with paused time, through thousands of seeds of faults.
//!
//! A seed is a [`Plan`]: a broker of one of four shapes, processes with their subscriptions and policies, publishers,
//! and what is broken at which [`Phase`]. [`run`] lives through it on one thread and says how it came out. The same
//! seed gives the same [hash](Outcome::hash) of all that happened, in order, with its time; so a seed that fails, fails
//! again, and `--trace` shows all of it.
//!
//! | to see | look in |
//! |---|---|
//! | what can be broken | [`Fault`] |
//! | what must hold | [`Check`] |
//! | that the checks can fail | [`Defect`], and `tests/planted.rs` |
//!
//! One seed in eight is calm: nothing is broken but handlers, processes come and go in order, and then there must be no
//! duplicate at all. What it does not reach: threads (everything runs on one), blocking handlers, the memory and
//! SQLite drivers, and real networks and disks.

mod aim;
mod book;
mod clock;
mod fault;
mod judge;
mod life;
mod link;
mod phase;
mod plan;
mod planted;
mod process;
mod publish;
mod runs;
mod script;
mod store;
mod trace;
mod wire;
mod world;

pub use fault::Fault;
pub use judge::{Check, Violation};
pub use life::{Outcome, run};
pub use phase::{Matrix, Phase};
pub use plan::{Dedup, Plan, Sub, Weather};
pub use planted::Defect;
pub use runs::{Runs, Totals};
pub use trace::Keep;
