//! Publishers that write one message after the other, each awaiting its own acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use millstream_core::{Message, Writer};
use millstream_sqlite::SqliteWriter;
use tokio::task::JoinHandle;

use crate::Result;

pub(super) const PUBLISHERS: usize = 64;

/// What they came to.
#[derive(Debug)]
pub(super) struct Load {
    elapsed: Duration,
    /// From written to acknowledged, in nanoseconds.
    waits: Histogram<u64>,
}

impl Load {
    /// Acknowledged a second.
    pub(super) fn rate(&self) -> f64 {
        self.waits.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub(super) fn count(&self) -> u64 {
        self.waits.len()
    }

    /// A part of them waited no longer, in milliseconds.
    pub(super) fn wait(&self, part: f64) -> f64 {
        self.waits.value_at_quantile(part) as f64 / 1e6
    }

    pub(super) fn longest(&self) -> f64 {
        self.waits.max() as f64 / 1e6
    }

    /// In words.
    pub(super) fn waits(&self) -> String {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.1} ms",
            self.wait(0.5),
            self.wait(0.99),
            self.wait(0.999),
            self.longest()
        )
    }
}

/// When publishers stop.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// So many publishers, until they are stopped.
pub(super) async fn until<F, W>(stop: &Stop, publishers: usize, one: F) -> Result<Load>
where
    F: Fn(usize) -> W + Clone + Send + 'static,
    W: Future<Output = Result> + Send,
{
    let begun = Instant::now();
    let tasks: Vec<JoinHandle<Result<Histogram<u64>>>> = (0..publishers)
        .map(|publisher| {
            let (stop, one) = (stop.clone(), one.clone());
            tokio::spawn(async move {
                let mut waits = histogram()?;
                while !stop.0.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    one(publisher).await?;
                    waits.record(u64::try_from(begun.elapsed().as_nanos())?)?;
                }
                Ok(waits)
            })
        })
        .collect();
    let mut waits = histogram()?;
    for task in tasks {
        waits.add(task.await??)?;
    }
    Ok(Load { elapsed: begun.elapsed(), waits })
}

/// The same for a time.
pub(super) async fn during<F, W>(time: Duration, publishers: usize, one: F) -> Result<Load>
where
    F: Fn(usize) -> W + Clone + Send + 'static,
    W: Future<Output = Result> + Send,
{
    let stop = Stop::default();
    let (load, ()) = tokio::join!(until(&stop, publishers, one), async {
        tokio::time::sleep(time).await;
        stop.now();
    });
    load
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

/// What one publisher writes again and again.
pub(super) fn message(publisher: usize, bytes: usize) -> Message {
    Message::new("load", vec![b'x'; bytes])
        .with_id(format!("{publisher:08}-0000-7000-8000-000000000000"))
        .with_key(format!("key {publisher:02}"))
        .with_content_type("application/json")
}

/// Writes it to a file, and awaits the acknowledgement.
pub(super) async fn write(writer: SqliteWriter, message: Message) -> Result {
    writer.write(vec![message]).await?.into_result()?;
    Ok(())
}
