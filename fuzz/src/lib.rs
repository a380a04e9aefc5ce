//! Fuzz targets for every decoder of bytes from outside.
//!
//! A [`Target`] takes any bytes and asserts what must hold of them: not only that nothing panics, but that what is
//! encoded decodes to itself, that nothing is lost on the way, that an error names its place and repeats no secret,
//! and, of all of them, that memory and time stay within [`bounds`].
//!
//! | module | holds |
//! |---|---|
//! | [`targets`] | the targets, a file each, with seeds made of real encodings |
//! | [`input`] | bytes as the parts that a target wants |
//! | [`bounds`] | what any input may cost |
//! | `ours`, `sqs` | files of the program, the macro and drivers, which no library exports |
//!
//! `fuzz_targets/` has a program a target; `tests/corpus.rs` runs what is kept in `corpus/` through all of them on any
//! stable compiler.

pub mod bounds;
pub mod input;
mod ours;
mod sqs;
pub mod targets;

pub use targets::{Target, target};

// Under the names by which these files know each other.
use ours::{attributes, moment, text, wire};
