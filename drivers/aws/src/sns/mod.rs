//! Topics of SNS, each of whose groups has a queue of its own.

mod admin;
mod reader;
mod topics;
mod writer;

use std::sync::Arc;

use millstream_core::{ByteString, Connection, Result};

pub use admin::SnsAdmin;
pub use reader::SnsReader;
pub use topics::Subscription;
pub use writer::SnsWriter;

use crate::sqs::SqsBuilder;
use topics::Topics;

/// The topics of an account and region. Cloning shares it.
///
/// ```no_run
/// # async fn example() -> millstream_core::Result<()> {
/// use millstream_aws::{Aws, Subscription};
///
/// let sns = Aws::builder().connect().await?.sqs().open_sns()?;
/// // Only what of the tenant acme is; without this, the group gets all, from when it first reads.
/// let acme = Subscription::raw().filter_attributes(r#"{"tenant": ["acme"]}"#);
/// sns.subscribe("orders", "billing", acme).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sns {
    topics: Arc<Topics>,
    writer: SnsWriter,
}

impl SqsBuilder {
    /// Opens topics of SNS, whose groups have queues as they are described here. Asks nobody: topics and queues are looked
    /// for when they are needed.
    ///
    /// # Errors
    /// [`InvalidConfig`](millstream_core::ErrorKind::InvalidConfig) for what SQS cannot do.
    pub fn open_sns(self) -> Result<Sns> {
        let topics = Arc::new(Topics::new(self.known()?));
        let writer = SnsWriter::new(Arc::clone(&topics));
        Ok(Sns { topics, writer })
    }
}

impl Sns {
    /// Reads.
    #[must_use]
    pub fn reader(&self) -> SnsReader {
        SnsReader::new(Arc::clone(&self.topics))
    }

    /// Writes. All writers of a connection are closed together.
    #[must_use]
    pub fn writer(&self) -> SnsWriter {
        self.writer.clone()
    }

    /// Administers.
    #[must_use]
    pub fn admin(&self) -> SnsAdmin {
        SnsAdmin::new(Arc::clone(&self.topics))
    }

    /// All three, as a driver gives them for a URL.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(self.reader(), self.writer()).with_admin(self.admin())
    }

    /// Subscribes the queue of a group to a topic, and allows the topic to send to it. Both are made if they are not there.
    /// Doing it again changes nothing.
    ///
    /// # Errors
    /// [`Conflict`](millstream_core::ErrorKind::Conflict) if the queue is subscribed already, in another way;
    /// [`Denied`](millstream_core::ErrorKind::Denied) without the right to.
    pub async fn subscribe(&self, topic: &str, group: &str, how: Subscription) -> Result<()> {
        let topics = Arc::clone(&self.topics);
        let (topic, group) = (ByteString::from(topic), ByteString::from(group));
        let io = self.topics.queues.aws.io();
        io.run(async move {
            let queue = topics.group_queue(&topic, &group).await?;
            topics.subscribe(&topic, &queue, &how).await.map_err(|e| e.topic(&*topic).group(&*group))
        })
        .await?
    }
}
