//! `check` as a user runs it, on sound and damaged files.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use common::{Place, URL};

#[test]
fn a_sound_file_is_counted_and_nothing_is_found() {
    let place = Place::new();
    place.publish("orders", 500);
    place.run(&["tail", URL, "orders", "--group", "audit", "--limit", "20"]).ok();
    let ran = place.run(&["check", "app.db"]).ok();
    assert_eq!(ran.stdout(), "app.db: 1 topic, 500 messages, 1 group.\nAll of it is as it was written.\n");

    let document = place.run(&["check", "app.db", "--json"]).ok().document();
    assert_eq!((&document["ok"], &document["messages"]), (&true.into(), &500.into()));
    assert_eq!(document["problems"], serde_json::json!([]));
}

#[test]
fn a_message_whose_bytes_changed_is_named_and_the_code_says_so() {
    let place = Place::new();
    place.publish("orders", 50);
    // Past the write-ahead log, so that the message lies in the file itself.
    let connection = millstream::sqlite::rusqlite::Connection::open(place.path("app.db")).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let mut bytes = std::fs::read(place.path("app.db")).unwrap();
    let victim = b"{\"n\":17,";
    // Also where a page that was split has left it behind: which one counts, only SQLite knows.
    let found = bytes.windows(victim.len()).enumerate().filter(|(_, part)| *part == victim);
    let places: Vec<_> = found.map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + 5] = b'9');
    std::fs::write(place.path("app.db"), bytes).unwrap();

    let ran = place.run(&["check", "app.db"]).code(1);
    assert!(ran.stdout().contains("topic \"orders\", position"), "{}", ran.stdout());
    let document = place.run(&["check", "app.db", "--json"]).code(1).document();
    assert_eq!(document["ok"], false);
    assert_eq!(document["problems"][0]["topic"], "orders");
}

#[test]
fn what_cannot_be_checked_is_said_and_nothing_is_made() {
    let place = Place::new();
    place.write("notes.txt", &"no database at all\n".repeat(100));
    for (file, code) in [("no.db", 2), ("notes.txt", 1), (URL, 2)] {
        let ran = place.run(&["check", file]).code(code);
        assert!(ran.stderr().starts_with("error: "), "{}", ran.stderr());
    }
    assert!(!place.path("no.db").exists());
}
