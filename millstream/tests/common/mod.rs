//! What several test files need.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::core::{Durability, WriterCapabilities};
use millstream::{
    Bus, Control, Error, ErrorKind, Event, EventRegistry, Message, Publisher, Result, SubscriptionReport,
    WriteOutcome, WriteReport, Writer,
};
use serde::{Deserialize, Serialize};

/// Nothing that is waited for takes so long.
pub const LONG: Duration = Duration::from_secs(60);

/// Waits for what comes about in the time that passes, and says what did not.
pub async fn comes_about(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "it did not come about: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the first subscription counted.
pub fn counts(control: &Control) -> SubscriptionReport {
    control.counts().swap_remove(0)
}

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[event(topic = "user.created", key = "user_id")]
pub struct UserCreated {
    pub user_id: String,
    pub display_name: String,
}

pub fn ada() -> UserCreated {
    UserCreated { user_id: "1".into(), display_name: "Ada".into() }
}

/// Keeps what is written, batch by batch; fails as it is told.
#[derive(Clone)]
pub struct Recorder {
    pub batches: Arc<Mutex<Vec<Vec<Message>>>>,
    /// What becomes of the next batches; all written when it is empty.
    pub plan: Arc<Mutex<VecDeque<Plan>>>,
    pub closed: Arc<Mutex<bool>>,
    pub capabilities: WriterCapabilities,
}

pub enum Plan {
    Whole(Error),
    Each(Vec<WriteOutcome>),
}

impl Recorder {
    pub fn new() -> Self {
        let mut capabilities = WriterCapabilities::minimal();
        capabilities.durability = Durability::Process;
        Self { batches: Arc::default(), plan: Arc::default(), closed: Arc::default(), capabilities }
    }

    pub fn with(mut self, change: impl FnOnce(&mut WriterCapabilities)) -> Self {
        change(&mut self.capabilities);
        self
    }

    pub fn then(self, plan: Plan) -> Self {
        self.plan.lock().unwrap().push_back(plan);
        self
    }

    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.clone(), EventRegistry::new())
    }

    pub fn written(&self) -> Vec<Message> {
        self.batches.lock().unwrap().concat()
    }
}

impl Writer for Recorder {
    fn capabilities(&self) -> WriterCapabilities {
        self.capabilities.clone()
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        if *self.closed.lock().unwrap() {
            return Err(Error::new(ErrorKind::BusIsShutdown, "closed"));
        }
        let len = batch.len();
        let plan = self.plan.lock().unwrap().pop_front();
        if let Some(Plan::Whole(error)) = plan {
            return Err(error);
        }
        self.batches.lock().unwrap().push(batch);
        Ok(match plan {
            Some(Plan::Each(outcomes)) => WriteReport::each(outcomes),
            _ => WriteReport::all_written(len),
        })
    }

    async fn close(&self) -> Result<()> {
        *self.closed.lock().unwrap() = true;
        Ok(())
    }
}

/// A bus on memory, with its admin.
pub async fn memory_bus() -> Bus {
    Bus::connect("memory://").await.unwrap()
}

/// Waits for something that other tasks bring about. With paused time it takes none.
pub async fn until(mut holds: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(3_600), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("it never came about");
}
