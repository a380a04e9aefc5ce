//! What folders and stores say, as errors that name their meaning and the fix.

use std::error::Error as StdError;
use std::io;

use millstream_core::{Error, ErrorKind};
use object_store::Error as StoreError;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
use object_store::client::{HttpError, HttpErrorKind};

/// What an error means to a program.
pub(crate) fn kind_of(error: &StoreError) -> ErrorKind {
    if let Some(io) = cause::<io::Error>(error)
        && !matches!(error, StoreError::NotFound { .. } | StoreError::AlreadyExists { .. })
    {
        return kind_of_io(io.kind());
    }
    match error {
        StoreError::NotFound { .. } => ErrorKind::NotFound,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Denied,
        StoreError::InvalidPath { .. } => ErrorKind::InvalidMessage,
        StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::UnknownConfigurationKey { .. } => ErrorKind::InvalidConfig,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => ErrorKind::Conflict,
        other => kind_of_answer(other),
    }
}

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn kind_of_answer(error: &StoreError) -> ErrorKind {
    match cause::<HttpError>(error).map(HttpError::kind) {
        Some(HttpErrorKind::Timeout) => ErrorKind::Timeout,
        Some(_) => ErrorKind::Unavailable,
        None => match status(error) {
            // Listing says so of a bucket that is not there, or not ours.
            Some(404) => ErrorKind::NotFound,
            Some(401 | 403) => ErrorKind::Denied,
            Some(413) => ErrorKind::TooLarge,
            Some(408 | 425 | 429) | None => ErrorKind::Unavailable,
            // It will say the same again.
            Some(status) if status < 500 => ErrorKind::InvalidConfig,
            Some(_) => ErrorKind::Unavailable,
        },
    }
}

#[cfg(not(any(feature = "s3", feature = "gcs", feature = "azure")))]
fn kind_of_answer(_: &StoreError) -> ErrorKind {
    ErrorKind::Io
}

fn kind_of_io(kind: io::ErrorKind) -> ErrorKind {
    match kind {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        io::ErrorKind::InvalidFilename => ErrorKind::InvalidMessage,
        _ => ErrorKind::Io,
    }
}

/// Whether it says that nothing was written; of all else nobody knows.
pub(crate) fn is_refusal(error: &StoreError) -> bool {
    if let Some(io) = cause::<io::Error>(error) {
        return matches!(
            io.kind(),
            io::ErrorKind::PermissionDenied
                | io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::NotFound
                | io::ErrorKind::InvalidFilename
        );
    }
    !kind_of(error).is_retryable()
}

/// What to do about an error of this kind.
fn fix_of(kind: ErrorKind, place: &str) -> String {
    match kind {
        ErrorKind::NotFound => format!("check the name of {place}: it is not made by us"),
        ErrorKind::Denied => format!(
            "check that {place} is there, and that these credentials may list, read, write and delete in it"
        ),
        ErrorKind::Timeout | ErrorKind::Unavailable => {
            format!("check that {place} can be reached from here; it is tried again")
        }
        ErrorKind::Io => format!("check that {place} can be written to and has room; it is tried again"),
        ErrorKind::TooLarge => "send less, or lower max_message in the URL".to_owned(),
        _ => "check the region, the endpoint and the name in the URL".to_owned(),
    }
}

/// An error of a call, with what was tried.
pub(crate) fn of(error: StoreError, what: &str, place: &str) -> Error {
    let kind = kind_of(&error);
    let why = why(&error);
    Error::new(kind, format!("{what}: {why}")).fix(fix_of(kind, place)).source(error)
}

/// A call that was not answered in time.
pub(crate) fn late(what: &str, place: &str) -> Error {
    let kind = ErrorKind::Timeout;
    Error::new(kind, format!("{what}: no answer in time")).fix(fix_of(kind, place))
}

/// The innermost reason, in a few words: what a store says is often a page, and repeats the request.
fn why(error: &StoreError) -> String {
    if let Some(io) = cause::<io::Error>(error) {
        return io.to_string();
    }
    if let Some(status) = status(error) {
        let text = error.to_string();
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        return match code {
            Some((code, _)) if code.len() < 80 => format!("the store answered {status} {code}"),
            _ => format!("the store answered {status}"),
        };
    }
    let mut last: &dyn StdError = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string().chars().take(200).collect()
}

/// The status of an answer; the client library says it only in its text.
fn status(error: &StoreError) -> Option<u16> {
    let text = error.to_string();
    let at = text.split_once("status code: ").map(|(_, rest)| rest)?;
    at.get(..3)?.parse().ok()
}

fn cause<T: StdError + 'static>(error: &StoreError) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn a_full_disk_passes_and_is_known_to_have_taken_nothing() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = StoreError::Generic { store: "LocalFileSystem", source: Box::new(full) };
        assert!(is_refusal(&error));
        let told = of(error, "the message was not stored", "the folder /x");
        assert!(told.kind() == ErrorKind::Io && told.is_retryable(), "{told}");
    }

    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    #[test]
    fn an_answer_is_told_by_its_code_alone() {
        let page = "Server returned non-2xx status code: 503 Service Unavailable: <Error><Code>SlowDown</Code><Message>…";
        let told = of(generic(page), "the message was not stored", "the bucket b");
        assert_eq!(told.kind(), ErrorKind::Unavailable);
        assert!(
            told.to_string()
                .starts_with("the message was not stored: the store answered 503 SlowDown: check"),
            "{told}"
        );
        let told = of(generic("status code: 400 Bad Request: what"), "x", "y");
        assert!(told.kind() == ErrorKind::InvalidConfig && !told.is_retryable(), "{told}");
    }

    #[test]
    fn what_nobody_knows_is_no_refusal() {
        assert!(!is_refusal(&generic("the connection broke")));
    }
}
