//! Handlers that panic, never end, or cannot be stopped: what they had is accounted for, nobody runs twice at once, and
//! the others go on.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::core::erased::DynAdmin;
use millstream::{
    Attempt, Bus, DeadLetter, Message, MessageId, Outage, Outcome, Publisher, Retry, Running, Settings,
    Subscribe, names,
};
use tokio::time::{sleep, timeout};

use self::common::{LONG, comes_about, counts};

async fn publish(publisher: &Publisher, messages: impl IntoIterator<Item = Message>) {
    let messages: Vec<_> = messages.into_iter().collect();
    for chunk in messages.chunks(1_000) {
        publisher.publish_messages(chunk.to_vec()).await.unwrap().into_result().unwrap();
    }
}

/// `count` messages over `keys` keys; the id is the number.
fn numbered(count: usize, keys: usize) -> impl Iterator<Item = Message> {
    (0..count).map(move |i| Message::new("t", "x").with_id(i.to_string()).with_key(format!("k{}", i % keys)))
}

async fn lag(admin: &Arc<dyn DynAdmin>) -> u64 {
    admin.groups("t").await.unwrap().iter().map(|g| g.lag).sum()
}

/// Says how many runs of each message there are at once at most, and in all.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<HashMap<String, Run>>>);

#[derive(Clone, Copy, Default)]
struct Run {
    now: usize,
    at_once: usize,
    all: usize,
}

/// A run that goes on until this is dropped.
struct Going<'a>(&'a Runs, String);

impl Runs {
    fn begin(&self, id: &str) -> Going<'_> {
        let mut runs = self.0.lock().unwrap();
        let run = runs.entry(id.to_owned()).or_default();
        run.now += 1;
        run.all += 1;
        run.at_once = run.at_once.max(run.now);
        Going(self, id.to_owned())
    }

    fn of(&self, id: &str) -> Run {
        self.0.lock().unwrap().get(id).copied().unwrap_or_default()
    }

    fn most_at_once(&self) -> usize {
        self.0.lock().unwrap().values().map(|run| run.at_once).max().unwrap_or(0)
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        if let Some(run) = self.0.0.lock().unwrap().get_mut(&self.1) {
            run.now -= 1;
        }
    }
}

