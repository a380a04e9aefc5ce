//! How a handler ends: `Ok`, or a [`Failure`] that says what should happen next.

use std::error::Error as StdError;
use std::fmt;

use millstream_core::{BoxError, Error, ErrorKind};

/// What a handler returns. `Ok` acknowledges; an `Err` is retried, and dead-lettered when retries end.
pub type Outcome = Result<(), Failure>;

/// A handler's failure.
///
/// Any error becomes one by `?`, and is retried. What should not be retried, or does not count as an attempt,
/// says so:
///
/// ```
/// use millstream::{Failure, Outcome};
///
/// async fn charge(cents: i64) -> Outcome {
///     if cents < 0 {
///         return Err(Failure::unrecoverable("a negative amount"));    // dead-lettered at once
///     }
///     let rate: f64 = "1.08".parse()?;                                // an error is retried
///     if rate > 2.0 {
///         return Err(Failure::unavailable("the rates are stale"));    // waits, uses no attempt
///     }
///     Ok(())
/// }
/// ```
///
/// It is not a [`std::error::Error`] itself, as `anyhow::Error` is not: only so can every error convert.
pub struct Failure {
    inner: Box<Inner>,
}

struct Inner {
    kind: FailureKind,
    error: BoxError,
    type_name: &'static str,
}

/// What a failure asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// Run it again after a backoff; an attempt is used.
    Retry,
    /// Something it needs is down: run it again later, no attempt is used.
    Unavailable,
    /// No retry can help: dead-letter it now.
    Unrecoverable,
    /// The payload is not what it should be: dead-letter it now, class `decode`.
    Decode,
    /// The user does not want it: acknowledge it, counted as discarded.
    Discard,
    /// The handler panicked; an attempt is used.
    Panic,
    /// The handler ran out of time; an attempt is used.
    Timeout,
}

impl FailureKind {
    /// A short stable name, for metrics and dead letters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "error",
            Self::Unavailable => "unavailable",
            Self::Unrecoverable => "unrecoverable",
            Self::Decode => "decode",
            Self::Discard => "discard",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
        }
    }
}

impl Failure {
    fn of<E: Into<BoxError>>(kind: FailureKind, error: E) -> Self {
        let type_name = std::any::type_name::<E>();
        Self { inner: Box::new(Inner { kind, error: error.into(), type_name }) }
    }

    /// An error to be retried: what `?` makes, for what is not a `std::error::Error`.
    pub fn retry<E: Into<BoxError>>(error: E) -> Self {
        Self::of(FailureKind::Retry, error)
    }

    /// No retry can help: the message is dead-lettered now. [`source`](Self::source) is the error.
    pub fn unrecoverable<E: Into<BoxError>>(error: E) -> Self {
        Self::of(FailureKind::Unrecoverable, error)
    }

    /// Something the handler needs is down. The message waits with its key and uses no attempt; after some of
    /// these across keys the whole subscription pauses until a probe succeeds.
    pub fn unavailable<E: Into<BoxError>>(error: E) -> Self {
        Self::of(FailureKind::Unavailable, error)
    }

    /// The payload is not what it should be: the message is dead-lettered now, class `decode`.
    pub fn decode<E: Into<BoxError>>(error: E) -> Self {
        Self::of(FailureKind::Decode, error)
    }

    /// Drops the message on purpose: it is acknowledged and counted as discarded, not as handled.
    pub fn discard<E: Into<BoxError>>(reason: E) -> Self {
        Self::of(FailureKind::Discard, reason)
    }

    pub(crate) fn panic(text: &str) -> Self {
        Self::of(FailureKind::Panic, Error::new(ErrorKind::Handler, format!("the handler panicked: {text}")))
    }

    pub(crate) fn timeout(after: std::time::Duration) -> Self {
        Self::of(
            FailureKind::Timeout,
            Error::new(ErrorKind::Timeout, format!("the handler did not end within {after:?}"))
                .fix("make it quicker, or raise `.timeout(…)`"),
        )
    }

    /// What it asks for.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.inner.kind
    }

    /// The error it was made from.
    #[must_use]
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.inner.error
    }

    /// The type's name of that error.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        self.inner.type_name
    }

    /// The error and its causes, outermost first, a line each, cut at `limit` bytes.
    #[must_use]
    pub fn chain(&self, limit: usize) -> String {
        let mut text = String::new();
        let mut next: Option<&(dyn StdError + 'static)> = Some(&*self.inner.error);
        while let Some(error) = next {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&error.to_string());
            if text.len() > limit {
                break;
            }
            next = error.source();
        }
        if text.len() > limit {
            let end = crate::text::cut(&text, limit.saturating_sub('…'.len_utf8())).len();
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        // Millstream's own errors know what they mean.
        let kind = match (&error as &dyn std::any::Any).downcast_ref::<Error>().map(Error::kind) {
            Some(ErrorKind::Unavailable) => FailureKind::Unavailable,
            Some(ErrorKind::Unrecoverable) => FailureKind::Unrecoverable,
            Some(ErrorKind::Decode) => FailureKind::Decode,
            _ => FailureKind::Retry,
        };
        Self::of(kind, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.error.fmt(f)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({}: {:?})", self.kind().name(), self.inner.error)
    }
}
