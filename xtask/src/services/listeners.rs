//! Where a broker of Kafka listens, and who may speak to it there: anybody in the open, anybody over TLS, whoever has a
//! certificate, whoever logs in.

use std::path::Path;

/// Who may log in, by PLAIN and by SCRAM. A token says itself whose it is.
pub(super) const USER: &str = "ann";
pub(super) const PASSWORD: &str = "correct-horse-4711";

const LOCALHOST: &str = "127.0.0.1";

/// The ports of one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    /// No TLS, no login.
    pub(super) clients: u16,
    pub(super) controller: u16,
    /// TLS, no login.
    pub(super) tls: u16,
    /// TLS with a certificate of the client's.
    pub(super) mtls: u16,
    /// TLS and a login.
    pub(super) sasl: u16,
    /// A login in the open.
    pub(super) sasl_open: u16,
}

impl Ports {
    pub(super) const COUNT: usize = 6;

    pub(super) fn new([clients, controller, tls, mtls, sasl, sasl_open]: [u16; Self::COUNT]) -> Self {
        Self { clients, controller, tls, mtls, sasl, sasl_open }
    }

    /// The settings of a broker that concern them, with the certificates of this folder.
    pub(super) fn properties(self, certificates: &Path) -> String {
        let Self { clients, controller, tls, mtls, sasl, sasl_open } = self;
        let outside = format!(
            "PLAINTEXT://{LOCALHOST}:{clients},TLS://{LOCALHOST}:{tls},MTLS://{LOCALHOST}:{mtls},\
             SASL://{LOCALHOST}:{sasl},SASLOPEN://{LOCALHOST}:{sasl_open}"
        );
        let security = "org.apache.kafka.common.security";
        let mut text = format!(
            "listeners={outside},CONTROLLER://{LOCALHOST}:{controller}\n\
             advertised.listeners={outside}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MTLS:SSL,SASL:SASL_SSL,\
             SASLOPEN:SASL_PLAINTEXT\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             ssl.keystore.type=PEM\n\
             ssl.keystore.location={keys}\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={ca}\n\
             listener.name.mtls.ssl.client.auth=required\n\
             listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
             listener.name.saslopen.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256\n",
            keys = certificates.join("broker.pem").display(),
            ca = certificates.join("ca.pem").display(),
        );
        for listener in ["sasl", "saslopen"] {
            let name = format!("listener.name.{listener}");
            text += &format!(
                "{name}.plain.sasl.jaas.config={security}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n\
                 {name}.scram-sha-256.sasl.jaas.config={security}.scram.ScramLoginModule required;\n"
            );
        }
        // Clients log in again before a token expires, and each few seconds with SCRAM-SHA-256: a user that is gone shows
        // soon.
        text += &format!(
            "listener.name.sasl.scram-sha-512.sasl.jaas.config={security}.scram.ScramLoginModule required;\n\
             listener.name.sasl.oauthbearer.sasl.jaas.config={security}.oauthbearer.OAuthBearerLoginModule required \
             unsecuredLoginStringClaim_sub=\"broker\";\n\
             listener.name.sasl.oauthbearer.connections.max.reauth.ms=60000\n\
             listener.name.sasl.scram-sha-256.connections.max.reauth.ms=3000\n"
        );
        text
    }
}

/// What the tool that formats a broker's folder is told about who may log in.
pub(super) fn users() -> Vec<String> {
    let user = |kind: &str| format!("SCRAM-SHA-{kind}=[name={USER},password={PASSWORD}]");
    ["256", "512"].iter().flat_map(|kind| ["--add-scram".to_owned(), user(kind)]).collect()
}

/// The address of each broker, by one of its ports.
pub(super) fn addresses(all: &[Ports], port: impl Fn(&Ports) -> u16) -> String {
    all.iter().map(|ports| format!("{LOCALHOST}:{}", port(ports))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_has_its_port_and_is_advertised() {
        let text = Ports::new([1, 2, 3, 4, 5, 6]).properties(Path::new("/certificates"));
        assert!(
            text.contains(",SASLOPEN://127.0.0.1:6,CONTROLLER://127.0.0.1:2\nadvertised.listeners=PLAINTEXT"),
            "{text}"
        );
        assert!(text.contains("ssl.keystore.location=/certificates/broker.pem\n"), "{text}");
    }
}
