//! The deduplication store in DynamoDB, on a real server.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use millstream::prelude::*;
use millstream::{Drivers, Message};
use millstream_aws::{Aws, Create, DynamoDedupStore, DynamoDedupStoreBuilder};
use millstream_core::{DedupKey, DedupScope, DedupStore as _, ErrorKind, Reservation, Reserve};
use millstream_testkit::store_model::{Bounds, Step, check};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const WINDOW: Duration = Duration::from_secs(3_600);
const LEASE: Duration = Duration::from_secs(60);

fn endpoint() -> String {
    // Never skipped in silence: who has no server is told how to get one.
    std::env::var("MILLSTREAM_DYNAMODB").expect(
        "set MILLSTREAM_DYNAMODB to a server: `cargo xtask services start dynamodb` starts one and prints it",
    )
}

/// A name that was never used.
fn unique(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let since = UNIX_EPOCH.elapsed().unwrap().as_micros();
    format!("{name}-{since}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn builder(endpoint: String, table: &str) -> DynamoDedupStoreBuilder {
    let aws = Aws::builder().region("eu-west-1").endpoint(endpoint).credentials("test", "test");
    DynamoDedupStore::builder(&aws.connect().await.unwrap(), table, WINDOW)
}

async fn store() -> DynamoDedupStore {
    builder(endpoint(), &unique("store")).await.open().await.unwrap()
}

/// A client of the tests' own.
fn client() -> Client {
    let http = aws_smithy_http_client::Builder::new();
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint())
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .build();
    Client::from_conf(config)
}

fn key(id: &str) -> DedupKey {
    DedupKey { group: "billing".into(), id: id.to_owned().into() }
}

async fn ask(store: &DynamoDedupStore, id: &str) -> Reserve {
    store.reserve(vec![key(id)], LEASE).await.unwrap().remove(0)
}

async fn take(store: &DynamoDedupStore, id: &str) -> Reservation {
    match ask(store, id).await {
        Reserve::Reserved(reservation) => reservation,
        other => panic!("{id} is {other:?}"),
    }
}

