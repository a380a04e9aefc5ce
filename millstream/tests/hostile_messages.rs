//! Messages with every kind of bytes, through the publisher, a handler, the dead letters and back, on each driver: what
//! comes out is what went in.
#![cfg(all(feature = "memory", feature = "sqlite"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use millstream::{Bus, Failure, Message, Outcome, Retry, Running, Subscribe, names};
use tempfile::TempDir;

use self::common::comes_about;

/// A message for each thing that has broken some program somewhere. The id says what it is.
fn hostile() -> Vec<Message> {
    let plain = |what: &str| {
        Message::new("t", r#"{"n":1}"#)
            .with_id(what)
            .with_key("k")
            .with_content_type("application/json")
            .with_header("tenant", "acme")
            .with_time(UNIX_EPOCH + Duration::from_millis(1_795_521_600_123))
    };
    let all_bytes: Vec<u8> = (0..=255).collect();
    let headers = |what: &str, count: usize| {
        let mut message = plain(what);
        message.headers.clear();
        (0..count).for_each(|n| message.headers.append(format!("h{n}"), "v"));
        message
    };
    let mut null = plain("a null header, and one name three times");
    null.headers.append_null("nothing");
    ["b", "a", "b"].into_iter().for_each(|value| null.headers.append("again", value));
    vec![
        plain("plain"),
        Message { data: None, ..plain("a tombstone") },
        Message { data: Some("".into()), ..plain("an empty payload") },
        Message { data: Some(all_bytes.clone().into()), ..plain("a payload of every byte") },
        Message { data: Some(vec![0; 64 << 10].into()), ..plain("64 KiB of NUL") },
        Message { data: Some(vec![7; (64 << 10) + 1].into()), ..plain("over 64 KiB") },
        Message { data: Some(vec![7; 1 << 20].into()), ..plain("the largest payload") },
        Message { data: Some(vec![0xff, 0xfe, 0xc0, 0x80].into()), ..plain("a payload that is not UTF-8") },
        Message { key: None, ..plain("no key") },
        Message { key: Some("".into()), ..plain("an empty key") },
        plain("a key of NUL").with_key(vec![0]),
        plain("a key of every byte").with_key(all_bytes.clone()),
        plain("a key right to left, with emoji").with_key("שלום \u{202e} 🦀👩‍👩‍👧"),
        plain("a key like a path").with_key("../a//b?c=d&e=%00#f"),
        plain("the longest key").with_key(vec![b'k'; 1_024]),
        plain("a header of every byte").with_header("bytes", all_bytes),
        plain("an empty header").with_header("empty", ""),
        plain("a header name with Unicode").with_header("größe 🦀", "1"),
        plain("a header with line breaks").with_header("lines", "a\r\nInjected: b"),
        plain("a long header").with_header("long", vec![b'v'; 30 << 10]),
        headers("no headers", 0),
        headers("all but one of the headers", 127),
        headers("as many headers as there may be", 128),
        plain("no content type").with_content_type(""),
        plain("a strange content type").with_content_type("Application/X; q=\"ü, ;\""),
        plain("before the epoch").with_time(UNIX_EPOCH - Duration::from_secs(1)),
        plain("an id with emoji and quotes 🦀 \" ' ; DROP TABLE"),
        null,
    ]
}

/// The messages of a handler, by their ids.
type Seen = Arc<Mutex<BTreeMap<String, Message>>>;

struct Place {
    url: String,
    _folder: TempDir,
}

fn places() -> [Place; 2] {
    ["memory://", "sqlite"].map(|url| {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("sqlite://{}", folder.path().join("app.db").display());
        Place { url: if url == "sqlite" { file } else { url.to_owned() }, _folder: folder }
    })
}

async fn start(bus: Bus, seen: &Seen, fails: &Arc<AtomicBool>) -> Running {
    let handler = {
        let (seen, fails) = (Arc::clone(seen), Arc::clone(fails));
        move |message: Message| {
            let (seen, fails) = (Arc::clone(&seen), Arc::clone(&fails));
            async move {
                if fails.load(Ordering::Relaxed) {
                    return Err(Failure::unrecoverable("no"));
                }
                seen.lock().unwrap().insert(message.id.to_string(), message);
                Ok(()) as Outcome
            }
        }
    };
    bus.subscribe_to("t", handler.group("g").named("h").retry(Retry::none())).start().await.unwrap()
}

fn assert_as_sent(url: &str, came: &Seen) {
    let came = came.lock().unwrap();
    for sent in hostile() {
        let what = format!("{url}: {}", &*sent.id);
        let came = came.get(&*sent.id).unwrap_or_else(|| panic!("{what} did not come"));
        assert_eq!((&came.key, &came.data), (&sent.key, &sent.data), "{what}");
        assert_eq!((&came.content_type, came.time), (&sent.content_type, sent.time), "{what}");
        let mut headers = came.headers.clone();
        headers.remove(names::REDRIVE_GROUP);
        headers.remove_prefix(names::DL_PREFIX);
        assert_eq!(headers, sent.headers, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_gets_every_kind_of_bytes_as_they_were_published() {
    for place in places() {
        let bus = Bus::connect(&place.url).await.unwrap();
        let publisher = bus.publisher().clone();
        for message in hostile() {
            publisher.publish_message(message).await.unwrap();
        }
        let seen = Seen::default();
        let running = start(bus, &seen, &Arc::default()).await;
        comes_about("all came", || seen.lock().unwrap().len() == hostile().len()).await;
        assert_as_sent(&place.url, &seen);
        assert!(running.shutdown().await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_bytes_comes_back_from_the_dead_letters_as_it_was() {
    for place in places() {
        // Given a handler that can take none of them.
        let bus = Bus::connect(&place.url).await.unwrap();
        let (publisher, letters) = (bus.publisher().clone(), bus.dead_letters("t"));
        let (seen, fails) = (Seen::default(), Arc::new(AtomicBool::new(true)));
        for message in hostile() {
            publisher.publish_message(message).await.unwrap();
        }
        let running = start(bus, &seen, &fails).await;
        let control = running.control();
        comes_about("all are dead", || control.counts()[0].dead_lettered == hostile().len() as u64).await;
        let dead: Seen = Seen::default();
        for letter in letters.list(None, 1_000).await.unwrap() {
            // One that is full of its own headers has room for the first of ours alone.
            let has_room = letter.original().headers.len() < 120;
            assert_eq!(letter.class.as_deref(), has_room.then_some("unrecoverable"), "{letter:?}");
            dead.lock().unwrap().insert(letter.message.id.to_string(), letter.original());
        }
        assert_as_sent(&place.url, &dead);
        // When it can, and they are redriven, then it gets them as they were, and no letter is left.
        fails.store(false, Ordering::Relaxed);
        assert_eq!(letters.redrive_all().await.unwrap(), hostile().len());
        comes_about("all came", || seen.lock().unwrap().len() == hostile().len()).await;
        assert_as_sent(&place.url, &seen);
        assert!(letters.list(None, 10).await.unwrap().is_empty());
        assert!(running.shutdown().await.is_clean());
    }
}
