//! What is refused, and that the error says why and what to do.
#![cfg(feature = "sqs")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;
use std::time::{Duration, SystemTime};

use millstream_aws::{Aws, Create, Queues, driver};
use millstream_core::{
    Admin as _, Endpoint, Error, ErrorKind, Message, OpenRequest, Reader as _, WriteOutcome, Writer as _,
};

mod server;
use server::{Member, Proxy, queues, sqs, topic, write};

/// The error of the only message of a call.
async fn refused(writer: &impl millstream_core::Writer, message: Message) -> Error {
    match writer.write(vec![message]).await.unwrap().into_outcomes().remove(0) {
        WriteOutcome::Failed(error) => error,
        other => panic!("it was to be refused, and is {other:?}"),
    }
}

#[tokio::test]
async fn a_queue_that_is_not_there_and_not_made_is_named_with_its_region() {
    let topic = topic("never");
    let sqs = queues(&server::endpoint()).await.create(Create::Never).open().unwrap();
    let written = refused(&sqs.writer(), Message::new(topic.clone(), "x")).await;
    let opened = sqs.reader().open(OpenRequest::new(topic.clone()).group("g")).await.unwrap_err();
    for error in [written, opened] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let said = error.to_string();
        for part in [&topic.replace('.', "-"), "eu-west-1", "leave `create` at missing"] {
            assert!(said.contains(part), "{said}");
        }
    }
}

#[tokio::test]
async fn two_topics_that_are_one_queue_are_refused() {
    let sqs = sqs().await;
    let topic = topic("same");
    write(&sqs, vec![Message::new(topic.clone(), "x")]).await;
    let error = refused(&sqs.writer(), Message::new(topic.replace('.', "-"), "x")).await;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("rename one of them"), "{error}");
}

