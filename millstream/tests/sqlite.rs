//! The toolkit on a file: each effect once, with the extractor `Transaction`.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream::prelude::*;
use millstream::sqlite::{SqliteStore, Transaction, rusqlite};
use millstream::{ErrorKind, PublishOptions, SubscriptionReport};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "payments", key = "account")]
struct Payment {
    account: String,
    cents: i64,
}

#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "receipts", key = "account")]
struct Receipt {
    account: String,
}

const BOOK: &str =
    "INSERT INTO balances VALUES(?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents";

struct Bank {
    _folder: TempDir,
    store: SqliteStore,
}

impl Bank {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::builder(folder.path().join("app.db")).open().await.unwrap();
        let bank = Self { _folder: folder, store };
        bank.connection()
            .execute_batch(
                "CREATE TABLE balances(account TEXT PRIMARY KEY, cents INTEGER CHECK (cents >= 0)) STRICT",
            )
            .unwrap();
        bank
    }

    fn bus(&self) -> Bus {
        Bus::from_connection(self.store.connection())
    }

    fn connection(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.store.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    }

    fn number(&self, sql: &str) -> i64 {
        self.connection().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn payment(n: i64) -> Payment {
    Payment { account: format!("account {}", n % 5), cents: n }
}

/// Runs a bus until so many messages came to an end in its first subscription; gives its counts.
async fn run<S>(bus: Bus<S>, count: u64) -> SubscriptionReport {
    let running = bus.start().await.unwrap();
    let control = running.control();
    let ended = |c: &SubscriptionReport| c.handled + c.duplicates + c.dead_lettered + c.discarded;
    let waiting = async {
        while ended(&control.counts()[0]) < count || control.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    let report = running.shutdown().await;
    assert!(waited.is_ok(), "it did not come to an end: {report:?}");
    report.subscriptions.into_iter().next().unwrap()
}

async fn book(
    payment: Payment,
    transaction: Transaction,
    publisher: Publisher,
    Attempt(attempt): Attempt,
) -> Outcome {
    transaction.execute(BOOK, (payment.account.clone(), payment.cents))?;
    publisher.publish(&Receipt { account: payment.account }).await?;
    if attempt == 1 && payment.cents % 3 == 0 {
        // A failed attempt leaves neither its booking nor its receipt.
        return Err(Failure::retry("not yet"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_and_events_of_a_handler_are_there_once_though_attempts_fail() {
    let bank = Bank::new().await;
    let bus = bank.bus();
    for n in 1..=60 {
        bus.publish(&payment(n)).await.unwrap();
    }
    let bus = bus.subscribe(book.group("books").retry(Retry::exponential(1.ms(), 5.ms()).attempts(3)));
    let counts = run(bus, 60).await;
    assert_eq!((counts.handled, counts.retried, counts.dead_lettered), (60, 20, 0));
    assert_eq!(bank.number("SELECT sum(cents) FROM balances"), (1..=60).sum::<i64>());
    let receipts = bank.number("SELECT id FROM millstream_topic WHERE name = 'receipts'");
    assert_eq!(bank.number(&format!("SELECT count(*) FROM millstream_log_{receipts}")), 60);
}

async fn just_book(payment: Payment, transaction: Transaction) -> Outcome {
    transaction.execute(BOOK, (payment.account, payment.cents))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_that_fails_counts_as_a_failed_attempt_and_ends_as_a_dead_letter() {
    // Given a payment that would make a balance negative.
    let bank = Bank::new().await;
    let bus = bank.bus();
    bus.publish(&Payment { account: "a".into(), cents: -5 }).await.unwrap();
    bus.publish(&Payment { account: "b".into(), cents: 7 }).await.unwrap();
    let letters = bus.dead_letters("payments");
    // When both are handled.
    let bus = bus.subscribe(just_book.group("books").retry(Retry::exponential(1.ms(), 5.ms()).attempts(3)));
    let counts = run(bus, 2).await;
    // Then the one is booked, and the other is a dead letter that says why.
    assert_eq!(counts.dead_lettered, 1, "{counts:?}");
    assert_eq!(bank.number("SELECT sum(cents) FROM balances"), 7);
    let letter = letters.list(None, 10).await.unwrap().remove(0);
    assert!(letter.error.as_deref().unwrap().contains("CHECK constraint failed"), "{letter:?}");
    assert_eq!(letter.attempts, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_suppressed_by_the_row_that_committed_with_the_first_ones_effect() {
    let bank = Bank::new().await;
    let bus = bank.bus();
    for n in 1..=20 {
        for _ in 0..2 {
            let options = PublishOptions::new().id(format!("payment-{n}"));
            bus.publish_with(&payment(n), options).await.unwrap();
        }
    }
    let dedup = bank.store.dedup_store(Duration::from_secs(3_600));
    let counts = run(bus.subscribe(just_book.group("books").deduplicate(dedup)), 40).await;
    assert_eq!((counts.handled, counts.duplicates), (20, 20));
    assert_eq!(bank.number("SELECT sum(cents) FROM balances"), (1..=20).sum::<i64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_sql_failed_does_not_make_the_next_one_a_copy() {
    // Given a store that shares no transaction with the file, and SQL that fails the first time.
    async fn book_late(payment: Payment, transaction: Transaction, Attempt(attempt): Attempt) -> Outcome {
        let cents = if attempt == 1 { -payment.cents } else { payment.cents };
        transaction.execute(BOOK, (payment.account, cents))?;
        Ok(())
    }
    let bank = Bank::new().await;
    let bus = bank.bus();
    for n in 1..=10 {
        for _ in 0..2 {
            let payment = Payment { account: format!("account {n}"), cents: n };
            bus.publish_with(&payment, PublishOptions::new().id(format!("payment-{n}"))).await.unwrap();
        }
    }
    let handler = book_late.group("books").retry(Retry::exponential(1.ms(), 5.ms()).attempts(3));
    // When all have come to an end.
    let counts = run(bus.subscribe(handler.deduplicate(EmbeddedDedupStore::new(100))), 20).await;
    // Then each is booked once, and only its copy was suppressed.
    assert_eq!((counts.handled, counts.duplicates, counts.dead_lettered), (10, 10, 0));
    assert_eq!(bank.number("SELECT sum(cents) FROM balances"), 55);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_for_good_leaves_no_effect() {
    async fn refuse(payment: Payment, transaction: Transaction) -> Outcome {
        transaction.execute(BOOK, (payment.account, payment.cents))?;
        Err(Failure::unrecoverable("no such account"))
    }
    let bank = Bank::new().await;
    let bus = bank.bus();
    bus.publish(&payment(1)).await.unwrap();
    let counts = run(bus.subscribe(refuse.group("books")), 1).await;
    assert_eq!(counts.dead_lettered, 1);
    assert_eq!(bank.number("SELECT count(*) FROM balances"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_commits_the_effects_of_all_its_messages() {
    async fn book_all(payments: Batch<Payment>, transaction: Transaction) -> Outcome {
        for payment in payments {
            transaction.execute(BOOK, (payment.account, payment.cents))?;
        }
        Ok(())
    }
    let bank = Bank::new().await;
    let bus = bank.bus();
    for n in 1..=50 {
        bus.publish(&payment(n)).await.unwrap();
    }
    let counts = run(bus.subscribe(book_all.group("books")), 50).await;
    assert_eq!(counts.handled, 50);
    assert_eq!(bank.number("SELECT sum(cents) FROM balances"), (1..=50).sum::<i64>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_handled_when_it_stopped_is_handled_when_it_starts_again() {
    let bank = Bank::new().await;
    let publisher = bank.bus();
    let ran = Arc::new(AtomicUsize::new(0));
    let handler = |ran: Arc<AtomicUsize>| {
        move |_: Payment| {
            let ran = Arc::clone(&ran);
            async move {
                ran.fetch_add(1, Ordering::Relaxed);
                Outcome::Ok(())
            }
        }
    };
    for round in 0..3 {
        for n in 0..10 {
            publisher.publish(&payment(round * 10 + n)).await.unwrap();
        }
        let bus = bank.bus().subscribe(handler(Arc::clone(&ran)).group("books"));
        run(bus, 10).await;
    }
    assert_eq!(ran.load(Ordering::Relaxed), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_without_a_group_is_refused_with_the_fix() {
    let bank = Bank::new().await;
    async fn handle(_: Payment) -> Outcome {
        Ok(())
    }
    let error = bank.bus().subscribe(handle).start().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains(".group("), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let bus = Bus::connect(&format!("sqlite://{}?lease=5s", path.display())).await.unwrap();
    bus.publish(&payment(1)).await.unwrap();
    assert!(path.exists());
    let error = Bus::connect(&format!("sqlite://{}?leese=5s", path.display())).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("leese"), "{error}");
}
