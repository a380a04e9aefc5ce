//! Dead letters of our own choice, as a broker would hold them.

use std::sync::{Arc, Mutex, PoisonError};

use millstream::core::admin::{GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream::core::{Admin, Connection};
use millstream::{Bus, DeadLetters, Message, Result, Start};
use millstream_memory::MemoryBroker;

/// A store of dead letters; what is redriven goes to the broker.
#[derive(Debug, Clone)]
pub(super) struct Store {
    letters: Arc<Mutex<Vec<StoredDeadLetter>>>,
    pub(super) broker: MemoryBroker,
}

impl Store {
    /// With these letters, numbered from 1.
    pub(super) fn new(letters: impl IntoIterator<Item = Message>) -> Self {
        let letters = (1..).zip(letters).map(|(id, message)| StoredDeadLetter::new(id, message)).collect();
        Self { letters: Arc::new(Mutex::new(letters)), broker: MemoryBroker::new() }
    }

    /// What a program sees of it.
    pub(super) fn open(&self, topic: &str) -> DeadLetters {
        let connection = Connection::new(self.broker.reader(), self.broker.writer()).with_admin(self.clone());
        Bus::from_connection(connection).dead_letters(topic)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<StoredDeadLetter>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admin for Store {
    async fn ensure_topic(&self, _: &str, _: TopicSettings) -> Result<bool> {
        Ok(false)
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        Ok(Vec::new())
    }

    async fn groups(&self, _: &str) -> Result<Vec<GroupInfo>> {
        Ok(Vec::new())
    }

    async fn seek(&self, _: &str, _: &str, _: Start) -> Result<()> {
        Ok(())
    }

    async fn purge(&self, _: &str) -> Result<u64> {
        Ok(0)
    }

    async fn dead_letters(&self, _: &str, after: Option<u64>, limit: usize) -> Result<Vec<StoredDeadLetter>> {
        let letters = self.lock();
        Ok(letters.iter().filter(|letter| Some(letter.id) > after).take(limit).cloned().collect())
    }

    async fn remove_dead_letter(&self, _: &str, id: u64) -> Result<bool> {
        let mut letters = self.lock();
        let before = letters.len();
        letters.retain(|letter| letter.id != id);
        Ok(letters.len() < before)
    }
}
