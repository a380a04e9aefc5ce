//! What content types a protobuf event is sent and read under.

use crate::{Error, ErrorKind, Result};

/// The content type protobuf events are written with: the one name that the Go toolkit reads.
pub(crate) const CONTENT_TYPE: &str = "application/x-google-protobuf";

/// Other names for the same bytes; senders that do not know better say octet-stream or nothing.
const ALIASES: [&str; 5] = [
    "application/x-protobuf",
    "application/protobuf",
    "application/vnd.google.protobuf",
    crate::event::OCTET_STREAM,
    "",
];

/// Refuses a content type that is not protobuf: decoding JSON text as protobuf can succeed by accident.
pub(crate) fn accept(content_type: &str) -> Result<()> {
    let bare = super::bare(content_type);
    if bare.eq_ignore_ascii_case(CONTENT_TYPE) || ALIASES.iter().any(|a| bare.eq_ignore_ascii_case(a)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Decode, format!("the event is protobuf, the message says {content_type:?}"))
        .fix(format!("send it as {CONTENT_TYPE}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_others_use_are_accepted() {
        for name in [CONTENT_TYPE, "application/x-protobuf", "Application/Protobuf; v=1", ""] {
            accept(name).unwrap();
        }
    }

    #[test]
    fn another_format_is_refused_with_the_fix() {
        let error = accept("application/json").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.to_string().ends_with("send it as application/x-google-protobuf"), "{error}");
    }
}
