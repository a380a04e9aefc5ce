//! Queues of SQS: a connection in code, and how it is told what it shall do.
//!
//! From the bottom up:
//!
//! | module | holds |
//! |---|---|
//! | `settings`, `names`, `client` | what queues are told, how topics and keys are called there, and who asks |
//! | `wire` | a message as body and attributes |
//! | `queues` | the queues of topics, found, made and remembered |
//! | `batches`, `writer` | what is on its way to AWS |
//! | `shelf`, `pump` | what a subscription holds, and its long polls |
//! | `receipts`, `settler`, `leases` | what becomes of messages that are ours |
//! | `doctor` | what of a queue's settings endangers messages |
//! | `reader`, `source`, `admin` | thin shells around them |

pub(crate) mod admin;
pub(crate) mod batches;
pub(crate) mod client;
pub(crate) mod doctor;
pub(crate) mod leases;
pub(crate) mod names;
mod pump;
pub(crate) mod queues;
pub(crate) mod reader;
mod receipts;
pub(crate) mod settings;
pub(crate) mod settler;
mod shelf;
pub(crate) mod source;
pub(crate) mod wire;
pub(crate) mod writer;

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Connection, Result};

use crate::aws::Aws;
use crate::create::Create;
use crate::sqs::admin::SqsAdmin;
use crate::sqs::names::Queues;
use crate::sqs::queues::Known;
use crate::sqs::reader::SqsReader;
use crate::sqs::settings::Settings;
use crate::sqs::writer::SqsWriter;

/// The queues of an account and region. Cloning shares it.
///
/// ```no_run
/// # async fn example() -> millstream_core::Result<()> {
/// use millstream_aws::{Aws, Queues};
/// use millstream_core::{Message, Writer as _};
///
/// let sqs = Aws::builder().connect().await?.sqs().queues(Queues::Fifo).open()?;
/// sqs.writer().write(vec![Message::new("orders", "{}").with_key("customer-7")]).await?.into_result()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sqs {
    known: Arc<Known>,
    writer: SqsWriter,
}

impl Sqs {
    /// Reads.
    #[must_use]
    pub fn reader(&self) -> SqsReader {
        SqsReader::new(Arc::clone(&self.known))
    }

    /// Writes. All writers of a connection are closed together.
    #[must_use]
    pub fn writer(&self) -> SqsWriter {
        self.writer.clone()
    }

    /// Administers.
    #[must_use]
    pub fn admin(&self) -> SqsAdmin {
        SqsAdmin::new(Arc::clone(&self.known))
    }

    /// All three, as a driver gives them for a URL.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(self.reader(), self.writer()).with_admin(self.admin())
    }
}

/// Describes how queues are used. The defaults are those of [`driver`](crate::driver()).
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it opens"]
pub struct SqsBuilder {
    aws: Aws,
    settings: Settings,
}

impl Aws {
    /// Starts to describe how queues are used.
    pub fn sqs(&self) -> SqsBuilder {
        SqsBuilder { aws: self.clone(), settings: Settings::default() }
    }
}

impl SqsBuilder {
    /// What happens to a queue that is not there.
    pub fn create(mut self, create: Create) -> Self {
        self.settings.create = create;
        self
    }

    /// Which queues topics get whose names do not say. Default: standard ones.
    pub fn queues(mut self, queues: Queues) -> Self {
        self.settings.queues = queues;
        self
    }

    /// How long a message is ours before it is delivered again, in whole seconds from 2 on. It is extended as long as its
    /// handler runs, up to the 12 hours that SQS allows. Default 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long a poll waits for messages, in whole seconds up to 20: closing waits as long. Default 10 s.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// How long a queue that is made keeps messages, read or not. Default 14 days, the longest there is.
    pub fn retention_age(mut self, age: Duration) -> Self {
        self.settings.retention_age = age;
        self
    }

    /// Bytes of a message at most, as SQS counts them: body, and names, types and values of attributes. What a queue takes
    /// counts if it is less. Default 256 KiB; AWS takes 1 MiB from queues that say so.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.settings.max_message = bytes;
        self
    }

    /// How long a write is tried while AWS refuses it for the moment. Default 30 s.
    pub fn write_within(mut self, within: Duration) -> Self {
        self.settings.write_within = within;
        self
    }

    /// Opens. Asks nobody: queues are looked for when they are needed.
    ///
    /// # Errors
    /// [`InvalidConfig`](millstream_core::ErrorKind::InvalidConfig) for what SQS cannot do.
    pub fn open(self) -> Result<Sqs> {
        let known = self.known()?;
        let writer = SqsWriter::new(Arc::clone(&known));
        Ok(Sqs { known, writer })
    }

    /// What reader, writer and admin share.
    pub(crate) fn known(self) -> Result<Arc<Known>> {
        self.settings.check()?;
        Ok(Arc::new(Known::new(self.aws, self.settings)))
    }
}
