//! The listeners of the test broker, and a message that goes there and back.
#![allow(dead_code, reason = "each test program needs a part of it")]

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millstream_core::admin::TopicSettings;
use millstream_core::{
    Admin as _, Delivery, Error, Message, OpenRequest, ReadLimits, Reader as _, Source as _, Writer as _,
};
use millstream_kafka::{Kafka, KafkaBuilder, KafkaSource, Tls, Token};
use tokio::time::timeout;

use crate::common::{PATIENCE, broker, unique, variable};

/// TLS, no login.
pub(crate) fn tls() -> String {
    variable("MILLSTREAM_KAFKA_TLS")
}

/// TLS with a certificate of the client's.
pub(crate) fn mtls() -> String {
    variable("MILLSTREAM_KAFKA_MTLS")
}

/// TLS and a login: PLAIN, both SCRAMs, OAUTHBEARER.
pub(crate) fn sasl() -> String {
    variable("MILLSTREAM_KAFKA_SASL")
}

/// A login in the open: PLAIN and SCRAM-SHA-256.
pub(crate) fn sasl_open() -> String {
    variable("MILLSTREAM_KAFKA_SASL_OPEN")
}

pub(crate) fn user() -> String {
    variable("MILLSTREAM_KAFKA_USER")
}

pub(crate) fn password() -> String {
    variable("MILLSTREAM_KAFKA_PASSWORD")
}

pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(variable("MILLSTREAM_KAFKA_CERTIFICATES")).join(name)
}

/// Trusts the broker.
pub(crate) fn trusting() -> Tls {
    Tls::ca(file("ca.pem"))
}

/// A topic that an administrator made.
pub(crate) async fn topic(name: &str) -> String {
    let topic = unique(name);
    let admin = Kafka::builder(broker()).connect().await.unwrap().admin();
    for name in [topic.clone(), format!("{topic}.dlq"), format!("{topic}.{topic}.park")] {
        admin.ensure_topic(&name, TopicSettings::partitions(1)).await.unwrap();
    }
    topic
}

/// Writes a message, and reads it as a group.
pub(crate) async fn there_and_back(kafka: &Kafka, topic: &str) {
    write(kafka, topic, "hello").await.unwrap();
    let request = OpenRequest::new(topic.to_owned()).group(unique("group"));
    let mut source = kafka.reader().open(request).await.unwrap().source;
    let read = timeout(PATIENCE, next(&mut source)).await.unwrap().unwrap();
    assert_eq!(read[0].message.data.as_deref(), Some(&b"hello"[..]));
    source.close().await.unwrap();
}

pub(crate) async fn write(kafka: &Kafka, topic: &str, data: &str) -> Result<(), Error> {
    let message = Message::new(topic.to_owned(), data.to_owned()).with_key("key");
    kafka.writer().write(vec![message]).await?.into_result().map(drop)
}

pub(crate) async fn next(source: &mut KafkaSource) -> Result<Vec<Delivery>, Error> {
    let mut read = Vec::new();
    while read.is_empty() {
        source.read(&mut read, ReadLimits::new(100, 1 << 20)).await?;
    }
    Ok(read)
}

/// Why a connection is refused; a cause that stays is told soon.
pub(crate) async fn refused(builder: KafkaBuilder) -> Error {
    let start = Instant::now();
    let error = builder.connect().await.unwrap_err();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}: {error}");
    assert!(error.is_retryable() || took < Duration::from_secs(3), "{took:?}: {error}");
    println!("{:?} after {took:?}: {error}", error.kind());
    error
}

/// A token as the test broker takes it: unsigned.
pub(crate) fn token(subject: &str, life: Duration) -> Token {
    Token::expiring_in(unsigned(subject, life), life).principal(subject)
}

/// What stands in it.
pub(crate) fn unsigned(subject: &str, life: Duration) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = format!(
        r#"{{"sub":"{subject}","iat":{},"exp":{}}}"#,
        now.as_secs_f64() - 1.0,
        (now + life).as_secs_f64()
    );
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims))
}
