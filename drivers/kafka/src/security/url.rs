//! What a URL says about TLS and logins. It says it in full or not at all: what contradicts itself is refused, with what
//! would be right.

use millstream_core::{Endpoint, Error, ErrorKind, Result};

use super::{Sasl, Tls};
use crate::KafkaBuilder;

/// The parameters of this part.
pub(crate) const PARAMETERS: [&str; 6] = ["tls", "ca", "cert", "key", "key_password", "sasl"];

/// Tells a builder.
pub(crate) fn apply(endpoint: &Endpoint, builder: KafkaBuilder) -> Result<KafkaBuilder> {
    let builder = match tls(endpoint)? {
        Some(Said::Off) => builder.plain_text(),
        Some(Said::On(tls)) => builder.tls(tls),
        None => builder,
    };
    Ok(match sasl(endpoint)? {
        Some(sasl) => builder.sasl(sasl),
        None => builder,
    })
}

fn bad<T>(what: impl Into<String>, fix: &str) -> Result<T> {
    Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix))
}

enum Said {
    Off,
    On(Tls),
}

fn tls(endpoint: &Endpoint) -> Result<Option<Said>> {
    let files =
        ["ca", "cert", "key", "key_password"].map(|name| endpoint.param(name).map(|value| (name, value)));
    if let Some((name, _)) = files.iter().flatten().find(|(_, value)| value.is_empty()) {
        return bad(format!("the URL's parameter {name} is empty"), "give it a value, or leave it out");
    }
    let [ca, cert, key, key_password] = files.map(|file| file.map(|(_, value)| value));
    let named = files.iter().flatten().next();
    match (endpoint.param("tls"), named) {
        (None, None) => return Ok(None),
        (None | Some("on"), _) => {}
        (Some("off"), None) => return Ok(Some(Said::Off)),
        (Some("off"), Some((name, _))) => {
            return bad(format!("the URL says tls=off, and names {name}"), "leave out one of the two");
        }
        (Some(other), _) => {
            return bad(format!("the URL's parameter tls is {other:?}"), "say on or off");
        }
    }
    let tls = ca.map_or_else(Tls::system, Tls::ca);
    let tls = match (cert, key, key_password) {
        (None, None, None) => tls,
        (Some(cert), Some(key), None) => tls.client_certificate(cert, key),
        (Some(cert), Some(key), Some(password)) => tls.client_certificate_encrypted(cert, key, password),
        (Some(_), None, _) => {
            return bad("the URL names cert and no key", "add key, the PEM file of its private key");
        }
        (None, Some(_), _) => {
            return bad("the URL names key and no cert", "add cert, the PEM file of its certificate");
        }
        (None, None, Some(_)) => {
            return bad("the URL names key_password and no key", "add cert and key, or leave it out");
        }
    };
    Ok(Some(Said::On(tls)))
}

