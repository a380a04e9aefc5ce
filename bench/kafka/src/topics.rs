//! Topics of a run.

use std::time::Duration;

use bench_harness::{Result, one_thread};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::brokers;

fn admin() -> Result<(AdminClient<DefaultClientContext>, AdminOptions)> {
    let client = ClientConfig::new().set("bootstrap.servers", brokers()?).create()?;
    Ok((client, AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))))
}

/// Makes a topic, and waits until it is there.
pub(crate) fn make(topic: &str, partitions: u32) -> Result {
    let (client, options) = admin()?;
    let new = NewTopic::new(topic, i32::try_from(partitions)?, TopicReplication::Fixed(1))
        // What is deleted shall not lie around for the default minute.
        .set("file.delete.delay.ms", "1000");
    for made in one_thread()?.block_on(client.create_topics([&new], &options))? {
        made.map_err(|(topic, code)| format!("{topic} was not made: {code}"))?;
    }
    Ok(())
}

/// Deletes topics. One that is not there is no error.
pub(crate) fn remove(topics: &[String]) -> Result {
    let (client, options) = admin()?;
    let names: Vec<_> = topics.iter().map(String::as_str).collect();
    one_thread()?.block_on(client.delete_topics(&names, &options))?;
    Ok(())
}
