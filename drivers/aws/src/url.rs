//! What every URL of AWS can say about the connection: `scheme://[key-id:secret@][region][?name=value&…]`.

use std::time::Duration;

use millstream_core::{Endpoint, Error, ErrorKind, Result};

use crate::aws::{Aws, AwsBuilder};

/// The parameters of the connection.
pub(crate) const PARAMETERS: [&str; 4] = ["endpoint", "profile", "session_token", "client_id"];

/// What the URL says about the connection.
pub(crate) fn connection(endpoint: &Endpoint) -> Result<AwsBuilder> {
    let scheme = endpoint.scheme();
    let bad = |what: &str, fix: String| Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix));
    if !matches!(endpoint.path(), "" | "/") {
        return bad(
            "the URL has a path",
            format!("write it as {scheme}://eu-west-1, with special characters of a secret percent-encoded"),
        );
    }
    if endpoint.user().is_none() && endpoint.params().any(|(name, _)| name.contains('@')) {
        // It is not repeated: it may be half a secret.
        return bad(
            "the URL has an @ in the name of a parameter",
            "write a ? in a secret as %3F, and all other special characters percent-encoded too".to_owned(),
        );
    }
    if endpoint.host().contains([':', ',']) {
        return bad(
            "the URL names a host where the region belongs",
            format!("write it as {scheme}://eu-west-1?endpoint=http://127.0.0.1:9324"),
        );
    }
    let mut builder = Aws::builder();
    if !endpoint.host().is_empty() {
        builder = builder.region(endpoint.host());
    }
    if let Some(url) = endpoint.param("endpoint") {
        builder = builder.endpoint(url);
    }
    if let Some(name) = endpoint.param("profile") {
        builder = builder.profile(name);
    }
    if let Some(name) = endpoint.param("client_id") {
        builder = builder.client_id(name);
    }
    match (endpoint.user(), endpoint.password(), endpoint.param("session_token")) {
        (None, None, None) => Ok(builder),
        (Some(key_id), Some(secret), None) => Ok(builder.credentials(key_id, secret)),
        (Some(key_id), Some(secret), Some(token)) => Ok(builder.session(key_id, secret, token)),
        _ => bad(
            "the URL has an access key without its secret, or a session token without both",
            format!("write {scheme}://key-id:secret@region, or leave them out: then they are looked for"),
        ),
    }
}

/// A parameter that is a time.
pub(crate) fn duration(endpoint: &Endpoint, name: &str) -> Result<Option<Duration>> {
    Ok(endpoint.parsed::<humantime::Duration>(name)?.map(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        connection(&Endpoint::parse(url).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_a_url_cannot_say_is_refused_without_a_word_of_the_secret() {
        for (url, part) in [
            ("sqs://127.0.0.1:9324", "endpoint="),
            ("sqs://key:12/battery@eu-west-1", "path"),
            ("sqs://key@eu-west-1", "without its secret"),
            ("sqs://eu-west-1?session_token=battery", "without both"),
            ("sqs://key:12?battery@eu-west-1", "percent-encoded"),
        ] {
            let error = refused(url);
            assert!(error.contains(part) && !error.contains("battery"), "{url}: {error}");
        }
    }

    #[test]
    fn neither_builder_nor_connection_shows_a_secret() {
        let endpoint = Endpoint::parse("sqs://AKIDSHOWN:battery@eu-west-1").unwrap();
        let shown = format!("{:?}", connection(&endpoint).unwrap());
        assert!(!shown.contains("battery") && !shown.contains("AKIDSHOWN"), "{shown}");
    }
}
