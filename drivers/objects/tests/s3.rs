//! S3 as the place of objects, on a real server, and what goes wrong on the way to it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{ids, in_every_place, letter, write};
use millstream_core::{ErrorKind, WriteOutcome, Writer as _};
use millstream_objects::{Objects, ObjectsBuilder, S3};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn variable(name: &str) -> String {
    // Never skipped in silence: who has no server is told how to get one.
    std::env::var(name).unwrap_or_else(|_| {
        panic!("set {name}: `cargo xtask services start seaweedfs` starts a server and prints it")
    })
}

fn bucket(endpoint: &str) -> S3 {
    S3::new(variable("MILLSTREAM_S3_BUCKET"))
        .endpoint(endpoint)
        .region("us-east-1")
        .credentials(variable("MILLSTREAM_S3_KEY_ID"), variable("MILLSTREAM_S3_SECRET"))
}

/// A prefix that was never used.
fn at(endpoint: &str) -> ObjectsBuilder {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros();
    Objects::builder(bucket(endpoint)).prefix(format!("{since}/{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn place() -> ((), ObjectsBuilder) {
    ((), at(&variable("MILLSTREAM_S3")))
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

#[tokio::test]
async fn a_bucket_that_is_not_there_and_a_wrong_secret_are_found_at_once() {
    let url = variable("MILLSTREAM_S3");
    let missing = S3::new("nowhere").endpoint(&url).region("us-east-1");
    let missing = missing.credentials(variable("MILLSTREAM_S3_KEY_ID"), variable("MILLSTREAM_S3_SECRET"));
    let error = Objects::builder(missing).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("the bucket \"nowhere\" of S3"), "{error}");

    let wrong = S3::new(variable("MILLSTREAM_S3_BUCKET")).endpoint(&url).region("us-east-1");
    let wrong = wrong.credentials(variable("MILLSTREAM_S3_KEY_ID"), "correct-horse");
    let error = Objects::builder(wrong).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!format!("{error:?}").contains("correct-horse"), "{error:?}");
}

/// What a proxy does with connections.
#[derive(Clone, Copy)]
enum Mode {
    Pass,
    /// Closes them.
    Refuse,
    /// Takes what comes and says nothing.
    Mute,
    /// Passes on what is asked, and closes the connection instead of answering.
    LoseAnswers,
}

/// A proxy before the server that breaks what passes through.
struct Proxy {
    url: String,
    mode: Arc<AtomicU8>,
    /// Answers that were lost.
    lost: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = variable("MILLSTREAM_S3").trim_start_matches("http://").to_owned();
        let proxy = Self { url, mode: Arc::default(), lost: Arc::default() };
        let (mode, lost) = (Arc::clone(&proxy.mode), Arc::clone(&proxy.lost));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mode, lost, server) = (Arc::clone(&mode), Arc::clone(&lost), server.clone());
                tokio::spawn(async move { pass(client, &server, &mode, &lost).await });
            }
        });
        proxy
    }

    fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: &str, mode: &AtomicU8, lost: &AtomicUsize) -> std::io::Result<()> {
    let (mut from, mut to) = client.into_split();
    let (mut answers, mut asks) = TcpStream::connect(server).await?.into_split();
    let is = |wanted: Mode| mode.load(Ordering::SeqCst) == wanted as u8;
    let there = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut bytes).await?;
            if read == 0 || is(Mode::Refuse) {
                return Ok(());
            }
            if !is(Mode::Mute) {
                asks.write_all(&bytes[..read]).await?;
            }
        }
    };
    let back = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = answers.read(&mut bytes).await?;
            if read > 0 && is(Mode::LoseAnswers) {
                lost.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            if read == 0 || is(Mode::Refuse) {
                return Ok(());
            }
            to.write_all(&bytes[..read]).await?;
        }
    };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}

#[tokio::test]
async fn an_answer_that_was_lost_leaves_one_object_and_writing_it_again_succeeds() {
    let proxy = Proxy::start().await;
    let objects = at(&proxy.url).write_within(Duration::from_secs(3)).open().await.unwrap();
    proxy.set(Mode::LoseAnswers);
    let told = objects.writer().write(vec![letter("1", 60)]).await.unwrap().into_outcomes();
    assert!(matches!(told[..], [WriteOutcome::Unknown(_)]), "{told:?}");
    assert!(proxy.lost.load(Ordering::SeqCst) > 0);
    proxy.set(Mode::Pass);
    write(&objects, vec![letter("1", 60)]).await;
    assert_eq!(ids(&objects).await, ["1"]);
}

#[tokio::test]
async fn a_write_that_was_not_answered_is_tried_again_in_its_time() {
    let proxy = Proxy::start().await;
    let objects = at(&proxy.url).write_within(Duration::from_secs(6)).open().await.unwrap();
    // The first request takes its part of the time and is given up; the next finds a server that answers.
    proxy.set(Mode::Mute);
    let writer = objects.writer();
    let told = tokio::spawn(async move { writer.write(vec![letter("1", 60)]).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.set(Mode::Pass);
    told.await.unwrap().unwrap().into_result().unwrap();
    assert_eq!(ids(&objects).await, ["1"]);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let proxy = Proxy::start().await;
    let objects = at(&proxy.url).write_within(Duration::from_millis(1_500)).open().await.unwrap();
    proxy.set(Mode::Mute);
    let begun = Instant::now();
    let told = objects.writer().write(vec![letter("1", 60)]).await.unwrap().into_outcomes();
    let took = begun.elapsed();
    let [WriteOutcome::Unknown(error)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let begun = Instant::now();
    let error = at(&proxy.url).write_within(Duration::from_millis(1_500)).open().await.unwrap_err();
    assert!(error.is_retryable() && begun.elapsed() < Duration::from_secs(3), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_down_nothing_is_acknowledged_and_then_it_goes_on() {
    let proxy = Proxy::start().await;
    let objects = at(&proxy.url).write_within(Duration::from_secs(3)).open().await.unwrap();
    let broken = async || proxy.set(Mode::Refuse);
    let mended = async || proxy.set(Mode::Pass);
    common::an_outage(&objects, broken, mended).await;
}
