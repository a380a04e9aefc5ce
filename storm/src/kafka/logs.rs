//! What the brokers keep when a storm is over: the truth that the journals are held against.

use std::collections::HashMap;

use bytestring::ByteString;
use millstream::kafka::Kafka;
use millstream::{Bus, End, Message};
use millstream_core::{Admin as _, OpenRequest, Read, ReadLimits, Reader as _, Source as _};

use crate::Result;
use crate::events::{AFTER, FOLLOWED, PLAIN, TOPIC};

/// What is in the logs.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// How often each id lies in the topic that it was published to.
    pub(crate) copies: HashMap<ByteString, u32>,
    /// How often each id lies in the park of the group that reads its topic.
    pub(crate) parked: HashMap<ByteString, u32>,
    /// Each dead letter as it was before it died.
    pub(crate) dead: Vec<Dead>,
}

/// A dead letter.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) group: ByteString,
    pub(crate) class: String,
    pub(crate) message: Message,
}

/// How many dead letters are asked for at once.
const PAGE: usize = 5_000;

/// The park of a group on a topic.
fn park_of(topic: &str, group: &str) -> String {
    format!("{topic}.{group}.park")
}

/// Reads all logs of a cluster that nobody works on.
pub(crate) async fn read(kafka: &Kafka) -> Result<Logs> {
    let mut logs = Logs::default();
    for (topic, group) in [(TOPIC, PLAIN), (FOLLOWED, AFTER)] {
        count(kafka, topic, &mut logs.copies).await?;
        count(kafka, &park_of(topic, group), &mut logs.parked).await?;
        let letters = Bus::from_connection(kafka.connection()).dead_letters(topic);
        let mut after = None;
        loop {
            let page = letters.list(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            logs.dead.extend(page.into_iter().map(|letter| Dead {
                group: letter.group.clone().unwrap_or_default(),
                class: letter.class.clone().unwrap_or_default(),
                message: letter.original(),
            }));
        }
    }
    Ok(logs)
}

/// Counts the messages of a topic by their ids.
async fn count(kafka: &Kafka, topic: &str, copies: &mut HashMap<ByteString, u32>) -> Result {
    let mut source = kafka.reader().open(OpenRequest::new(topic.to_owned()).end(End::Latest)).await?.source;
    let mut some = Vec::new();
    loop {
        let read = source.read(&mut some, ReadLimits::new(1_000, 8 << 20)).await?;
        for delivery in some.drain(..) {
            *copies.entry(delivery.message.id.clone()).or_default() += 1;
        }
        if matches!(read, Read::End) {
            return Ok(source.close().await?);
        }
    }
}

/// What the groups have not settled, by topic, of those that have anything left.
pub(crate) async fn left_in(kafka: &Kafka) -> millstream::Result<HashMap<String, u64>> {
    let mut left = HashMap::new();
    for (topic, group) in [(TOPIC, PLAIN), (FOLLOWED, AFTER)] {
        for topic in [topic.to_owned(), park_of(topic, group)] {
            let groups = kafka.admin().groups(&topic).await?;
            let lag = match groups.iter().find(|g| g.name == group) {
                Some(found) => found.lag,
                // A group that has committed nothing has everything before it.
                None => messages_of(kafka, &topic).await?,
            };
            if lag > 0 {
                left.insert(topic, lag);
            }
        }
    }
    Ok(left)
}

async fn messages_of(kafka: &Kafka, topic: &str) -> millstream::Result<u64> {
    let topics = kafka.admin().topics().await?;
    Ok(topics.into_iter().find(|info| info.name == topic).map_or(0, |info| info.messages))
}
