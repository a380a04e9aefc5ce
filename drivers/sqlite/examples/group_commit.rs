//! What a durable acknowledgement costs, beside a bare file: 64 publishers, each awaiting its own.
//!
//! Both sides gather what waits and make it durable with one sync: the bare one appends the same bytes to a growing
//! file and calls `fdatasync`, the other is `sqlite://`. They take turns, and the best of each counts.
//!
//! ```sh
//! cargo run --release -p millstream-sqlite --example group_commit -- [FOLDER] [SECONDS] [BYTES]
//! ```
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millstream_core::{Message, Writer};
use millstream_sqlite::SqliteStore;
use tokio::sync::{mpsc, oneshot};

const PUBLISHERS: usize = 64;
const ROUNDS: usize = 3;

/// Acknowledgements a second, and how long the slowest in a hundred and in a thousand took.
#[derive(Debug, Clone, Copy)]
struct Figure {
    rate: f64,
    p50: Duration,
    p99: Duration,
    p999: Duration,
}

fn figure(mut latencies: Vec<Duration>, elapsed: Duration) -> Figure {
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    Figure {
        rate: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
    }
}

/// Publishers that write one after the other until the time is over.
async fn publishers<F, W>(time: Duration, one: F) -> Figure
where
    F: Fn(usize) -> W + Clone + Send + 'static,
    W: Future<Output = ()> + Send,
{
    let over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (over, one) = (Arc::clone(&over), one.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    one(publisher).await;
                    latencies.push(begun.elapsed());
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    figure(all, begun.elapsed())
}

async fn raw(path: &Path, time: Duration, bytes: usize) -> Figure {
    // What a row of this payload takes in the file.
    let record = vec![b'x'; bytes + 84];
    let (send, mut receive) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(PUBLISHERS);
    let mut file = std::fs::File::create(path).unwrap();
    let writer = std::thread::spawn(move || {
        let mut buffer = Vec::new();
        let mut waiting = Vec::new();
        while let Some((record, done)) = receive.blocking_recv() {
            buffer.extend_from_slice(&record);
            waiting.push(done);
            while let Ok((record, done)) = receive.try_recv() {
                buffer.extend_from_slice(&record);
                waiting.push(done);
            }
            file.write_all(&buffer).unwrap();
            file.sync_data().unwrap();
            buffer.clear();
            for done in waiting.drain(..) {
                let _ = done.send(());
            }
        }
    });
    let figure = publishers(time, move |_| {
        let (send, record) = (send.clone(), record.clone());
        async move {
            let (done, written) = oneshot::channel();
            send.send((record, done)).await.unwrap();
            written.await.unwrap();
        }
    })
    .await;
    writer.join().unwrap();
    std::fs::remove_file(path).unwrap();
    figure
}

async fn sqlite(path: &Path, time: Duration, bytes: usize) -> Figure {
    let store = SqliteStore::open(path).await.unwrap();
    let writer = store.writer();
    let data = vec![b'x'; bytes];
    publishers(time, move |publisher| {
        let message = Message::new("load", data.clone())
            .with_id(format!("{publisher:08}-0000-7000-8000-000000000000"))
            .with_key(format!("key {publisher}"))
            .with_content_type("application/json");
        let writer = writer.clone();
        async move { writer.write(vec![message]).await.unwrap().into_result().unwrap() }
    })
    .await
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().map_or(3.0, |s| s.parse().unwrap());
    let bytes = arguments.next().map_or(256, |s| s.parse().unwrap());
    let folder = tempfile::tempdir_in(folder).unwrap();
    let time = Duration::from_secs_f64(seconds);
    let (mut best_raw, mut best_ours) = (None::<Figure>, None::<Figure>);
    for round in 0..ROUNDS {
        let bare = raw(&folder.path().join("raw"), time, bytes).await;
        let ours = sqlite(&folder.path().join(format!("{round}.db")), time, bytes).await;
        for (name, figure) in [("raw append", bare), ("sqlite://", ours)] {
            println!(
                "{name:<12}{:>10.0} acknowledged/s   p50 {:?}  p99 {:?}  p99.9 {:?}",
                figure.rate, figure.p50, figure.p99, figure.p999
            );
        }
        let better = |best: Option<Figure>, now: Figure| best.filter(|b| b.rate > now.rate).or(Some(now));
        (best_raw, best_ours) = (better(best_raw, bare), better(best_ours, ours));
    }
    let (raw, ours) = (best_raw.unwrap().rate, best_ours.unwrap().rate);
    println!("{PUBLISHERS} publishers, {bytes} B: {ours:.0} of {raw:.0} a second, ratio {:.2}", ours / raw);
}
