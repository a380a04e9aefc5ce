//! What the clients of a connection tell by themselves: their log, and why they have no connection. And the one thing
//! that they ask for: a token to log in with.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use millstream_core::{Error, ErrorKind};
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::security::reasons::{guess, is_grave, meaning};
use crate::security::tokens::{Tokens, milliseconds};
use crate::security::{Secret, Security};

/// A broker that is away says so up to twenty times a second: a line in this time is enough.
const QUIET: Duration = Duration::from_secs(10);

/// For how long a reason explains what happens: the client repeats one that stays each half minute.
const LASTS: Duration = Duration::from_secs(60);

/// A secret that is shorter is part of any sentence.
const SHORTEST: usize = 4;

/// A token that is refused in its last moments is no refusal for good: clocks differ, and the client takes up to ten
/// seconds until it asks for another.
const LAST_MOMENTS: Duration = Duration::from_secs(30);

/// Listens to all clients of a connection. Each has one of its own: [`for_another`](Self::for_another).
#[derive(Debug)]
pub(crate) struct Ears {
    heard: Arc<Mutex<Heard>>,
    secrets: Arc<[Secret]>,
    tokens: Option<Tokens>,
    /// When the token expires that this client has, in milliseconds since 1970.
    expires: AtomicI64,
}

#[derive(Debug, Default)]
struct Heard {
    last: Option<Reason>,
    /// One that tells more than that a broker is away.
    grave: Option<Reason>,
    guess: Option<Reason>,
    /// A broker answered once.
    answered: bool,
    told: Option<Instant>,
}

impl Heard {
    fn keep(&mut self, code: Option<Code>, sentence: &str) {
        let reason = Reason { code, sentence: sentence.to_owned(), at: Instant::now() };
        if is_grave(code, sentence) {
            self.grave = Some(reason.clone());
        } else if guess(sentence).is_some() {
            self.guess = Some(reason.clone());
        }
        self.last = Some(reason);
    }
}

/// Why there is no connection. The errors of calls only say that they took too long.
#[derive(Debug, Clone)]
pub(crate) struct Reason {
    code: Option<Code>,
    pub(crate) sentence: String,
    at: Instant,
}

impl Reason {
    /// What it means, and what to do about it.
    pub(crate) fn meaning(&self) -> (ErrorKind, &'static str) {
        meaning(self.code, &self.sentence)
    }
}

impl Ears {
    pub(crate) fn new(security: &Security, tokens: Option<Tokens>) -> Self {
        let secrets = security.secrets().into();
        Self { heard: Arc::default(), secrets, tokens, expires: AtomicI64::new(0) }
    }

    /// For another client of the same connection.
    pub(crate) fn for_another(&self) -> Self {
        let (heard, secrets) = (Arc::clone(&self.heard), Arc::clone(&self.secrets));
        Self { heard, secrets, tokens: self.tokens.clone(), expires: AtomicI64::new(0) }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker has answered.
    pub(crate) fn answered(&self) {
        self.heard().answered = true;
    }

    /// The last reason that was given, or a grave one if there was any.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let heard = self.heard();
        let recent = |reason: &&Reason| reason.at.elapsed() < LASTS;
        [&heard.grave, &heard.last].into_iter().flatten().find(recent).cloned()
    }

    /// What may be the cause, if no broker ever answered: a sentence, and what to do.
    pub(crate) fn guess(&self) -> Option<(String, &'static str)> {
        let heard = self.heard();
        let reason = heard.guess.as_ref().filter(|_| !heard.answered && heard.grave.is_none())?;
        Some((reason.sentence.clone(), guess(&reason.sentence)?))
    }

