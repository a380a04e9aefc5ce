//! The whole toolkit: typed events published, and a typed handler with the default settings.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_harness::{Result, Stopwatch, two_threads};
use millstream::{Bus, Outcome, State, Subscribe};
use tokio::task::JoinSet;

use crate::driver::connect;
use crate::load::{self, Job, Reading};
use crate::{Measured, group};
use bench_load::{Ages, Arrivals};

/// How long until a backlog is surely handled.
const WITHIN: Duration = Duration::from_secs(300);

pub(crate) fn produce(job: &Job) -> Measured {
    let pool: Arc<[Reading]> = load::readings(job.size)?.into();
    two_threads()?.block_on(async {
        let bus = Bus::from_connection(connect().await?.connection());
        bus.registry().register::<Reading>(job.topic.as_str())?;
        let publisher = bus.publisher();
        // The topic is known before the clock starts, as it is to a program that runs.
        publisher.publish(&pool[0]).await?;
        let mut ages = Ages::new()?;
        let mut under_way = JoinSet::<Result<_>>::new();
        let watch = Stopwatch::start()?;
        for first in (0..job.messages).step_by(job.batch) {
            if under_way.len() == job.outstanding
                && let Some(age) = under_way.join_next().await
            {
                ages.add(age??);
            }
            let (publisher, pool) = (publisher.clone(), Arc::clone(&pool));
            let numbers = first..(first + job.batch).min(job.messages);
            under_way.spawn(async move {
                let begun = Instant::now();
                let events = numbers.map(|number| &pool[number % pool.len()]);
                publisher.publish_all(events).await?.into_result()?;
                Ok(begun.elapsed())
            });
        }
        while let Some(age) = under_way.join_next().await {
            ages.add(age??);
        }
        let took = watch.stop()?;
        publisher.close().await?;
        Ok((took, Some(ages.latency())))
    })
}

async fn handle(reading: Reading, State(arrivals): State<Arrivals>) -> Outcome {
    black_box(&reading);
    arrivals.arrived();
    Ok(())
}

pub(crate) fn consume(topic: &str, messages: usize) -> Measured {
    let arrivals = Arrivals::new(messages)?;
    two_threads()?.block_on(async {
        let bus = Bus::from_connection(connect_making().await?.connection()).with_state(arrivals.clone());
        let running = bus.subscribe_to(topic.to_owned(), handle.group(group())).start().await?;
        let control = running.control();
        tokio::time::timeout(WITHIN, arrivals.done()).await?;
        // All is handled, and finished when nothing is in flight. The last commit is on its way then: nothing tells of it.
        while control.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let took = arrivals.took()?;
        running.shutdown().await;
        Ok((took, None))
    })
}

/// Dead letters have a topic that is made when the first one comes.
async fn connect_making() -> Result<millstream_kafka::Kafka> {
    Ok(millstream_kafka::Kafka::builder(crate::brokers()?).connect().await?)
}

async fn handle_paced(reading: Reading, State(arrivals): State<Arrivals>) -> Outcome {
    arrivals.arrived_after(reading.id);
    Ok(())
}

pub(crate) fn paced(topic: &str, messages: usize) -> Measured {
    let arrivals = Arrivals::new(messages)?;
    two_threads()?.block_on(async {
        let bus = Bus::from_connection(connect_making().await?.connection()).with_state(arrivals.clone());
        bus.registry().register::<Reading>(topic)?;
        let publisher = bus.publisher().clone();
        let running = bus.subscribe(handle_paced.group(group())).start().await?;
        // Until the group has given it its partitions.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut reading = load::readings(100)?.swap_remove(0);
        // The first one waits until the client knows its brokers, as it does once in a program's life.
        load::vary(&mut reading, 0, arrivals.now());
        publisher.publish(&reading).await?;
        tokio::time::sleep(load::WARM).await;
        let begun = Instant::now();
        let mut under_way = JoinSet::new();
        for number in 1..messages {
            tokio::time::sleep_until((begun + load::due(number)).into()).await;
            load::vary(&mut reading, number, arrivals.now());
            let (publisher, reading) = (publisher.clone(), reading.clone());
            under_way.spawn(async move { publisher.publish(&reading).await });
            while let Some(published) = under_way.try_join_next() {
                published??;
            }
        }
        while let Some(published) = under_way.join_next().await {
            published??;
        }
        tokio::time::timeout(WITHIN, arrivals.done()).await?;
        let took = arrivals.took()?;
        running.shutdown().await;
        Ok((took, Some(arrivals.latency())))
    })
}
