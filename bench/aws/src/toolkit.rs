//! The whole toolkit: typed events published, and a typed handler with the default settings.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench_harness::{Result, Stopwatch, two_threads};
use bench_load::{Ages, Arrivals, Reading};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use millstream::{Bus, Outcome, Publisher, State, Subscribe};
use millstream_aws::Create;

use crate::Measured;
use crate::driver::connect;
use crate::load::{IN_FLIGHT, Job};

/// How long until a backlog is surely handled.
const WITHIN: Duration = Duration::from_secs(300);

pub(crate) fn send(job: &Job) -> Measured {
    let pool = bench_load::readings(job.size)?;
    two_threads()?.block_on(async {
        let bus = Bus::from_connection(connect(Create::Never).await?.connection());
        bus.registry().register::<Reading>(job.queue.as_str())?;
        let publisher = bus.publisher();
        let mut ages = Ages::new()?;
        let mut under_way = FuturesUnordered::new();
        let watch = Stopwatch::start()?;
        for numbers in job.batches() {
            if under_way.len() == IN_FLIGHT
                && let Some(age) = under_way.next().await
            {
                ages.add(age?);
            }
            let events: Vec<_> = numbers.map(|number| &pool[number % pool.len()]).collect();
            under_way.push(publish(publisher, events));
        }
        while let Some(age) = under_way.next().await {
            ages.add(age?);
        }
        let took = watch.stop()?;
        publisher.close().await?;
        Ok((took, Some(ages.latency())))
    })
}

async fn publish(publisher: &Publisher, events: Vec<&Reading>) -> Result<Duration> {
    let begun = Instant::now();
    publisher.publish_all(events).await?.into_result()?;
    Ok(begun.elapsed())
}

async fn handle(reading: Reading, State(arrivals): State<Arrivals>) -> Outcome {
    black_box(&reading);
    arrivals.arrived();
    Ok(())
}

pub(crate) fn receive(queue: &str, messages: usize) -> Measured {
    let arrivals = Arrivals::new(messages)?;
    two_threads()?.block_on(async {
        // Dead letters have a queue that is made when the first one comes.
        let connection = connect(Create::Missing).await?.connection();
        let bus = Bus::from_connection(connection).with_state(arrivals.clone());
        let running = bus.subscribe_to(queue.to_owned(), handle.group("bench")).start().await?;
        let control = running.control();
        tokio::time::timeout(WITHIN, arrivals.done()).await?;
        // All is handled; and all is deleted, when nothing is in flight.
        while control.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = arrivals.took()?;
        running.shutdown().await;
        Ok((took, None))
    })
}
