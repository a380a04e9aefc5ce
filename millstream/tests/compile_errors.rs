//! Given mistakes that users make: the compiler names the place and the fix.
//!
//! The texts in `ui/*.stderr` are those of the compiler version named below; another one words them differently,
//! so the test runs on that one alone (and without the feature `anyhow`, which adds a line to a list). After a change: `TRYBUILD=overwrite cargo test -p millstream --test
//! compile_errors`, then read what changed.

#![cfg(not(feature = "anyhow"))]

use std::process::Command;

const COMPILER: &str = "rustc 1.95.";

#[test]
fn mistakes_are_explained() {
    let version = Command::new("rustc").arg("--version").output().expect("rustc runs").stdout;
    if !String::from_utf8_lossy(&version).starts_with(COMPILER) {
        println!("skipped: the texts are those of {COMPILER}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
