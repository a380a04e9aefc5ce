//! Reaching the broker of a URL as a program from outside does: without making what is only to be looked at, and
//! not at all where nothing can be seen from outside.

use std::sync::Arc;

use millstream::core::erased::DynAdmin;
use millstream::core::{Durability, Endpoint};
use millstream::{Connection, Drivers, Error, ErrorKind, Result};

/// How many topics an error lists.
const LISTED: usize = 10;

/// Connects to look at what is there: a file that is not there stays so.
pub(crate) async fn look(url: &str) -> Result<Connection> {
    connect(&without_making(url)?).await
}

/// Connects to write.
pub(crate) async fn connect(url: &str) -> Result<Connection> {
    let connection = Drivers::built_in().connect(url).await?;
    if connection.writer.capabilities().durability == Durability::Process {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            format!(
                "{} lives inside one process: what another writes there is not seen here, and what is \
                     written here ends with this command",
                Endpoint::parse(url)?
            ),
        )
        .fix("use a broker that outlives a process, such as sqlite://app.db"));
    }
    Ok(connection)
}

/// A file or a topic is made by who writes to it, never by who looks.
fn without_making(url: &str) -> Result<String> {
    let endpoint = Endpoint::parse(url)?;
    if !matches!(endpoint.scheme(), "sqlite" | "kafka" | "sqs" | "sns" | "folder")
        || endpoint.param("create").is_some()
    {
        return Ok(url.to_owned());
    }
    let sign = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{url}{sign}create=never"))
}

/// The broker's administration.
pub(crate) fn admin<'a>(connection: &'a Connection, url: &str) -> Result<&'a Arc<dyn DynAdmin>> {
    let scheme = || Endpoint::parse(url).map_or_else(|_| String::new(), |e| e.scheme().to_owned());
    connection.admin.as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("the driver of {}:// cannot say what the broker holds", scheme()),
        )
        .fix("use the broker's own tools")
    })
}

/// Refuses a topic that is not there, where the broker can be asked: a typing error must not make one, or wait for
/// ever.
pub(crate) async fn expect_topic(connection: &Connection, topic: &str) -> Result<()> {
    match &connection.admin {
        Some(admin) => expect_topic_of(&**admin, topic).await,
        None => Ok(()),
    }
}

/// The same of an administration.
pub(crate) async fn expect_topic_of(admin: &dyn DynAdmin, topic: &str) -> Result<()> {
    if admin.topic(topic).await?.is_some() {
        return Ok(());
    }
    let topics = admin.topics().await?;
    let names: Vec<_> = topics.iter().map(|info| format!("{:?}", &*info.name)).collect();
    let fix = match names.len() {
        0 => "there are no topics yet: publish to it first".to_owned(),
        1..=LISTED => format!("check its name; there are: {}", names.join(", ")),
        many => {
            format!("check its name; there are: {} and {} more", names[..LISTED].join(", "), many - LISTED)
        }
    };
    Err(Error::new(ErrorKind::NotFound, "there is no such topic").topic(topic).fix(fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_makes_no_file() {
        let of = |url| without_making(url).unwrap();
        assert_eq!(of("sqlite://app.db"), "sqlite://app.db?create=never");
        assert_eq!(of("sqlite://app.db?lease=10s"), "sqlite://app.db?lease=10s&create=never");
        assert_eq!(of("sqlite://app.db?create=empty"), "sqlite://app.db?create=empty");
        assert_eq!(of("kafka://localhost"), "kafka://localhost?create=never");
        assert_eq!(of("sqs://eu-west-1"), "sqs://eu-west-1?create=never");
        assert_eq!(of("folder:///letters"), "folder:///letters?create=never");
        assert_eq!(of("nats://localhost"), "nats://localhost");
    }

    #[tokio::test]
    async fn what_lives_in_another_process_is_refused_with_the_fix() {
        let error = connect("memory://").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("sqlite://"), "{error}");
    }
}
