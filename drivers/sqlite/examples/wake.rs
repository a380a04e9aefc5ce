//! How soon an idle process handles what another one published, and what waiting costs it.
//!
//! A second process waits in a group. This one publishes now and then, notes when each message was acknowledged, and
//! hears when it was handled there; then it lets the other wait and reads how much CPU that took.
//!
//! ```sh
//! cargo run --release -p millstream-sqlite --example wake -- [FOLDER]
//! ```
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use millstream_core::{Message, OpenRequest, ReadLimits, Reader, Settlement, Settler, Source, Writer};
use millstream_sqlite::SqliteStore;
use rustix::time::{ClockId, clock_gettime};

const MESSAGES: usize = 400;
const IDLE: Duration = Duration::from_secs(10);

/// Nanoseconds by a clock that all processes share.
fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

async fn wait_and_handle(path: PathBuf) {
    let store = SqliteStore::open(path).await.unwrap();
    let mut opened = store.reader().open(OpenRequest::new("news").group("g")).await.unwrap();
    println!("ready");
    loop {
        let mut into = Vec::new();
        opened.source.read(&mut into, ReadLimits::new(100, 1 << 20)).await.unwrap();
        let at = now();
        for delivery in into {
            opened.settler.settle(vec![Settlement::ack(delivery.token)]).await;
            println!("{at}");
        }
    }
}

/// Hundredths of a second that a process has used.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::main]
async fn main() {
    let argument = std::env::args().nth(1).map(PathBuf::from);
    if std::env::var_os("WAKE_CHILD").is_some() {
        return wait_and_handle(argument.unwrap()).await;
    }
    let folder = tempfile::tempdir_in(argument.unwrap_or_else(std::env::temp_dir)).unwrap();
    let path = folder.path().join("app.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg(&path)
        .env("WAKE_CHILD", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let writer = store.writer();
    let mut waits = Vec::with_capacity(MESSAGES);
    for n in 0..MESSAGES {
        tokio::time::sleep(Duration::from_millis(5)).await;
        writer.write(vec![Message::new("news", n.to_string())]).await.unwrap().into_result().unwrap();
        let acknowledged = now();
        let handled: i64 = lines.next().unwrap().unwrap().parse().unwrap();
        waits.push(Duration::from_nanos(u64::try_from(handled - acknowledged).unwrap_or(0)));
    }
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    println!(
        "acknowledged to delivered in another process: p50 {:?}, p99 {:?}, most {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    let before = used(child.id());
    tokio::time::sleep(IDLE).await;
    let percent = (used(child.id()) - before) as f64 / IDLE.as_secs_f64();
    println!("waiting takes {percent:.2} % of a CPU");
    child.kill().unwrap();
    child.wait().unwrap();
}