/// Panics are the point here: their text is kept out of the test's output.
fn without_panic_texts() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(|s| &**s));
        let text = text.unwrap_or_default();
        if !text.starts_with("on purpose") {
            usual(info);
        }
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_thousand_messages_a_tenth_panics_and_nobody_else_notices() {
    const COUNT: usize = 100_000;
    without_panic_texts();
    // Given a handler that panics at every tenth message: at one of a hundred always, at the others once.
    let bus = Bus::connect("memory://").await.unwrap();
    let (publisher, admin) = (bus.publisher().clone(), Arc::clone(bus.admin().unwrap()));
    let (running_now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (running_now, most) = (Arc::clone(&running_now), Arc::clone(&most));
        move |_: Message, MessageId(id): MessageId, Attempt(attempt): Attempt| {
            let (running_now, most) = (Arc::clone(&running_now), Arc::clone(&most));
            async move {
                let number: usize = id.parse().unwrap();
                most.fetch_max(running_now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let going = scopeguard(&running_now);
                if number.is_multiple_of(100) || (number.is_multiple_of(10) && attempt == 1) {
                    panic!("on purpose, at {number}");
                }
                drop(going);
                Ok(()) as Outcome
            }
        }
    };
    let running = bus
        .subscribe_to(
            "t",
            handler
                .group("g")
                .named("h")
                .concurrency(32)
                .outage(Outage::never())
                .retry(Retry::fixed(Duration::from_millis(1)).attempts(3)),
        )
        .start()
        .await
        .unwrap();

    // When they are all published.
    let control = running.control();
    publish(&publisher, numbered(COUNT, 1_000)).await;
    comes_about("all are settled", || {
        let counts = counts(&control);
        counts.handled + counts.dead_lettered == COUNT as u64
    })
    .await;

    // Then each panic was an attempt, those that always panic are dead letters, and all others are handled.
    let one = counts(&control);
    let (always, once) = (COUNT / 100, COUNT / 10 - COUNT / 100);
    assert_eq!((one.handled, one.dead_lettered), ((COUNT - always) as u64, always as u64));
    assert_eq!((one.failed, one.retried), ((3 * always + once) as u64, (2 * always + once) as u64));
    // And nothing is held any more, and as many run at once as before.
    assert_eq!(running_now.load(Ordering::Relaxed), 0);
    comes_about("nothing is in flight", || control.in_flight() == 0).await;
    assert_eq!(lag(&admin).await, 0);
    assert!(most.load(Ordering::Relaxed) <= 32);
    let letters = admin.dead_letters("t", None, 1).await.unwrap();
    let headers = &letters[0].message.headers;
    assert_eq!(headers.get_str(names::DL_CLASS), Some("panic"));
    assert_eq!(headers.get_str(names::DL_ATTEMPTS), Some("3"));
    assert!(control.health().is_live() && control.health().is_ready(), "{:?}", control.health());
    assert!(running.shutdown().await.is_clean());
}

/// Counts down when it is dropped, also by a panic.
fn scopeguard(counter: &AtomicUsize) -> impl Drop + '_ {
    struct Down<'a>(&'a AtomicUsize);
    impl Drop for Down<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    Down(counter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_panics_as_many_run_at_once_as_before() {
    const CONCURRENCY: usize = 8;
    without_panic_texts();
    // Given a subscription of which every handler panicked many times.
    let bus = Bus::connect("memory://").await.unwrap();
    let publisher = bus.publisher().clone();
    let inside = Arc::new(AtomicUsize::new(0));
    let handler = {
        let inside = Arc::clone(&inside);
        move |message: Message| {
            let inside = Arc::clone(&inside);
            async move {
                if message.data.as_deref() == Some(b"panic") {
                    panic!("on purpose");
                }
                inside.fetch_add(1, Ordering::SeqCst);
                // Only all of them together can end.
                while inside.load(Ordering::SeqCst) < CONCURRENCY {
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(()) as Outcome
            }
        }
    };
    let running = bus
        .subscribe_to(
            "t",
            handler
                .group("g")
                .named("h")
                .concurrency(CONCURRENCY)
                .outage(Outage::never())
                .retry(Retry::none()),
        )
        .start()
        .await
        .unwrap();
    let control = running.control();
    publish(&publisher, (0..1_000).map(|_| Message::new("t", "panic"))).await;
    comes_about("all are dead letters", || counts(&control).dead_lettered == 1_000).await;
    // When as many as may run at once wait for each other, then they all run.
    publish(&publisher, (0..CONCURRENCY).map(|_| Message::new("t", "meet"))).await;
    comes_about("all met", || counts(&control).handled == CONCURRENCY as u64).await;
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_never_ends_is_dropped_at_its_timeout_and_becomes_a_dead_letter() {
    // Given a handler that waits for ever on one message.
    let runs = Runs::default();
    let handler = {
        let runs = runs.clone();
        move |_: Message, MessageId(id): MessageId| {
            let runs = runs.clone();
            async move {
                let _going = runs.begin(&id);
                if id == "0" {
                    std::future::pending::<()>().await;
                }
                Ok(()) as Outcome
            }
        }
    };
    let bus = Bus::connect("memory://").await.unwrap();
    let (publisher, admin) = (bus.publisher().clone(), Arc::clone(bus.admin().unwrap()));
    let running = bus
        .subscribe_to(
            "t",
            handler
                .group("g")
                .named("h")
                .timeout(Duration::from_millis(50))
                .retry(Retry::fixed(Duration::from_millis(1)).attempts(3)),
        )
        .start()
        .await
        .unwrap();
    // When it and others are published, also of its key.
    let control = running.control();
    publish(&publisher, numbered(100, 10)).await;
    comes_about("all are settled", || counts(&control).handled + counts(&control).dead_lettered == 100).await;
    // Then it ran as often as it may, never twice at once, and all others are handled.
    let run = runs.of("0");
    assert_eq!((run.all, run.at_once, run.now), (3, 1, 0));
    assert_eq!(counts(&control).handled, 99);
    let letter = DeadLetter::parse(admin.dead_letters("t", None, 1).await.unwrap().remove(0).message);
    assert_eq!((letter.class.as_deref(), letter.attempts), (Some("timeout"), Some(3)));
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_past_its_timeout_is_never_beside_itself() {
    // Given a handler that ignores its timeout: it sleeps on the runtime's own thread.
    let runs = Runs::default();
    let handler = {
        let runs = runs.clone();
        move |_: Message, MessageId(id): MessageId| {
            let runs = runs.clone();
            async move {
                let _going = runs.begin(&id);
                std::thread::sleep(Duration::from_millis(30));
                Ok(()) as Outcome
            }
        }
    };
    let bus = Bus::connect("memory://").await.unwrap();
    let publisher = bus.publisher().clone();
    let running = bus
        .subscribe_to(
            "t",
            handler
                .group("g")
                .named("h")
                .timeout(Duration::from_millis(5))
                .retry(Retry::fixed(Duration::from_millis(1)).attempts(3)),
        )
        .start()
        .await
        .unwrap();
    // When it comes to its end all the same, then its message is settled once.
    let control = running.control();
    publish(&publisher, numbered(20, 20)).await;
    comes_about("all are settled", || counts(&control).handled + counts(&control).dead_lettered == 20).await;
    assert_eq!(runs.most_at_once(), 1);
    let counts = counts(&control);
    assert_eq!(counts.handled, 20, "what ended well is not thrown away for being late: {counts:?}");
    assert!(running.shutdown().await.is_clean());
}

/// Ends a thread that spins when it is dropped, also by a test that fails: the runtime waits for its threads.
struct LetGo(Arc<AtomicBool>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A handler on threads of its own that spins until it is let go, at the message 0.
async fn spinning(drain: Duration) -> (Running, Arc<dyn DynAdmin>, Runs, LetGo) {
    let (runs, let_go) = (Runs::default(), LetGo(Arc::default()));
    let handler = {
        let (runs, let_go) = (runs.clone(), Arc::clone(&let_go.0));
        move |_: Message, MessageId(id): MessageId| {
            let (runs, let_go) = (runs.clone(), Arc::clone(&let_go));
            async move {
                let _going = runs.begin(&id);
                while id == "0" && !let_go.load(Ordering::Relaxed) {
                    // A thread that cannot be stopped; it gives way, since the machine is not ours alone.
                    std::thread::sleep(Duration::from_micros(100));
                }
                Ok(()) as Outcome
            }
        }
    };
    let mut settings = Settings::default();
    settings.drain = drain;
    let bus = Bus::connect("memory://").await.unwrap().settings(settings);
    let (publisher, admin) = (bus.publisher().clone(), Arc::clone(bus.admin().unwrap()));
    let running = bus
        .subscribe_to(
            "t",
            handler
                .group("g")
                .named("h")
                .blocking()
                .concurrency(4)
                .timeout(Duration::from_millis(20))
                .retry(Retry::fixed(Duration::from_millis(1)).attempts(3)),
        )
        .start()
        .await
        .unwrap();
    publish(&publisher, numbered(100, 10)).await;
    (running, admin, runs, let_go)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_does_not_end_keeps_its_message_and_health_says_so() {
    // Given a blocking handler far past its timeout.
    let (running, admin, runs, let_go) = spinning(Duration::from_secs(25)).await;
    let control = running.control();
    // Of its key are 10 messages, of the nine other keys 90.
    comes_about("the other keys are done", || counts(&control).handled == 90).await;
    sleep(Duration::from_millis(100)).await;
    // Then there is one run of it, it was neither failed nor retried, and health names it.
    assert_eq!((runs.of("0").all, runs.of("0").now), (1, 1));
    assert_eq!(counts(&control).failed, 0);
    assert_eq!(lag(&admin).await, 10);
    let why = control.health().subscriptions[0].why.join("; ");
    assert!(why.contains("over 20ms"), "{why}");
    // When it ends, then its key goes on and health is green.
    drop(let_go);
    comes_about("all are done", || counts(&control).handled == 100).await;
    assert_eq!(runs.most_at_once(), 1);
    comes_about("health is green", || control.health().subscriptions[0].why.is_empty()).await;
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_does_not_wait_for_a_thread_that_does_not_end() {
    let (running, admin, _, let_go) = spinning(Duration::from_millis(200)).await;
    let control = running.control();
    comes_about("the other keys are done", || counts(&control).handled == 90).await;
    let report = timeout(LONG, running.shutdown()).await.expect("it ends");
    assert!(report.took < Duration::from_secs(10), "{report:?}");
    assert_eq!(report.subscriptions[0].abandoned, 1, "{report:?}");
    assert_eq!(lag(&admin).await, 10, "its message and those of its key are not lost");
    drop(let_go);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_is_not_polled_any_more_does_not_hold_up_another_one() {
    // Given a full topic, and a publish that waits for room and is not polled from then on.
    let bus = Bus::connect("memory://?capacity=1").await.unwrap();
    let publisher = bus.publisher().clone();
    let gate = Arc::new(AtomicBool::new(false));
    let handler = {
        let gate = Arc::clone(&gate);
        move |_: Message| {
            let gate = Arc::clone(&gate);
            async move {
                while !gate.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(()) as Outcome
            }
        }
    };
    let running = bus.subscribe_to("t", handler.group("g").named("h")).start().await.unwrap();
    publisher.publish_message(Message::new("t", "1")).await.unwrap();
    let mut first = std::pin::pin!(publisher.publish_message(Message::new("t", "2")));
    tokio::select! {
        biased;
        done = &mut first => panic!("there is no room: {done:?}"),
        () = sleep(Duration::from_millis(20)) => {}
    }
    // When there is room, then another publish of the same task comes through.
    gate.store(true, Ordering::Relaxed);
    let other = timeout(Duration::from_secs(10), publisher.publish_message(Message::new("t", "3"))).await;
    other.expect("it does not wait for what nobody polls").unwrap();
    first.await.unwrap();
    let control = running.control();
    comes_about("all are handled", || counts(&control).handled == 3).await;
    assert!(running.shutdown().await.is_clean());
}
