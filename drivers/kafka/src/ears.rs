//! What a client of librdkafka tells by itself: its log, and why it has no connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// A broker that is away says so up to twenty times a second: a line in this time is enough.
const QUIET: Duration = Duration::from_secs(10);

/// Listens to one client or to several.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ears {
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    last: Option<String>,
    told: Option<Instant>,
}

impl Ears {
    /// The last reason that was given for having no connection. The errors of calls only say that they took too long.
    pub(crate) fn reason(&self) -> Option<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    pub(crate) fn hear(&self, error: &KafkaError, reason: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" follows each reason, and tells less.
        if heard.last.is_none() || !reason.contains("brokers are down") {
            heard.last = Some(reason.to_owned());
        }
        if heard.told.is_none_or(|at| at.elapsed() >= QUIET) {
            heard.told = Some(Instant::now());
            tracing::warn!(%error, reason, "kafka: no connection, or an error of it");
        } else {
            tracing::debug!(%error, reason, "kafka");
        }
    }
}

pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{line}");
        }
        // What is an error to it is told by the callback as well, at a bounded rate.
        _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

impl ClientContext for Ears {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear(&error, reason);
    }
}

impl ConsumerContext for Ears {}