    /// An error of a call, with the grave reason that the connection has for it, if there is one.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let may_be_it =
            matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::Denied);
        let heard = self.heard();
        let grave = heard.grave.as_ref().filter(|reason| may_be_it && reason.at.elapsed() < LASTS);
        let Some(grave) = grave else { return error };
        let what = format!("{}, and the connection says: {}", error.context().message, grave.sentence);
        Error::new(error.kind(), what).fix(grave.meaning().1)
    }

    /// Whether a login of this client that fails now will always fail. It will not if its token was in its last moments,
    /// nor if the broker only did not want to hear it: it takes no second login within a second, which is what comes of
    /// such a token.
    pub(crate) fn is_refused_for_good(&self) -> bool {
        let denied = |reason: Reason| reason.meaning().0 == ErrorKind::Denied;
        let fresh = || {
            let soon = milliseconds(SystemTime::now() + LAST_MOMENTS);
            self.expires.load(Ordering::Relaxed) > soon
        };
        (self.tokens.is_none() || fresh()) && self.reason().is_some_and(denied)
    }

    pub(crate) fn hear(&self, error: &KafkaError, reason: &str) {
        let sentence = self.clean(reason);
        let code = error.rdkafka_error_code();
        let mut heard = self.heard();
        // "All brokers are down" follows each reason, and tells less.
        if heard.last.is_none() || !sentence.contains("brokers are down") {
            heard.keep(code, &sentence);
        }
        if heard.told.is_none_or(|at| at.elapsed() >= QUIET) {
            heard.told = Some(Instant::now());
            tracing::warn!(%error, reason = %sentence, "kafka: no connection, or an error of it");
        } else {
            tracing::debug!(%error, reason = %sentence, "kafka");
        }
    }

    pub(crate) fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let line = self.clean(line);
        if facility == "FAIL" {
            // A broker that hangs up while a connection begins is told only here, with what may be the cause.
            let sentence = line.split_once("]: ").map_or(&*line, |(_thread, sentence)| sentence).to_owned();
            self.heard().keep(None, &sentence);
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", facility, "{line}");
            }
            // What is an error to it is told by the callback as well, at a bounded rate.
            _ => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }

    /// The token to log in with. It is there already: this neither waits nor calls anybody.
    pub(crate) fn token(&self) -> Result<OAuthToken, Box<dyn StdError>> {
        match &self.tokens {
            Some(tokens) => {
                let token = tokens.current()?;
                self.expires.store(token.lifetime_ms, Ordering::Relaxed);
                Ok(token)
            }
            None => Err("no token provider is set".into()),
        }
    }

    /// A text without secrets, which a broker may have repeated.
    pub(crate) fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let token = self.tokens.as_ref().and_then(Tokens::secret);
        let mut text = Cow::Borrowed(text);
        for Secret(secret) in self.secrets.iter().chain(&token).filter(|secret| secret.0.len() >= SHORTEST) {
            if text.contains(secret) {
                text = Cow::Owned(text.replace(secret, "***"));
            }
        }
        text
    }
}

impl ClientContext for Ears {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        self.token()
    }
}

impl ConsumerContext for Ears {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::Sasl;

    fn ears() -> Ears {
        Ears::new(&Security { transport: None, sasl: Some(Sasl::plain("ann", "battery")) }, None)
    }

    #[test]
    fn what_a_broker_repeats_of_our_secrets_is_not_passed_on() {
        let ears = ears();
        ears.hear(&KafkaError::Global(Code::Authentication), "user ann, password battery: no");
        assert_eq!(ears.reason().unwrap().sentence, "user ann, password ***: no");
        let shown = format!("{ears:?}");
        assert!(!shown.contains("battery"), "{shown}");
    }

    /// Lines of any level, also where the client library tells all its settings and what it does.
    #[test]
    fn the_librarys_own_log_has_no_secret() {
        use rdkafka::config::FromClientConfigAndContext as _;
        let mut settings = crate::settings::Settings::new("127.0.0.1:1".to_owned());
        settings.security.sasl = Some(Sasl::plain("ann", "battery"));
        let mut config = settings.client();
        config.set("debug", "all").set_log_level(RDKafkaLogLevel::Debug);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let ears = Recorder { ears: Ears::new(&Security::default(), None), lines: Arc::clone(&lines) };
        let client = rdkafka::consumer::BaseConsumer::from_config_and_context(&config, ears).unwrap();
        let _ = client.poll(Duration::from_millis(300));
        let lines = lines.lock().unwrap().join("\n");
        assert!(lines.contains("sasl.password") && !lines.contains("battery"), "{lines}");
    }

    struct Recorder {
        ears: Ears,
        lines: Arc<Mutex<Vec<String>>>,
    }

    impl ClientContext for Recorder {
        fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
            self.ears.log(level, facility, line);
            self.lines.lock().unwrap().push(line.to_owned());
        }
    }

    impl ConsumerContext for Recorder {}

    #[test]
    fn a_login_that_came_at_a_bad_moment_is_no_refusal() {
        let ears = ears();
        ears.hear(
            &KafkaError::Global(Code::Authentication),
            "Broker: Request not valid in current SASL state",
        );
        assert!(!ears.is_refused_for_good());
    }

    #[test]
    fn a_refusal_is_not_hidden_by_what_comes_after_it() {
        let ears = ears();
        ears.hear(&KafkaError::Global(Code::Authentication), "invalid credentials");
        ears.hear(&KafkaError::Global(Code::BrokerTransportFailure), "Connect to ipv6#[::1]:9092 failed");
        ears.hear(&KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert_eq!(ears.reason().unwrap().sentence, "invalid credentials");
        assert!(ears.is_refused_for_good());
        let explained = ears.explain(Error::new(ErrorKind::Timeout, "it was not confirmed")).to_string();
        assert!(explained.contains("invalid credentials: check the user"), "{explained}");
        let other = ears.explain(Error::new(ErrorKind::TooLarge, "it is too large")).to_string();
        assert_eq!(other, "it is too large");
    }
}
