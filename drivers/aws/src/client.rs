//! A client of SQS with the pool its connections are in.

use std::error::Error as StdError;

use aws_sdk_sqs::Client;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::aws::{Aws, Purpose};
use crate::connections::Connections;
use crate::errors::Failure;
use crate::retry::{self, Repeat, Tries};

/// A client of SQS. Cloning shares its connections.
#[derive(Debug, Clone)]
pub(crate) struct Sqs {
    pub(crate) client: Client,
    connections: Connections,
}

impl Sqs {
    pub(crate) fn new(aws: &Aws, purpose: Purpose) -> Self {
        let line = aws.line(purpose);
        Self { client: Client::new(&line.config), connections: line.connections }
    }

    /// Asks until there is an answer, it is refused, or the time is up.
    pub(crate) async fn ask<T, E, F>(
        &self,
        tries: &mut Tries,
        repeat: Repeat,
        what: &str,
        call: impl Fn(Client) -> F + Send,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = Result<T, SdkError<E, Response>>>,
    {
        retry::ask(&self.connections, tries, repeat, what, || call(self.client.clone())).await
    }
}
