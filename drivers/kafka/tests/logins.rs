//! Logins while a program runs, on a real broker: tokens that expire, a provider of tokens that is away, a user that is
//! taken away.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
mod secure;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream_core::{BoxError, ErrorKind, OpenRequest, Reader as _, Source as _};
use millstream_kafka::{Kafka, KafkaBuilder, Sasl};
use tokio::time::{sleep, timeout};

use self::common::{PATIENCE, broker, unique, variable};
use self::secure::*;

fn login(with: Sasl) -> KafkaBuilder {
    Kafka::builder(sasl()).tls(trusting()).sasl(with).write_within(Duration::from_secs(8))
}

/// All that was logged, by all tests of this program.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn hear() -> Self {
        static ALL: std::sync::OnceLock<Lines> = std::sync::OnceLock::new();
        let hear = || {
            let lines = Self::default();
            let writer = lines.clone();
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
            lines
        };
        ALL.get_or_init(hear).clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The broker closes a connection whose token has expired, unless it logs in again with a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_renewed_while_messages_flow() {
    Lines::hear();
    let topic = topic("renewed").await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let sasl = Sasl::oauth_bearer(move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, BoxError>(token("ann", Duration::from_secs(20))) }
    });
    let kafka = login(sasl).connect().await.unwrap();
    let request = OpenRequest::new(topic.clone()).group(unique("renewed"));
    let mut source = kafka.reader().open(request).await.unwrap().source;
    let (start, mut read) = (Instant::now(), 0);
    for n in 0.. {
        write(&kafka, &topic, &n.to_string()).await.unwrap();
        read += timeout(PATIENCE, next(&mut source)).await.unwrap().unwrap().len();
        assert_eq!(read, n + 1, "each comes once");
        if start.elapsed() > Duration::from_secs(45) {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    source.close().await.unwrap();
    let asked = asked.load(Ordering::Relaxed);
    // A token each 14 s, for all clients together.
    assert!((3..=6).contains(&asked), "{asked} tokens");
}

/// An outage of who gives tokens is no refusal: it is waited out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_away_longer_than_a_token_lives_ends_no_subscription() {
    let lines = Lines::hear();
    let topic = topic("away").await;
    let start = Instant::now();
    let sasl = Sasl::oauth_bearer(move || async move {
        match start.elapsed().as_secs() {
            3..20 => Err("the identity provider is away"),
            _ => Ok(token("ann", Duration::from_secs(4))),
        }
    });
    let kafka = login(sasl).connect().await.unwrap();
    let request = OpenRequest::new(topic.clone()).group(unique("away"));
    let mut source = kafka.reader().open(request).await.unwrap().source;
    write(&kafka, &topic, "before").await.unwrap();
    assert_eq!(timeout(PATIENCE, next(&mut source)).await.unwrap().unwrap().len(), 1);
    // The token has expired, and the broker hangs up: that is no error of the subscription.
    let silence = timeout(Duration::from_secs(20).saturating_sub(start.elapsed()), next(&mut source)).await;
    assert!(silence.is_err(), "{silence:?}");
    let after = async {
        while let Err(error) = write(&kafka, &topic, "after").await {
            println!("{:?}: {error}", start.elapsed());
        }
    };
    timeout(PATIENCE, after).await.unwrap();
    // What was not acknowledged comes once more.
    loop {
        let read = timeout(PATIENCE, next(&mut source)).await.unwrap().unwrap();
        if read.iter().any(|delivery| delivery.message.data.as_deref() == Some(&b"after"[..])) {
            break;
        }
    }
    assert!(lines.text().contains("the identity provider is away"), "it is in the log");
    source.close().await.unwrap();
}

/// Kafka's own tool, for what no client can do.
fn configure_user(user: &str, what: &[&str]) {
    let classes = format!("{}/*", variable("MILLSTREAM_PEER_JAVA"));
    let output = Command::new("java")
        .args(["-XX:TieredStopAtLevel=1", "-cp", &classes, "kafka.admin.ConfigCommand"])
        .args(["--bootstrap-server", &broker(), "--alter", "--entity-type", "users", "--entity-name", user])
        .args(what)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The broker asks for the login again from time to time, and this one is no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_taken_away_is_an_error_of_reading_and_writing_and_a_warning() {
    let lines = Lines::hear();
    let (topic, user) = (topic("revoked").await, unique("user").replace('.', "-"));
    configure_user(&user, &["--add-config", "SCRAM-SHA-256=[iterations=4096,password=battery-staple]"]);
    let kafka = login(Sasl::scram_sha_256(&user, "battery-staple")).connect().await.unwrap();
    let request = OpenRequest::new(topic.clone()).group(unique("revoked"));
    let mut source = kafka.reader().open(request).await.unwrap().source;
    write(&kafka, &topic, "before").await.unwrap();
    assert_eq!(timeout(PATIENCE, next(&mut source)).await.unwrap().unwrap().len(), 1);
    configure_user(&user, &["--delete-config", "SCRAM-SHA-256"]);
    let error = timeout(PATIENCE, next(&mut source)).await.unwrap().unwrap_err();
    println!("{error}");
    assert!(
        error.kind() == ErrorKind::Denied && error.to_string().contains("uthentication failed"),
        "{error}"
    );
    let writing = async {
        loop {
            // The writer has a connection of its own, whose login is asked for at another moment.
            match write(&kafka, &topic, "after").await {
                Ok(()) => sleep(Duration::from_millis(200)).await,
                Err(error) => return error,
            }
        }
    };
    let error = timeout(PATIENCE, writing).await.unwrap();
    println!("{:?}: {error}", error.kind());
    assert!(
        error.to_string().contains("uthentication failed") && error.to_string().contains("check the user"),
        "{error}"
    );
    let text = lines.text();
    assert!(text.contains("WARN") && text.contains("uthentication failed"), "{text}");
    assert!(!text.contains("battery-staple"), "{text}");
    drop(source);
}
