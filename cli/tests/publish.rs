//! `publish` and `tail` as a user runs them, on a file.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _};

use common::{Place, URL, documents_of};
use serde_json::Value;

#[test]
fn what_is_published_is_printed_by_tail_in_its_order() {
    let place = Place::new();
    place.write("in.ndjson", &documents_of(3_000));
    let ran = place.run(&["publish", URL, "orders", "in.ndjson"]).ok();
    assert_eq!(ran.stdout(), "Published 3,000 messages to \"orders\".\n");

    let ran = place.run(&["tail", URL, "orders", "--to-end"]).ok();
    let input = documents_of(3_000);
    assert_eq!(ran.payloads(), input.lines().collect::<Vec<_>>());
}

#[test]
fn a_message_has_the_line_as_its_bytes_and_the_field_as_its_key() {
    let place = Place::new();
    let line = "{ \"n\" : 1.50, \"customer\":\"c-1\" }";
    let args = ["publish", URL, "orders", "--key-field", "customer", "--json"];
    let document = place.feed(&args, &format!("\n{line}\r\n")).ok().document();
    assert_eq!((&document["published"], &document["lines"]), (&1.into(), &2.into()));

    let messages = place.run(&["tail", URL, "orders", "--to-end", "--json"]).ok().documents();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(message["stream_name"], "orders");
    assert_eq!(message["stream_key"], "c-1");
    assert_eq!(message["content_type"], "application/json");
    assert_eq!(message["message_headers"], serde_json::json!({}));
    assert_eq!(message["message_id"].as_str().unwrap().len(), 36);
    assert!(message["message_time"].as_str().unwrap().ends_with('Z'));
    assert!(message["position"].is_u64());
    use base64::Engine as _;
    let data = message["data"].as_str().unwrap();
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(data).unwrap(), line.as_bytes());
}

#[test]
fn lines_of_text_are_published_as_they_are() {
    let place = Place::new();
    place.feed(&["publish", URL, "log", "--format", "lines"], "one\n\ntwo").ok();
    assert_eq!(place.run(&["tail", URL, "log", "--to-end"]).ok().payloads(), ["one", "", "two"]);
}

#[test]
fn a_bad_line_is_named_the_lines_before_it_are_kept_and_skip_goes_on() {
    let place = Place::new();
    let input = documents_of(1_500) + "{\"n\": oops}\n" + &documents_of(2);
    let ran = place.feed(&["publish", URL, "orders", "--json"], &input).code(1);
    let document = ran.document();
    assert_eq!(document["error"]["kind"], "invalid-message");
    assert_eq!((&document["done"]["published"], &document["done"]["lines"]), (&1_500.into(), &1_500.into()));
    assert!(ran.stderr().contains("line 1501 is no JSON"), "{}", ran.stderr());
    assert!(ran.stderr().contains("--skip 1500"), "{}", ran.stderr());

    let mended = input.replace("oops", "1500");
    let args = ["publish", URL, "orders", "--skip", "1500"];
    assert!(place.feed(&args, &mended).ok().stdout().contains("Published 3 messages"));
    assert_eq!(place.run(&["tail", URL, "orders", "--to-end"]).ok().stdout().lines().count(), 1_503);
}

#[test]
fn a_missing_key_names_the_line_and_the_field() {
    let place = Place::new();
    let ran =
        place.feed(&["publish", URL, "orders", "--key-field", "id"], "{\"id\":1}\n{\"ID\":2}\n").code(1);
    assert!(ran.stderr().contains("line 2 has no field \"id\""), "{}", ran.stderr());
}

#[test]
fn a_file_that_is_not_there_is_an_error_and_makes_nothing() {
    let place = Place::new();
    let ran = place.run(&["publish", URL, "orders", "no.ndjson"]).code(1);
    assert!(ran.stderr().contains("\"no.ndjson\""), "{}", ran.stderr());
    for args in [&["tail", URL, "orders"][..], &["topics", URL], &["dead-letters", "ls", URL, "orders"]] {
        let ran = place.run(args).code(2);
        assert!(ran.stderr().contains("app.db"), "{}", ran.stderr());
    }
    assert!(!place.path("app.db").exists());
}

#[test]
fn a_topic_that_is_not_there_is_an_error_that_names_those_that_are() {
    let place = Place::new();
    place.publish("orders", 1);
    for args in [&["tail", URL, "ordres"][..], &["dead-letters", "ls", URL, "ordres"]] {
        let ran = place.run(args).code(1);
        assert!(ran.stderr().contains("there are: \"orders\""), "{}", ran.stderr());
    }
    let document = place.run(&["topics", URL, "--json"]).ok().document();
    assert_eq!(document["topics"].as_array().unwrap().len(), 1, "none was made");
}