/// Leases that are over at once, or not before the test is: its clock is the machine's.
fn step() -> impl Strategy<Value = Step> {
    let lease = prop_oneof![Just(Duration::ZERO), Just(WINDOW)];
    prop_oneof![
        4 => (prop::collection::vec(0..6u8, 1..4), lease).prop_map(|(ids, lease)| Step::Reserve { ids, lease }),
        3 => any::<usize>().prop_map(Step::Confirm),
        2 => any::<usize>().prop_map(Step::Release),
        1 => (0..6u8).prop_map(Step::Contains),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_store_in_dynamodb_answers_as_a_list_and_a_table_do(steps in prop::collection::vec(step(), 20..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let checked = runtime.block_on(async {
            check(&store().await, Bounds { entries: None, window: None }, &steps).await
        });
        prop_assert_eq!(checked, Ok(()));
    }
}

#[tokio::test]
async fn an_id_is_reserved_once_then_handled_and_then_a_duplicate_for_its_group_alone() {
    let store = store().await;
    assert_eq!((store.scope(), store.window()), (DedupScope::Cluster, Some(WINDOW)));
    let first = take(&store, "1").await;
    let Reserve::Busy(wait) = ask(&store, "1").await else { panic!("it was given twice") };
    assert!(wait <= LEASE && wait > LEASE / 2, "{wait:?}");
    assert!(!store.contains(&key("1")).await.unwrap());

    assert_eq!(store.confirm(std::slice::from_ref(&first)).await.unwrap(), [true]);

    assert_eq!(store.confirm(&[first]).await.unwrap(), [true], "confirming twice is fine");
    assert_eq!(ask(&store, "1").await, Reserve::Duplicate);
    assert!(store.contains(&key("1")).await.unwrap());
    let other = DedupKey { group: "stock".into(), id: "1".into() };
    assert!(!store.contains(&other).await.unwrap());
}

#[tokio::test]
async fn a_large_batch_is_answered_in_its_order_whatever_of_it_is_taken() {
    let store = store().await;
    let handled = take(&store, "7").await;
    store.confirm(&[handled]).await.unwrap();
    let _running = take(&store, "30").await;
    let mut wanted: Vec<_> = (0..60).map(|n| key(&n.to_string())).collect();
    wanted.push(key("0"));

    let answers = store.reserve(wanted.clone(), LEASE).await.unwrap();

    let mut reserved = Vec::new();
    for (place, (answer, wanted)) in answers.into_iter().zip(wanted).enumerate() {
        match (place, answer) {
            (7, Reserve::Duplicate) | (30 | 60, Reserve::Busy(_)) => {}
            (_, Reserve::Reserved(reservation)) if reservation.key == wanted => reserved.push(reservation),
            (place, other) => panic!("{place} is {other:?}"),
        }
    }
    assert_eq!(store.confirm(&reserved).await.unwrap(), vec![true; 58]);
}

#[tokio::test]
async fn a_reservation_ends_with_its_lease_and_its_late_confirmation_is_refused() {
    let store = store().await;
    let reserve = async |lease| match store.reserve(vec![key("1")], lease).await.unwrap().remove(0) {
        Reserve::Reserved(reservation) => reservation,
        other => panic!("{other:?}"),
    };
    let crashed = reserve(Duration::from_millis(100)).await;
    sleep(Duration::from_millis(150)).await;
    let second = reserve(LEASE).await;
    assert_eq!(store.confirm(std::slice::from_ref(&crashed)).await.unwrap(), [false]);
    // What has ended gives nothing back either.
    store.release(vec![crashed]).await.unwrap();
    assert!(matches!(ask(&store, "1").await, Reserve::Busy(_)));
    assert_eq!(store.confirm(&[second]).await.unwrap(), [true]);
}

#[tokio::test]
async fn what_the_go_toolkit_remembered_is_a_duplicate_until_it_expires() {
    let (client, table) = (client(), unique("go"));
    let store = builder(endpoint(), &table).await.open().await.unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (id, expires) in [("young", now + 600), ("old", now - 600)] {
        client
            .put_item()
            .table_name(&table)
            .item("worker_id", AttributeValue::S("billing".to_owned()))
            .item("message_id", AttributeValue::S(id.to_owned()))
            .item("expiration_time", AttributeValue::N(expires.to_string()))
            .send()
            .await
            .unwrap();
    }
    assert_eq!(ask(&store, "young").await, Reserve::Duplicate);
    assert!(store.contains(&key("young")).await.unwrap() && !store.contains(&key("old")).await.unwrap());
    let _ = take(&store, "old").await;
}

#[tokio::test]
async fn ids_and_groups_that_no_key_takes_are_remembered_all_the_same() {
    let store = store().await;
    let long = |end: &str| format!("{}{end}", "x".repeat(5_000));
    for (group, id) in [("g", &*long("a")), (&*long("g"), "1"), ("g", "")] {
        let key = DedupKey { group: group.to_owned().into(), id: id.to_owned().into() };
        let answer = store.reserve(vec![key.clone()], LEASE).await.unwrap().remove(0);
        let Reserve::Reserved(reservation) = answer else { panic!("{answer:?}") };
        store.confirm(&[reservation]).await.unwrap();
        assert!(store.contains(&key).await.unwrap());
    }
    let another = DedupKey { group: "g".into(), id: long("b").into() };
    assert!(!store.contains(&another).await.unwrap());
}

#[tokio::test]
async fn a_table_is_made_if_that_is_wanted_and_forgets_by_itself() {
    let table = unique("made");
    let never = builder(endpoint(), &table).await.create(Create::Never).open().await.unwrap_err();
    assert_eq!(never.kind(), ErrorKind::NotFound);
    let assumed = builder(endpoint(), &table).await.create(Create::Assume).open().await.unwrap();
    let error = assumed.contains(&key("1")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("ensure_table"), "{error}");

    assert!(assumed.ensure_table().await.unwrap());

    assert!(!assumed.ensure_table().await.unwrap());
    builder(endpoint(), &table).await.create(Create::Never).open().await.unwrap();
    let ttl = client().describe_time_to_live().table_name(&table).send().await.unwrap();
    assert_eq!(ttl.time_to_live_description.unwrap().attribute_name(), Some("expiration_time"));
}

#[tokio::test]
async fn a_table_with_another_key_is_refused() {
    let table = unique("other");
    let attribute =
        AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
    let part = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash);
    client()
        .create_table()
        .table_name(&table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute.build().unwrap())
        .key_schema(part.build().unwrap())
        .send()
        .await
        .unwrap();
    let error = builder(endpoint(), &table).await.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("worker_id"), "{error}");
}

