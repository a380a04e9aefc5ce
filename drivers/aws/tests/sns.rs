//! Topics of SNS and the queues of their groups, on moto: what it does, not how fast.
#![cfg(feature = "sns")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use millstream_aws::{Create, Queues, Sns, SnsReader, SqsBuilder, Subscription};
use millstream_core::admin::Weight;
use millstream_core::{
    Admin as _, Delivery, ErrorKind, Message, OpenRequest, Opened, ReadLimits, Reader, Settled, Settlement,
    Settler as _, Source as _, Writer as _,
};
use tokio::time::timeout;

mod server;
use server::{PATIENCE, topic};

/// Where moto is. Never skipped in silence: who has none is told how to get one.
fn endpoint() -> String {
    std::env::var("MILLSTREAM_MOTO").expect(
        "set MILLSTREAM_MOTO to a moto server: `cargo xtask services start moto` starts one and prints it",
    )
}

async fn queues() -> SqsBuilder {
    server::queues(&endpoint()).await
}

async fn sns() -> Sns {
    queues().await.open_sns().unwrap()
}

struct Member(
    Opened<<SnsReader as Reader>::Source, <SnsReader as Reader>::Settler, <SnsReader as Reader>::Leases>,
);

impl Member {
    async fn open(sns: &Sns, topic: &str, group: &str) -> Self {
        let request = OpenRequest::new(topic.to_owned()).group(group.to_owned());
        Self(sns.reader().open(request).await.unwrap())
    }

    async fn take_within(&mut self, count: usize, patience: Duration) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let reading = async {
            while taken.len() < count {
                let limits = ReadLimits::new(count - taken.len(), 64 << 20);
                self.0.source.read(&mut taken, limits).await.unwrap();
            }
        };
        let _ = timeout(patience, reading).await;
        taken
    }

    async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let taken = self.take_within(count, PATIENCE).await;
        assert_eq!(taken.len(), count, "what came within {PATIENCE:?}");
        taken
    }

    async fn quiet(&mut self) {
        let came = self.take_within(1, Duration::from_secs(2)).await;
        assert!(came.is_empty(), "nothing was to come, and {:?} did", came[0].message);
    }

    async fn ack(&mut self, deliveries: Vec<Delivery>) {
        let batch = deliveries.into_iter().map(|d| Settlement::ack(d.token)).collect();
        assert!(self.0.settler.settle(batch).await.iter().all(Settled::is_done));
    }
}

