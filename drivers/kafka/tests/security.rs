//! TLS and logins on a real broker: what lets us in, and what each refusal says.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
mod secure;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::Drivers;
use millstream::prelude::*;
use millstream_core::admin::TopicSettings;
use millstream_core::{Admin as _, BoxError, Endpoint, ErrorKind};
use millstream_kafka::{Kafka, KafkaBuilder, Sasl, Tls, Token, Transactions, driver};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use self::common::{PATIENCE, broker, unique, variable};
use self::secure::*;

fn login(with: Sasl) -> KafkaBuilder {
    Kafka::builder(sasl()).tls(trusting()).sasl(with)
}

// ---- What lets us in -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_alone_carries_messages() {
    let kafka = Kafka::builder(tls()).tls(trusting()).connect().await.unwrap();
    there_and_back(&kafka, &topic("tls").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_lets_us_in_where_one_is_wanted() {
    let plain = trusting().client_certificate(file("client.pem"), file("client.key"));
    let (certificate, key) = (file("client.pem"), file("client-encrypted.key"));
    let encrypted =
        trusting().client_certificate_encrypted(certificate, key, variable("MILLSTREAM_KAFKA_KEY_PASSWORD"));
    for tls in [plain, encrypted] {
        let kafka = Kafka::builder(mtls()).tls(tls).connect().await.unwrap();
        there_and_back(&kafka, &topic("mtls").await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_password_lets_us_in() {
    let kinds = [Sasl::plain, Sasl::scram_sha_256, Sasl::scram_sha_512] as [fn(String, String) -> Sasl; 3];
    for kind in kinds {
        let kafka = login(kind(user(), password())).connect().await.unwrap();
        there_and_back(&kafka, &topic("password").await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_in_the_open_has_to_be_asked_for() {
    for sasl in [Sasl::plain(user(), password()), Sasl::scram_sha_256(user(), password())] {
        let builder = Kafka::builder(sasl_open()).sasl(sasl);
        // Encrypted, which this listener is not.
        refused(builder.clone()).await;
        let kafka = builder.plain_text().connect().await.unwrap();
        there_and_back(&kafka, &topic("open").await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_us_in() {
    let topic = topic("token").await;
    let sasl = Sasl::oauth_bearer(|| async { Ok::<_, BoxError>(token("ann", Duration::from_secs(600))) });
    let kafka = login(sasl).connect().await.unwrap();
    there_and_back(&kafka, &topic).await;
    // What the client library cannot do with a token says so.
    let error =
        kafka.admin().ensure_topic(&unique("absent"), TopicSettings::partitions(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = kafka.admin().purge(&topic).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("OAUTHBEARER"), "{error}");
}

#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "orders", key = "customer")]
struct Order {
    customer: String,
}

/// Publishes through a whole bus, and handles what was published.
async fn through_a_bus(bus: Bus, topic: &str) {
    let (told, mut heard) = tokio::sync::mpsc::channel::<String>(10);
    async fn handle(order: Order, State(told): State<tokio::sync::mpsc::Sender<String>>) -> Outcome {
        told.send(order.customer).await?;
        Ok(())
    }
    let publisher = bus.publisher().clone();
    let running = bus
        .with_state(told)
        .subscribe_to(topic.to_owned(), handle.group(topic.to_owned()))
        .start()
        .await
        .unwrap();
    publisher.publish_to(topic, &Order { customer: "ada".to_owned() }).await.unwrap();
    assert_eq!(timeout(PATIENCE, heard.recv()).await.unwrap().as_deref(), Some("ada"));
    let report = running.shutdown().await;
    assert_eq!(report.subscriptions[0].unknown, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_is_all_that_a_bus_needs() {
    let ca = file("ca.pem");
    let (address, user, password) = (sasl(), user(), password());
    let url = format!("kafka://{user}:{password}@{address}/?ca={}", ca.display());
    through_a_bus(Bus::connect_with(&Drivers::new().with(driver()), &url).await.unwrap(), &unique("url"))
        .await;
    let (certificate, key) = (file("client.pem"), file("client.key"));
    let files = format!("ca={}&cert={}&key={}", ca.display(), certificate.display(), key.display());
    let url = format!("kafka://{}/?{files}", mtls());
    through_a_bus(Bus::connect_with(&Drivers::new().with(driver()), &url).await.unwrap(), &unique("url"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_runs_with_tokens_on_topics_that_are_there() {
    let sasl = Sasl::oauth_bearer(|| async { Ok::<_, BoxError>(token("ann", Duration::from_secs(600))) });
    for transactions in [Transactions::None, Transactions::Handlers] {
        let kafka = login(sasl.clone()).transactions(transactions).connect().await.unwrap();
        through_a_bus(Bus::from_connection(kafka.connection()), &topic("token-bus").await).await;
    }
}

// ---- What is refused -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_in_the_brokers_words() {
    let kinds = [Sasl::plain, Sasl::scram_sha_256, Sasl::scram_sha_512] as [fn(String, String) -> Sasl; 3];
    for kind in kinds {
        for (user, password) in [(user(), "wrong-pony"), ("nobody".to_owned(), "wrong-pony")] {
            let error = refused(login(kind(user, password.to_owned()))).await;
            assert_eq!(error.kind(), ErrorKind::Denied);
            let error = error.to_string();
            assert!(error.contains("uthentication failed") && error.contains("check the user"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mechanism_that_the_listener_does_not_have_is_named_with_those_it_has() {
    let builder = Kafka::builder(sasl_open()).plain_text();
    let error = refused(builder.sasl(Sasl::scram_sha_512(user(), password()))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(
        error.to_string().contains("SCRAM-SHA-256") && error.to_string().contains("by `sasl`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_speaks_otherwise_is_told_by_what_would_be_right() {
    let password = || Sasl::scram_sha_512(user(), password());
    for (builder, kind, part) in [
        // TLS to one that has none; the broker hangs up, which may mean anything.
        (Kafka::builder(broker()).tls(trusting()), ErrorKind::Unavailable, "speaks no TLS"),
        (
            Kafka::builder(sasl_open()).tls(trusting()).sasl(password()),
            ErrorKind::Unavailable,
            "speaks no TLS",
        ),
        // None to one that has it; the same.
        (Kafka::builder(tls()), ErrorKind::Unavailable, "tls=on"),
        (Kafka::builder(sasl()).plain_text().sasl(password()), ErrorKind::Unavailable, "tls=on"),
        // A login to one that takes none.
        (Kafka::builder(tls()).tls(trusting()).sasl(password()), ErrorKind::InvalidConfig, "takes no login"),
        (Kafka::builder(broker()).plain_text().sasl(password()), ErrorKind::InvalidConfig, "takes no login"),
        // None to one that wants one; the same.
        (Kafka::builder(sasl()).tls(trusting()), ErrorKind::Unavailable, "name a user"),
        (Kafka::builder(sasl_open()), ErrorKind::Unavailable, "name a user"),
    ] {
        let error = refused(builder).await;
        assert!(error.kind() == kind && error.to_string().contains(part), "{kind:?}, {part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_proves_nothing_is_not_spoken_to() {
    let by_name = tls().replace("127.0.0.1", "localhost");
    for (address, trusts) in [
        (tls(), Tls::ca(file("stranger.pem"))),
        (tls(), Tls::system()),
        // Its certificate is for another name.
        (by_name, trusting()),
    ] {
        let error = refused(Kafka::builder(address).tls(trusts)).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(
            error.to_string().contains("certificate verify failed") && error.to_string().contains("`ca`"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_wants_a_certificate_says_so_when_none_or_a_bad_one_comes() {
    let with = |name: &str| {
        trusting().client_certificate(file(&format!("{name}.pem")), file(&format!("{name}.key")))
    };
    for tls in [trusting(), with("expired"), with("stranger-client")] {
        let error = refused(Kafka::builder(mtls()).tls(tls)).await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains("`cert` and `key`"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_do_not_belong_together_are_refused_before_a_broker_is_asked() {
    for (certificate, key, password) in
        [("client.pem", "client-encrypted.key", "wrong-pony"), ("client.pem", "expired.key", "unused")]
    {
        let tls = trusting().client_certificate_encrypted(file(certificate), file(key), password);
        let error = Kafka::builder(mtls()).tls(tls).connect().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(
            error.to_string().contains("key_password") && !error.to_string().contains("wrong-pony"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_broker_or_the_provider_refuses_says_why() {
    let sasl = Sasl::oauth_bearer(|| async {
        Ok::<_, BoxError>(Token::expiring_in("no-jwt-at-all", Duration::from_secs(60)))
    });
    let error = refused(login(sasl)).await;
    assert!(error.kind() == ErrorKind::Denied && !error.to_string().contains("no-jwt-at-all"), "{error}");
    let sasl = Sasl::oauth_bearer(|| async { Err("the identity provider is away") });
    let error = refused(login(sasl)).await;
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("is away"), "{error}");
}

// ---- What is shown nowhere -----------------------------------------------------------------------------------

/// All that was logged, of every level and of all threads.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_a_debug_an_error_or_the_log() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let mut shown = String::new();
    // One who is let in, one who is not, by a URL and in code, and a token.
    let right = login(Sasl::plain(user(), password()));
    let wrong = login(Sasl::plain(user(), "wrong-pony"));
    let tls = trusting().client_certificate_encrypted(
        file("client.pem"),
        file("client-encrypted.key"),
        variable("MILLSTREAM_KAFKA_KEY_PASSWORD"),
    );
    let certificate = Kafka::builder(mtls()).tls(tls);
    let life = Duration::from_secs(600);
    let value = unsigned("ann", life);
    let given = Token::expiring_in(&value, life);
    shown += &format!("{given:?}");
    let bearer = login(Sasl::oauth_bearer(move || std::future::ready(Ok::<_, BoxError>(given.clone()))));
    let endpoint = Endpoint::parse(&format!(
        "kafka://ann:wrong-pony@{}/?sasl=plain&ca={}",
        sasl(),
        file("ca.pem").display()
    ))
    .unwrap();
    shown += &format!("{right:?} {wrong:?} {certificate:?} {bearer:?} {endpoint:?} {endpoint}");
    for builder in [right, certificate, bearer] {
        let kafka = builder.connect().await.unwrap();
        shown += &format!("{kafka:?} {:?} {:?}", kafka.writer(), kafka.connection());
        there_and_back(&kafka, &topic("secrets").await).await;
    }
    let errors = [wrong.connect().await.unwrap_err(), driver().connect(endpoint).await.unwrap_err()];
    shown += &format!("{errors:?} {} {}", errors[0], errors[1]);
    shown += &String::from_utf8_lossy(&lines.0.lock().unwrap());
    assert!(shown.contains("uthentication failed") && shown.contains("librdkafka"), "{shown}");
    let key_password = variable("MILLSTREAM_KAFKA_KEY_PASSWORD");
    for secret in [&password(), "wrong-pony", &key_password, &value] {
        assert!(!shown.contains(secret), "{secret} is in: {shown}");
    }
}
