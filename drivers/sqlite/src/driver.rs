//! `sqlite://` as a driver that can be chosen at run time.

use std::time::Duration;

use millstream_core::{Connection, Driver, Endpoint, Error, ErrorKind, Result};

use crate::open::{self, Create};
use crate::{Retention, SqliteStore, SqliteStoreBuilder};

const PARAMETERS: &[&str] =
    &["create", "lease", "busy_timeout", "retention_age", "retention_size", "max_message"];

/// The driver of the scheme `sqlite`.
///
/// `sqlite://app.db` is a file in the current folder, `sqlite://data/app.db` one below it, `sqlite:///var/lib/app.db`
/// one by its full path.
///
/// | parameter | is | default |
/// |---|---|---|
/// | `create` | what is made: `missing` a file that is not there, `empty` also in an empty file, `never` | `missing` |
/// | `lease` | how long a member that says nothing is taken to live, such as `5s` | `10s` |
/// | `busy_timeout` | how long to wait for another process's transaction | `5s` |
/// | `retention_age` | how long finished messages are kept, such as `7days`; `forever` | `7days` |
/// | `retention_size` | bytes of a topic above which finished messages go | no limit |
/// | `max_message` | bytes of a message at most | 67108864 |
#[must_use]
pub fn driver() -> Driver {
    Driver::new(&["sqlite"], |endpoint| Box::pin(connect(endpoint)))
}

async fn connect(endpoint: Endpoint) -> Result<Connection> {
    Ok(builder(&endpoint)?.open().await?.connection())
}

/// What a URL says.
///
/// # Errors
/// [`InvalidConfig`](ErrorKind::InvalidConfig) for what is no such URL.
pub(crate) fn builder(endpoint: &Endpoint) -> Result<SqliteStoreBuilder> {
    if endpoint.scheme() != "sqlite" {
        return Err(Error::new(ErrorKind::InvalidConfig, "the URL is none of sqlite://")
            .fix("write it as sqlite://app.db"));
    }
    endpoint.only_params(PARAMETERS)?;
    let mut builder = SqliteStore::builder(open::path_of(endpoint)?);
    match endpoint.param("create") {
        None | Some("missing") => {}
        Some("empty") => builder = builder.create(Create::Empty),
        Some("never") => builder = builder.create(Create::Never),
        Some(other) => {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("the URL's parameter create is {other:?}"),
            )
            .fix("say missing, empty or never"));
        }
    }
    if let Some(lease) = duration(endpoint, "lease")? {
        builder = builder.lease(lease);
    }
    if let Some(timeout) = duration(endpoint, "busy_timeout")? {
        builder = builder.busy_timeout(timeout);
    }
    let mut retention = Retention::default();
    if endpoint.param("retention_age") == Some("forever") {
        retention.age = None;
    } else if let Some(age) = duration(endpoint, "retention_age")? {
        retention.age = Some(age);
    }
    retention.size = endpoint.parsed("retention_size")?;
    builder = builder.retention(retention);
    if let Some(bytes) = endpoint.parsed("max_message")? {
        builder = builder.max_message(bytes);
    }
    Ok(builder)
}

fn duration(endpoint: &Endpoint, name: &str) -> Result<Option<Duration>> {
    Ok(endpoint.parsed::<humantime::Duration>(name)?.map(Into::into))
}