#[test]
fn what_lives_in_another_process_is_refused() {
    let ran = Place::new().run(&["publish", "memory://", "orders"]).code(2);
    assert!(ran.stderr().contains("sqlite://"), "{}", ran.stderr());
}

#[test]
fn a_group_goes_on_behind_what_it_printed_and_a_looker_on_leaves_no_trace() {
    let place = Place::new();
    place.publish("orders", 10);
    let args = ["tail", URL, "orders", "--group", "audit", "--to-end"];
    assert_eq!(place.run(&[&args[..], &["--limit", "4"]].concat()).ok().stdout().lines().count(), 4);
    place.run(&["tail", URL, "orders", "--to-end"]).ok();
    assert_eq!(place.run(&args).ok().stdout().lines().count(), 6);
    assert_eq!(place.run(&args).ok().stdout(), "");

    let document = place.run(&["topics", URL, "--json"]).ok().document();
    let groups = &document["topics"][0]["groups"];
    assert_eq!(groups.as_array().unwrap().len(), 1, "{groups}");
    assert_eq!((&groups[0]["name"], &groups[0]["lag"]), (&"audit".into(), &0.into()));
}

#[test]
fn it_starts_at_a_position_or_a_time() {
    let place = Place::new();
    place.publish("orders", 10);
    let all = place.run(&["tail", URL, "orders", "--to-end", "--json"]).ok().documents();
    let eighth = all[7]["position"].to_string();
    let of = |from: &str| {
        let ran = place.run(&["tail", URL, "orders", "--to-end", "--json", "--from", from]).ok();
        ran.documents().iter().map(|message| message["position"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(of(&eighth), [7, 8, 9].map(|n: usize| all[n]["position"].clone()));
    assert_eq!(of("-10m").len(), 10);
    assert_eq!(of("latest").len(), 0);
}

#[test]
fn tail_prints_what_comes_and_ends_well_with_its_reader() {
    let place = Place::new();
    place.publish("orders", 3);
    let mut child = place.start(&["tail", URL, "orders", "--from", "earliest"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (0..3).for_each(|_| drop(lines.next().unwrap().unwrap()));
    place.feed(&["publish", URL, "orders"], "{\"n\":\"new\"}\n").ok();
    assert!(lines.next().unwrap().unwrap().contains("new"));
    // Nothing more is published: it notices by itself that nobody reads.
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[cfg(unix)]
#[test]
fn tail_ends_well_when_it_is_interrupted() {
    let place = Place::new();
    place.publish("orders", 1);
    let mut child = place.start(&["tail", URL, "orders", "--from", "earliest", "--group", "g"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    common::interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn an_interrupted_publish_says_where_to_go_on() {
    use std::io::Write as _;
    let place = Place::new();
    let mut program = place.program(&["publish", URL, "orders"]);
    program.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(documents_of(5).as_bytes()).unwrap();
    // It is published without waiting for more.
    while !place.path("app.db").exists()
        || place.run(&["tail", URL, "orders", "--to-end"]).stdout().lines().count() < 5
    {
        std::thread::yield_now();
    }
    common::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("interrupted") && text.contains("--skip 5"), "{text}");
    drop(stdin);
}

#[test]
fn a_wrong_option_is_a_usage_error_that_says_how_to_write_it() {
    let place = Place::new();
    for (args, says) in [
        (&["tail", URL, "t", "--from", "yesterday"][..], "-10m"),
        (&["tail", URL, "t", "--limit", "0"], "0"),
        (&["tail", URL, "t", "--follow", "--to-end"], "--to-end"),
        (&["publish", URL, "t", "--format", "xml"], "ndjson"),
        (&["publish", URL, "t", "--format", "lines", "--key-field", "f"], "--key-field"),
        (&["dead-letters", "redrive", URL, "t", "--rate", "fast"], "50/s"),
        (&["dead-letters", "discard", URL, "t"], "--all"),
        (&["dead-letters", "discard", URL, "t", "--all", "--class", "decode"], "--all"),
    ] {
        let ran = place.run(args).code(2);
        assert!(ran.stderr().contains(says), "{args:?}: {}", ran.stderr());
    }
    assert!(!place.path("app.db").exists());
}
