//! Choosing a driver at run time, by the scheme of a URL.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use fluent_uri::Uri;
use fluent_uri::component::Authority;
use fluent_uri::pct_enc::EStr;

use crate::erased::{DynAdmin, DynReader, DynWriter};
use crate::{Admin, BoxFuture, Error, ErrorKind, Reader, Result, Writer};

/// A driver that can be registered: the schemes it serves and how it connects.
///
/// ```
/// use millstream_core::{Connection, Driver, Endpoint, Result};
///
/// async fn connect(endpoint: Endpoint) -> Result<Connection> {
///     endpoint.only_params(&["capacity"])?;
///     # Err(millstream_core::Error::new(millstream_core::ErrorKind::Unsupported, "an example"))
///     // … build reader and writer …
/// }
///
/// pub fn driver() -> Driver {
///     Driver::new(&["my"], |endpoint| Box::pin(connect(endpoint)))
/// }
/// # assert_eq!(driver().schemes(), ["my"]);
/// ```
#[derive(Clone)]
pub struct Driver {
    schemes: &'static [&'static str],
    connect: Connect,
}

type Connect = fn(Endpoint) -> BoxFuture<'static, Result<Connection>>;

impl Driver {
    /// A driver of these schemes, in lower case.
    #[must_use]
    pub const fn new(schemes: &'static [&'static str], connect: Connect) -> Self {
        Self { schemes, connect }
    }

    /// The schemes it serves.
    #[must_use]
    pub fn schemes(&self) -> &'static [&'static str] {
        self.schemes
    }

    /// Connects.
    ///
    /// # Errors
    /// As the driver has them: a wrong URL, a server that is not there.
    pub async fn connect(&self, endpoint: Endpoint) -> Result<Connection> {
        (self.connect)(endpoint).await
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("schemes", &self.schemes).finish_non_exhaustive()
    }
}

/// What a driver gives for a URL. Cloning shares it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Connection {
    /// Reads.
    pub reader: Arc<dyn DynReader>,
    /// Writes.
    pub writer: Arc<dyn DynWriter>,
    /// Administers, if it can.
    pub admin: Option<Arc<dyn DynAdmin>>,
}

impl Connection {
    /// A connection that reads and writes.
    pub fn new(reader: impl Reader, writer: impl Writer) -> Self {
        Self { reader: Arc::new(reader), writer: Arc::new(writer), admin: None }
    }

    /// Adds administration.
    #[must_use]
    pub fn with_admin(mut self, admin: impl Admin) -> Self {
        self.admin = Some(Arc::new(admin));
        self
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("reader", &self.reader.capabilities())
            .field("writer", &self.writer.capabilities())
            .field("admin", &self.admin.is_some())
            .finish()
    }
}

/// A parsed URL: `scheme://[user[:password]@]host[:port][,host[:port]…][/path][?name=value&…]`.
///
/// Neither `Debug` nor `Display` shows the password.
///
/// ```
/// use millstream_core::Endpoint;
/// let endpoint = Endpoint::parse("kafka://ann:secret@localhost:9092/prefix?client.id=a%20b").unwrap();
/// assert_eq!(endpoint.scheme(), "kafka");
/// assert_eq!(endpoint.host(), "localhost:9092");
/// assert_eq!(endpoint.path(), "/prefix");
/// assert_eq!(endpoint.param("client.id"), Some("a b"));
/// assert_eq!(endpoint.to_string(), "kafka://ann:***@localhost:9092/prefix?client.id");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    host: String,
    path: String,
    params: Vec<(String, String)>,
}

