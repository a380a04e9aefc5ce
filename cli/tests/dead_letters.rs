//! `dead-letters` as a user runs it, on the letters that a program's handlers left in a file.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use common::{Place, URL};
use millstream::{Bus, Failure, Message, Outcome, Retry, Subscribe as _, Units as _};
use serde_json::Value;

async fn refuse(message: Message) -> Outcome {
    match message.key.as_deref() {
        Some(b"c0") => Err(Failure::unrecoverable("the customer is\nunknown")),
        _ => Err(Failure::retry("Connection refused")),
    }
}

async fn take(_: Message) -> Outcome {
    Ok(())
}

/// Ten orders of seven customers, all dead: those of the customer c0 (orders 0 and 7) as unrecoverable.
async fn ten_letters() -> Place {
    let place = Place::new();
    place.publish("orders", 10);
    let url = format!("sqlite://{}", place.path("app.db").to_str().unwrap());
    let running = Bus::connect(&url)
        .await
        .unwrap()
        .subscribe_to("orders", refuse.group("billing").retry(Retry::exponential(1.ms(), 1.ms()).attempts(2)))
        .start()
        .await
        .unwrap();
    let control = running.control();
    while control.counts().iter().map(|count| count.dead_lettered).sum::<u64>() < 10 {
        tokio::task::yield_now().await;
    }
    running.shutdown().await;
    place
}

