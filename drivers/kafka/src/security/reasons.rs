//! What the reason for having no connection means to a program. The client library tells a code and a sentence, and the
//! sentence is often all that tells one cause from another.

use millstream_core::ErrorKind::{self, Denied, InvalidConfig, Unavailable};
use rdkafka::types::RDKafkaErrorCode as Code;

/// Sentences by a part of them, what they mean, and what to do. The first that fits counts.
const SENTENCES: &[(&str, ErrorKind, &str)] = &[
    (NO_TOKEN, Unavailable, "see why the token provider of this program fails"),
    (
        "in current SASL state",
        InvalidConfig,
        "this listener takes no login: leave out the user, or name the port of one that does",
    ),
    ("supported mechanisms", InvalidConfig, "name a mechanism that the listener has, by `sasl`"),
    (
        "wrong version number",
        InvalidConfig,
        "this listener speaks no TLS: name the port of one that does, or say tls=off",
    ),
    (
        "certificate verify failed",
        Denied,
        "the broker's certificate must be of an authority that `ca` (or else the system) names, be for the host as the \
         URL and the broker's advertised addresses write it, and not have expired",
    ),
    // What a broker alerts us to, in the words of OpenSSL.
    ("certificate required", Denied, OUR_CERTIFICATE),
    ("certificate unknown", Denied, OUR_CERTIFICATE),
    ("certificate expired", Denied, OUR_CERTIFICATE),
    ("certificate revoked", Denied, OUR_CERTIFICATE),
    ("bad certificate", Denied, OUR_CERTIFICATE),
    ("unsupported certificate", Denied, OUR_CERTIFICATE),
    ("alert unknown ca", Denied, OUR_CERTIFICATE),
    ("client SSL authentication might be required", Denied, OUR_CERTIFICATE),
];

/// Sentences by a part of them, and what may be the cause as long as no broker ever answered. Later they only mean that
/// one was restarted.
const GUESSES: &[(&str, &str)] = &[
    (
        "in state SSL_HANDSHAKE",
        "if the listener speaks no TLS, name the port of one that does; else look whether the broker runs",
    ),
    (
        "in state APIVERSION_QUERY",
        "if the listener speaks TLS, say tls=on or name its authority by `ca`; else look whether the broker runs",
    ),
    ("in state UP", "if the listener wants a login, name a user; else look whether the broker runs"),
];

const OUR_CERTIFICATE: &str = "the broker wants a certificate of this client that is of an authority it knows and has not \
                               expired: name it by `cert` and `key`";

/// How the client library says that our own function gave no token: that is not the broker's refusal.
const NO_TOKEN: &str = "Failed to acquire SASL OAUTHBEARER token";

/// What a reason means, and what to do about it.
pub(crate) fn meaning(code: Option<Code>, sentence: &str) -> (ErrorKind, &'static str) {
    if let Some((_, kind, fix)) = SENTENCES.iter().find(|(part, ..)| sentence.contains(part)) {
        return (*kind, fix);
    }
    match code {
        Some(Code::Authentication | Code::SaslAuthenticationFailed) => (
            Denied,
            "check the user and the password, or the token, and that the broker knows this user for this mechanism",
        ),
        Some(Code::SSL) => {
            (Unavailable, "check that the listener at this address speaks TLS, and the broker's log")
        }
        _ => (
            Unavailable,
            "check the addresses in the URL, that a broker runs there, and that `tls` and `sasl` are as its listener has \
             them",
        ),
    }
}

/// Whether a reason tells more than that a broker is away: what comes after it must not hide it.
pub(crate) fn is_grave(code: Option<Code>, sentence: &str) -> bool {
    matches!(code, Some(Code::Authentication | Code::SSL)) || meaning(code, sentence).0 != Unavailable
}

/// What to do, as a guess, about a broker that hung up before any ever answered.
pub(crate) fn guess(sentence: &str) -> Option<&'static str> {
    let hung_up = sentence.contains("Disconnected");
    GUESSES.iter().find(|(part, _)| hung_up && sentence.contains(part)).map(|(_, fix)| *fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_tells_the_cause_and_the_fix() {
        let auth = Some(Code::Authentication);
        for (code, sentence, kind, part) in [
            (
                auth,
                "SASL authentication error: invalid credentials (after 3ms in state AUTH_REQ)",
                Denied,
                "password",
            ),
            (auth, "Failed to acquire SASL OAUTHBEARER token: the provider is away", Unavailable, "provider"),
            (
                Some(Code::SSL),
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could \
                 not be verified",
                Denied,
                "`ca`",
            ),
            (
                Some(Code::SSL),
                "SSL handshake failed: error:0A00010B:SSL routines::wrong version number",
                InvalidConfig,
                "tls=off",
            ),
            (None, "Connect to ipv4#127.0.0.1:1 failed: Connection refused", Unavailable, "addresses"),
        ] {
            let (found, fix) = meaning(code, sentence);
            assert!(found == kind && fix.contains(part), "{sentence}: {found:?}, {fix}");
        }
    }

    #[test]
    fn a_broker_that_hangs_up_at_the_beginning_leaves_a_guess() {
        let hung_up =
            |state: &str| format!("h:1/bootstrap: Disconnected: closed by peer (after 1ms in state {state})");
        for (state, part) in
            [("SSL_HANDSHAKE", "no TLS"), ("APIVERSION_QUERY", "tls=on"), ("UP", "name a user")]
        {
            assert!(guess(&hung_up(state)).unwrap().contains(part), "{state}");
        }
        assert_eq!(
            guess("Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)"),
            None
        );
    }
}
