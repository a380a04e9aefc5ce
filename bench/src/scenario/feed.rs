//! A reader that has its messages ready: what is read costs nothing, so what is left is the toolkit.

use std::future::pending;
use std::sync::{Mutex, PoisonError};

use millstream::core::{
    Capabilities, Delivery, Epoch, NoLeases, OpenRequest, Opened, Order, Read, ReadLimits, Settled,
    Settlement, Settler, Source, Token,
};
use millstream::{Error, ErrorKind, Message, PartitionId, Reader, Result};

/// Gives its messages to the one subscription that opens it.
#[derive(Debug)]
pub(super) struct ReadyReader {
    messages: Mutex<Vec<Message>>,
}

impl ReadyReader {
    pub(super) fn new(messages: Vec<Message>) -> Self {
        Self { messages: Mutex::new(messages) }
    }
}

impl Reader for ReadyReader {
    type Source = ReadySource;
    type Settler = ReadySettler;
    type Leases = NoLeases;

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::minimal();
        can.order = Order::Total;
        can.groups = true;
        can
    }

    async fn open(&self, _: OpenRequest) -> Result<Opened<ReadySource, ReadySettler, NoLeases>> {
        let messages = std::mem::take(&mut *self.messages.lock().unwrap_or_else(PoisonError::into_inner));
        let largest = messages.iter().map(Message::size).max().unwrap_or_default().max(1);
        let deliveries: Vec<_> = messages
            .into_iter()
            .zip(0..)
            .map(|(message, id)| Delivery::new(message, Token::new(PartitionId(0), Epoch(0), id)))
            .collect();
        Ok(Opened::new(ReadySource { deliveries: deliveries.into_iter(), largest }, ReadySettler))
    }
}

/// Hands over as much as is asked for.
#[derive(Debug)]
pub(super) struct ReadySource {
    deliveries: std::vec::IntoIter<Delivery>,
    largest: usize,
}

impl Source for ReadySource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        let room = limits.messages.min(limits.bytes / self.largest);
        if room == 0 || self.deliveries.len() == 0 {
            return pending().await;
        }
        into.extend(self.deliveries.by_ref().take(room));
        Ok(Read::Deliveries)
    }

    fn pause(&mut self, _: &[PartitionId]) {}

    fn resume(&mut self, _: &[PartitionId]) {}

    fn assign(&mut self, _: Vec<PartitionId>) {}

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

/// Takes every settlement for done.
#[derive(Debug)]
pub(super) struct ReadySettler;

impl Settler for ReadySettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        batch.into_iter().map(|_| Settled::Done).collect()
    }

    async fn mark(&mut self, _: PartitionId, _: Epoch, _: String) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "there are no marks here"))
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}