fn letters(place: &Place, args: &[&str]) -> Vec<Value> {
    place.run(&[&["dead-letters", "ls", URL, "orders", "--json"], args].concat()).ok().documents()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_with_why_and_chosen_by_what_they_say() {
    let place = ten_letters().await;
    let all = letters(&place, &[]);
    assert_eq!(all.len(), 10);
    assert_eq!((&all[0]["group"], &all[0]["topic"]), (&"billing".into(), &"orders".into()));
    for (args, count) in [
        (&["--class", "unrecoverable"][..], 2),
        (&["--class", "exhausted", "--error", "connection"], 8),
        (&["--key", "c1"], 2),
        (&["--group", "stock"], 0),
        (&["--min-attempts", "2"], 8),
        (&["--since", "-10m", "--limit", "3"], 3),
        (&["--before", "-10m"], 0),
    ] {
        assert_eq!(letters(&place, args).len(), count, "{args:?}");
    }
    let text = place.run(&["dead-letters", "ls", URL, "orders", "--class", "unrecoverable"]).ok();
    assert_eq!(text.stdout().lines().count(), 3, "a heading and two: {}", text.stdout());

    let document = place.run(&["topics", URL, "--json"]).ok().document();
    assert_eq!(document["topics"][0]["dead_letters"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_shown_whole() {
    let place = ten_letters().await;
    let id = letters(&place, &["--key", "c0"])[0]["id"].to_string();
    let shown = place.run(&["dead-letters", "show", URL, "orders", "--id", &id]).ok();
    for part in [
        "unrecoverable",
        "  the customer is",
        "millstream-dl-handler",
        "application/json",
        "{\"n\":0,\"customer\":\"c0\"}",
    ] {
        assert!(shown.stdout().contains(part), "{part} is missing in {}", shown.stdout());
    }
    let gone = place.run(&["dead-letters", "show", URL, "orders", "--id", "999"]).code(1);
    assert!(gone.stderr().contains("999"), "{}", gone.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redriven_comes_to_its_group_again_with_the_same_id() {
    let place = ten_letters().await;
    let meant = letters(&place, &["--class", "exhausted"]);
    let args = ["dead-letters", "redrive", URL, "orders", "--class", "exhausted"];
    let dry = place.run(&[&args[..], &["--dry-run", "--json"]].concat()).ok().document();
    assert_eq!((&dry["would_be"], &dry["redriven"]), (&8.into(), &0.into()));
    assert_eq!(letters(&place, &[]).len(), 10);

    let document = place.run(&[&args[..], &["--json", "--rate", "1000/s"]].concat()).ok().document();
    assert_eq!((&document["redriven"], &document["last_id"]), (&8.into(), &meant[7]["id"]));
    assert_eq!(letters(&place, &[]).len(), 2);

    // The group gets just these; another one gets them as skipped.
    let url = format!("sqlite://{}", place.path("app.db").to_str().unwrap());
    let running = Bus::connect(&url)
        .await
        .unwrap()
        .subscribe_to("orders", take.group("billing"))
        .start()
        .await
        .unwrap();
    let control = running.control();
    while control.counts().iter().map(|count| count.handled).sum::<u64>() < 8 {
        tokio::task::yield_now().await;
    }
    running.shutdown().await;
    let tail = place.run(&["tail", URL, "orders", "--to-end", "--json"]).ok().documents();
    let again: Vec<_> = tail
        .iter()
        .filter(|m| m["message_headers"]["millstream-redrive-group"] == "billing")
        .map(|m| &m["message_id"])
        .collect();
    assert_eq!(again, meant.iter().map(|letter| &letter["message_id"]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_is_meant_and_gone() {
    let place = ten_letters().await;
    let ran = place.run(&["dead-letters", "discard", URL, "orders", "--key", "c1", "--limit", "1"]).ok();
    assert_eq!(ran.stdout(), "1 dead letter of \"orders\" discarded.\n");
    assert_eq!(letters(&place, &[]).len(), 9);
    place.run(&["dead-letters", "discard", URL, "orders", "--all"]).ok();
    let none = place.run(&["dead-letters", "ls", URL, "orders"]).ok();
    assert_eq!(none.stdout(), "There are none.\n");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_redrive_says_how_far_it_came_and_the_command_to_go_on() {
    let place = ten_letters().await;
    let child = place.start(&["dead-letters", "redrive", URL, "orders", "--rate", "1/h"]);
    // The first one goes at once, the next one waits for its turn.
    while letters(&place, &[]).len() == 10 {
        std::thread::yield_now();
    }
    common::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("1 letter redriven, the last one done is"), "{text}");
    let command = text.split("go on with: millstream ").nth(1).unwrap().trim();
    let quick = command.replace("1/h", "1000/s");
    let document =
        place.run(&[&quick.split(' ').collect::<Vec<_>>()[..], &["--json"]].concat()).ok().document();
    assert_eq!(document["redriven"], 9);
    assert_eq!(letters(&place, &[]).len(), 0);
}

#[cfg(feature = "objects")]
#[tokio::test(flavor = "multi_thread")]
async fn letters_in_a_folder_are_listed_and_go_back_to_the_broker_that_is_named() {
    use millstream::objects::{Folder, Objects};

    let place = Place::new();
    place.publish("orders", 10);
    let url = format!("sqlite://{}", place.path("app.db").to_str().unwrap());
    let store = Objects::builder(Folder::new(place.path("letters"))).open().await.unwrap();
    let running = Bus::connect(&url)
        .await
        .unwrap()
        .subscribe_to(
            "orders",
            refuse
                .group("billing")
                .retry(Retry::exponential(1.ms(), 1.ms()).attempts(2))
                .dead_letter_to(store.writer()),
        )
        .start()
        .await
        .unwrap();
    let control = running.control();
    while control.counts().iter().map(|count| count.dead_lettered).sum::<u64>() < 10 {
        tokio::task::yield_now().await;
    }
    running.shutdown().await;

    let letters = "folder://letters";
    let listed = place.run(&["dead-letters", "ls", letters, "orders", "--json"]).ok().documents();
    assert_eq!(listed.len(), 10);
    let id = listed[3]["id"].to_string();
    let shown = place.run(&["dead-letters", "show", letters, "orders", "--id", &id]).ok();
    assert!(shown.stdout().contains("millstream-dl-handler"), "{}", shown.stdout());
    let topics = place.run(&["topics", letters, "--json"]).ok().document();
    assert_eq!(
        (&topics["topics"][0]["name"], &topics["topics"][0]["dead_letters"]),
        (&"orders".into(), &10.into())
    );
    // Nobody reads what is sent to the folder itself.
    let lost = place.run(&["dead-letters", "redrive", letters, "orders"]).code(1);
    assert!(lost.stderr().contains("--to"), "{}", lost.stderr());

    let args = ["dead-letters", "redrive", letters, "orders", "--to", URL, "--class", "exhausted", "--json"];
    assert_eq!(place.run(&args).ok().document()["redriven"], 8);
    place.run(&["dead-letters", "discard", letters, "orders", "--all"]).ok();

    let none = place.run(&["dead-letters", "ls", letters, "orders"]).ok();
    assert_eq!(none.stdout(), "There are none.\n");
    let tail = place.run(&["tail", URL, "orders", "--to-end", "--json"]).ok().documents();
    let again = tail.iter().filter(|m| m["message_headers"]["millstream-redrive-group"] == "billing").count();
    assert_eq!(again, 8);
}
