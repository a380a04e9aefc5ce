//! The one loop of retries: what AWS refuses for the moment is asked again until a time limit.
//!
//! The SDK's own retries are off. Around a loop they multiply its attempts, they know nothing of the entries of a batch that
//! failed, and their budget is the whole process's, so that one client in an outage takes the retries of another.

use std::error::Error as StdError;
use std::time::Duration;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use tokio::time::Instant;

use crate::connections::Connections;
use crate::errors::{self, Failure, Fate};

/// The first wait, in its mean.
const FIRST: Duration = Duration::from_millis(50);

/// The longest wait, in its mean.
const LONGEST: Duration = Duration::from_secs(3);

/// How often, and until when, something is tried.
#[derive(Debug, Clone)]
pub(crate) struct Tries {
    until: Instant,
    wait: Duration,
    /// An attempt may have happened without an answer.
    pub(crate) unknown: bool,
}

impl Tries {
    pub(crate) fn within(limit: Duration) -> Self {
        Self::until(Instant::now() + limit)
    }

    pub(crate) fn until(until: Instant) -> Self {
        Self { until, wait: FIRST, unknown: false }
    }

    /// Waits before the next attempt; says whether there is time for one.
    pub(crate) async fn again(&mut self, fate: Fate) -> bool {
        self.unknown |= fate == Fate::Unknown;
        // Anything from nothing to twice the mean: those who failed together do not come back together.
        let wait = self.wait.mul_f32(fastrand::f32() * 2.0);
        self.wait = (self.wait * 2).min(LONGEST);
        if Instant::now() + wait >= self.until {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}

/// What may be asked a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// What was surely not done.
    Undone,
    /// Also what may have been done: doing it twice is the same as once.
    Anything,
}

/// Asks until there is an answer, or it is refused, or the time is up.
pub(crate) async fn ask<T, E, F>(
    connections: &Connections,
    tries: &mut Tries,
    repeat: Repeat,
    what: &str,
    call: impl Fn() -> F,
) -> Result<T, Failure>
where
    E: ProvideErrorMetadata + StdError + 'static,
    F: Future<Output = Result<T, SdkError<E, Response>>>,
{
    loop {
        let pool = connections.number();
        // The SDK's futures have many kilobytes, and all that hold this one would have them, too, and be moved with them.
        let failure = match Box::pin(call()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => errors::of(&error, what),
        };
        if failure.silent {
            connections.leave(pool);
        }
        let may = failure.fate.passes() && (failure.fate != Fate::Unknown || repeat == Repeat::Anything);
        if !may || !tries.again(failure.fate).await {
            return Err(failure);
        }
        tracing::debug!(error = %failure.error, "aws: tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_waits_longer_each_time_and_ends_at_its_limit() {
        let started = Instant::now();
        let mut tries = Tries::within(Duration::from_secs(20));
        let mut attempts = 1;
        while tries.again(Fate::Throttled).await {
            attempts += 1;
        }
        assert!(started.elapsed() <= Duration::from_secs(20));
        assert!((6..40).contains(&attempts), "{attempts} attempts");
        assert!(!tries.unknown);
        tries.again(Fate::Unknown).await;
        assert!(tries.unknown);
    }
}
