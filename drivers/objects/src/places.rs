//! Where objects lie: a folder of this machine, or a bucket of a cloud.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Durability, Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

/// What happens to a folder that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Create {
    /// It is made.
    #[default]
    Missing,
    /// It is an error.
    Never,
}

/// A folder of this machine. An object is on disk, its name too, before it counts as written.
///
/// ```
/// use millstream_objects::{Folder, Objects};
/// let builder = Objects::builder(Folder::new("/var/lib/shop/letters"));
/// ```
#[derive(Debug, Clone)]
pub struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) create: Create,
}

impl Folder {
    /// The folder of this path, which is made if it is not there.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), create: Create::default() }
    }

    /// What happens if it is not there. Default: it is made.
    #[must_use]
    pub fn create(mut self, create: Create) -> Self {
        self.create = create;
        self
    }

    fn open(&self) -> Result<LocalFileSystem> {
        let failed = |kind, what: &str| Error::new(kind, format!("the folder {:?} {what}", self.path));
        if self.create == Create::Missing {
            std::fs::create_dir_all(&self.path).map_err(|e| {
                failed(ErrorKind::Io, "cannot be made").source(e).fix("check its path, and the rights on it")
            })?;
        }
        match std::fs::metadata(&self.path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(failed(ErrorKind::InvalidConfig, "is a file").fix("name a folder"));
            }
            Err(e) => {
                return Err(failed(ErrorKind::NotFound, "is not there")
                    .source(e)
                    .fix("check its name, or make it first; without create=never in the URL it is made, but not by who only looks"));
            }
        }
        let opened = LocalFileSystem::new_with_prefix(&self.path).map_err(|e| {
            failed(ErrorKind::Io, "cannot be opened").source(e).fix("check its path, and the rights on it")
        })?;
        Ok(opened.with_fsync(true))
    }
}

/// A bucket of Amazon S3, or of what speaks like it and knows conditional puts (`If-None-Match`).
///
/// Credentials, region and endpoint that are not set here come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_REGION`,
/// …), then from the machine's role.
///
/// ```
/// use millstream_objects::{Objects, S3};
/// let builder = Objects::builder(S3::new("letters").region("eu-central-1")).prefix("shop");
/// ```
#[cfg(feature = "s3")]
#[derive(Clone)]
pub struct S3 {
    bucket: String,
    region: Option<String>,
    endpoint: Option<String>,
    credentials: Option<(String, String)>,
}

#[cfg(feature = "s3")]
impl S3 {
    /// The bucket of this name, which must be there.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), region: None, endpoint: None, credentials: None }
    }

    /// The region. Default: the environment's, else `us-east-1`.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// The URL of a server that is not Amazon's, or of Amazon's own in a private network. One that begins with `http://`
    /// is spoken to in the open.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The id of an access key and its secret. Default: the environment's, else the machine's role.
    #[must_use]
    pub fn credentials(mut self, key_id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.credentials = Some((key_id.into(), secret.into()));
        self
    }

    fn open(&self, within: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
        use object_store::aws::AmazonS3Builder;
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.bucket)
            .with_client_options(cloud::client(within, self.endpoint.as_deref()))
            .with_retry(cloud::retries(within));
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some((key_id, secret)) = &self.credentials {
            builder = builder.with_access_key_id(key_id).with_secret_access_key(secret);
        }
        Ok(Arc::new(builder.build()?))
    }
}

#[cfg(feature = "s3")]
impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("bucket", &self.bucket)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// A bucket of Google Cloud Storage.
///
/// Credentials that are not set here come from the environment (`GOOGLE_SERVICE_ACCOUNT`,
/// `GOOGLE_APPLICATION_CREDENTIALS`), then from the machine's role.
#[cfg(feature = "gcs")]
#[derive(Debug, Clone)]
pub struct Gcs {
    bucket: String,
    endpoint: Option<String>,
    credentials: Option<String>,
}

#[cfg(feature = "gcs")]
impl Gcs {
    /// The bucket of this name, which must be there.
    #[must_use]
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), endpoint: None, credentials: None }
    }

    /// The URL of a server that is not Google's.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The file with the key of a service account. Default: the environment's, else the machine's role.
    #[must_use]
    pub fn credentials(mut self, file: impl Into<String>) -> Self {
        self.credentials = Some(file.into());
        self
    }

    fn open(&self, within: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
        use object_store::gcp::GoogleCloudStorageBuilder;
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(&self.bucket)
            .with_client_options(cloud::client(within, self.endpoint.as_deref()))
            .with_retry(cloud::retries(within));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        if let Some(file) = &self.credentials {
            builder = builder.with_service_account_path(file);
        }
        Ok(Arc::new(builder.build()?))
    }
}

/// A container of Azure Blob Storage.
///
/// Credentials that are not set here come from the environment (`AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_CLIENT_ID`, …), then
/// from the machine's identity.
#[cfg(feature = "azure")]
#[derive(Clone)]
pub struct Azure {
    container: String,
    account: Option<String>,
    endpoint: Option<String>,
    key: Option<String>,
}

