//! What runs: a started scheduler, and for a bus the publisher that is closed behind it.

use crate::Publisher;
use crate::engine::{self, Control, Report};

/// A running scheduler or bus. Dropping it stops everything at once, as a crash would: nothing is lost, but what
/// ran is delivered again. Call [`shutdown`](Self::shutdown) to end in order.
#[derive(Debug)]
#[must_use = "dropping it stops everything at once"]
pub struct Running {
    inner: engine::Running,
    /// Closed at the end: a bus owns its writer, a scheduler only borrows it.
    publisher: Option<Publisher>,
}

impl Running {
    pub(crate) fn new(inner: engine::Running) -> Self {
        Self { inner, publisher: None }
    }

    pub(crate) fn closing(mut self, publisher: Publisher) -> Self {
        self.publisher = Some(publisher);
        self
    }

    /// Ends in order: stops reading, lets running handlers end (up to [`drain`](crate::Settings::drain)), gives
    /// back what was not started, settles, closes. A bus then closes its writer: what is published from then on
    /// is refused with [`BusIsShutdown`](crate::ErrorKind::BusIsShutdown).
    ///
    /// Runs to its end even if this future is dropped, once it was polled. One that never was ends all as a crash
    /// would: nothing is lost, and what was in work comes again.
    pub async fn shutdown(self) -> Report {
        let Self { inner, publisher } = self;
        let Some(publisher) = publisher else { return inner.shutdown().await };
        let control = inner.control();
        // A task of its own: dropping the caller's future must not leave the writer open.
        let ending = tokio::spawn(async move {
            let report = inner.shutdown().await;
            (report, publisher.close().await)
        });
        match ending.await {
            Ok((report, Ok(()))) => report,
            Ok((report, Err(error))) => {
                tracing::error!(%error, "closing the writer failed");
                with_error(report, &format!("closing the writer: {error}"))
            }
            Err(error) => {
                let report = Report { subscriptions: control.counts(), ..Report::default() };
                with_error(report, &format!("the shutdown did not come to its end: {error}"))
            }
        }
    }

    /// Resolves when every subscription has come to the end it was given and everything before it is settled;
    /// never for subscriptions without one. Cancel safe.
    pub async fn ended(&self) {
        self.inner.ended().await;
    }

    /// Control from elsewhere.
    #[must_use]
    pub fn control(&self) -> Control {
        self.inner.control()
    }
}

/// Tells it where a report is read: with its subscriptions.
fn with_error(mut report: Report, error: &str) -> Report {
    for subscription in &mut report.subscriptions {
        subscription.errors.push(error.to_owned());
    }
    report
}
