//! The program as it is called: a short storm, and what it leaves behind.
#![cfg(unix)]

use std::process::Command;

use serde_json::Value;

fn storm() -> Command {
    Command::new(env!("CARGO_BIN_EXE_millstream-storm"))
}

#[test]
fn a_short_storm_of_kills_loses_nothing_and_leaves_a_row_that_says_so() {
    // Given a process that is killed 20 times.
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("rows.json");
    let run = storm()
        .args(["run", "sqlite-kill", "--scale", "ci", "--seed", "1", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    // When it is over, then it says that nothing was lost, doubled or left out.
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    let rows: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let row = &rows[0];
    assert_eq!((row["target"].as_str(), row["seed"].as_u64()), (Some("sqlite-kill"), Some(1)));
    assert_eq!(row["faults"].as_u64(), Some(20));
    assert!(row["acknowledged"].as_u64() > Some(100), "{row}");
    for none in ["lost", "duplicates_unexplained", "effects_double", "effects_missing"] {
        assert_eq!(row[none].as_u64(), Some(0), "{none}: {row}");
    }
}

#[test]
fn a_profile_that_is_not_there_is_refused_with_those_that_are() {
    let run = storm().args(["run", "sqlite-flood"]).output().unwrap();
    assert!(!run.status.success());
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("sqlite-kill") && said.contains("sqlite-replaced"), "{said}");
}
