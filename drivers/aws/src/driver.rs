//! `sqs://` and `sns://` as a driver that can be chosen at run time.

use millstream_core::{Connection, Driver, Endpoint, Error, ErrorKind, Result};

use crate::aws::Aws;
use crate::create::Create;
use crate::sqs::SqsBuilder;
use crate::sqs::names::Queues;
use crate::url::{self, duration};

/// Those of the connection come from their own module.
const PARAMETERS: [&str; 7] =
    ["create", "queues", "lease", "wait", "retention_age", "max_message", "write_within"];

#[cfg(not(feature = "sns"))]
const SCHEMES: &[&str] = &["sqs"];
#[cfg(feature = "sns")]
const SCHEMES: &[&str] = &["sqs", "sns"];

/// The driver of the schemes `sqs` and, with the feature `sns`, `sns`: topics of SNS, each group of which has a queue.
///
/// `sqs://eu-west-1` names the region; `sqs://` takes it from where the credentials come from: the environment, the
/// profile, the container's or the machine's role.
///
/// | parameter | is | default |
/// |---|---|---|
/// | `create` | what happens to a queue that is not there: `missing` makes it, `never` is an error, `assume` asks only for its address | `missing` |
/// | `queues` | which queues topics get whose names do not say: `standard`, or `fifo` with order per key | `standard` |
/// | `lease` | how long a message is ours before it is delivered again, such as `30s` | `30s` |
/// | `wait` | how long a poll waits for messages; closing waits as long | `10s` |
/// | `retention_age` | how long a queue that is made keeps messages, read or not | `14days` |
/// | `max_message` | bytes of a message at most, as SQS counts them | 262144 |
/// | `write_within` | how long a write is tried while AWS refuses it for the moment | `30s` |
/// | `endpoint` | the address of a service that is not AWS's own | AWS |
/// | `profile` | the profile of `~/.aws` | `AWS_PROFILE` |
/// | `session_token` | of a role, with the URL's access key | none |
/// | `client_id` | this program's name in the logs of AWS | `millstream` |
///
/// `sqs://key-id:secret@eu-west-1` says the access key. Special characters are percent-encoded, as in any URL.
#[must_use]
pub fn driver() -> Driver {
    Driver::new(SCHEMES, |endpoint| Box::pin(connect(endpoint)))
}

async fn connect(endpoint: Endpoint) -> Result<Connection> {
    endpoint.only_params(&[&PARAMETERS[..], &url::PARAMETERS[..]].concat())?;
    let aws = url::connection(&endpoint)?.connect().await?;
    let builder = queues(&endpoint, &aws)?;
    match endpoint.scheme() {
        #[cfg(feature = "sns")]
        "sns" => Ok(builder.open_sns()?.connection()),
        _ => Ok(builder.open()?.connection()),
    }
}

/// What a URL says about queues.
fn queues(endpoint: &Endpoint, aws: &Aws) -> Result<SqsBuilder> {
    let bad = |name: &str, value: &str, fix: &str| {
        Err(Error::new(ErrorKind::InvalidConfig, format!("the URL's parameter {name} is {value:?}")).fix(fix))
    };
    let mut builder = aws.sqs();
    match endpoint.param("create") {
        None | Some("missing") => {}
        Some("never") => builder = builder.create(Create::Never),
        Some("assume") => builder = builder.create(Create::Assume),
        Some(other) => return bad("create", other, "say missing, never or assume"),
    }
    match endpoint.param("queues") {
        None | Some("standard") => {}
        Some("fifo") => builder = builder.queues(Queues::Fifo),
        Some(other) => return bad("queues", other, "say standard or fifo"),
    }
    if let Some(lease) = duration(endpoint, "lease")? {
        builder = builder.lease(lease);
    }
    if let Some(wait) = duration(endpoint, "wait")? {
        builder = builder.wait(wait);
    }
    if let Some(age) = duration(endpoint, "retention_age")? {
        builder = builder.retention_age(age);
    }
    if let Some(bytes) = endpoint.parsed("max_message")? {
        builder = builder.max_message(bytes);
    }
    if let Some(within) = duration(endpoint, "write_within")? {
        builder = builder.write_within(within);
    }
    Ok(builder)
}
