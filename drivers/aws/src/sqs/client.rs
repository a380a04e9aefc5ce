//! A client of the SDK with the pool its connections are in.

use std::error::Error as StdError;
use std::fmt;

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::aws::{Aws, Purpose};
use crate::connections::Connections;
use crate::errors::Failure;
use crate::retry::{self, Repeat, Tries};

/// A client of a service. Cloning shares its connections.
#[derive(Clone)]
pub(crate) struct Caller<C> {
    client: C,
    connections: Connections,
}

impl<C> fmt::Debug for Caller<C> {
    // The SDK's own shows the id of the access key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

/// A client of SQS.
pub(crate) type Sqs = Caller<aws_sdk_sqs::Client>;

impl Sqs {
    pub(crate) fn new(aws: &Aws, purpose: Purpose) -> Self {
        let line = aws.line(purpose);
        Self { client: aws_sdk_sqs::Client::new(&line.config), connections: line.connections }
    }
}

/// A client of SNS.
#[cfg(feature = "sns")]
pub(crate) type Sns = Caller<aws_sdk_sns::Client>;

#[cfg(feature = "sns")]
impl Sns {
    pub(crate) fn new(aws: &Aws) -> Self {
        let line = aws.line(Purpose::Calls);
        Self { client: aws_sdk_sns::Client::new(&line.config), connections: line.connections }
    }
}

impl<C: Clone + Send + Sync> Caller<C> {
    /// Asks until there is an answer, it is refused, or the time is up.
    pub(crate) async fn ask<T, E, F>(
        &self,
        tries: &mut Tries,
        repeat: Repeat,
        what: &str,
        call: impl Fn(C) -> F + Send + Sync,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = Result<T, SdkError<E, Response>>> + Send,
    {
        retry::ask(&self.connections, tries, repeat, what, || call(self.client.clone())).await
    }
}
