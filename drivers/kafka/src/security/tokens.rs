//! Tokens to log in with: a function of the user's gives them, a thread of its own keeps one that is fresh, and every
//! client of a connection takes that one.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millstream_core::{BoxError, BoxFuture, Error, ErrorKind, Result};
use rdkafka::client::OAuthToken;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Secret;

/// How long the function may take.
const GIVEN_WITHIN: Duration = Duration::from_secs(30);

/// After how long a function that failed is asked again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Clocks are set, and machines sleep: the time is looked at again after this.
const LOOK: Duration = Duration::from_secs(30);

/// A token to log in with, until it expires.
///
/// `Debug` does not show its value.
#[derive(Debug, Clone)]
pub struct Token {
    value: Secret,
    expires: SystemTime,
    principal: String,
}

impl Token {
    /// A token that expires at a time.
    pub fn expiring_at(value: impl AsRef<str>, at: SystemTime) -> Self {
        // Those that are read from a file end in a line break.
        let value = Secret(value.as_ref().trim().to_owned());
        Self { value, expires: at, principal: "millstream".to_owned() }
    }

    /// A token that expires in a while, from now on.
    pub fn expiring_in(value: impl AsRef<str>, within: Duration) -> Self {
        Self::expiring_at(value, SystemTime::now() + within)
    }

    /// Names whose it is, for the client's own log: a broker takes that from the token.
    #[must_use]
    pub fn principal(mut self, name: impl Into<String>) -> Self {
        self.principal = name.into();
        self
    }

    /// How long it is still good.
    fn left(&self) -> Option<Duration> {
        self.expires.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero())
    }

    /// The client library repeats a token that it refuses in its error: it must not come to that.
    fn check(&self) -> Result<(), BoxError> {
        let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if self.value.0.is_empty() || !visible(&self.value.0) {
            return Err("the token is empty, or has characters that no token has".into());
        }
        if self.principal.is_empty() || self.principal.contains('\0') {
            return Err("the token's principal is empty, or has a NUL in it".into());
        }
        if self.left().is_none() {
            return Err("the token has expired already: look at the clocks".into());
        }
        Ok(())
    }
}

type Give = dyn Fn() -> BoxFuture<'static, Result<Token, BoxError>> + Send + Sync;

/// The function that gives tokens.
#[derive(Clone)]
pub(crate) struct Provider(Arc<Give>);

impl Provider {
    pub(super) fn new<F, Fut, E>(give: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Token, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Arc::new(move || {
            let given = give();
            Box::pin(async move { given.await.map_err(Into::into) })
        }))
    }

    /// A token that can be used, or why there is none.
    async fn token(&self) -> Result<Token, BoxError> {
        let give = Arc::clone(&self.0);
        // In a task: one that panics ends no more than itself.
        let mut task = tokio::spawn(async move { give().await });
        let Ok(given) = timeout(GIVEN_WITHIN, &mut task).await else {
            task.abort();
            return Err(format!("the token provider took longer than {GIVEN_WITHIN:?}").into());
        };
        let token = given.map_err(|_| "the token provider panicked")??;
        token.check()?;
        Ok(token)
    }
}

/// The newest token, and the newest failure to get one that came after it.
#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    failure: Option<String>,
}

/// Keeps a token fresh as long as it lives.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    state: watch::Receiver<State>,
}

impl Tokens {
    /// Starts, and waits for the first token.
    pub(crate) async fn start(provider: Provider, within: Duration) -> Result<Self> {
        let (told, state) = watch::channel(State::default());
        std::thread::Builder::new()
            .name("millstream-kafka-token".to_owned())
            .spawn(move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(refresh(&provider, &told)),
                Err(error) => told.send_modify(|state| state.failure = Some(error.to_string())),
            })
            .map_err(|e| {
                Error::new(ErrorKind::Io, "a thread could not be started").source(e).fix("allow more threads")
            })?;
        let mut first = state.clone();
        let given = first.wait_for(|state| state.token.is_some() || state.failure.is_some());
        let failure = match timeout(within, given).await {
            Ok(Ok(state)) if state.token.is_some() => None,
            Ok(Ok(state)) => state.failure.clone(),
            Ok(Err(_)) => Some("the thread that keeps tokens fresh has ended".to_owned()),
            Err(_) => Some(format!("the token provider took longer than {within:?}")),
        };
        match failure {
            None => Ok(Self { state }),
            Some(why) => {
                Err(Error::new(ErrorKind::Unavailable, format!("there is no token to log in with: {why}"))
                    .fix("see why the token provider of this program fails"))
            }
        }
    }

    /// The token there is, as the client library wants it.
    pub(crate) fn current(&self) -> Result<OAuthToken, String> {
        let state = self.state.borrow();
        match state.token.as_ref().filter(|token| token.left().is_some()) {
            Some(token) => Ok(OAuthToken {
                token: token.value.0.clone(),
                principal_name: token.principal.clone(),
                lifetime_ms: milliseconds(token.expires),
            }),
            // The library makes a C string of it.
            None => Err(state.failure.as_deref().unwrap_or("the token has expired").replace('\0', " ")),
        }
    }

    /// What must be shown nowhere.
    pub(crate) fn secret(&self) -> Option<Secret> {
        self.state.borrow().token.as_ref().map(|token| token.value.clone())
    }
}

pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Gets tokens until nobody wants them any more.
async fn refresh(provider: &Provider, told: &watch::Sender<State>) {
    let mut again = AGAIN.0;
    while !told.is_closed() {
        let due = match provider.token().await {
            Ok(token) => {
                again = AGAIN.0;
                // The client library asks when 80 % are over, and then there shall be a new one.
                let due = SystemTime::now() + token.left().unwrap_or_default() * 7 / 10;
                told.send_replace(State { token: Some(token), failure: None });
                due
            }
            Err(error) => {
                tracing::warn!(%error, again_in = ?again, "kafka: no new token to log in with");
                told.send_modify(|state| state.failure = Some(error.to_string()));
                let due = SystemTime::now() + again;
                again = (again * 2).min(AGAIN.1);
                due
            }
        };
        while let Ok(left) = due.duration_since(SystemTime::now()) {
            // Ends early when the last who wanted tokens goes.
            if left.is_zero() || timeout(left.min(LOOK), told.closed()).await.is_ok() {
                break;
            }
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_token_is_replaced_before_it_expires() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let provider = Provider::new(move || {
            let n = count.fetch_add(1, Ordering::Relaxed);
            async move {
                Ok::<_, BoxError>(Token::expiring_in(format!("token-{n}\n"), Duration::from_millis(300)))
            }
        });
        let tokens = Tokens::start(provider, WITHIN).await.unwrap();
        assert_eq!(tokens.current().unwrap().token, "token-0");
        tokens
            .state
            .clone()
            .wait_for(|state| state.token.as_ref().unwrap().value.0 == "token-2")
            .await
            .unwrap();
        let shown = format!("{tokens:?}");
        assert!(!shown.contains("token-"), "{shown}");
    }

    #[tokio::test]
    async fn while_the_provider_fails_the_token_that_is_there_serves_until_it_expires() {
        let asked = AtomicU32::new(0);
        let provider = Provider::new(move || {
            let n = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                match n {
                    0 => Ok(Token::expiring_in("first", Duration::from_millis(400))),
                    _ => Err("the identity provider is away"),
                }
            }
        });
        let tokens = Tokens::start(provider, WITHIN).await.unwrap();
        tokens.state.clone().wait_for(|state| state.failure.is_some()).await.unwrap();
        assert_eq!(tokens.current().unwrap().token, "first");
        let why = loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if let Err(why) = tokens.current() {
                break why;
            }
        };
        assert!(why.contains("is away"), "{why}");
    }

    #[tokio::test]
    async fn what_is_no_token_is_refused_without_being_repeated() {
        for (value, part) in [("tok\u{e9}n", "characters"), ("", "empty")] {
            let provider = Provider::new(move || async move {
                Ok::<_, BoxError>(Token::expiring_in(value, Duration::from_secs(9)))
            });
            let error = Tokens::start(provider, WITHIN).await.unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("tok\u{e9}n"), "{error}");
        }
        let past = Provider::new(|| async { Ok::<_, BoxError>(Token::expiring_at("token", UNIX_EPOCH)) });
        assert!(Tokens::start(past, WITHIN).await.unwrap_err().to_string().contains("expired"));
    }

    #[tokio::test]
    async fn a_provider_that_panics_or_hangs_is_an_error_at_once_or_in_time() {
        fn panics() -> BoxFuture<'static, Result<Token, BoxError>> {
            panic!("no")
        }
        let error = Tokens::start(Provider::new(panics), WITHIN).await.unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
        let hangs = Provider::new(std::future::pending::<Result<Token, BoxError>>);
        let error = Tokens::start(hangs, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("took longer"), "{error}");
    }
}
