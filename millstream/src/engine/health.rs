//! Whether a scheduler is alive and ready, and why not.

/// The health of a scheduler: for a probe's answer and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionHealth>,
}

/// The health of one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionHealth {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: Option<String>,
    /// The handler's name.
    pub handler: String,
    /// Its tasks run. If not, restart the process.
    pub live: bool,
    /// It takes messages and can settle them. If not, `why` says what is wrong.
    pub ready: bool,
    /// What is not as it should be, worst first; empty if all is well. Amber (an outage, a pause) and red (a
    /// dead-letter target that is down) both appear here.
    pub why: Vec<String>,
}

impl Health {
    /// Whether all subscriptions are alive.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.subscriptions.iter().all(|s| s.live)
    }

    /// Whether all subscriptions are ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.subscriptions.iter().all(|s| s.ready)
    }
}
