//! The one error type: what it means, where it happened, and what to do about it.

use std::fmt;

use bytes::Bytes;

/// Any error, boxed: what a driver or a handler had in its hands.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means, so that a program can act on it.
///
/// [`ErrorKind::is_retryable`] says whether the same call can succeed later without a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bus, publisher or scheduler was shut down. The original's `ErrBusIsShutdown`.
    BusIsShutdown,
    /// No topic, or an empty batch. An empty payload is legal. The original's `ErrEmptyMessage`.
    EmptyMessage,
    /// An event type has no topic: none registered and none of its own. The original's `ErrEventNotFound`.
    EventNotFound,
    /// Start without a subscription. The original's `ErrNoSubscriberRegistered`.
    NoSubscriberRegistered,
    /// A handler or policy said that a retry cannot help. The original's `ErrUnrecoverable`.
    Unrecoverable,
    /// No driver serves this URL's scheme.
    UnknownScheme,
    /// A setting, name or argument is wrong; the message says which and what would be right.
    InvalidConfig,
    /// A message breaks a rule (topic name, header count, NUL bytes); the message says which.
    InvalidMessage,
    /// A message or batch is larger than a limit.
    TooLarge,
    /// Two things contradict each other: an event's topic and the registry, two equal subscriptions.
    Conflict,
    /// The topic, group or dead letter does not exist.
    NotFound,
    /// The driver cannot do this.
    Unsupported,
    /// Encoding failed.
    Encode,
    /// Decoding failed: the bytes are not what the content type says.
    Decode,
    /// A bounded place is full and nobody empties it.
    Full,
    /// The server or file cannot be reached or is overloaded right now.
    Unavailable,
    /// It took longer than allowed.
    Timeout,
    /// A lease, an assignment or a transaction was taken away.
    LeaseLost,
    /// Refused for lack of rights, or wrong credentials.
    Denied,
    /// The disk, the file or the operating system failed.
    Io,
    /// Bytes at rest are not what was written.
    Corrupt,
    /// Whether it happened is not known; ask again by id. Never to be taken for success or failure.
    Unknown,
    /// An id could not be made.
    IdFactory,
    /// A handler failed, panicked or ran out of time.
    Handler,
    /// A defect in Millstream or a driver.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Full
                | Self::Unavailable
                | Self::Timeout
                | Self::LeaseLost
                | Self::Io
                | Self::Unknown
                | Self::IdFactory
                | Self::Handler
        )
    }

    /// A short stable name, used in metrics and in the dead letter's error class.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BusIsShutdown => "bus-is-shutdown",
            Self::EmptyMessage => "empty-message",
            Self::EventNotFound => "event-not-found",
            Self::NoSubscriberRegistered => "no-subscriber-registered",
            Self::Unrecoverable => "unrecoverable",
            Self::UnknownScheme => "unknown-scheme",
            Self::InvalidConfig => "invalid-config",
            Self::InvalidMessage => "invalid-message",
            Self::TooLarge => "too-large",
            Self::Conflict => "conflict",
            Self::NotFound => "not-found",
            Self::Unsupported => "unsupported",
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::LeaseLost => "lease-lost",
            Self::Denied => "denied",
            Self::Io => "io",
            Self::Corrupt => "corrupt",
            Self::Unknown => "unknown",
            Self::IdFactory => "id-factory",
            Self::Handler => "handler",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an error happened and how to mend it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorContext {
    /// What went wrong, in a sentence without a final stop.
    pub message: String,
    /// The topic concerned.
    pub topic: Option<String>,
    /// The routing key concerned.
    pub key: Option<Bytes>,
    /// The consumer group concerned.
    pub group: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
}

/// An error of Millstream: its [`kind`](Error::kind), its [context](ErrorContext), its source.
///
/// `Display` prints message, topic, key, group and fix in one line; the source chain is left to
/// [`std::error::Error::source`]. It never prints payloads or passwords.
///
/// ```
/// use millstream_core::{Error, ErrorKind};
/// let e = Error::new(ErrorKind::Full, "the topic is full").topic("orders").fix("add a subscriber");
/// assert_eq!(e.to_string(), "the topic is full (topic \"orders\"): add a subscriber");
/// assert!(e.is_retryable());
/// ```
pub struct Error {
    // One pointer, so that a `Result` stays as small as its success.
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    context: ErrorContext,
    source: Option<BoxError>,
}

impl Error {
    /// A new error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let context = ErrorContext { message: message.into(), ..ErrorContext::default() };
        Self { inner: Box::new(Inner { kind, context, source: None }) }
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Adds the topic, unless one is named already.
    #[must_use]
    pub fn topic(mut self, topic: impl AsRef<str>) -> Self {
        self.inner.context.topic.get_or_insert_with(|| topic.as_ref().to_owned());
        self
    }

    /// Adds the routing key, unless one is named already.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.inner.context.key.get_or_insert_with(|| key.into());
        self
    }

    /// Adds the group, unless one is named already.
    #[must_use]
    pub fn group(mut self, group: impl AsRef<str>) -> Self {
        self.inner.context.group.get_or_insert_with(|| group.as_ref().to_owned());
        self
    }

    /// Adds what to do about it, unless it is said already.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.inner.context.fix.get_or_insert_with(|| fix.into());
        self
    }

    /// What the error means.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Where it happened and how to mend it.
    #[must_use]
    pub fn context(&self) -> &ErrorContext {
        &self.inner.context
    }

    /// Whether the same call may succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }

    /// The error that caused this one, to take it out again by its own type.
    #[must_use]
    pub fn source_ref(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.inner.source.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = self.context();
        f.write_str(&context.message)?;
        let mut open = false;
        let mut part = |f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display| {
            let start = if open { ", " } else { " (" };
            open = true;
            write!(f, "{start}{name} {value}")
        };
        if let Some(topic) = &context.topic {
            part(f, "topic", &format_args!("{topic:?}"))?;
        }
        if let Some(key) = &context.key {
            part(f, "key", &format_args!("\"{}\"", key.escape_ascii()))?;
        }
        if let Some(group) = &context.group {
            part(f, "group", &format_args!("{group:?}"))?;
        }
        if open {
            f.write_str(")")?;
        }
        if let Some(fix) = &context.fix {
            write!(f, ": {fix}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `main` returning an error prints Debug: make that the sentence and its causes.
        write!(f, "{}: {self}", self.kind())?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "\n  caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|e| e as _)
    }
}