/// However many copies of however many messages, whatever their handlers do: each effect is there once. The long form has
/// ten times as many messages: `MILLSTREAM_DEDUP_IDS=10000`.
#[tokio::test(flavor = "multi_thread")]
async fn of_all_copies_of_all_messages_each_effect_is_there_once() {
    const COPIES: usize = 64;
    let ids: usize = std::env::var("MILLSTREAM_DEDUP_IDS").map_or(1_000, |ids| ids.parse().unwrap());
    let store = store().await;
    let effects: Arc<Vec<AtomicUsize>> = Arc::new((0..ids).map(|_| AtomicUsize::new(0)).collect());
    let copies: Vec<_> = (0..COPIES)
        .map(|_| {
            let (store, effects) = (store.clone(), Arc::clone(&effects));
            tokio::spawn(async move {
                let mut left: Vec<usize> = (0..ids).collect();
                while !left.is_empty() {
                    fastrand::shuffle(&mut left);
                    let batch = left.split_off(left.len().saturating_sub(25));
                    let keys = batch.iter().map(|n| key(&n.to_string())).collect();
                    let Some(answers) = answered(store.reserve(keys, LEASE).await) else {
                        left.extend(batch);
                        continue;
                    };
                    let (mut done, mut failed) = (Vec::new(), Vec::new());
                    for (n, answer) in batch.into_iter().zip(answers) {
                        match answer {
                            Reserve::Duplicate => continue,
                            Reserve::Busy(_) => sleep(Duration::from_millis(1)).await,
                            Reserve::Reserved(reservation) => match handle(n, &effects).await {
                                Ok(Ok(())) => done.push(reservation),
                                Ok(Err(())) | Err(_) => failed.push(reservation),
                            },
                        }
                        left.push(n);
                    }
                    // Where that fails, the lease frees them.
                    answered(store.release(failed).await);
                    let confirmed = loop {
                        if let Some(confirmed) = answered(store.confirm(&done).await) {
                            break confirmed;
                        }
                    };
                    assert!(confirmed.into_iter().all(|confirmed| confirmed));
                }
            })
        })
        .collect();
    for copy in copies {
        copy.await.unwrap();
    }
    let counts: Vec<_> = effects.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
}

/// What the store said; none if it could not be asked now, as a server that is overloaded cannot.
fn answered<T>(asked: millstream_core::Result<T>) -> Option<T> {
    asked.map_err(|error| assert!(error.is_retryable(), "{error}")).ok()
}

