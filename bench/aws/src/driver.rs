//! The driver, without a scheduler above it: batches written, batches read, and what was read settled by a task of its own,
//! as the scheduler does it.

use std::hint::black_box;
use std::time::Instant;

use bench_harness::{Result, Stopwatch, one_thread};
use bench_load::Ages;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use millstream_aws::{Aws, Create, Sqs, SqsWriter};
use millstream_core::{
    Message, OpenRequest, ReadLimits, Reader as _, Settlement, Settler as _, Source as _, Token, Writer as _,
};
use tokio::sync::mpsc;

use crate::Measured;
use crate::load::{self, IN_FLIGHT, Job, LEASE, WAIT, endpoint};

/// Messages of one read.
const READ: usize = 256;
const READ_BYTES: usize = 64 << 20;
/// Reads that are not settled yet.
const BEHIND: usize = 1_024;

pub(crate) async fn aws(variable: &str) -> Result<Aws> {
    let aws = Aws::builder().region("eu-west-1").endpoint(endpoint(variable)?).credentials("test", "test");
    Ok(aws.connect().await?)
}

pub(crate) async fn connect(create: Create) -> Result<Sqs> {
    Ok(aws("MILLSTREAM_SQS").await?.sqs().create(create).wait(WAIT).lease(LEASE).open()?)
}

pub(crate) fn send(job: &Job) -> Measured {
    let pool = load::messages(job)?;
    one_thread()?.block_on(async {
        let writer = connect(Create::Never).await?.writer();
        let mut ages = Ages::new()?;
        let mut under_way = FuturesUnordered::new();
        let watch = Stopwatch::start()?;
        for numbers in job.batches() {
            if under_way.len() == IN_FLIGHT
                && let Some(age) = under_way.next().await
            {
                ages.add(age?);
            }
            let batch = numbers.map(|number| pool[number % pool.len()].clone().with_id(load::id(number)));
            under_way.push(write(&writer, batch.collect()));
        }
        while let Some(age) = under_way.next().await {
            ages.add(age?);
        }
        let took = watch.stop()?;
        writer.close().await?;
        Ok((took, Some(ages.latency())))
    })
}

async fn write(writer: &SqsWriter, batch: Vec<Message>) -> Result<std::time::Duration> {
    let begun = Instant::now();
    writer.write(batch).await?.into_result()?;
    Ok(begun.elapsed())
}

pub(crate) fn receive(queue: &str, messages: usize) -> Measured {
    one_thread()?.block_on(async {
        let sqs = connect(Create::Never).await?;
        let mut opened = sqs.reader().open(OpenRequest::new(queue.to_owned()).group("bench")).await?;
        let (tokens, mut read) = mpsc::channel::<(Instant, Vec<Token>)>(BEHIND);
        let mut settler = opened.settler;
        let settling = tokio::spawn(async move {
            let (mut batches, mut ages) = (Vec::new(), Ages::new()?);
            while read.recv_many(&mut batches, BEHIND).await > 0 {
                let since: Vec<_> = batches.iter().map(|(since, _)| *since).collect();
                let acks = batches.drain(..).flat_map(|(_, tokens)| tokens).map(Settlement::ack).collect();
                if let Some(other) = settler.settle(acks).await.iter().find(|settled| !settled.is_done()) {
                    return Err(format!("a message was not deleted: {other:?}").into());
                }
                since.into_iter().for_each(|since| ages.add(since.elapsed()));
            }
            Ok::<_, bench_harness::Error>(ages)
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
            tokens.send((Instant::now(), done.collect())).await?;
        }
        drop(tokens);
        let ages = settling.await??;
        let took = watch.ok_or("nothing came")?.stop()?;
        opened.source.close().await?;
        Ok((took, Some(ages.latency())))
    })
}
