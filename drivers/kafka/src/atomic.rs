//! A writer whose batches are whole or not there at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::{
    Durability, Error, ErrorKind, Message, Result, WriteOutcome, WriteReport, Writer, WriterCapabilities,
};
use tokio::task::spawn_blocking;

use crate::cluster::Cluster;
use crate::transactor::{Emitted, Ended, Transactor};
use crate::writer::again;
use crate::{KafkaWriter, errors};

/// Messages of a transaction at most.
const MAX_BATCH: usize = 10_000;

/// Writes each batch in a transaction, over any topics. Cloning shares it; batches follow one another.
///
/// Readers see a batch whole or not at all, if they read what is committed: Millstream's do, and so does every client
/// with `isolation.level=read_committed`. One message that cannot be written keeps its whole batch out.
///
/// ```no_run
/// # async fn example() -> millstream_core::Result<()> {
/// use millstream_core::{Message, Writer};
/// use millstream_kafka::Kafka;
///
/// let kafka = Kafka::builder("localhost:9092").connect().await?;
/// let writer = kafka.atomic_writer("shop-1");
/// let both = vec![Message::new("orders", "{}"), Message::new("invoices", "{}")];
/// writer.write(both).await?.into_result()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct KafkaAtomicWriter {
    checker: KafkaWriter,
    transactor: Arc<Mutex<Transactor>>,
    max_message: usize,
    closed: Arc<AtomicBool>,
}

impl KafkaAtomicWriter {
    pub(crate) fn new(cluster: Arc<Cluster>, checker: KafkaWriter, id: String) -> Self {
        let max_message = cluster.settings.max_message;
        let transactor = Arc::new(Mutex::new(Transactor::new(cluster, id)));
        Self { checker, transactor, max_message, closed: Arc::default() }
    }
}

impl Writer for KafkaAtomicWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = Durability::Server;
        can.max_message = Some(self.max_message);
        can.max_batch = MAX_BATCH;
        can.atomic_batch = true;
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        if self.closed.load(Ordering::Acquire) {
            return Err(
                Error::new(ErrorKind::BusIsShutdown, "the writer is closed").fix("open the connection anew")
            );
        }
        let checked = self.checker.check_each(&batch).await;
        if checked.iter().any(Result::is_err) {
            return Ok(refused(&batch, checked));
        }
        let partitions: Vec<u32> = checked.into_iter().filter_map(Result::ok).collect();
        let transactor = Arc::clone(&self.transactor);
        let run = spawn_blocking(move || {
            let emitted: Vec<Emitted<'_>> = batch.iter().zip(partitions).collect();
            let ended = transactor.lock().unwrap_or_else(PoisonError::into_inner).run(&emitted, None);
            (batch, ended)
        });
        let (batch, ended) = run.await.map_err(|e| errors::broken(&e))?;
        let each = |outcome: fn(Error) -> WriteOutcome, error: &Error| {
            Ok(WriteReport::each(batch.iter().map(|m| outcome(m.locate(again(error)))).collect()))
        };
        match ended {
            Ended::Committed => Ok(WriteReport::all_written(batch.len())),
            Ended::Aborted(error) => each(WriteOutcome::Failed, &error),
            Ended::Unknown(error) => each(WriteOutcome::Unknown, &error),
        }
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        self.checker.check(batch).await
    }

    async fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        // Whoever writes holds it until its transaction has ended.
        let transactor = Arc::clone(&self.transactor);
        spawn_blocking(move || transactor.lock().unwrap_or_else(PoisonError::into_inner).close())
            .await
            .map_err(|e| errors::broken(&e))
    }
}

/// A batch with messages that cannot be written: they say why, and the others that they were kept out.
fn refused(batch: &[Message], checked: Vec<Result<u32>>) -> WriteReport {
    let outcome = |(message, fits): (&Message, Result<u32>)| match fits {
        Err(error) => WriteOutcome::Failed(error),
        Ok(_) => WriteOutcome::Failed(
            message.locate(
                Error::new(
                    ErrorKind::Conflict,
                    "another message of its batch cannot be written, so none was",
                )
                .fix("see the error of the other message; write the rest without it"),
            ),
        ),
    };
    WriteReport::each(batch.iter().zip(checked).map(outcome).collect())
}