/// Fails every fifth time and panics every twentieth, before its effect.
fn handle(n: usize, effects: &Arc<Vec<AtomicUsize>>) -> tokio::task::JoinHandle<Result<(), ()>> {
    let effects = Arc::clone(effects);
    tokio::spawn(async move {
        match fastrand::u8(0..20) {
            0 => std::panic::resume_unwind(Box::new("the handler panicked")),
            1..5 => Err(()),
            _ => {
                effects[n].fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_handles_each_of_many_copies_once() {
    async fn count(
        message: Message,
        State(seen): State<Arc<std::sync::Mutex<HashMap<String, usize>>>>,
    ) -> Outcome {
        *seen.lock().unwrap().entry(message.id.to_string()).or_default() += 1;
        Ok(())
    }
    let seen = Arc::<std::sync::Mutex<HashMap<String, usize>>>::default();
    let connection = Drivers::built_in().connect("memory://").await.unwrap();
    let looking = Bus::from_connection(connection.clone());
    let running = Bus::from_connection(connection)
        .with_state(Arc::clone(&seen))
        .subscribe_to("orders", count.group("billing").deduplicate(store().await))
        .start()
        .await
        .unwrap();
    for n in 0..20 * 8 {
        let order = Message::new("orders", "{}").with_id((n % 20).to_string());
        looking.publish_message(order).await.unwrap();
    }
    let settled = async {
        while looking.admin().unwrap().groups("orders").await.unwrap()[0].lag > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), settled).await.unwrap();
    running.shutdown().await;
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 20 && seen.values().all(|runs| *runs == 1), "{seen:?}");
}

#[tokio::test]
async fn a_reservation_that_nobody_waits_for_any_more_is_given_back() {
    let store = store().await;
    let keys: Vec<_> = (0..50).map(|n| key(&n.to_string())).collect();
    let unheard = timeout(Duration::from_micros(500), store.reserve(keys, LEASE)).await;
    assert!(unheard.is_err(), "it was answered too soon to be given up");
    let begun = Instant::now();
    while !matches!(ask(&store, "0").await, Reserve::Reserved(_)) {
        assert!(begun.elapsed() < LEASE / 4, "it is left to its lease");
        sleep(Duration::from_millis(50)).await;
    }
}

/// What a proxy does with the first connections.
#[derive(Clone, Copy, PartialEq)]
enum Breaks {
    /// Answers as DynamoDB does when it is asked too much.
    Throttles,
    /// Passes on the request and hangs up instead of answering.
    LosesAnswers,
}

/// A proxy before the server that breaks that many connections, from when it is told so.
async fn proxy(breaks: Breaks) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (left, server) = (Arc::new(AtomicUsize::new(0)), endpoint().trim_start_matches("http://").to_owned());
    let breaking = Arc::clone(&left);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (left, server) = (Arc::clone(&breaking), server.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await?;
                let mut bytes = vec![0; 64 << 10];
                loop {
                    let read = client.read(&mut bytes).await?;
                    if read == 0 {
                        return Ok::<_, std::io::Error>(());
                    }
                    let is_broken =
                        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
                    if is_broken && breaks == Breaks::Throttles {
                        let said = r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow down"}"#;
                        let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0\r\nConnection: close";
                        let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{said}", said.len());
                        return client.write_all(answer.as_bytes()).await;
                    }
                    server.write_all(&bytes[..read]).await?;
                    let read = server.read(&mut bytes).await?;
                    if is_broken {
                        return Ok(());
                    }
                    client.write_all(&bytes[..read]).await?;
                }
            });
        }
    });
    (url, left)
}

#[tokio::test]
async fn what_is_refused_for_the_moment_is_asked_again() {
    let (url, left) = proxy(Breaks::Throttles).await;
    let store = builder(url, &unique("throttled")).await.open().await.unwrap();
    left.store(3, Ordering::SeqCst);
    let reservation = take(&store, "1").await;
    assert_eq!(left.load(Ordering::SeqCst), 0);
    left.store(2, Ordering::SeqCst);
    assert_eq!(store.confirm(&[reservation]).await.unwrap(), [true]);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_and_was_a_success() {
    let (url, left) = proxy(Breaks::LosesAnswers).await;
    let store = builder(url, &unique("lost")).await.open().await.unwrap();
    left.store(1, Ordering::SeqCst);
    let one = take(&store, "1").await;
    left.store(1, Ordering::SeqCst);
    let answers = store.reserve((2..20).map(|n| key(&n.to_string())).collect(), LEASE).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Reserve::Reserved(_))), "{answers:?}");
    left.store(1, Ordering::SeqCst);
    assert_eq!(store.confirm(&[one]).await.unwrap(), [true]);
    assert_eq!(left.load(Ordering::SeqCst), 0);
}
