//! How connections are protected: TLS, and who logs in. Apart from all other settings, since some of this is shown
//! nowhere: not by `Debug`, not in an error, not in the log.

mod files;
pub(crate) mod reasons;
pub(crate) mod tokens;
pub(crate) mod url;

use std::fmt;
use std::path::PathBuf;

use millstream_core::{BoxError, Error, ErrorKind, Result};
use rdkafka::ClientConfig;

use self::files::{pem, text};
use self::tokens::{Provider, Token};

/// What nobody may see.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Encrypted connections: whom they trust, and what they show of themselves.
///
/// A broker's certificate is always verified, and must name the address under which the broker is reached; there is no
/// setting to leave that out. Files are PEM, and are read for each client that is made: what is renewed counts from the
/// next connection on.
#[derive(Debug, Clone)]
#[must_use = "give it to the builder"]
pub struct Tls {
    ca: Option<PathBuf>,
    client: Option<ClientCertificate>,
}

#[derive(Debug, Clone)]
struct ClientCertificate {
    certificate: PathBuf,
    key: PathBuf,
    key_password: Option<Secret>,
}

impl Tls {
    /// Trusts whom the operating system trusts.
    pub fn system() -> Self {
        Self { ca: None, client: None }
    }

    /// Trusts the authorities in this file, and nobody else.
    pub fn ca(file: impl Into<PathBuf>) -> Self {
        Self { ca: Some(file.into()), client: None }
    }

    /// Shows this certificate to brokers that ask for one, with its private key.
    pub fn client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (certificate, key) = (certificate.into(), key.into());
        self.client = Some(ClientCertificate { certificate, key, key_password: None });
        self
    }

    /// The same, with a private key that is encrypted.
    pub fn client_certificate_encrypted(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        password: impl Into<String>,
    ) -> Self {
        let (certificate, key) = (certificate.into(), key.into());
        self.client =
            Some(ClientCertificate { certificate, key, key_password: Some(Secret(password.into())) });
        self
    }
}

/// Who logs in, and how.
#[derive(Clone)]
#[must_use = "give it to the builder"]
pub struct Sasl {
    login: Login,
}

#[derive(Clone)]
enum Login {
    Password { mechanism: &'static str, user: String, password: Secret },
    Token(Provider),
}

impl Sasl {
    /// SCRAM-SHA-512: the password itself is never sent, and the broker does not keep it.
    pub fn scram_sha_512(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("SCRAM-SHA-512", user.into(), password.into())
    }

    /// SCRAM-SHA-256: the same with a smaller digest.
    pub fn scram_sha_256(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("SCRAM-SHA-256", user.into(), password.into())
    }

    /// PLAIN: the password is sent as it is.
    pub fn plain(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::password("PLAIN", user.into(), password.into())
    }

    /// OAUTHBEARER: a token that expires, from this function of yours.
    ///
    /// It is asked once for a connection to begin with, whatever the number of clients inside, and again when 70 % of a
    /// token's time are over. If it fails, there is a warning, and it is asked again after a second, later after up to
    /// half a minute; meanwhile the token that is there serves until it expires. It runs on a thread and a runtime of its
    /// own: it may block, and handlers that block do not hold it up.
    ///
    /// With OAUTHBEARER, topics are neither made nor purged by this driver: the client library cannot log in its
    /// administration that way.
    ///
    /// ```no_run
    /// # async fn from_your_identity_provider() -> Result<(String, u64), std::io::Error> { Err(std::io::Error::other("a token of your own")) }
    /// # async fn example() -> millstream_core::Result<()> {
    /// use std::time::Duration;
    /// use millstream_kafka::{Kafka, Sasl, Token};
    ///
    /// let sasl = Sasl::oauth_bearer(|| async {
    ///     let (token, seconds) = from_your_identity_provider().await?;
    ///     Ok::<_, std::io::Error>(Token::expiring_in(token, Duration::from_secs(seconds)))
    /// });
    /// let kafka = Kafka::builder("kafka.example.com:9093").sasl(sasl).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn oauth_bearer<F, Fut, E>(provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Token, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self { login: Login::Token(Provider::new(provider)) }
    }

    fn password(mechanism: &'static str, user: String, password: String) -> Self {
        Self { login: Login::Password { mechanism, user, password: Secret(password) } }
    }
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Sasl");
        match &self.login {
            Login::Password { mechanism, user, password } => {
                debug.field("mechanism", mechanism).field("user", user).field("password", password)
            }
            Login::Token(_) => debug.field("mechanism", &"OAUTHBEARER"),
        };
        debug.finish()
    }
}

/// What was said about the connections, if anything was.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Open,
    Tls(Tls),
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Security {
    pub(crate) transport: Option<Transport>,
    pub(crate) sasl: Option<Sasl>,
}

impl Security {
    /// The encryption. Who logs in has it unless the contrary was said.
    fn tls(&self) -> Option<Tls> {
        match (&self.transport, &self.sasl) {
            (Some(Transport::Tls(tls)), _) => Some(tls.clone()),
            (None, Some(_)) => Some(Tls::system()),
            (Some(Transport::Open), _) | (None, None) => None,
        }
    }

    /// Whether a password or a token crosses the network in the open.
    pub(crate) fn shows_a_secret(&self) -> bool {
        // SCRAM does not send it, but lets who listens try passwords at leisure.
        self.sasl.is_some() && self.tls().is_none()
    }

