//! `memory://` as a driver that can be chosen at run time.

use millstream_core::{BoxFuture, Connection, Driver, Endpoint, Error, ErrorKind, Result};

use crate::MemoryBroker;

/// The driver of the scheme `memory`.
///
/// - `memory://` is a fresh broker for each connection, seen by nobody else.
/// - `memory://name` is the process's broker of that name, the one of [`MemoryBroker::named`].
///
/// Parameters: `capacity` (messages a topic, default 100,000) and `bytes` (bytes a topic, default 256 MiB).
#[must_use]
pub fn driver() -> Driver {
    Driver::new(&["memory"], |endpoint| -> BoxFuture<'static, Result<Connection>> {
        Box::pin(std::future::ready(connect(&endpoint)))
    })
}

fn connect(endpoint: &Endpoint) -> Result<Connection> {
    endpoint.only_params(&["capacity", "bytes"])?;
    if endpoint.user().is_some() || !matches!(endpoint.path(), "" | "/") {
        return Err(Error::new(ErrorKind::InvalidConfig, "memory:// has a name at most: no user, no path")
            .fix("write memory:// or memory://name"));
    }
    let (capacity, bytes) = (bound(endpoint, "capacity")?, bound(endpoint, "bytes")?);
    let broker = match endpoint.host() {
        "" => MemoryBroker::with(capacity, bytes),
        name => MemoryBroker::named_with(name, capacity, bytes)?,
    };
    Ok(broker.connection())
}

fn bound(endpoint: &Endpoint, name: &str) -> Result<Option<usize>> {
    match endpoint.parsed(name)? {
        Some(0) => Err(Error::new(ErrorKind::InvalidConfig, format!("the URL's parameter {name} is 0"))
            .fix("give it 1 or more")),
        value => Ok(value),
    }
}