fn message(topic: &str, n: usize) -> Message {
    Message::new(topic.to_owned(), format!(r#"{{"n":{n}}}"#))
        .with_id(n.to_string())
        .with_key(format!("customer {}", n % 3))
        .with_content_type("application/json")
        .with_header("tenant", if n.is_multiple_of(2) { "acme" } else { "other" })
        .with_time(UNIX_EPOCH + Duration::from_millis(1_764_000_000_123))
}

async fn publish(sns: &Sns, messages: Vec<Message>) {
    sns.writer().write(messages).await.unwrap().into_result().unwrap();
}

fn ids(deliveries: &[Delivery]) -> BTreeSet<String> {
    deliveries.iter().map(|d| d.message.id.to_string()).collect()
}

#[tokio::test]
async fn each_group_gets_every_message_as_it_was_published() {
    let (sns, topic) = (sns().await, topic("groups"));
    let mut members = [Member::open(&sns, &topic, "a").await, Member::open(&sns, &topic, "b").await];
    let messages: Vec<_> = (0..12).map(|n| message(&topic, n)).collect();
    publish(&sns, messages.clone()).await;
    for member in &mut members {
        let came = member.take(12).await;
        for delivery in &came {
            let sent = &messages[delivery.message.id.parse::<usize>().unwrap()];
            assert_eq!(*delivery.message, *sent);
        }
        assert_eq!(ids(&came).len(), 12);
        member.ack(came).await;
        member.quiet().await;
    }
}

#[tokio::test]
async fn what_sns_has_no_place_for_survives() {
    let (sns, topic) = (sns().await, topic("odd"));
    let mut member = Member::open(&sns, &topic, "g").await;
    let mut odd = message(&topic, 0);
    odd.data = Some("\u{1}".into());
    odd.key = Some("".into());
    odd.headers.append("bytes", vec![0xff]);
    (0..50).for_each(|n| odd.headers.append(format!("h{n}"), n.to_string()));
    let empty = Message { data: None, ..message(&topic, 1) };
    publish(&sns, vec![odd.clone(), empty.clone()]).await;
    for delivery in member.take(2).await {
        assert_eq!(*delivery.message, if delivery.message.id == "0" { odd.clone() } else { empty.clone() });
    }
}

#[tokio::test]
async fn a_group_that_wants_less_or_an_envelope_says_so_once() {
    let (sns, topic) = (sns().await, topic("filters"));
    let filter = Subscription::raw().filter_attributes(r#"{"tenant": ["acme"]}"#);
    sns.subscribe(&topic, "acme", filter.clone()).await.unwrap();
    sns.subscribe(&topic, "acme", filter).await.unwrap();
    sns.subscribe(&topic, "enveloped", Subscription::envelope()).await.unwrap();
    let body = Subscription::raw().filter_body(r#"{"n": [3]}"#);
    sns.subscribe(&topic, "third", body).await.unwrap();
    publish(&sns, (0..6).map(|n| message(&topic, n)).collect()).await;
    for (group, wanted) in [
        ("acme", vec!["0", "2", "4"]),
        ("enveloped", vec!["0", "1", "2", "3", "4", "5"]),
        ("third", vec!["3"]),
    ] {
        let mut member = Member::open(&sns, &topic, group).await;
        let came = member.take(wanted.len()).await;
        assert_eq!(ids(&came), wanted.into_iter().map(ToOwned::to_owned).collect(), "{group}");
        assert!(came.iter().all(|d| d.message.headers.len() == 1 && d.message.key.is_some()), "{came:?}");
        member.ack(came).await;
        member.quiet().await;
    }
}

#[tokio::test]
async fn a_fifo_topic_keeps_the_order_of_a_key() {
    let sns = queues().await.queues(Queues::Fifo).open_sns().unwrap();
    let topic = topic("ordered");
    let mut member = Member::open(&sns, &topic, "g").await;
    publish(&sns, (0..4).map(|n| message(&topic, n).with_key("k")).collect()).await;
    for n in 0..4 {
        let next = member.take(1).await;
        assert_eq!(next[0].message.id, n.to_string());
        member.ack(next).await;
    }
}

#[tokio::test]
async fn dead_letters_wait_in_a_queue_though_nobody_is_subscribed() {
    let (sns, topic) = (sns().await, topic("dead"));
    let letters = format!("{topic}.dlq");
    publish(&sns, vec![message(&letters, 0), message(&topic, 1)]).await;
    let mut member = Member::open(&sns, &letters, "g").await;
    assert_eq!(member.take(1).await[0].message.id, "0");
}

#[tokio::test]
async fn a_topic_that_nobody_listens_to_is_found_and_groups_are_known() {
    let (sns, topic) = (sns().await, topic("doctor"));
    let admin = sns.admin();
    assert!(admin.ensure_topic(&topic, millstream_core::admin::TopicSettings::default()).await.unwrap());
    assert!(!admin.ensure_topic(&topic, millstream_core::admin::TopicSettings::default()).await.unwrap());
    let found = admin.diagnose(&topic).await.unwrap();
    assert!(found[0].weight == Weight::Danger && found[0].what.contains("throws away"), "{found:?}");
    assert!(admin.topics().await.unwrap().iter().any(|info| info.name == topic));
    let _member = Member::open(&sns, &topic, "billing").await;
    publish(&sns, vec![message(&topic, 0)]).await;
    let groups = admin.groups(&topic).await.unwrap();
    assert_eq!((groups.len(), &*groups[0].name, groups[0].lag), (1, "billing", 1));
    assert_eq!(admin.diagnose(&topic).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_not_there_and_not_made_is_named() {
    let topic = topic("never");
    let sns = queues().await.create(Create::Never).open_sns().unwrap();
    let outcome = sns.writer().write(vec![message(&topic, 0)]).await.unwrap().into_result().unwrap_err();
    assert_eq!(outcome.kind(), ErrorKind::NotFound);
    let opened = sns.reader().open(OpenRequest::new(topic.clone()).group("g")).await.unwrap_err();
    assert_eq!(opened.kind(), ErrorKind::NotFound);
    let said = opened.to_string();
    assert!(said.contains(&topic) && said.contains("group \"g\"") && said.contains("-never-"), "{said}");
}
