//! `kafka://` as a driver that can be chosen at run time.

use std::time::Duration;

use millstream_core::{Connection, Driver, Endpoint, Error, ErrorKind, Result};

use crate::security::url as security;
use crate::{Create, DeadLetterHeaders, Kafka, KafkaBuilder, Protocol, Transactions, Wire};

/// Those of TLS and logins come from their own module.
const PARAMETERS: &[&str] = &[
    "create",
    "partitions",
    "replication",
    "retention_age",
    "retention_size",
    "max_message",
    "lease",
    "protocol",
    "instance",
    "revoke_within",
    "compression",
    "write_within",
    "transactions",
    "dead_letter_headers",
    "wire",
    "source",
    "client_id",
];

/// The driver of the scheme `kafka`.
///
/// `kafka://host:9092,other:9092` names brokers to begin with; the cluster tells of the others.
///
/// | parameter | is | default |
/// |---|---|---|
/// | `create` | what happens to a topic that is not there: `missing` makes it, `never` is an error, `assume` does not look | `missing` |
/// | `partitions` | partitions of a topic that is made | the broker's |
/// | `replication` | replicas of a topic that is made | the broker's |
/// | `retention_age`, `retention_size` | how long, and up to how many bytes a partition, a topic that is made keeps messages, read or not | the broker's |
/// | `max_message` | bytes of a message at most | 1000000 |
/// | `lease` | how long a member that says nothing is taken to live, such as `10s`; not with `protocol=consumer` | `10s` |
/// | `protocol` | how members share partitions: `range`, `cooperative`, `consumer` | `range` |
/// | `instance` | the name of this member, if it shall keep its partitions over a restart | none |
/// | `revoke_within` | how long handlers may run on when the group wants a partition back | `20s` |
/// | `compression` | `none`, `gzip`, `snappy`, `lz4`, `zstd` | `lz4` |
/// | `write_within` | how long a write is tried before its outcome is unknown | `30s` |
/// | `transactions` | what commits in one transaction: `none`, or what `handlers` publish with the position of their message | `none` |
/// | `dead_letter_headers` | in whose words dead letters say what happened: `millstream`, or `spring`'s `kafka_dlt-*` as well | `millstream` |
/// | `wire` | how messages are written: as the Go toolkit `streams` does, or as `cloudevents`, or `cloudevents-json` | `streams` |
/// | `source` | the attribute `source` of CloudEvents, such as `/shop` | none |
/// | `client_id` | the client's name in the broker's log | `millstream` |
/// | `tls` | `on`, `off` | `on` as soon as there is a user or one of the next four, else `off` |
/// | `ca` | a PEM file with the authorities to trust | the system's |
/// | `cert`, `key` | PEM files with a certificate and its private key, for brokers that ask for one | none |
/// | `key_password` | opens a key that is encrypted | none |
/// | `sasl` | how the URL's user logs in: `scram-sha-512`, `scram-sha-256`, `plain` | `scram-sha-512` |
///
/// `kafka://user:password@host:9093` logs in. Special characters of a password are percent-encoded, as in any URL. With
/// `tls=off` a login is not encrypted, and connecting logs a warning. OAUTHBEARER is set in code:
/// [`Sasl::oauth_bearer`](crate::Sasl::oauth_bearer).
#[must_use]
pub fn driver() -> Driver {
    Driver::new(&["kafka"], |endpoint| Box::pin(connect(endpoint)))
}

async fn connect(endpoint: Endpoint) -> Result<Connection> {
    Ok(builder(&endpoint)?.connect().await?.connection())
}

