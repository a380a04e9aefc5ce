//! A connection to AWS: where it is, as whom it is called, and the thread that calls it. All services share one.

use std::fmt;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_smithy_runtime_api::client::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_smithy_types::retry::RetryConfig;
use millstream_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use crate::connections::Connections;
use crate::errors;
use crate::io::Io;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// How long one attempt of an ordinary request may take.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long the credentials may take to be found. A machine's metadata service that says nothing takes its time.
const CREDENTIALS_WITHIN: Duration = Duration::from_secs(10);

/// Where AWS is and as whom it is called. Cloning shares it.
///
/// ```no_run
/// # async fn example() -> millstream_core::Result<()> {
/// use millstream_aws::Aws;
///
/// // As the environment, the profile or the machine's role say.
/// let aws = Aws::builder().connect().await?;
/// // A server on this machine that speaks the same.
/// let local = Aws::builder()
///     .region("eu-west-1")
///     .endpoint("http://127.0.0.1:9324")
///     .credentials("test", "test")
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Aws {
    config: SdkConfig,
    io: Io,
}

impl fmt::Debug for Aws {
    // The SDK's own would show the id of the access key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aws")
            .field("region", &self.region())
            .field("endpoint", &self.config.endpoint_url())
            .finish_non_exhaustive()
    }
}

/// What clients are for. Those of one purpose share connections, and none with another: what waits in long polls holds up
/// nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Ordinary requests.
    Calls,
    /// Long polls of this length.
    Polls(Duration),
    /// Renewing leases of this length, on whichever thread uses them first.
    Leases(Duration),
}

/// What a client is made of.
pub(crate) struct Line {
    pub(crate) config: SdkConfig,
    pub(crate) connections: Connections,
}

impl Aws {
    /// Starts to describe a connection. Whatever is not said is found as the AWS SDK finds it: in the environment, the
    /// profile `AWS_PROFILE` of `~/.aws`, the container's or the machine's role.
    pub fn builder() -> AwsBuilder {
        AwsBuilder { region: None, endpoint: None, profile: None, credentials: None, app: None }
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> &str {
        self.config.region().map_or("", Region::as_ref)
    }

    /// The thread that all requests but those of leases run on.
    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    /// What clients of this purpose are made of, with connections of their own.
    pub(crate) fn line(&self, purpose: Purpose) -> Line {
        let attempt = match purpose {
            // A poll that is cut hides the next message: it must end by itself, if it ends at all.
            Purpose::Polls(wait) => wait + ANSWER_WITHIN,
            // One that is not answered must leave time for another.
            Purpose::Leases(lease) => (lease / 3).min(ANSWER_WITHIN),
            Purpose::Calls => ANSWER_WITHIN,
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_WITHIN)
            .operation_attempt_timeout(attempt)
            .build();
        let connections = Connections::new();
        let config =
            self.config.to_builder().timeout_config(timeouts).http_client(connections.clone()).build();
        Line { config, connections }
    }
}

/// Describes a connection to AWS.
#[derive(Clone)]
#[must_use = "a builder does nothing until it connects"]
pub struct AwsBuilder {
    region: Option<String>,
    endpoint: Option<String>,
    profile: Option<String>,
    credentials: Option<Credentials>,
    app: Option<String>,
}

impl fmt::Debug for AwsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsBuilder")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("profile", &self.profile)
            .field("credentials", &self.credentials.is_some())
            .finish_non_exhaustive()
    }
}

impl AwsBuilder {
    /// The region, such as `eu-west-1`.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// The address of a service that is not AWS's own, such as `http://127.0.0.1:9324`.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The profile of `~/.aws` to use, instead of `AWS_PROFILE`.
    pub fn profile(mut self, name: impl Into<String>) -> Self {
        self.profile = Some(name.into());
        self
    }

    /// An access key and its secret, instead of those that would be found. They do not expire.
    pub fn credentials(mut self, key_id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::new(key_id, secret, None, None, "millstream"));
        self
    }

    /// The same with the session token of a role. What expires is better found than said: then it is renewed.
    pub fn session(
        mut self,
        key_id: impl Into<String>,
        secret: impl Into<String>,
        token: impl Into<String>,
    ) -> Self {
        self.credentials = Some(Credentials::new(key_id, secret, Some(token.into()), None, "millstream"));
        self
    }

    /// This program's name in the logs of AWS: letters, digits, `-` and `_`.
    pub fn client_id(mut self, name: impl Into<String>) -> Self {
        self.app = Some(name.into());
        self
    }

    /// Looks for region and credentials, and starts the thread that talks to AWS. Asks no service.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) without a region, or with a name or an endpoint that is none;
    /// [`Denied`](ErrorKind::Denied) if there are no credentials, with what was tried.
    pub async fn connect(self) -> Result<Aws> {
        let io = Io::start()?;
        let name = self.app.as_deref().unwrap_or("millstream").to_owned();
        let app = AppName::new(name).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, format!("client_id cannot be used: {e}"))
                .fix("use letters, digits, - and _")
        })?;
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(Error::new(ErrorKind::InvalidConfig, "the endpoint is no http:// or https:// URL")
                .fix("write it as http://127.0.0.1:9324"));
        }
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(Connections::new())
            .retry_config(RetryConfig::disabled())
            // It takes a long poll that is quiet for one that is stalled. Every attempt has a time limit anyway.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .app_name(app);
        if let Some(region) = self.region {
            loader = loader.region(Region::new(region));
        }
        if let Some(endpoint) = self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(profile) = self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(credentials) = self.credentials {
            loader = loader.credentials_provider(credentials);
        }
        // On the thread where it will be used: the connections that bring credentials live there.
        let config = io.run(checked(loader)).await??;
        Ok(Aws { config, io })
    }
}

/// Loads what is found, and sees that it is enough.
async fn checked(loader: aws_config::ConfigLoader) -> Result<SdkConfig> {
    let unfound = |why: String| {
        Error::new(ErrorKind::Denied, format!("no credentials for AWS were found: {why}")).fix(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the container or machine a role; \
             tried: the environment, the profile, web identity, the container's and the machine's role",
        )
    };
    let slow = || unfound(format!("nothing came within {CREDENTIALS_WITHIN:?}"));
    let config = timeout(CREDENTIALS_WITHIN, loader.load()).await.map_err(|_| slow())?;
    if config.region().is_none() {
        return Err(Error::new(ErrorKind::InvalidConfig, "no region is known")
            .fix("name it in the URL, as in sqs://eu-west-1, or set AWS_REGION"));
    }
    let Some(provider) = config.credentials_provider() else {
        return Err(unfound("there is no provider".to_owned()));
    };
    match timeout(CREDENTIALS_WITHIN, provider.provide_credentials()).await {
        Ok(Ok(_)) => Ok(config),
        Ok(Err(error)) => Err(unfound(errors::causes(&error))),
        Err(_) => Err(slow()),
    }
}