fn sasl(endpoint: &Endpoint) -> Result<Option<Sasl>> {
    let mechanism = match endpoint.param("sasl") {
        None => None,
        Some("plain") => Some(Sasl::plain as fn(String, String) -> Sasl),
        Some("scram-sha-256") => Some(Sasl::scram_sha_256 as _),
        Some("scram-sha-512") => Some(Sasl::scram_sha_512 as _),
        Some("oauthbearer") => {
            return bad(
                "a URL cannot hold what OAUTHBEARER logs in with: a token expires",
                "set a token provider in code: Kafka::builder(…).sasl(Sasl::oauth_bearer(…))",
            );
        }
        Some(other) => {
            return bad(
                format!("the URL's parameter sasl is {other:?}"),
                "say plain, scram-sha-256, scram-sha-512 or oauthbearer",
            );
        }
    };
    let Some(user) = endpoint.user() else {
        return match endpoint.param("sasl") {
            None => Ok(None),
            Some(named) => bad(
                format!("the URL says sasl={named}, and names no user"),
                "write it as kafka://user:password@host, with special characters percent-encoded",
            ),
        };
    };
    let Some(password) = endpoint.password().filter(|password| !password.is_empty() && !user.is_empty())
    else {
        return bad(
            "the URL names a user without a password, or a password without a user",
            "write it as kafka://user:password@host; who has a certificate instead of a password names it by cert and key, \
             and no user",
        );
    };
    let mechanism = mechanism.unwrap_or(Sasl::scram_sha_512);
    Ok(Some(mechanism(user.to_owned(), password.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kafka;

    fn parse(url: &str) -> Result<KafkaBuilder> {
        apply(&Endpoint::parse(url).unwrap(), Kafka::builder("h:1"))
    }

    /// What librdkafka would be told.
    fn told(url: &str, names: &[&str]) -> Vec<Option<String>> {
        let mut config = rdkafka::ClientConfig::new();
        parse(url).unwrap().settings.security.apply(&mut config);
        names.iter().map(|name| config.get(name).map(str::to_owned)).collect()
    }

    #[test]
    fn a_url_that_names_a_user_logs_in_over_tls() {
        let names = ["security.protocol", "sasl.mechanism", "sasl.username", "sasl.password"];
        for (url, wanted) in [
            ("kafka://h", "plaintext - - -"),
            ("kafka://ann:pw@h", "sasl_ssl SCRAM-SHA-512 ann pw"),
            ("kafka://ann:p%40%2Fw@h?sasl=plain", "sasl_ssl PLAIN ann p@/w"),
            ("kafka://ann:pw@h?sasl=scram-sha-256&tls=off", "sasl_plaintext SCRAM-SHA-256 ann pw"),
            ("kafka://ann:pw@h?sasl=scram-sha-512&tls=on", "sasl_ssl SCRAM-SHA-512 ann pw"),
            ("kafka://h?tls=on", "ssl - - -"),
            ("kafka://h?tls=off", "plaintext - - -"),
        ] {
            let found: Vec<_> = told(url, &names).into_iter().map(|v| v.unwrap_or("-".to_owned())).collect();
            assert_eq!(found.join(" "), wanted, "{url}");
        }
    }

    #[test]
    fn a_url_that_names_files_speaks_tls_with_them() {
        let names = [
            "security.protocol",
            "ssl.ca.location",
            "ssl.certificate.location",
            "ssl.key.location",
            "ssl.key.password",
        ];
        for (url, wanted) in [
            ("kafka://h?ca=/a.pem", "ssl /a.pem - - -"),
            ("kafka://h?cert=/c.pem&key=/c.key", "ssl - /c.pem /c.key -"),
            ("kafka://h?ca=/a.pem&cert=/c.pem&key=/c.key&key_password=s%26e", "ssl /a.pem /c.pem /c.key s&e"),
        ] {
            let found: Vec<_> = told(url, &names).into_iter().map(|v| v.unwrap_or("-".to_owned())).collect();
            assert_eq!(found.join(" "), wanted, "{url}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_what_would_be_right() {
        for (url, part) in [
            ("kafka://h?tls=off&ca=/a.pem", "leave out one"),
            ("kafka://h?tls=yes", "on or off"),
            ("kafka://h?cert=/c.pem", "add key"),
            ("kafka://h?key=/c.key", "add cert"),
            ("kafka://h?key_password=topsecret", "add cert and key"),
            ("kafka://h?ca=", "ca is empty"),
            ("kafka://h?sasl=plain", "kafka://user:password@host"),
            ("kafka://ann@h", "kafka://user:password@host"),
            ("kafka://ann:@h", "kafka://user:password@host"),
            ("kafka://:topsecret@h", "kafka://user:password@host"),
            ("kafka://ann:topsecret@h?sasl=gssapi", "scram-sha-512"),
            ("kafka://ann:topsecret@h?sasl=oauthbearer", "Sasl::oauth_bearer"),
            ("kafka://h?sasl=oauthbearer", "Sasl::oauth_bearer"),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            let error = format!("{error} {error:?}");
            assert!(error.contains(part) && !error.contains("topsecret"), "{url}: {error}");
        }
    }
}