/// What a URL says.
fn builder(endpoint: &Endpoint) -> Result<KafkaBuilder> {
    let bad = |what: String, fix: &str| Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix));
    if endpoint.host().is_empty() || !matches!(endpoint.path(), "" | "/") {
        return bad(
            "the URL names no broker, or has a path".to_owned(),
            "write it as kafka://host:9092, with special characters of a password percent-encoded",
        );
    }
    if endpoint.user().is_none() && endpoint.params().any(|(name, _)| name.contains('@')) {
        // It is not repeated: it may be half a password.
        return bad(
            "the URL has an @ in the name of a parameter".to_owned(),
            "write a ? in a password as %3F, and all other special characters percent-encoded too",
        );
    }
    endpoint.only_params(&[PARAMETERS, &security::PARAMETERS[..]].concat())?;
    let port =
        |host: &str| if host.rsplit_once(':').is_some_and(|(_, p)| !p.ends_with(']')) { "" } else { ":9092" };
    let brokers: Vec<_> = endpoint.host().split(',').map(|host| format!("{host}{}", port(host))).collect();
    let mut builder = Kafka::builder(brokers.join(","));
    match endpoint.param("create") {
        None | Some("missing") => {}
        Some("never") => builder = builder.create(Create::Never),
        Some("assume") => builder = builder.create(Create::Assume),
        Some(other) => {
            return bad(format!("the URL's parameter create is {other:?}"), "say missing, never or assume");
        }
    }
    match endpoint.param("protocol") {
        None | Some("range") => {}
        Some("cooperative") => builder = builder.protocol(Protocol::Cooperative),
        Some("consumer") => builder = builder.protocol(Protocol::Consumer),
        Some(other) => {
            return bad(
                format!("the URL's parameter protocol is {other:?}"),
                "say range, cooperative or consumer",
            );
        }
    }
    match endpoint.param("compression") {
        None => {}
        Some(kind @ ("none" | "gzip" | "snappy" | "lz4" | "zstd")) => builder = builder.compression(kind),
        Some(other) => {
            return bad(
                format!("the URL's parameter compression is {other:?}"),
                "say none, gzip, snappy, lz4 or zstd",
            );
        }
    }
    match endpoint.param("dead_letter_headers") {
        None | Some("millstream") => {}
        Some("spring") => builder = builder.dead_letter_headers(DeadLetterHeaders::Spring),
        Some(other) => {
            return bad(
                format!("the URL's parameter dead_letter_headers is {other:?}"),
                "say millstream or spring",
            );
        }
    }
    let source = || endpoint.param("source").unwrap_or_default().to_owned();
    match endpoint.param("wire") {
        None | Some("streams") => {}
        Some("cloudevents") => builder = builder.wire(Wire::CloudEvents { source: source() }),
        Some("cloudevents-json") => builder = builder.wire(Wire::CloudEventsJson { source: source() }),
        Some(other) => {
            return bad(
                format!("the URL's parameter wire is {other:?}"),
                "say streams, cloudevents or cloudevents-json",
            );
        }
    }
    match endpoint.param("transactions") {
        None | Some("none") => {}
        Some("handlers") => builder = builder.transactions(Transactions::Handlers),
        Some(other) => {
            return bad(format!("the URL's parameter transactions is {other:?}"), "say none or handlers");
        }
    }
    if let Some(partitions) = endpoint.parsed("partitions")? {
        builder = builder.partitions(partitions);
    }
    if let Some(replicas) = endpoint.parsed("replication")? {
        builder = builder.replication(replicas);
    }
    if let Some(bytes) = endpoint.parsed("retention_size")? {
        builder = builder.retention_size(bytes);
    }
    if let Some(bytes) = endpoint.parsed("max_message")? {
        builder = builder.max_message(bytes);
    }
    if let Some(age) = duration(endpoint, "retention_age")? {
        builder = builder.retention_age(age);
    }
    if let Some(lease) = duration(endpoint, "lease")? {
        builder = builder.lease(lease);
    }
    if let Some(within) = duration(endpoint, "revoke_within")? {
        builder = builder.revoke_within(within);
    }
    if let Some(within) = duration(endpoint, "write_within")? {
        builder = builder.write_within(within);
    }
    if let Some(instance) = endpoint.param("instance") {
        builder = builder.instance(instance);
    }
    if let Some(name) = endpoint.param("client_id") {
        builder = builder.client_id(name);
    }
    security::apply(endpoint, builder)
}

fn duration(endpoint: &Endpoint, name: &str) -> Result<Option<Duration>> {
    Ok(endpoint.parsed::<humantime::Duration>(name)?.map(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brokers(url: &str) -> String {
        builder(&Endpoint::parse(url).unwrap()).unwrap().settings.brokers
    }

    #[test]
    fn a_url_names_one_broker_or_several() {
        assert_eq!(brokers("kafka://localhost"), "localhost:9092");
        assert_eq!(brokers("kafka://a:1,b,c:3/?lease=5s"), "a:1,b:9092,c:3");
        assert_eq!(brokers("kafka://[::1]:9093"), "[::1]:9093");
        assert_eq!(brokers("kafka://[::1]"), "[::1]:9092");
    }

    #[test]
    fn what_a_url_cannot_say_is_refused_with_what_it_can() {
        for (url, part) in [
            ("kafka://", "names no broker"),
            ("kafka://h/topic", "names no broker"),
            ("kafka://ann:12/secret@h", "percent-encoded"),
            ("kafka://ann:12?secret@h", "percent-encoded"),
            ("kafka://ann:secret@h?sasl=none", "scram-sha-512"),
            ("kafka://h?create=always", "missing, never or assume"),
            ("kafka://h?protocol=sticky", "range, cooperative or consumer"),
            ("kafka://h?acks=1", "there are: create"),
        ] {
            let error = builder(&Endpoint::parse(url).unwrap()).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
