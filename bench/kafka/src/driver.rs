//! The driver, without a scheduler above it: batches written, batches read, and what was read settled by a task of its own,
//! as the scheduler does it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bench_harness::{Result, Stopwatch, two_threads};
use millstream_core::{
    OpenRequest, ReadLimits, Reader as _, Settlement, Settler as _, Source as _, Token, Writer as _,
};
use millstream_kafka::{Create, Kafka};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::load::{self, Job};
use crate::{Measured, brokers, group};
use bench_load::Ages;

/// Messages of one read. More of them would leave the caches before they are looked at.
const READ: usize = 256;
const READ_BYTES: usize = 64 << 20;
/// Reads that are not settled yet. More than there are between two commits: whoever reads is not to wait for one.
const BEHIND: usize = 4_096;

pub(crate) async fn connect() -> Result<Kafka> {
    Ok(Kafka::builder(brokers()?).create(Create::Never).connect().await?)
}

pub(crate) fn produce(job: &Job) -> Measured {
    let pool: Arc<[_]> = load::messages(&job.topic, job.size)?.into();
    two_threads()?.block_on(async {
        let kafka = connect().await?;
        let writer = kafka.writer();
        // The topic is known before the clock starts, as it is to a program that runs.
        writer.write(vec![pool[0].clone()]).await?.into_result()?;
        let mut ages = Ages::new()?;
        let mut under_way = JoinSet::<Result<_>>::new();
        let watch = Stopwatch::start()?;
        for first in (0..job.messages).step_by(job.batch) {
            if under_way.len() == job.outstanding
                && let Some(age) = under_way.join_next().await
            {
                ages.add(age??);
            }
            let (writer, pool) = (writer.clone(), Arc::clone(&pool));
            let numbers = first..(first + job.batch).min(job.messages);
            under_way.spawn(async move {
                let begun = Instant::now();
                let batch = numbers.map(|number| pool[number % pool.len()].clone()).collect();
                writer.write(batch).await?.into_result()?;
                Ok(begun.elapsed())
            });
        }
        while let Some(age) = under_way.join_next().await {
            ages.add(age??);
        }
        let took = watch.stop()?;
        writer.close().await?;
        Ok((took, Some(ages.latency())))
    })
}

pub(crate) fn consume(topic: &str, messages: usize) -> Measured {
    two_threads()?.block_on(async {
        let kafka = connect().await?;
        let mut opened = kafka.reader().open(OpenRequest::new(topic.to_owned()).group(group())).await?;
        let (tokens, mut read) = mpsc::channel::<Vec<Token>>(BEHIND);
        let mut settler = opened.settler;
        let settling = tokio::spawn(async move {
            let mut batches = Vec::new();
            while read.recv_many(&mut batches, BEHIND).await > 0 {
                let acks = batches.drain(..).flatten().map(Settlement::ack).collect();
                if let Some(other) = settler.settle(acks).await.iter().find(|settled| !settled.is_done()) {
                    return Err(format!("a position was not committed: {other:?}"));
                }
            }
            Ok(())
        });
        let (mut count, mut watch) = (0, None);
        let mut deliveries = Vec::new();
        while count < messages {
            opened.source.read(&mut deliveries, ReadLimits::new(READ, READ_BYTES)).await?;
            if deliveries.is_empty() {
                continue;
            }
            if watch.is_none() {
                watch = Some(Stopwatch::start()?);
            }
            count += deliveries.len();
            let done = deliveries.drain(..).map(|delivery| {
                black_box(&delivery.message);
                delivery.token
            });
            tokens.send(done.collect()).await?;
        }
        drop(tokens);
        settling.await??;
        let took = watch.ok_or("nothing came")?.stop()?;
        opened.source.close().await?;
        Ok((took, None))
    })
}
