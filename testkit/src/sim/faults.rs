//! Faults on demand: which calls are hurt, and how. Counting, no randomness: a test says exactly when.

use std::time::Duration;

use bytestring::ByteString;
use millstream_core::ErrorKind;

/// What can be hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Opening a subscription.
    Open,
    /// A read, counted by call.
    Read,
    /// A write, counted by message.
    Write,
    /// A settlement, counted by message.
    Settle,
    /// A mark.
    Mark,
    /// An extension of leases, counted by call.
    Extend,
}

/// How it is hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Injury {
    /// It fails with an error of this kind, and nothing of it happens. Of a batch, just this message.
    Fail(ErrorKind),
    /// The whole call fails with an error of this kind: for writes. Elsewhere as [`Fail`](Self::Fail).
    Refuse(ErrorKind),
    /// It does not happen, and the caller is told that nobody knows.
    Unknown,
    /// It happens, and the caller is told that nobody knows: the answer was lost.
    AnswerLost,
    /// A settlement meets a lease that is gone; the message comes again.
    Lost,
    /// No answer until the fault is healed; writes and settlements give up after
    /// [`answer_within`](super::Builder::answer_within) and are `Unknown`.
    Hang,
    /// It takes so much longer.
    Delay(Duration),
}

/// Which calls are hurt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a trigger does nothing until it is injected"]
pub struct Trigger {
    topic: Option<ByteString>,
    skip: u64,
    every: u64,
    times: Option<u64>,
}

impl Trigger {
    /// The next so many.
    pub fn next(times: u64) -> Self {
        Self { times: Some(times), ..Self::always() }
    }

    /// Every n-th, the first being the n-th from now.
    pub fn every(n: u64) -> Self {
        Self { every: n.max(1), ..Self::always() }
    }

    /// Each, until it is healed.
    pub fn always() -> Self {
        Self { topic: None, skip: 0, every: 1, times: None }
    }

    /// Lets so many pass first.
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Only on this topic.
    pub fn on(mut self, topic: impl Into<ByteString>) -> Self {
        self.topic = Some(topic.into());
        self
    }
}

/// Names an injected fault, to heal it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FaultId(usize);

#[derive(Debug)]
struct Rule {
    id: FaultId,
    operation: Operation,
    trigger: Trigger,
    injury: Injury,
    seen: u64,
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    /// How often each fault has struck, by number; kept when it is healed.
    struck: Vec<u64>,
}

impl Faults {
    pub(super) fn inject(&mut self, operation: Operation, trigger: Trigger, injury: Injury) -> FaultId {
        let id = FaultId(self.struck.len());
        self.struck.push(0);
        self.rules.push(Rule { id, operation, trigger, injury, seen: 0 });
        id
    }

    pub(super) fn heal(&mut self, id: FaultId) {
        self.rules.retain(|rule| rule.id != id);
    }

    pub(super) fn heal_all(&mut self) {
        self.rules.clear();
    }

    pub(super) fn struck(&self, id: FaultId) -> u64 {
        self.struck.get(id.0).copied().unwrap_or(0)
    }

    pub(super) fn in_force(&self, id: FaultId) -> bool {
        self.rules.iter().any(|rule| rule.id == id)
    }

    /// Counts one call or message, and says whether it is hurt. Of several rules the first that strikes wins.
    pub(super) fn strike(&mut self, operation: Operation, topic: &str) -> Option<(FaultId, Injury)> {
        let mut hurt = None;
        for rule in self.rules.iter_mut().filter(|r| r.operation == operation) {
            let trigger = &rule.trigger;
            if hurt.is_some() || trigger.topic.as_ref().is_some_and(|t| t != topic) {
                continue;
            }
            rule.seen += 1;
            let turn = rule.seen.checked_sub(trigger.skip).is_some_and(|n| n > 0 && n % trigger.every == 0);
            let struck = &mut self.struck[rule.id.0];
            if turn && trigger.times.is_none_or(|times| *struck < times) {
                *struck += 1;
                hurt = Some((rule.id, rule.injury));
            }
        }
        hurt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(trigger: Trigger) -> String {
        let mut faults = Faults::default();
        faults.inject(Operation::Write, trigger, Injury::Unknown);
        let strike = |_| if faults.strike(Operation::Write, "t").is_some() { 'x' } else { '.' };
        (0..8).map(strike).collect()
    }

    #[test]
    fn a_trigger_strikes_just_when_it_says() {
        assert_eq!(pattern(Trigger::next(2)), "xx......");
        assert_eq!(pattern(Trigger::next(2).after(3)), "...xx...");
        assert_eq!(pattern(Trigger::every(3)), "..x..x..");
        assert_eq!(pattern(Trigger::always().on("t")), "xxxxxxxx");
        assert_eq!(pattern(Trigger::always().on("other")), "........");
    }
}
