//! SIGTERM at random moments, to real processes: nothing is lost, and handlers that end in time leave no
//! duplicate; a second signal does not wait for anybody.
#![cfg(all(unix, feature = "memory", feature = "sqlite"))]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::{Bus, Message, MessageId, Outcome, State, Subscribe};
use millstream_memory::MemoryBroker;

const CHILD: &str = "MILLSTREAM_SIGTERM_CHILD";

type Handled = Arc<Mutex<HashMap<String, u32>>>;

async fn handle(_: Message, MessageId(id): MessageId, State(handled): State<Handled>) -> Outcome {
    let wait = id.bytes().map(u64::from).sum::<u64>() % 15;
    tokio::time::sleep(Duration::from_millis(wait)).await;
    *handled.lock().unwrap().entry(id.to_string()).or_default() += 1;
    Ok(())
}

/// The process that is told to end: publishes and handles until then, and says how it ended.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let handled = Handled::default();
        let bus = Bus::connect("memory://sigterm?capacity=200").await.unwrap();
        let publisher = bus.publisher().clone();
        let publishing = tokio::spawn(async move {
            let mut acknowledged = 0u64;
            loop {
                let message = Message::new("t", "x").with_key((acknowledged % 20).to_string());
                match publisher.publish_message(message).await {
                    Ok(()) => acknowledged += 1,
                    Err(_) => return acknowledged,
                }
            }
        });
        let begun = Arc::clone(&handled);
        tokio::spawn(async move {
            // Not before: until it runs, it does not watch for signals.
            until(|| !begun.lock().unwrap().is_empty()).await;
            println!("ready");
        });
        bus.with_state(Arc::clone(&handled)).subscribe_to("t", handle.group("g")).run().await.unwrap();
        let acknowledged = publishing.await.unwrap();
        let admin = MemoryBroker::named("sigterm").connection().admin.unwrap();
        let left: u64 = admin.groups("t").await.unwrap().iter().map(|g| g.lag + g.in_flight).sum();
        let handled = handled.lock().unwrap();
        let twice = handled.values().filter(|n| **n > 1).count();
        println!("ended acknowledged={acknowledged} handled={} twice={twice} left={left}", handled.len());
    });
}

#[test]
fn a_hundred_times_nothing_is_lost_and_nothing_is_handled_twice() {
    let (mut handled_in_all, mut acknowledged_in_all) = (0, 0);
    for round in 0..100u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = {
            use std::io::BufRead;
            std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
        };
        assert!(lines.any(|line| line.ends_with("ready")), "round {round}: the child did not start");
        // The moment is the point: spread over the first tenth of a second.
        std::thread::sleep(Duration::from_millis(round * 37 % 101));
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let end = lines.find_map(|line| line.find("ended ").map(|at| line[at..].to_owned()));
        assert!(child.wait().unwrap().success(), "round {round}: the child failed");
        let end = end.unwrap_or_else(|| panic!("round {round}: the child said nothing"));
        let figure = |name: &str| -> u64 {
            let part = end.split(' ').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
            part.unwrap().parse().unwrap()
        };
        assert_eq!(figure("twice"), 0, "round {round}: {end}");
        assert_eq!(figure("acknowledged"), figure("handled") + figure("left"), "round {round}: {end}");
        handled_in_all += figure("handled");
        acknowledged_in_all += figure("acknowledged");
    }
    println!("100 SIGTERMs: {acknowledged_in_all} acknowledged, {handled_in_all} handled, 0 lost, 0 twice");
    assert!(handled_in_all > 100, "the children did some work");
}

/// A process whose handlers never end: two of ten messages are with them when it is told to end.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn stuck_child() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = Bus::connect(&file_in(Path::new(&folder))).await.unwrap();
        for n in 0..10 {
            let message = Message::new("t", "x").with_id(n.to_string()).with_key(n.to_string());
            bus.publisher().publish_message(message).await.unwrap();
        }
        let stuck = |MessageId(id): MessageId| async move {
            println!("stuck {id}");
            std::future::pending::<Outcome>().await
        };
        let handler = move |_: Message, id: MessageId| stuck(id);
        bus.subscribe_to("t", handler.group("g").named("stuck").concurrency(2)).run().await.unwrap();
        println!("ended");
    });
}

fn file_in(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("app.db").display())
}

#[tokio::test]
async fn a_second_signal_ends_it_now_and_what_was_left_is_handled_elsewhere() {
    // Given a process with ten messages, of which two are with handlers that never end.
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stuck_child", "--ignored", "--nocapture"])
        .env(CHILD, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = {
        use std::io::BufRead;
        std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
    };
    let running: Vec<_> = lines.by_ref().filter(|line| line.contains("stuck ")).take(2).collect();
    assert_eq!(running.len(), 2);
    let tell = |child: &std::process::Child| {
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    };

    // When it is told to end, then it waits for the two; when it is told so once more, it does not.
    tell(&child);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(child.try_wait().unwrap().is_none(), "it drains");
    let begun = Instant::now();
    tell(&child);
    assert!(lines.any(|line| line.ends_with("ended")));
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "the drain is 25 s: {:?}", begun.elapsed());

    // And another process handles all ten, each once, without waiting for a lease.
    let handled = Handled::default();
    let bus = Bus::connect(&file_in(folder.path())).await.unwrap().with_state(Arc::clone(&handled));
    let others = bus.subscribe_to("t", handle.group("g")).start().await.unwrap();
    until(|| handled.lock().unwrap().len() == 10).await;
    assert!(handled.lock().unwrap().values().all(|times| *times == 1));
    assert!(others.shutdown().await.is_clean());
}

async fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