#[tokio::test]
async fn a_second_group_on_a_queue_is_refused() {
    let sqs = sqs().await;
    let topic = topic("groups");
    let first = Member::open(&sqs, &topic).await;
    let error = sqs.reader().open(OpenRequest::new(topic.clone()).group("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("sns://"), "{error}");
    drop(first);
}

#[tokio::test]
async fn what_a_queue_cannot_do_is_refused_with_what_can() {
    let sqs = sqs().await;
    let topic = topic("cannot");
    for (request, part) in [
        (OpenRequest::new(topic.clone()), "name a group"),
        (OpenRequest::new(topic.clone()).group("g").end(millstream_core::End::Latest), "has no end"),
        (
            OpenRequest::new(topic.clone()).group("g").start(millstream_core::Start::Latest),
            "no places to start",
        ),
    ] {
        let error = sqs.reader().open(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = sqs.admin().dead_letters(&topic, None, 10).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("dead_letter_to"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_too_large_fails_alone_with_its_size() {
    let sqs = sqs().await;
    let topic = topic("large");
    let large = Message::new(topic.clone(), vec![b'x'; 2 << 20]);
    let outcomes = sqs.writer().write(vec![Message::new(topic, "x"), large]).await.unwrap().into_outcomes();
    let [WriteOutcome::Written(_), WriteOutcome::Failed(error)] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("2097") && error.to_string().contains("262144"), "{error}");
}

#[tokio::test]
async fn three_hundred_headers_arrive() {
    let sqs = sqs().await;
    let mut message = Message::new(topic("headers"), "x").with_id("1");
    (0..300).for_each(|n| message.headers.append(format!("header number {n}"), format!("value {n}")));
    write(&sqs, vec![message.clone()]).await;
    let came = Member::open(&sqs, &message.topic).await.take(1).await;
    assert_eq!(came[0].message.headers, message.headers);
}

#[tokio::test]
async fn messages_of_a_fifo_queue_without_a_key_wait_for_nobody() {
    let sqs = queues(&server::endpoint()).await.queues(Queues::Fifo).open().unwrap();
    let topic = topic("unkeyed");
    let messages = (0..5).map(|n| Message::new(topic.clone(), "x").with_id(n.to_string())).collect();
    write(&sqs, messages).await;
    let came = Member::open(&sqs, &topic).await.take(5).await;
    assert!(came.iter().all(|d| d.message.key.is_none()));
}

#[tokio::test]
async fn a_delay_that_sqs_does_not_know_is_refused() {
    let at = |seconds| SystemTime::now() + Duration::from_secs(seconds);
    let message = |name, seconds| Message::new(topic(name), "x").with_deliver_at(at(seconds));
    let error = refused(&sqs().await.writer(), message("long", 1_000)).await;
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("15 minutes"), "{error}");
    let error = refused(&sqs().await.writer(), message("ordered.fifo", 5)).await;
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("standard queue"),
        "{error}"
    );
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_named_and_nothing_was_written() {
    let builder = queues("http://127.0.0.1:1").await.write_within(Duration::from_secs(1));
    let error = refused(&builder.open().unwrap().writer(), Message::new("t", "x")).await;
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("refused") && said.contains("endpoint"), "{said}");
}

#[tokio::test]
async fn a_host_that_is_not_there_is_an_endpoint_to_check() {
    let builder = queues("http://no-such-host.invalid:1").await.write_within(Duration::from_secs(1));
    let error = refused(&builder.open().unwrap().writer(), Message::new("t", "x")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn an_expired_token_says_to_renew_it() {
    let proxy = Proxy::start().await;
    let topic = topic("expired");
    let sqs = queues(&proxy.endpoint).await.open().unwrap();
    write(&sqs, vec![Message::new(topic.clone(), "x")]).await;
    proxy.rewrite(|head, body| {
        *head = head.replacen("200 OK", "403 Forbidden", 1);
        *body = r#"{"__type":"ExpiredTokenException","message":"The security token is expired"}"#.to_owned();
    });
    let error = refused(&sqs.writer(), Message::new(topic, "x")).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("is expired") && error.to_string().contains("renew"), "{error}");
}

#[tokio::test]
async fn a_queue_as_it_is_made_is_sound_and_says_what_is_in_it() {
    let sqs = sqs().await;
    let topic = topic("sound");
    write(&sqs, vec![Message::new(topic.clone(), "x")]).await;
    assert_eq!(sqs.admin().diagnose(&topic).await.unwrap(), []);
    assert_eq!(sqs.admin().diagnose("test.nowhere").await.unwrap_err().kind(), ErrorKind::NotFound);
    let groups = sqs.admin().groups(&topic).await.unwrap();
    assert_eq!((groups.len(), groups[0].lag), (1, 1));
    assert_eq!(sqs.admin().purge(&topic).await.unwrap(), 1);
    Member::open(&sqs, &topic).await.quiet(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_url_is_all_it_takes_and_no_secret_is_shown() {
    let url =
        format!("sqs://AKIDSHOWN:battery@eu-west-1?queues=fifo&lease=5s&endpoint={}", server::endpoint());
    let connection = driver().connect(Endpoint::parse(&url).unwrap()).await.unwrap();
    let aws = Aws::builder().region("eu-west-1").credentials("AKIDSHOWN", "battery").connect().await.unwrap();
    let shown = format!("{connection:?} {:?} {aws:?}", aws.sqs().open().unwrap());
    assert!(!shown.contains("battery") && !shown.contains("AKIDSHOWN"), "{shown}");
    assert_eq!(connection.reader.capabilities().lease, Some(Duration::from_secs(5)));
    for (url, part) in [
        ("sqs://eu-west-1?queues=lifo", "standard or fifo"),
        ("sqs://eu-west-1?create=always", "missing, never or assume"),
        ("sqs://k:battery@eu-west-1?lease=500ms", "whole seconds"),
        ("sqs://k:battery@eu-west-1?acks=1", "there are: create"),
    ] {
        let url = match url.contains("battery") {
            true => url.to_owned(),
            false => url.replace("eu-west-1", "k:battery@eu-west-1"),
        };
        let error = driver().connect(Endpoint::parse(&url).unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(part) && !format!("{error:?}").contains("battery"), "{error:?}");
    }
}

/// In a process without anything to be found: what it says.
fn alone(region: Option<&str>) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "in_a_process_of_its_own", "--ignored", "--nocapture"]).env_clear();
    child.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", std::env::temp_dir().join("no-home"));
    if let Some(region) = region {
        child.env("AWS_REGION", region);
    }
    String::from_utf8_lossy(&child.output().unwrap().stdout).into_owned()
}

#[tokio::test]
#[ignore = "started by the next two"]
async fn in_a_process_of_its_own() {
    println!("{:?}", Aws::builder().connect().await.map(|_| ()));
}

#[test]
fn without_credentials_it_says_where_it_looked() {
    let said = alone(Some("eu-west-1"));
    assert!(said.contains("denied: no credentials for AWS were found"), "{said}");
    assert!(said.contains("AWS_ACCESS_KEY_ID") && said.contains("tried: the environment"), "{said}");
}

#[test]
fn without_a_region_it_says_how_to_name_one() {
    let said = alone(None);
    assert!(said.contains("no region is known") && said.contains("AWS_REGION"), "{said}");
}
