//! What the doctor finds in queues that somebody else made, on a real server.
#![cfg(feature = "sqs")]
#![allow(clippy::unwrap_used, reason = "a test")]

use millstream_core::Admin as _;
use millstream_core::admin::Weight;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

mod server;
use server::{sqs, topic, write};

/// Asks the server as another program would.
async fn ask(action: &str, request: Value) {
    let host = server::endpoint().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let body = request.to_string();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nX-Amz-Target: AmazonSQS.{action}\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/sqs/aws4_request, SignedHeaders=host, \
         Signature=0\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(host).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_policy_that_takes_messages_from_their_handlers_is_a_danger_and_the_command_that_mends_it_is_told()
{
    let topic = topic("policy");
    let (queue, letters) = (topic.replace('.', "-"), format!("{}-others", topic.replace('.', "-")));
    ask("CreateQueue", json!({ "QueueName": letters })).await;
    let target = format!("arn:aws:sqs:elasticmq:000000000000:{letters}");
    let policy = json!({ "deadLetterTargetArn": target, "maxReceiveCount": 3 }).to_string();
    ask("CreateQueue", json!({ "QueueName": queue, "Attributes": { "RedrivePolicy": policy } })).await;

    let found = sqs().await.admin().diagnose(&topic).await.unwrap();

    let danger = found.iter().find(|finding| finding.weight == Weight::Danger).unwrap();
    assert!(danger.what.contains(&format!("{letters:?} after 3 receipts")), "{}", danger.what);
    for part in ["aws sqs set-queue-attributes", &queue, "RedrivePolicy="] {
        assert!(danger.fix.contains(part), "{}", danger.fix);
    }
}

#[tokio::test]
async fn a_queue_as_the_driver_makes_it_is_sound() {
    let (sqs, topic) = (sqs().await, topic("sound"));
    write(&sqs, vec![millstream_core::Message::new(topic.clone(), "x")]).await;
    let found = sqs.admin().diagnose(&topic).await.unwrap();
    assert!(found.iter().all(|finding| finding.weight == Weight::Note), "{found:?}");
}
