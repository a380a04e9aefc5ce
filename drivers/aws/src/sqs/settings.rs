//! What a connection to queues is told.

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};

use crate::create::Create;
use crate::sqs::names::Queues;

/// Everything a connection to queues is told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) create: Create,
    pub(crate) queues: Queues,
    pub(crate) lease: Duration,
    pub(crate) wait: Duration,
    pub(crate) retention_age: Duration,
    pub(crate) max_message: usize,
    pub(crate) write_within: Duration,
}

/// The longest that SQS keeps a message, and the default here: retention deletes what nobody has read.
pub(crate) const LONGEST_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);

/// The longest that a message may be in flight, from its receipt on, however often its lease is extended.
pub(crate) const LONGEST_IN_FLIGHT: Duration = Duration::from_secs(12 * 3600);

/// The longest wait of a [`Retry`](millstream_core::Verdict::Retry): what is left of the longest time in flight has to do.
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(11 * 3600);

/// The longest that SQS delays a message.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(900);

/// Bytes of a message where the queue does not say.
pub(crate) const USUAL_LIMIT: usize = 256 << 10;

/// How long a settlement is tried.
pub(crate) const SETTLE_WITHIN: Duration = Duration::from_secs(10);

/// Entries of a batch.
pub(crate) const BATCH: usize = 10;

impl Default for Settings {
    fn default() -> Self {
        Self {
            create: Create::default(),
            queues: Queues::default(),
            lease: Duration::from_secs(30),
            wait: Duration::from_secs(10),
            retention_age: LONGEST_RETENTION,
            max_message: USUAL_LIMIT,
            write_within: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Refuses what SQS cannot do.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |name: &str, value: Duration, least: u64, most: u64| {
            let whole = value.subsec_nanos() == 0;
            if whole && (least..=most).contains(&value.as_secs()) {
                return Ok(());
            }
            Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{name} is {value:?}, and SQS takes whole seconds from {least} to {most}"),
            )
            .fix(format!("give {name} such a time, as in {name}={least}s")))
        };
        within("lease", self.lease, 2, LONGEST_IN_FLIGHT.as_secs())?;
        within("wait", self.wait, 1, 20)?;
        within("retention_age", self.retention_age, 60, LONGEST_RETENTION.as_secs())?;
        if self.max_message < 1 << 10 || self.max_message > 1 << 20 {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("max_message is {}, and SQS takes 1024 to 1048576 bytes", self.max_message),
            )
            .fix("say max_message=262144, or 1048576 for queues that take as much"));
        }
        Ok(())
    }
}

/// Whole seconds, rounded up: not before this time has passed.
pub(crate) fn seconds(time: Duration) -> i32 {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i32::try_from(whole).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqs_cannot_do_is_refused_with_what_it_can() {
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check()
        };
        assert!(with(|_| {}).is_ok());
        for (bad, part) in [
            (with(|s| s.lease = Duration::from_millis(2500)), "lease is 2.5s"),
            (with(|s| s.wait = Duration::from_secs(21)), "from 1 to 20"),
            (with(|s| s.max_message = 2 << 20), "1048576"),
        ] {
            assert!(bad.unwrap_err().to_string().contains(part));
        }
    }

    #[test]
    fn a_wait_is_never_shorter_than_asked_for() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
        assert_eq!(seconds(Duration::ZERO), 0);
    }
}
