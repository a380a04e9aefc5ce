//! `doctor` as a user runs it.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use common::{Place, URL};

#[test]
fn a_group_that_nobody_reads_for_is_a_warning_with_a_fix() {
    let place = Place::new();
    place.publish("orders", 30);
    place.run(&["tail", URL, "orders", "--group", "audit", "--limit", "20"]).ok();

    let ran = place.run(&["doctor", URL]).ok();
    assert!(
        ran.stdout().contains("nobody reads for the group \"audit\", and 10 messages wait"),
        "{}",
        ran.stdout()
    );
    assert!(ran.stdout().ends_with("1 topic: 0 dangers, 1 warning, 0 notes.\n"), "{}", ran.stdout());

    let document = place.run(&["doctor", URL, "orders", "--json"]).ok().document();
    let finding = &document["topics"][0]["findings"][0];
    assert_eq!(finding["weight"], "warning");
    assert!(finding["fix"].as_str().unwrap().contains("start its program"));
}

#[test]
fn a_sound_topic_has_nothing_and_one_that_is_not_there_is_named() {
    let place = Place::new();
    place.publish("orders", 3);
    assert_eq!(place.run(&["doctor", URL]).ok().stdout(), "1 topic: nothing was found.\n");
    let ran = place.run(&["doctor", URL, "odrers"]).code(1);
    assert!(ran.stderr().contains("there are: \"orders\""), "{}", ran.stderr());
}