#[cfg(feature = "azure")]
impl Azure {
    /// The container of this name, which must be there.
    #[must_use]
    pub fn new(container: impl Into<String>) -> Self {
        Self { container: container.into(), account: None, endpoint: None, key: None }
    }

    /// The storage account. Default: the environment's.
    #[must_use]
    pub fn account(mut self, name: impl Into<String>) -> Self {
        self.account = Some(name.into());
        self
    }

    /// The account's key. Default: the environment's, else the machine's identity.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The URL of a server that is not Microsoft's.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    fn open(&self, within: Duration) -> object_store::Result<Arc<dyn ObjectStore>> {
        use object_store::azure::MicrosoftAzureBuilder;
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_container_name(&self.container)
            .with_client_options(cloud::client(within, self.endpoint.as_deref()))
            .with_retry(cloud::retries(within));
        if let Some(account) = &self.account {
            builder = builder.with_account(account);
        }
        if let Some(key) = &self.key {
            builder = builder.with_access_key(key);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        Ok(Arc::new(builder.build()?))
    }
}

#[cfg(feature = "azure")]
impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Azure")
            .field("container", &self.container)
            .field("account", &self.account)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Where objects lie: a [`Folder`], or a bucket of a cloud whose feature is on.
#[derive(Debug, Clone)]
pub struct Place {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Folder(Folder),
    #[cfg(feature = "s3")]
    S3(S3),
    #[cfg(feature = "gcs")]
    Gcs(Gcs),
    #[cfg(feature = "azure")]
    Azure(Azure),
}

impl From<Folder> for Place {
    fn from(folder: Folder) -> Self {
        Self { kind: Kind::Folder(folder) }
    }
}

#[cfg(feature = "s3")]
impl From<S3> for Place {
    fn from(bucket: S3) -> Self {
        Self { kind: Kind::S3(bucket) }
    }
}

#[cfg(feature = "gcs")]
impl From<Gcs> for Place {
    fn from(bucket: Gcs) -> Self {
        Self { kind: Kind::Gcs(bucket) }
    }
}

#[cfg(feature = "azure")]
impl From<Azure> for Place {
    fn from(container: Azure) -> Self {
        Self { kind: Kind::Azure(container) }
    }
}

/// A place that is open.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) durability: Durability,
    /// Whether it lists objects in the order of their names.
    pub(crate) sorted: bool,
}

impl Place {
    /// Opens it; nothing is asked yet. No request takes longer than a third of this time, and a second and a third one
    /// follow it at most.
    #[cfg_attr(
        not(any(feature = "s3", feature = "gcs", feature = "azure")),
        expect(unused_variables, reason = "folders have no requests")
    )]
    pub(crate) fn open(&self, within: Duration) -> Result<Opened> {
        #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
        let of_cloud = |opened: object_store::Result<Arc<dyn ObjectStore>>| {
            let store = opened.map_err(|e| {
                Error::new(ErrorKind::InvalidConfig, format!("{self} cannot be used as it is described: {e}"))
                    .fix("check the URL, and the variables of the environment that it relies on")
            })?;
            Ok(Opened { store, durability: Durability::Replicated, sorted: true })
        };
        match &self.kind {
            Kind::Folder(folder) => {
                Ok(Opened { store: Arc::new(folder.open()?), durability: Durability::Disk, sorted: false })
            }
            #[cfg(feature = "s3")]
            Kind::S3(bucket) => of_cloud(bucket.open(within)),
            #[cfg(feature = "gcs")]
            Kind::Gcs(bucket) => of_cloud(bucket.open(within)),
            #[cfg(feature = "azure")]
            Kind::Azure(container) => of_cloud(container.open(within)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Folder(folder) => write!(f, "the folder {:?}", folder.path),
            #[cfg(feature = "s3")]
            Kind::S3(bucket) => write!(f, "the bucket {:?} of S3", bucket.bucket),
            #[cfg(feature = "gcs")]
            Kind::Gcs(bucket) => write!(f, "the bucket {:?} of Google Cloud Storage", bucket.bucket),
            #[cfg(feature = "azure")]
            Kind::Azure(container) => write!(f, "the container {:?} of Azure", container.container),
        }
    }
}

/// What the clients of all clouds are told.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod cloud {
    use std::time::Duration;

    use object_store::{BackoffConfig, ClientOptions, RetryConfig};

    /// A request and two more: what is left then is the caller's.
    const RETRIES: usize = 2;

    /// A server that says nothing is given up within this time altogether.
    pub(super) fn client(within: Duration, endpoint: Option<&str>) -> ClientOptions {
        // Whoever chose before us keeps his choice.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let each = within / 3;
        ClientOptions::new()
            .with_timeout(each)
            .with_connect_timeout(each)
            // Connections that died unheard each cost a time-out: there should not be many of them.
            .with_pool_max_idle_per_host(4)
            .with_allow_http(endpoint.is_some_and(|url| url.starts_with("http://")))
    }

    pub(super) fn retries(within: Duration) -> RetryConfig {
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        };
        RetryConfig { backoff, max_retries: RETRIES, retry_timeout: within }
    }
}
