//! What the SDK and AWS say, as errors that name their meaning and the fix.
//!
//! An error of the SDK prints only "service error" or "dispatch failure", and its `Debug` the whole response: the code, the
//! message and the chain of causes are taken out here, and nothing else.

use std::error::Error as StdError;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use millstream_core::{Error, ErrorKind};

/// What an error says about what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not done, and nothing changes by asking again.
    Refused,
    /// Not done: too much was asked for at once.
    Throttled,
    /// Not done: nobody was there.
    Unavailable,
    /// Done or not done.
    Unknown,
}

impl Fate {
    /// Whether the same request may succeed later.
    pub(crate) fn passes(self) -> bool {
        self != Self::Refused
    }
}

/// An error, and what it says about what was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) fate: Fate,
    pub(crate) error: Error,
    /// No answer came on a connection that was there: others of its pool may be dead as well.
    pub(crate) silent: bool,
}

/// An error of a call, with what was tried.
pub(crate) fn of<E>(error: &SdkError<E, Response>, what: &str) -> Failure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let said = answer.err();
            said_by(said.code().unwrap_or_default(), said.message().unwrap_or_default(), status, what)
        }
        SdkError::TimeoutError(_) => {
            let error = Error::new(ErrorKind::Timeout, format!("{what}: no answer came in time"));
            Failure { fate: Fate::Unknown, error: error.fix(fix_of(ErrorKind::Timeout)), silent: true }
        }
        SdkError::ConstructionFailure(_) => {
            let (kind, fix) = match find::<CredentialsError>(error) {
                Some(_) => (ErrorKind::Denied, CREDENTIALS),
                None => (ErrorKind::InvalidConfig, "check the region, the endpoint and the credentials"),
            };
            let error = Error::new(kind, format!("{what}: {}", causes(error))).fix(fix);
            Failure { fate: Fate::Refused, error, silent: false }
        }
        _ => unanswered(error, what),
    }
}

/// A request without an answer, or with one that is none.
fn unanswered<E>(error: &SdkError<E, Response>, what: &str) -> Failure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let why = causes(error);
    if find::<CredentialsError>(error).is_some() {
        let error = Error::new(ErrorKind::Denied, format!("{what}: {why}")).fix(CREDENTIALS);
        return Failure { fate: Fate::Refused, error, silent: false };
    }
    if never_sent(error) {
        let error = Error::new(ErrorKind::Unavailable, format!("{what}: {why}"));
        let error = error.fix(fix_of(ErrorKind::Unavailable));
        return Failure { fate: Fate::Unavailable, error, silent: false };
    }
    let error = Error::new(ErrorKind::Unknown, format!("{what}: {why}")).fix(fix_of(ErrorKind::Unknown));
    Failure { fate: Fate::Unknown, error, silent: true }
}

/// Whether there was no connection at all: then nothing can have happened.
fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    let refused = |kind| {
        matches!(
            kind,
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::AddrNotAvailable
        )
    };
    chain(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| refused(e.kind()))
            // The client's type says this in words only.
            || cause.to_string() == "client error (Connect)"
            || cause.to_string().starts_with("dns error")
    })
}

