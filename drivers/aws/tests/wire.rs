//! What lies in a queue, attribute by attribute, as a client of the SDK alone sees it; and what such a client sends.
#![cfg(feature = "sqs")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{MessageAttributeValue, MessageSystemAttributeName as System};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use millstream_aws::Queues;
use millstream_core::Message;

mod server;
use server::{Member, queues, sqs, topic, write};

fn client() -> Client {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(server::endpoint())
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(http.build_https());
    Client::from_conf(config.build())
}

async fn url(client: &Client, name: &str) -> String {
    client.get_queue_url().queue_name(name).send().await.unwrap().queue_url.unwrap()
}

fn string(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder().data_type("String").string_value(value).build().unwrap()
}

/// A message as it lies there: body, attributes of type String, and the system's.
async fn lies(topic: &str) -> (String, BTreeMap<String, String>, BTreeMap<String, String>) {
    let client = client();
    let url = url(&client, topic).await;
    let received = client
        .receive_message()
        .queue_url(&url)
        .message_attribute_names("All")
        .message_system_attribute_names(System::All)
        .send()
        .await
        .unwrap();
    let message = received.messages.unwrap().remove(0);
    let attributes = message.message_attributes.unwrap_or_default().into_iter().map(|(name, value)| {
        assert_eq!(value.data_type, "String");
        (name, value.string_value.unwrap())
    });
    let system =
        message.attributes.unwrap().into_iter().map(|(name, value)| (name.as_str().to_owned(), value));
    (message.body.unwrap(), attributes.collect(), system.collect())
}

fn message(topic: &str) -> Message {
    Message::new(topic.to_owned(), r#"{"user_id":"1"}"#)
        .with_id("0190")
        .with_key("customer 7")
        .with_content_type("application/json")
        .with_header("tenant", "acme")
        .with_time(UNIX_EPOCH + Duration::from_millis(1_764_000_000_123))
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_message_has_the_attributes_of_the_go_toolkit() {
    let topic = topic("plain");
    write(&sqs().await, vec![message(&topic)]).await;
    let (body, attributes, _) = lies(&topic.replace('.', "-")).await;
    assert_eq!(body, r#"{"user_id":"1"}"#);
    let wanted = [
        ("streams-message-id", "0190"),
        ("streams-stream-name", &*topic),
        ("streams-stream-key", "customer 7"),
        ("streams-content-type", "application/json"),
        ("streams-message-time", "1764000000123"),
        ("tenant", "acme"),
    ];
    assert_eq!(attributes, map(&wanted));
}

#[tokio::test]
async fn what_sqs_has_no_place_for_is_in_two_attributes() {
    let topic = topic("odd");
    let mut odd = message(&topic);
    odd.data = Some(vec![0xff, 0x00].into());
    odd.key = Some("".into());
    odd.headers.append("bytes", vec![0xff]);
    odd.headers.append_null("nothing");
    write(&sqs().await, vec![odd]).await;
    let (body, mut attributes, _) = lies(&topic.replace('.', "-")).await;
    assert_eq!(body, "/wA=");
    assert_eq!(attributes.remove("millstream-body").as_deref(), Some("base64"));
    let rest = r#"{"headers":["tenant",["bytes",{"base64":"/w=="}],["nothing",null]],"key":""}"#;
    assert_eq!(attributes.remove("millstream-rest").as_deref(), Some(rest));
    assert!(!attributes.contains_key("streams-stream-key"));
}

#[tokio::test]
async fn on_a_fifo_queue_the_key_is_the_group_and_the_id_what_is_sent_once() {
    let topic = format!("{}.fifo", topic("ordered"));
    write(&sqs().await, vec![message(&topic)]).await;
    let (_, attributes, system) =
        lies(&format!("{}.fifo", topic.trim_end_matches(".fifo").replace('.', "-"))).await;
    assert_eq!(system["MessageGroupId"], "customer%207");
    assert_eq!(system["MessageDeduplicationId"], "0190");
    assert_eq!(attributes["streams-stream-name"], topic);
}

#[tokio::test]
async fn what_the_go_toolkit_sends_is_read() {
    let (sqs, topic) = (sqs().await, topic("go"));
    let mut member = Member::open(&sqs, &topic).await;
    let client = client();
    let sending = client
        .send_message()
        .queue_url(url(&client, &topic.replace('.', "-")).await)
        .message_body(r#"{"user_id":"1"}"#)
        .message_attributes("streams-message-id", string("0190"))
        .message_attributes("streams-stream-name", string("whatever.it.was"))
        .message_attributes("streams-stream-key", string("customer 7"))
        .message_attributes("streams-content-type", string("application/json"))
        .message_attributes("streams-message-time", string("1764000000123"))
        .message_attributes("tenant", string("acme"));
    sending.send().await.unwrap();
    let came = member.take(1).await.remove(0);
    assert_eq!(*came.message, message(&topic));
}

#[tokio::test]
async fn what_anybody_sends_is_delivered_as_it_is_and_an_id_is_found() {
    let sqs = queues(&server::endpoint()).await.queues(Queues::Fifo).open().unwrap();
    let topic = topic("foreign");
    let mut member = Member::open(&sqs, &topic).await;
    let client = client();
    let sent = client
        .send_message()
        .queue_url(url(&client, &format!("{}.fifo", topic.replace('.', "-"))).await)
        .message_body("not json")
        .message_group_id("customer-7")
        .message_deduplication_id("1")
        .send()
        .await
        .unwrap();
    let came = member.take(1).await.remove(0);
    assert_eq!(came.message.data.as_deref(), Some(&b"not json"[..]));
    assert_eq!(Some(&*came.message.id), sent.message_id());
    assert_eq!(came.message.key.as_deref(), Some(&b"customer-7"[..]), "its group is its key");
    assert!(came.message.time > UNIX_EPOCH);
}
