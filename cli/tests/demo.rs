//! The demo as a user runs it: what it prints where, and its exit codes.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn millstream(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millstream")).args(args).env_remove("RUST_LOG").output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Runs the demo with `--json`; its exit code is 0 and its stdout one JSON document.
fn report(args: &[&str]) -> Value {
    let output = millstream(&[&["demo", "--json"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_str(stdout(&output)).unwrap()
}

#[test]
fn every_message_ends_in_a_known_place() {
    let report = report(&["--events", "2000"]);
    assert_eq!(report["lost"], 0);
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    // 2,000 orders, 1 in 50 of them twice.
    assert_eq!(report["published"], 2_040);
    for subscription in report["subscriptions"].as_array().unwrap() {
        let count = |name: &str| subscription[name].as_u64().unwrap();
        let dead = subscription["dead_lettered"]["total"].as_u64().unwrap();
        assert_eq!(count("duplicates_suppressed"), 40, "{subscription}");
        assert_eq!(count("handled") + count("duplicates_suppressed") + dead, 2_040, "{subscription}");
    }
}

#[test]
fn poison_ends_as_dead_letters_with_reasons() {
    let report = report(&["--events", "2000"]);
    // Orders 7 and 1,507 are cut short for all three groups; mail cannot send 507, and panics on 1,007.
    let reasons = serde_json::json!({ "decode": 6, "panic": 1, "unrecoverable": 1 });
    assert_eq!(report["dead_lettered"], serde_json::json!({ "total": 8, "reasons": reasons }));
}

#[test]
fn the_document_says_how_long_it_took_and_what_was_asked_for() {
    let report = report(&["--events", "200", "--seed", "42"]);
    assert_eq!((&report["seed"], &report["orders"]), (&42.into(), &200.into()));
    let url = report["url"].as_str().unwrap();
    let file = url.strip_prefix("sqlite://").unwrap();
    assert!(!std::path::Path::new(file).exists(), "the file is removed at the end: {url}");
    assert!(report["throughput"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["elapsed_s"].as_f64().unwrap() > 0.0, "{report}");
    let ms = |name: &str| report["latency"][name].as_f64().unwrap();
    assert!(0.0 < ms("p50_ms") && ms("p50_ms") <= ms("p99_ms") && ms("p99_ms") <= ms("max_ms"), "{report}");
}

#[test]
fn runs_of_one_seed_count_the_same_and_another_seed_differs() {
    let counts = |seed: &str| {
        let report = report(&["--events", "3000", "--seed", seed]);
        ["published", "handled", "retried", "duplicates_suppressed", "dead_lettered"]
            .map(|name| report[name].clone())
    };
    let one = counts("1");
    assert_eq!(counts("1"), one);
    assert_ne!(counts("2"), one);
}

#[test]
fn the_smallest_run_is_one_order() {
    let report = report(&["--events", "1"]);
    assert_eq!((&report["published"], &report["handled"]), (&1.into(), &3.into()));
}

#[test]
fn without_json_it_prints_a_table_and_no_panic() {
    let output = millstream(&["demo", "--events", "2000"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for part in
        ["billing", "stock", "mail", "handled", "duplicates suppressed", "unrecoverable", "lost", "p99"]
    {
        assert!(stdout(&output).contains(part), "{part} is missing in {}", stdout(&output));
    }
    assert_eq!(stderr(&output), "", "no bars where there is no terminal, no panics made on purpose");
}

#[test]
fn it_runs_over_the_broker_of_a_url() {
    let report = report(&["--events", "500", "--url", "memory://"]);
    assert_eq!((&report["url"], &report["lost"]), (&"memory://".into(), &0.into()));
}

#[test]
fn a_file_that_is_kept_can_be_looked_into() {
    let output = millstream(&["demo", "--events", "100", "--keep"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let url = stderr(&output).trim().rsplit(' ').next().unwrap();
    let topics = millstream(&["topics", url]);
    assert_eq!(topics.status.code(), Some(0), "{}", stderr(&topics));
    assert!(stdout(&topics).contains("demo.orders"), "{}", stdout(&topics));
    let file = std::path::Path::new(url.strip_prefix("sqlite://").unwrap());
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_says_so_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_millstream"));
    program.args(["demo", "--events", "10000000"]).env("TMPDIR", folder.path());
    let child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    while files() == 0 {
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("interrupted"), "{}", stderr(&output));
    assert_eq!((stdout(&output), files()), ("", 0));
}

#[test]
fn an_unknown_scheme_is_a_usage_error_in_the_librarys_words() {
    let output = millstream(&["demo", "--url", "carrier-pigeon://coop"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert!(text.starts_with("error: no driver serves carrier-pigeon://"), "{text}");
    assert!(text.contains("memory://"), "the known ones are listed: {text}");
}

#[test]
fn with_json_an_error_is_a_document_too() {
    let output = millstream(&["demo", "--json", "--url", "carrier-pigeon://coop"]);
    assert_eq!(output.status.code(), Some(2));
    let document: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(document["error"]["kind"], "unknown-scheme");
}

#[test]
fn a_wrong_url_parameter_says_which_there_are() {
    let output = millstream(&["demo", "--url", "memory://?colour=red"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("capacity"), "{}", stderr(&output));
}

#[test]
fn a_wrong_flag_and_a_wrong_number_are_usage_errors() {
    for args in
        [&["demo", "--evnts", "5"][..], &["demo", "--events", "0"], &["demo", "--events", "many"], &[]]
    {
        let output = millstream(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(stderr(&output).contains("Usage") || stderr(&output).contains("--help"), "{args:?}");
    }
}

#[test]
fn help_names_the_exit_codes() {
    for args in [&["--help"][..], &["demo", "--help"]] {
        let output = millstream(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).contains("Exit codes:"), "{args:?}: {}", stdout(&output));
    }
}