/// What a service said, for a request as a whole or for an entry of it.
pub(crate) fn said_by(code: &str, message: &str, status: u16, what: &str) -> Failure {
    // `AWS.SimpleQueueService.NonExistentQueue` and the like, of the older protocol.
    let short = code.rsplit('.').next().unwrap_or(code).trim_end_matches("Exception");
    let (kind, fate) = meaning(short, status);
    let said = match (code, message) {
        ("", "") => format!("the answer was {status}"),
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let error = Error::new(kind, format!("{what}: {said}"));
    let error = match short {
        "ExpiredToken" | "ExpiredTokenIdentity" | "RequestExpired" | "TokenRefreshRequired" => {
            error.fix("renew the credentials; and see that the clock of this machine is right")
        }
        "QueueDoesNotExist" | "NonExistentQueue" => {
            error.fix("check queue, region and account; or make it, or leave `create` at missing in the URL")
        }
        _ => error.fix(fix_of(kind)),
    };
    Failure { fate, error, silent: false }
}

fn meaning(code: &str, status: u16) -> (ErrorKind, Fate) {
    match code {
        "QueueDoesNotExist" | "NonExistentQueue" | "NotFound" | "ResourceNotFound" => {
            (ErrorKind::NotFound, Fate::Refused)
        }
        "Throttling"
        | "Throttled"
        | "ThrottledRequest"
        | "RequestThrottled"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "ProvisionedThroughputExceeded"
        | "SlowDown"
        | "KmsThrottled"
        | "KMSThrottling"
        | "PriorRequestNotComplete" => (ErrorKind::Unavailable, Fate::Throttled),
        // Somebody else is changing the same items, or too many tables.
        "TransactionConflict" | "TransactionInProgress" | "LimitExceeded" => {
            (ErrorKind::Unavailable, Fate::Throttled)
        }
        "OverLimit" => (ErrorKind::Full, Fate::Throttled),
        "QueueDeletedRecently" | "PurgeQueueInProgress" => (ErrorKind::Unavailable, Fate::Unavailable),
        "AccessDenied"
        | "AuthorizationError"
        | "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "SignatureDoesNotMatch"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "InvalidSecurity"
        | "OptInRequired"
        | "ExpiredToken"
        | "RequestExpired"
        | "InvalidAccessKeyId"
        | "ExpiredTokenIdentity"
        | "TokenRefreshRequired"
        | "KmsAccessDenied" => (ErrorKind::Denied, Fate::Refused),
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => (ErrorKind::LeaseLost, Fate::Refused),
        "BatchRequestTooLong" | "MessageTooLong" => (ErrorKind::TooLarge, Fate::Refused),
        "InvalidMessageContents" => (ErrorKind::InvalidMessage, Fate::Refused),
        "QueueAlreadyExists" | "QueueNameExists" => (ErrorKind::Conflict, Fate::Refused),
        _ if status == 503 || status == 429 => (ErrorKind::Unavailable, Fate::Throttled),
        // It may have broken after it was done.
        _ if status >= 500 => (ErrorKind::Unknown, Fate::Unknown),
        _ if status == 403 || status == 401 => (ErrorKind::Denied, Fate::Refused),
        _ => (ErrorKind::InvalidConfig, Fate::Refused),
    }
}

const CREDENTIALS: &str =
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role";

/// What to do about an error of this kind.
fn fix_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "make it first, or leave `create` at missing in the URL",
        ErrorKind::Denied => "check the credentials, and that they may do this here",
        ErrorKind::TooLarge => "send less",
        ErrorKind::Full => "settle what is in flight: a queue gives out 120,000 messages at most",
        ErrorKind::Timeout | ErrorKind::Unavailable => {
            "check that the endpoint and the host can be reached from here; it is tried again"
        }
        ErrorKind::Unknown => "do it again: what has an id is not there twice to handlers that deduplicate",
        ErrorKind::LeaseLost => {
            "nothing: the message comes again; raise `lease` if handlers stand still that long"
        }
        ErrorKind::Conflict => "use another name, or the settings that are there",
        _ => "see the message of the service for the reason",
    }
}

/// The same error for another message.
pub(crate) fn copy(error: &Error) -> Error {
    as_kind(error, error.kind())
}

/// The same error with a kind that fits better what it was about.
pub(crate) fn as_kind(error: &Error, kind: ErrorKind) -> Error {
    let context = error.context();
    let copy = Error::new(kind, &*context.message);
    let copy = match &context.topic {
        Some(topic) => copy.topic(topic),
        None => copy,
    };
    match &context.fix {
        Some(fix) => copy.fix(fix),
        None => copy,
    }
}

/// The chain of causes, in one line, innermost last. What says nothing is left out.
pub(crate) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in chain(error) {
        let text = cause.to_string();
        let known = told.last().is_some_and(|last| last.contains(&text));
        if !known && !matches!(&*text, "dispatch failure" | "other" | "io error" | "an error occurred") {
            told.push(text);
        }
    }
    told.join(": ")
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |cause| {
        let cause: &'a (dyn StdError + 'static) = *cause;
        cause.source()
    })
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_can_be_tried_again_and_what_does_not_cannot() {
        for (code, status) in [("ThrottlingException", 400), ("", 503), ("InternalFailure", 500)] {
            let failure = said_by(code, "", status, "x");
            assert!(failure.fate.passes() && failure.error.is_retryable(), "{code} {status}: {failure:?}");
        }
        for (code, kind) in [
            (
                "com.amazonaws.sqs#QueueDoesNotExist".trim_start_matches("com.amazonaws.sqs#"),
                ErrorKind::NotFound,
            ),
            ("AWS.SimpleQueueService.NonExistentQueue", ErrorKind::NotFound),
            ("ExpiredTokenException", ErrorKind::Denied),
            ("InvalidMessageContents", ErrorKind::InvalidMessage),
        ] {
            let failure = said_by(code, "why", 400, "x");
            assert_eq!((failure.fate, failure.error.kind()), (Fate::Refused, kind), "{code}");
            assert!(failure.error.to_string().contains("why") && failure.error.context().fix.is_some());
        }
    }

    #[test]
    fn a_server_that_broke_may_have_done_it() {
        assert_eq!(said_by("InternalError", "", 500, "x").fate, Fate::Unknown);
        assert_eq!(said_by("", "", 504, "x").error.kind(), ErrorKind::Unknown);
    }
}
