//! An outage is not a poison message: telling the two apart by a run of failures across keys.

use std::time::Duration;

use tokio::time::Instant;

use super::lanes::LaneId;
use crate::policy::Outage;

/// Watches successes and failures of one subscription.
#[derive(Debug)]
pub(crate) struct OutageWatch {
    policy: Outage,
    run: u32,
    /// The first few different keys of the run: as many as it takes to decide.
    keys: Vec<LaneId>,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    next_probe: Instant,
    wait: Duration,
    probing: bool,
}

impl OutageWatch {
    pub(crate) fn new(policy: Outage) -> Self {
        Self { policy, run: 0, keys: Vec::new(), down: None }
    }

    /// A handler succeeded. Says whether that ended an outage.
    pub(crate) fn success(&mut self) -> bool {
        self.run = 0;
        self.keys.clear();
        self.down.take().is_some()
    }

    /// A handler failed in a way that an outage could explain. Says whether there is one: then the failure
    /// uses no attempt.
    pub(crate) fn failure(&mut self, key: LaneId, now: Instant) -> bool {
        if self.policy.failures == 0 {
            return false;
        }
        if let Some(down) = &mut self.down {
            // Handlers that were running when it began come back one by one; only the probe counts.
            if down.probing {
                down.probing = false;
                down.wait = (down.wait * 2).min(self.policy.probe_longest);
                down.next_probe = now + down.wait;
            }
            return true;
        }
        self.run = self.run.saturating_add(1);
        if self.keys.len() < self.policy.keys as usize && !self.keys.contains(&key) {
            self.keys.push(key);
        }
        if self.run < self.policy.failures || self.keys.len() < self.policy.keys as usize {
            return false;
        }
        let wait = self.policy.probe_first;
        self.down = Some(Down { since: now, next_probe: now + wait, wait, probing: false });
        true
    }

    /// A probe ended without telling anything (given back, purged, a poison message): probe again.
    pub(crate) fn inconclusive(&mut self) {
        if let Some(down) = &mut self.down {
            down.probing = false;
        }
    }

    /// How many messages may start now.
    pub(crate) fn allowed(&self, now: Instant) -> usize {
        match &self.down {
            None => usize::MAX,
            Some(down) => usize::from(!down.probing && now >= down.next_probe),
        }
    }

    /// A message starts while there is an outage: it is the probe.
    pub(crate) fn started(&mut self) {
        if let Some(down) = &mut self.down {
            down.probing = true;
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// How long the outage lasts.
    pub(crate) fn down_for(&self, now: Instant) -> Option<Duration> {
        self.down.as_ref().map(|d| now.saturating_duration_since(d.since))
    }

    /// When the next probe may start.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        self.down.as_ref().filter(|d| !d.probing).map(|d| d.next_probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_of_few_keys_are_no_outage() {
        let mut watch = OutageWatch::new(Outage::after(20, 5));
        for i in 0..100 {
            assert!(!watch.failure(i % 4, Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_across_keys_are_one_and_a_success_ends_it() {
        let mut watch = OutageWatch::new(Outage::after(20, 5));
        let told: Vec<_> = (0..20).map(|i| watch.failure(i, Instant::now())).collect();
        assert_eq!(told.iter().filter(|t| **t).count(), 1);
        assert_eq!(watch.allowed(Instant::now()), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(watch.allowed(Instant::now()), 1);
        watch.started();
        assert_eq!(watch.allowed(Instant::now()), 0, "one probe at a time");
        assert!(watch.success());
        assert_eq!(watch.allowed(Instant::now()), usize::MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_doubles_the_wait() {
        let mut watch = OutageWatch::new(Outage::after(1, 1));
        assert!(watch.failure(1, Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        watch.started();
        assert!(watch.failure(1, Instant::now()));
        tokio::time::advance(Duration::from_millis(1_999)).await;
        assert_eq!(watch.allowed(Instant::now()), 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(watch.allowed(Instant::now()), 1);
    }
}
