//! Each program, under few schedules.

use std::process::Command;

fn passes(program: &str) {
    let run = Command::new(program).env("SCHEDULES", "200").output();
    let run = run.expect("the program starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(run.status.success(), "{}\n{}", said(&run.stdout), said(&run.stderr));
}

#[test]
fn the_memory_driver_keeps_its_word_under_any_schedule() {
    passes(env!("CARGO_BIN_EXE_schedules-memory"));
}

#[test]
fn the_deduplication_store_keeps_its_word_under_any_schedule() {
    passes(env!("CARGO_BIN_EXE_schedules-dedup"));
}

#[test]
fn the_hand_over_to_the_threads_of_sqlite_keeps_its_word_under_any_schedule() {
    passes(env!("CARGO_BIN_EXE_schedules-handover"));
}

#[test]
fn wake_ups_of_slots_keep_their_word_under_any_schedule() {
    passes(env!("CARGO_BIN_EXE_schedules-woken"));
}
