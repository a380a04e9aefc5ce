//! Too little of something: memory, time, file handles, room for the log. What is short slows or refuses; nothing is
//! lost, and all goes on when there is enough again.
#![cfg(all(feature = "memory", feature = "sqlite"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use millstream::{Bus, ErrorKind, Failure, Message, Outage, Outcome, Publisher, Retry, Subscribe};
use tokio::time::sleep;

use self::common::{LONG, comes_about, counts};

// ---- Memory --------------------------------------------------------------------------------------------------

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_messages_keep_to_the_memory_budget() {
    const COUNT: u64 = 64;
    // Given messages of 1 MiB, a budget of 4, and handlers that could all run at once.
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::connect(&format!("sqlite://{}", folder.path().join("app.db").display())).await.unwrap();
    let publisher = bus.publisher().clone();
    for n in 0..COUNT {
        let message = Message::new("t", vec![n as u8; MIB - 1_000]).with_key(n.to_string());
        publisher.publish_message(message).await.unwrap();
    }
    let (held, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (held, most) = (Arc::clone(&held), Arc::clone(&most));
        move |message: Message| {
            let (held, most) = (Arc::clone(&held), Arc::clone(&most));
            async move {
                let size = message.size();
                most.fetch_max(held.fetch_add(size, Ordering::SeqCst) + size, Ordering::SeqCst);
                sleep(Duration::from_millis(5)).await;
                held.fetch_sub(size, Ordering::SeqCst);
                Ok(()) as Outcome
            }
        }
    };
    // When they are handled.
    let running = bus
        .subscribe_to("t", handler.group("g").named("h").memory(4 * MIB).concurrency(64))
        .start()
        .await
        .unwrap();
    let control = running.control();
    let mut most_in_flight = 0;
    comes_about("all are handled", || {
        most_in_flight = most_in_flight.max(control.in_flight());
        counts(&control).handled == COUNT
    })
    .await;
    // Then never more than the budget was with them and the message that passed it, and more than one was.
    let most = most.load(Ordering::SeqCst);
    assert!(most <= 5 * MIB && most > MIB, "{most}");
    assert!(most_in_flight <= 5, "{most_in_flight}");
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_above_the_whole_budget_is_handled_and_while_it_is_nothing_more_is_read() {
    const BUDGET: usize = 64 << 10;
    for url in ["memory://", "sqlite"] {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("sqlite://{}", folder.path().join("app.db").display());
        let bus = Bus::connect(if url == "sqlite" { &file } else { url }).await.unwrap();
        let publisher = bus.publisher().clone();
        // Given a message eight times the budget behind one, and many behind it.
        for n in 0..40 {
            let size = if n == 1 { 8 * BUDGET } else { BUDGET / 4 };
            let message = Message::new("t", vec![b'x'; size]).with_key(n.to_string());
            publisher.publish_message(message).await.unwrap();
        }
        let let_go = Arc::new(AtomicBool::new(false));
        let handler = {
            let let_go = Arc::clone(&let_go);
            move |_: Message| {
                let let_go = Arc::clone(&let_go);
                async move {
                    while !let_go.load(Ordering::Relaxed) {
                        sleep(Duration::from_millis(1)).await;
                    }
                    Ok(()) as Outcome
                }
            }
        };
        // When it is with its handler, then those behind it are not.
        let running =
            bus.subscribe_to("t", handler.group("g").named("h").memory(BUDGET)).start().await.unwrap();
        let control = running.control();
        comes_about("it is read", || control.in_flight() == 2).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(control.in_flight(), 2, "{url}");
        // When it ends, then they are handled as well.
        let_go.store(true, Ordering::Relaxed);
        comes_about("all are handled", || counts(&control).handled == 40).await;
        let report = running.shutdown().await;
        assert!(report.is_clean(), "{report:?}");
    }
}

// ---- Time ----------------------------------------------------------------------------------------------------

#[test]
fn a_quick_producer_waits_for_a_slow_consumer_and_the_lag_is_told() {
    const COUNT: usize = 3_000;
    const CAPACITY: usize = 200;
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let mut lag = None;
    // Given a topic of few places, and a handler that takes 10 ms for each message, one at a time.
    let (handled, most) = metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let bus = Bus::connect(&format!("memory://?capacity={CAPACITY}")).await.unwrap();
            let publisher = bus.publisher().clone();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let handler = {
                let seen = Arc::clone(&seen);
                move |message: Message| {
                    let seen = Arc::clone(&seen);
                    async move {
                        sleep(Duration::from_millis(10)).await;
                        seen.lock().unwrap().push(message.id.to_string());
                        Ok(()) as Outcome
                    }
                }
            };
            let slow = handler.group("g").named("slow").concurrency(1).max_in_flight(50);
            let running = bus.subscribe_to("t", slow).start().await.unwrap();
            // When a producer publishes as quickly as it is let.
            let published = Arc::new(AtomicUsize::new(0));
            let producer = tokio::spawn({
                let published = Arc::clone(&published);
                async move {
                    for n in 0..COUNT {
                        publisher
                            .publish_message(Message::new("t", "x").with_id(n.to_string()))
                            .await
                            .unwrap();
                        published.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let mut most = 0;
            while seen.lock().unwrap().len() < COUNT {
                sleep(Duration::from_millis(7)).await;
                most = most.max(published.load(Ordering::Relaxed) - seen.lock().unwrap().len());
                if seen.lock().unwrap().len() == COUNT / 2 {
                    lag = lag.or(gauge(&snapshotter, "millstream_lag"));
                }
            }
            producer.await.unwrap();
            let report = running.shutdown().await;
            assert!(report.is_clean(), "{report:?}");
            (seen.lock().unwrap().clone(), most)
        })
    });
    // Then it was never ahead by more than there was room for, and each message was handled, in order.
    assert!(most > CAPACITY / 2 && most <= CAPACITY + 50 + 1, "{most}");
    assert_eq!(handled, (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>());
    // And the lag was a figure to look at.
    assert!(lag.is_some_and(|lag| lag > 100.0 && lag <= (CAPACITY + 50) as f64), "{lag:?}");
}

fn gauge(snapshotter: &Snapshotter, name: &str) -> Option<f64> {
    snapshotter.snapshot().into_vec().into_iter().find_map(|(key, _, _, value)| match value {
        DebugValue::Gauge(figure) if key.key().name() == name => Some(figure.into_inner()),
        _ => None,
    })
}

// ---- File handles --------------------------------------------------------------------------------------------

const CHILD: &str = "MILLSTREAM_SCARCITY_CHILD";

/// In a process of its own, which has no file handles to spare.
#[cfg(unix)]
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let url = format!("sqlite://{}", std::path::Path::new(&folder).join("app.db").display());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // Given no handle at all, when the file is opened, then it is refused, and the error says why.
        let mut hogs = take_all_handles();
        let error = Bus::connect(&url).await.map(drop).unwrap_err();
        println!("refused {:?} {}", error.kind(), error);
        println!("because {}", chain(&error));
        assert!(error.is_retryable(), "it can help to try again: {error:?}");

        // Given a few, as they come back one by one, then it opens at some time, and not half.
        let bus = loop {
            match Bus::connect(&url).await {
                Ok(bus) => break bus,
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
            assert!(hogs.pop().is_some(), "it never opened");
        };
        drop(hogs);
        let handled = Arc::new(AtomicUsize::new(0));
        let handler = {
            let handled = Arc::clone(&handled);
            move |_: Message| {
                handled.fetch_add(1, Ordering::Relaxed);
                async { Ok(()) as Outcome }
            }
        };
        let (publisher, admin) = (bus.publisher().clone(), Arc::clone(bus.admin().unwrap()));
        let running = bus.subscribe_to("t", handler.group("g").named("h")).start().await.unwrap();
        publisher.publish_message(Message::new("t", "before")).await.unwrap();
        comes_about("it is handled", || handled.load(Ordering::Relaxed) == 1).await;

        // When an open bus has no handle left, then what needs none goes on, and what does says so.
        let hogs = take_all_handles();
        publisher.publish_message(Message::new("t", "while")).await.unwrap();
        comes_about("it is handled", || handled.load(Ordering::Relaxed) == 2).await;
        if let Err(error) = admin.topics().await {
            assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Unavailable), "{error:?}");
            println!("asked {error}");
        }

        // And when there are some again, all works.
        drop(hogs);
        assert_eq!(admin.topics().await.unwrap()[0].messages, 2);
        publisher.publish_message(Message::new("t", "after")).await.unwrap();
        comes_about("it is handled", || handled.load(Ordering::Relaxed) == 3).await;
        let report = running.shutdown().await;
        assert!(report.is_clean(), "{report:?}");
        println!("recovered");
    });
}

