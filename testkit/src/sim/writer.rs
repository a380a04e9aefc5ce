//! The writing side.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytestring::ByteString;
use millstream_core::{
    Error, ErrorKind, Limits, Message, Result, WriteOutcome, WriteReport, Writer, WriterCapabilities,
};

use super::faults::Operation;
use super::state::{Shared, Suffered, injected};

/// Writes to a [`SimBroker`](super::SimBroker).
#[derive(Debug)]
pub struct SimWriter {
    shared: Arc<Shared>,
    closed: AtomicBool,
}

impl SimWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, closed: AtomicBool::new(false) }
    }

    fn write_one(&self, message: Message, suffered: Suffered) -> WriteOutcome {
        let topic: ByteString = message.topic.clone();
        match suffered {
            Suffered::Failed(kind) | Suffered::Refused(kind) => {
                return WriteOutcome::Failed(message.locate(injected(kind, &topic)));
            }
            Suffered::Unknown | Suffered::Lost => {
                return WriteOutcome::Unknown(message.locate(injected(ErrorKind::Unknown, &topic)));
            }
            Suffered::Nothing | Suffered::AnswerLost => {}
        }
        if let Err(error) = self.fits(&message) {
            return WriteOutcome::Failed(error);
        }
        let written = self.shared.change(|state, config, now| state.append(message, config, now));
        match written {
            Err(error) => WriteOutcome::Failed(error),
            Ok(_) if suffered == Suffered::AnswerLost => {
                WriteOutcome::Unknown(injected(ErrorKind::Unknown, &topic))
            }
            Ok(position) => WriteOutcome::Written(position),
        }
    }

    fn fits(&self, message: &Message) -> Result<()> {
        Limits::default().check_topic(&message.topic)?;
        let can = self.capabilities();
        if let Some(limit) = can.max_message.filter(|limit| message.size() > *limit) {
            let what = format!("the message has {} bytes, the limit is {limit}", message.size());
            return Err(message.locate(Error::new(ErrorKind::TooLarge, what).fix("send less")));
        }
        if message.deliver_at.is_some() && can.delay.is_none() {
            let error = Error::new(ErrorKind::Unsupported, "this broker cannot delay a message");
            return Err(message.locate(error.fix("publish it when it is due")));
        }
        Ok(())
    }
}

impl Writer for SimWriter {
    fn capabilities(&self) -> WriterCapabilities {
        self.shared.config.shape.writer_capabilities(&self.shared.config)
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        let fits = |message| match self.fits(message) {
            Ok(()) => WriteOutcome::Written(None),
            Err(error) => WriteOutcome::Failed(error),
        };
        Ok(WriteReport::each(batch.iter().map(fits).collect()))
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::BusIsShutdown, "the writer is closed")
                .fix("publish before shutting down"));
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        for message in batch {
            let suffered = self.shared.suffer(Operation::Write, &message.topic).await;
            if let (Suffered::Refused(kind), true) = (suffered, outcomes.is_empty()) {
                return Err(injected(kind, &message.topic));
            }
            outcomes.push(self.write_one(message, suffered));
        }
        Ok(WriteReport::each(outcomes))
    }

    async fn close(&self) -> Result<()> {
        // Nothing is buffered, so nothing is waited for.
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}
