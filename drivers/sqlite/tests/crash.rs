//! Processes that are killed, or that a message kills: real ones, of this very program.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{File, ids, member, message, messages, publish};
use millstream_core::{Settlement, Settler};
use millstream_sqlite::SqliteStore;

const PATH: &str = "MILLSTREAM_TEST_PATH";
const MODE: &str = "MILLSTREAM_TEST_MODE";

/// Another process that runs the test `child` on the file.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(path: &Path, mode: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--include-ignored"])
            .env(PATH, path)
            .env(MODE, mode)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for a line that it prints.
    fn says(&mut self, what: &str) {
        let said = self.lines.by_ref().map_while(Result::ok).any(|line| line.contains(what));
        assert!(said, "it did not say {what:?}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What the other process does; nothing when the tests are run.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    // A lease that nobody waits for.
    let store = SqliteStore::builder(path).lease(Duration::from_secs(600)).open().await.unwrap();
    let mut member = member(&store).await;
    match std::env::var(MODE).unwrap().as_str() {
        "hold" => {
            let held = member.take(5).await;
            println!("holds {}", held.len());
            std::future::pending::<()>().await;
        }
        "publish" => {
            for _ in 0..6 {
                let large = |n| {
                    let mut message = message(n, "k");
                    message.data = Some(vec![b'x'; 64 << 10].into());
                    message
                };
                publish(&store, (0..8).map(large).collect()).await;
            }
            println!("has published");
            std::future::pending::<()>().await;
        }
        "die of one" => loop {
            for delivery in member.try_read(10).await.unwrap() {
                if delivery.message.id.contains("killer") {
                    std::process::abort();
                }
                member.settler.settle(vec![Settlement::ack(delivery.token)]).await;
            }
        },
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_in_work_comes_to_another_at_once_and_not_after_its_lease() {
    // Given a process that has five messages in work, and a member here.
    let file = File::new();
    let store = SqliteStore::builder(file.path()).lease(Duration::from_secs(600)).open().await.unwrap();
    publish(&store, (0..5).map(|n| message(n, "k")).collect()).await;
    let mut other = Process::start(&file.path(), "hold");
    other.says("holds 5");
    let mut here = member(&store).await;
    assert!(here.soon().await.is_empty());
    // When it is killed.
    other.kill();
    let killed = Instant::now();
    // Then they come here, in order.
    assert_eq!(ids(&here.take(5).await), ["id-0", "id-1", "id-2", "id-3", "id-4"]);
    assert!(killed.elapsed() < Duration::from_secs(10), "it took {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_its_process_is_counted_and_its_neighbours_are_not_blamed() {
    // Given a message that kills whoever handles it, among others.
    let file = File::new();
    let store = SqliteStore::builder(file.path()).lease(Duration::from_secs(600)).open().await.unwrap();
    let mut all = messages(20);
    all[10].id = "killer".into();
    publish(&store, all).await;
    // When it killed eight processes.
    for _ in 0..8 {
        Process::start(&file.path(), "die of one").child.wait().unwrap();
    }
    // Then it was counted, but for the first time, when nobody could know.
    let mut here = member(&store).await;
    let mut killer = None;
    let mut most = 0;
    while killer.is_none() {
        for delivery in here.try_read(10).await.unwrap() {
            if &*delivery.message.id == "killer" {
                killer = Some(delivery.deliveries);
            } else {
                most = most.max(delivery.deliveries);
            }
            here.ack(vec![delivery]).await;
        }
    }
    assert!(killer.unwrap() >= 8, "counted as delivery {killer:?}");
    assert!(most <= 5, "a neighbour was counted as delivery {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_killed_before_they_wrote_much_do_not_let_the_log_grow() {
    // Given a file that somebody has open who writes nothing, and lives too short to have a checkpoint of their own.
    let file = File::new();
    let _idle = file.open().await;
    let (lives, each) = (16, 3 << 20);
    for _ in 0..lives {
        let mut process = Process::start(&file.path(), "publish");
        process.says("has published");
        process.kill();
    }
    // Then the log was moved into the file meanwhile.
    let mut log = file.path().into_os_string();
    log.push("-wal");
    let size = std::fs::metadata(log).unwrap().len();
    assert!(size < 24 << 20, "{size} bytes are in the log, of {} written", lives * each);
}