/// Opens files until there are no handles left.
#[cfg(unix)]
fn take_all_handles() -> Vec<std::fs::File> {
    std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).map(|cause| format!("{cause}; ")).collect()
}

#[cfg(unix)]
#[test]
fn without_file_handles_opening_fails_with_the_reason_and_works_again_when_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    // Given a process that may have few files open.
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact child --ignored --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("recovered"), "{text}");
    let told = text.lines().find(|line| line.contains("refused ")).unwrap();
    assert!(told.contains("app.db"), "it names the file: {told}");
    assert!(text.contains("ulimit -n"), "it says what there is too little of: {text}");
}

// ---- Room for the log ----------------------------------------------------------------------------------------

/// A log that cannot be written: every line fails, as on a disk that is full.
#[derive(Clone, Default)]
struct Full(Arc<AtomicUsize>);

impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
}

/// A log that stands still at its first line, as long as it is told to.
#[derive(Clone)]
struct Stands {
    stands: Arc<AtomicBool>,
    lines: Arc<AtomicUsize>,
}

impl std::io::Write for Stands {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.lines.fetch_add(1, Ordering::SeqCst) == 0 {
            let begun = Instant::now();
            while self.stands.load(Ordering::SeqCst) && begun.elapsed() < LONG {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Fails once on every tenth message, which is logged.
async fn fails_at_first(message: Message, attempt: millstream::Attempt) -> Outcome {
    if message.id.ends_with('0') && attempt.0 == 1 { Err(Failure::retry("not yet")) } else { Ok(()) }
}

async fn start(url: &str) -> (millstream::Running, Publisher) {
    let bus = Bus::connect(url).await.unwrap();
    let publisher = bus.publisher().clone();
    let running = bus
        .subscribe_to(
            "t",
            fails_at_first
                .group("g")
                .workers(2)
                .outage(Outage::never())
                .retry(Retry::fixed(Duration::from_millis(1)).attempts(3)),
        )
        .start()
        .await
        .unwrap();
    (running, publisher)
}

async fn publish(publisher: &Publisher, count: usize) {
    let messages = (0..count).map(|n| Message::new("t", "x").with_id(n.to_string()).with_key(n.to_string()));
    publisher.publish_messages(messages.collect::<Vec<_>>()).await.unwrap().into_result().unwrap();
}

/// Runs with threads that all log there.
fn logging_to<W>(log: W, run: impl Future<Output = ()>)
where
    W: std::io::Write + Clone + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(move || log.clone())
        .finish();
    let dispatch = tracing::Dispatch::new(subscriber);
    let on_threads = dispatch.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .on_thread_start(move || {
            // For as long as the thread lives.
            let guard = tracing::dispatcher::set_default(&on_threads);
            LOGGING.with(|kept| *kept.borrow_mut() = Some(guard));
        })
        .build()
        .unwrap();
    runtime.block_on(run);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

thread_local! {
    static LOGGING: std::cell::RefCell<Option<tracing::dispatcher::DefaultGuard>> = const { std::cell::RefCell::new(None) };
}

#[test]
fn a_log_that_is_full_costs_nothing_but_its_lines() {
    let log = Full::default();
    let tried = Arc::clone(&log.0);
    logging_to(log, async {
        let (running, publisher) = start("memory://").await;
        publish(&publisher, 1_000).await;
        let control = running.control();
        comes_about("all are handled", || counts(&control).handled == 1_000).await;
        assert_eq!(counts(&control).retried, 100);
        let report = running.shutdown().await;
        assert!(report.is_clean(), "{report:?}");
    });
    assert!(tried.load(Ordering::Relaxed) > 0, "something was logged");
}

#[test]
fn a_log_that_stands_still_holds_up_no_more_than_who_writes_to_it() {
    let stands = Arc::new(AtomicBool::new(true));
    let log = Stands { stands: Arc::clone(&stands), lines: Arc::default() };
    let lines = Arc::clone(&log.lines);
    logging_to(log, async {
        // Given a runner that is held up by the line about a failed attempt.
        let (running, publisher) = start("memory://").await;
        publish(&publisher, 11).await;
        let control = running.control();
        comes_about("a line is written", || lines.load(Ordering::SeqCst) > 0).await;
        // When others are published, then they are handled and settled by the others.
        let before = counts(&control).handled;
        publish_unfailing(&publisher, 1_000).await;
        comes_about("they are handled", || counts(&control).handled >= before + 1_000 - MAY_WAIT).await;
        assert!(stands.load(Ordering::SeqCst) && lines.load(Ordering::SeqCst) > 0);
        // And when it goes on, so does what it held up.
        stands.store(false, Ordering::SeqCst);
        comes_about("all are handled", || counts(&control).handled == 1_011).await;
        let report = running.shutdown().await;
        assert!(report.is_clean(), "{report:?}");
    });
}

/// Jobs that the runner which is held up may have taken.
const MAY_WAIT: u64 = 64;

async fn publish_unfailing(publisher: &Publisher, count: usize) {
    let messages = (0..count).map(|n| Message::new("t", "x").with_id(format!("{n}-1")));
    publisher.publish_messages(messages.collect::<Vec<_>>()).await.unwrap().into_result().unwrap();
}