impl Endpoint {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if it is not one. The error does not repeat the URL,
    /// which may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        let bad = |what: String| {
            Error::new(ErrorKind::InvalidConfig, what)
                .fix("write it as scheme://host/path?name=value, such as memory:// or sqlite://app.db")
        };
        let (url, others) = split_hosts(url);
        let uri = Uri::parse(&*url).map_err(|e| bad(format!("this is not a URL: {e}")))?;
        let authority = uri.authority();
        let (user, password) = match authority.as_ref().and_then(Authority::userinfo) {
            None => (None, None),
            Some(info) => match info.split_once(':') {
                Some((user, password)) => (Some(decode(user)?), Some(decode(password)?)),
                None => (Some(decode(info)?), None),
            },
        };
        let mut host = authority.as_ref().map_or_else(String::new, host_of);
        for other in others {
            let parsed = Uri::parse(format!("{}://{other}", uri.scheme()))
                .map_err(|(e, _)| bad(format!("{other:?} is not a host: {e}")))?;
            match parsed.authority() {
                Some(a) if !a.has_userinfo() && !a.host().is_empty() && parsed.path().is_empty() => {
                    host.push(',');
                    host.push_str(&host_of(&a));
                }
                _ => return Err(bad(format!("{other:?} is not a host"))),
            }
        }
        let mut params = Vec::new();
        if let Some(query) = uri.query() {
            for pair in query.split('&').filter(|p| !p.is_empty()) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, EStr::EMPTY));
                let name = decode(name)?;
                if params.iter().any(|(n, _)| *n == name) {
                    return Err(bad(format!("the URL names the parameter {name:?} twice")));
                }
                params.push((name, decode(value)?));
            }
        }
        Ok(Self {
            scheme: uri.scheme().as_str().to_ascii_lowercase(),
            user,
            password,
            host,
            path: decode(uri.path())?,
            params,
        })
    }

    /// The scheme, in lower case.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user's name.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Host and port, as written; several with commas between them.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path with its slash, decoded; empty if there is none.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A parameter, decoded.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A parameter as a value of its type.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if it is not such a value.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>>
    where
        T::Err: fmt::Display,
    {
        let Some(value) = self.param(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|e| {
            Error::new(ErrorKind::InvalidConfig, format!("the URL's parameter {name} is {value:?}: {e}"))
                .fix("give it a value of the right kind")
        })
    }

    /// All parameters, in order.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Refuses every parameter that is not in the list, naming those that are.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig).
    pub fn only_params(&self, known: &[&str]) -> Result<()> {
        match self.params.iter().find(|(n, _)| !known.contains(&n.as_str())) {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("{}:// has no parameter {name:?}", self.scheme),
            )
            .fix(format!("remove it; there are: {}", known.join(", ")))),
        }
    }
}

/// Takes all hosts but the first out of a URL, which may have only one: clusters are named by several of theirs.
fn split_hosts(url: &str) -> (Cow<'_, str>, Vec<&str>) {
    let start = url.find("://").map_or(url.len(), |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let hosts = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut list = url[hosts..end].split(',');
    let first = list.next().unwrap_or_default();
    let others: Vec<_> = list.collect();
    if others.is_empty() {
        return (Cow::Borrowed(url), others);
    }
    (Cow::Owned(format!("{}{first}{}", &url[..hosts], &url[end..])), others)
}

fn host_of(authority: &Authority<'_>) -> String {
    match authority.port().filter(|p| !p.is_empty()) {
        Some(port) => format!("{}:{port}", authority.host()),
        None => authority.host().to_owned(),
    }
}

fn decode<E: fluent_uri::pct_enc::Encoder>(text: &EStr<E>) -> Result<String> {
    text.decode().to_string().map(Cow::into_owned).map_err(|_| {
        Error::new(ErrorKind::InvalidConfig, "the URL has percent-encoded bytes that are not UTF-8")
            .fix("encode text as UTF-8")
    })
}

impl fmt::Display for Endpoint {
    // Parameter values may be secrets: only their names are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{user}{}@", if self.password.is_some() { ":***" } else { "" })?;
        }
        write!(f, "{}{}", self.host, self.path)?;
        for (i, (name, _)) in self.params.iter().enumerate() {
            write!(f, "{}{name}", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}