    /// The function that gives tokens, if they are what is logged in with.
    pub(crate) fn provider(&self) -> Option<&Provider> {
        match &self.sasl.as_ref()?.login {
            Login::Token(provider) => Some(provider),
            Login::Password { .. } => None,
        }
    }

    /// What must be shown nowhere, whoever says it: a broker's error may repeat what it was sent.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let key = self.tls().and_then(|tls| tls.client?.key_password);
        let password = self.sasl.as_ref().and_then(|sasl| match &sasl.login {
            Login::Password { password, .. } => Some(password.clone()),
            Login::Token(_) => None,
        });
        key.into_iter().chain(password).collect()
    }

    /// Looks at what can be looked at before a broker is asked. Reads files.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |what: &str, fix: &str| Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix));
        if let Some(Sasl { login: Login::Password { user, password, .. } }) = &self.sasl {
            if user.is_empty() || password.0.is_empty() {
                return bad("the user or the password is empty", "name both");
            }
            if user.contains('\0') || password.0.contains('\0') {
                return bad("the user or the password has a NUL in it", "look where it comes from");
            }
        }
        let Some(tls) = self.tls() else { return Ok(()) };
        if let Some(ca) = &tls.ca {
            pem("ca", ca, "CERTIFICATE")?;
        }
        let Some(client) = &tls.client else { return Ok(()) };
        pem("cert", &client.certificate, "CERTIFICATE")?;
        let key = pem("key", &client.key, "PRIVATE KEY")?;
        let password = client.key_password.as_ref();
        if password.is_none() && key.contains("ENCRYPTED") {
            let what = format!("the key in {} is encrypted", client.key.display());
            return bad(&what, "give its password as key_password");
        }
        if password.is_some_and(|password| password.0.is_empty() || password.0.contains('\0')) {
            return bad("key_password is empty or has a NUL in it", "look where it comes from");
        }
        Ok(())
    }

    /// Tells a client.
    pub(crate) fn apply(&self, config: &mut ClientConfig) {
        let tls = self.tls();
        let protocol = match (&tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = tls {
            // Both are its defaults, and shall stay: a certificate for another name proves nothing.
            config.set("enable.ssl.certificate.verification", "true");
            config.set("ssl.endpoint.identification.algorithm", "https");
            if let Some(ca) = &tls.ca {
                config.set("ssl.ca.location", text(ca));
            }
            if let Some(client) = tls.client {
                config.set("ssl.certificate.location", text(&client.certificate));
                config.set("ssl.key.location", text(&client.key));
                if let Some(password) = client.key_password {
                    config.set("ssl.key.password", password.0);
                }
            }
        }
        match self.sasl.as_ref().map(|sasl| &sasl.login) {
            None => {}
            Some(Login::Password { mechanism, user, password }) => {
                config.set("sasl.mechanism", *mechanism);
                config.set("sasl.username", user).set("sasl.password", &password.0);
            }
            Some(Login::Token(_)) => {
                config.set("sasl.mechanism", "OAUTHBEARER");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(security: &Security) -> ClientConfig {
        let mut config = ClientConfig::new();
        security.apply(&mut config);
        config
    }

    #[test]
    fn who_logs_in_is_encrypted_unless_the_contrary_is_said() {
        let mut security = Security::default();
        assert_eq!(config(&security).get("security.protocol"), Some("plaintext"));
        security.sasl = Some(Sasl::plain("ann", "secret"));
        assert_eq!(config(&security).get("security.protocol"), Some("sasl_ssl"));
        assert!(!security.shows_a_secret());
        security.transport = Some(Transport::Open);
        assert_eq!(config(&security).get("security.protocol"), Some("sasl_plaintext"));
        assert!(security.shows_a_secret());
        security = Security { transport: Some(Transport::Tls(Tls::system())), sasl: None };
        assert_eq!(config(&security).get("security.protocol"), Some("ssl"));
        assert_eq!(config(&security).get("ssl.endpoint.identification.algorithm"), Some("https"));
    }

    #[test]
    fn no_secret_is_in_any_debug() {
        let security = Security {
            transport: Some(Transport::Tls(
                Tls::system().client_certificate_encrypted("c.pem", "c.key", "sesame"),
            )),
            sasl: Some(Sasl::scram_sha_256("ann", "battery")),
        };
        let shown = format!("{security:?} {security:#?} {:?}", config(&security));
        assert!(
            shown.contains("SCRAM-SHA-256") && shown.contains("ann") && shown.contains("c.key"),
            "{shown}"
        );
        assert!(!shown.contains("sesame") && !shown.contains("battery"), "{shown}");
    }

    #[test]
    fn an_encrypted_key_needs_its_password_and_a_login_both_its_parts() {
        let folder = std::env::temp_dir().join(format!("millstream-kafka-pem-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (cert, key) = (folder.join("c.pem"), folder.join("c.key"));
        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(&key, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
        let of = |tls| Security { transport: Some(Transport::Tls(tls)), sasl: None };
        let error = of(Tls::system().client_certificate(&cert, &key)).check().unwrap_err().to_string();
        assert!(error.contains("key_password"), "{error}");
        of(Tls::system().client_certificate_encrypted(&cert, &key, "sesame")).check().unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        for sasl in [Sasl::plain("", "secret"), Sasl::plain("ann", ""), Sasl::plain("ann", "sec\0ret")] {
            let error = Security { transport: None, sasl: Some(sasl) }.check().unwrap_err();
            assert!(!error.to_string().contains("sec"), "{error}");
        }
    }
}
