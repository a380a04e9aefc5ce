//! A folder of this machine as the place of objects.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{ids, in_every_place, letter, write};
use millstream_core::{Admin as _, ErrorKind, Message};
use millstream_objects::{Create, Folder, Objects, ObjectsBuilder};
use tempfile::TempDir;

fn place() -> (TempDir, ObjectsBuilder) {
    let kept = TempDir::new().unwrap();
    let builder = Objects::builder(Folder::new(kept.path().join("letters"))).prefix("shop/a");
    (kept, builder)
}

in_every_place! { place:
    a_message_comes_back_as_it_was,
    a_letter_that_is_written_again_is_folded_and_stays_as_it_was,
    of_many_who_write_the_same_letter_all_succeed_and_one_is_there,
    letters_are_listed_page_by_page_in_the_order_of_their_time,
    a_letter_is_removed_once_and_the_others_stay,
    a_letter_that_died_again_lies_behind_those_that_were_there,
    topics_are_apart_whatever_their_names_and_are_counted_and_purged,
    a_batch_lies_in_one_object_and_its_dead_letters_alone,
    what_cannot_be_written_is_told_and_the_rest_is_written,
    a_writer_that_is_closed_refuses,
    letters_of_a_subscription_go_back_to_its_broker_and_are_gone_then,
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort_unstable();
    found
}

#[tokio::test]
async fn an_object_lies_under_topic_and_day_and_is_a_line_of_json() {
    let (kept, builder) = place();
    write(&builder.open().await.unwrap(), vec![letter("7", 1_795_837_501)]).await;
    let files = files(kept.path());
    let [file] = &*files else { panic!("{files:?}") };
    let name = file.strip_prefix(kept.path()).unwrap().to_str().unwrap();
    assert!(name.starts_with("letters/shop/a/orders.dlq/2026-11-28/034501.000-"), "{name}");
    let text = fs::read_to_string(file).unwrap();
    assert!(
        text.starts_with(r#"{"message_id":"7","stream_name":"orders.dlq","stream_key":"customer-1""#),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test]
async fn no_topic_leads_out_of_the_folder() {
    let (kept, builder) = place();
    let objects = builder.open().await.unwrap();
    let names = ["../../../outside", "..", "/etc/passwd", ".hidden", "a/../../b"];
    write(&objects, names.iter().map(|name| Message::new(*name, "").with_id("1")).collect()).await;
    let files = files(kept.path());
    assert_eq!(files.len(), names.len());
    let inside = kept.path().join("letters/shop/a");
    assert!(
        files.iter().all(|file| file.strip_prefix(&inside).unwrap().components().count() == 3),
        "{files:?}"
    );
}

#[tokio::test]
async fn what_somebody_else_put_there_is_left_alone_and_hides_nothing() {
    let (kept, builder) = place();
    let objects = builder.open().await.unwrap();
    write(&objects, (0..3).map(|n| letter(&n.to_string(), n)).collect()).await;
    let all = files(kept.path());
    let day = all[0].parent().unwrap().to_owned();
    // A letter that is not what was written, one that a process left behind which died while it wrote, a copy, a note.
    fs::write(&all[0], "{\"broken").unwrap();
    let foreign =
        ["000000.000-000000.json#1", "000000.000-000000.json.bak", "notes.txt"].map(|name| day.join(name));
    foreign.iter().for_each(|file| fs::write(file, "x").unwrap());
    fs::create_dir(day.parent().unwrap().join("old")).unwrap();

    assert_eq!(ids(&objects).await, ["1", "2"]);
    // A page of which nothing can be read is not the end.
    let page = objects.admin().dead_letters("orders", None, 1).await.unwrap();
    assert_eq!(page[0].message.id, "1");
    assert_eq!(objects.admin().purge("orders.dlq").await.unwrap(), 3);
    assert!(foreign.iter().all(|file| file.exists()));
}

#[tokio::test]
async fn messages_of_one_name_lie_beside_each_other() {
    // These two share a mark, so that in one millisecond they share a name.
    let (_kept, builder) = place();
    let objects = builder.open().await.unwrap();
    for id in ["307", "3097", "3097", "307"] {
        write(&objects, vec![letter(id, 60)]).await;
    }
    let letters = objects.admin().dead_letters("orders", None, 10).await.unwrap();
    let [first, second] = &*letters else { panic!("{letters:?}") };
    assert_eq!((&*first.message.id, &*second.message.id, second.id), ("307", "3097", first.id + 1));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_made_if_that_is_wanted_and_a_file_is_none() {
    let kept = TempDir::new().unwrap();
    let path = kept.path().join("a/b");
    let never = Objects::builder(Folder::new(&path).create(Create::Never)).open().await.unwrap_err();
    assert_eq!(never.kind(), ErrorKind::NotFound);
    assert!(never.to_string().contains("make it first"), "{never}");
    Objects::builder(Folder::new(&path)).open().await.unwrap();
    assert!(path.is_dir());
    fs::write(kept.path().join("file"), "").unwrap();
    let file = Objects::builder(Folder::new(kept.path().join("file")).create(Create::Never)).open().await;
    assert_eq!(file.unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_folder_takes_nothing_nothing_is_acknowledged_and_then_it_goes_on() {
    let (kept, builder) = place();
    let objects = builder.open().await.unwrap();
    let (prefix, aside) = (kept.path().join("letters/shop"), kept.path().join("aside"));
    let broken = async || {
        // A file where a folder must be: nobody can write, not even the superuser.
        if prefix.exists() {
            fs::rename(&prefix, &aside).unwrap();
        }
        fs::write(&prefix, "").unwrap();
    };
    let mended = async || fs::remove_file(&prefix).unwrap();
    common::an_outage(&objects, broken, mended).await;
}
