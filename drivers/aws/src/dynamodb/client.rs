//! Changing items under their conditions: singly, or up to 25 in a transaction, which costs a tenth of the processor.
//!
//! A step whose answer was lost is done again: it meets its own trace and is told that it was done.

use std::collections::HashSet;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    CancellationReason, Delete, ReturnValuesOnConditionCheckFailure as OnFailure, TransactWriteItem, Update,
};
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use futures_util::future::join_all;
use millstream_core::{DedupKey, Error, ErrorKind, Result};

use super::item::{self, Change, Item, Step};
use crate::aws::{Aws, Purpose};
use crate::connections::Connections;
use crate::errors::Failure;
use crate::io::Io;
use crate::retry::{self, Repeat, Tries};

/// Items of a transaction. DynamoDB takes a hundred; of a larger one more is done again when it is cancelled.
const TOGETHER: usize = 25;

/// How long a step is tried.
const WITHIN: Duration = Duration::from_secs(10);

/// A client of one table. Cloning shares its connections.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) client: Client,
    pub(super) name: String,
    pub(super) window: Duration,
    connections: Connections,
    io: Io,
}

/// What became of a step.
#[derive(Debug)]
pub(super) enum Told {
    Done,
    /// Its condition did not hold, because of this item.
    Held(Option<Item>),
}

impl Table {
    pub(super) fn new(aws: &Aws, name: String, window: Duration) -> Self {
        let line = aws.line(Purpose::Calls);
        Self {
            client: Client::new(&line.config),
            name,
            window,
            connections: line.connections,
            io: aws.io().clone(),
        }
    }

    /// Runs something on the thread that talks to AWS, to its end.
    pub(super) async fn on_io<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.io.run(work).await
    }

    /// Asks until there is an answer, it is refused, or the time is up.
    pub(super) async fn ask<T, E, F>(&self, what: &str, call: impl Fn(Client) -> F + Send + Sync) -> Result<T>
    where
        T: Send,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, Response>>> + Send,
    {
        let _right = self.io.request().await;
        let mut tries = Tries::within(WITHIN);
        let asked =
            retry::ask(&self.connections, &mut tries, Repeat::Anything, what, || call(self.client.clone()));
        asked.await.map_err(|Failure { error, .. }| self.explain(error))
    }

    fn explain(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        Error::new(
            ErrorKind::NotFound,
            format!("the table {:?} is not there: {}", self.name, error.context().message),
        )
        .fix("make it with `ensure_table`, and check region and account")
    }

    /// Takes these steps, and says of each what became of it.
    pub(super) async fn take(&self, steps: &[Step], what: &str) -> Vec<Result<Told>> {
        // No transaction may name an item twice: who comes again comes after.
        let mut first: Vec<usize> = Vec::with_capacity(steps.len());
        let mut again: Vec<usize> = Vec::new();
        let mut seen: HashSet<&DedupKey> = HashSet::with_capacity(steps.len());
        for (place, step) in steps.iter().enumerate() {
            if seen.insert(&step.key) { &mut first } else { &mut again }.push(place);
        }
        let chunks = first.chunks(TOGETHER).map(|places| async move {
            let chunk: Vec<&Step> = places.iter().map(|place| &steps[*place]).collect();
            places.iter().copied().zip(self.together(&chunk, what).await).collect::<Vec<_>>()
        });
        let mut told: Vec<(usize, Result<Told>)> = join_all(chunks).await.into_iter().flatten().collect();
        for place in again {
            told.push((place, self.alone(&steps[place], what).await));
        }
        told.sort_unstable_by_key(|(place, _)| *place);
        told.into_iter().map(|(_, told)| told).collect()
    }

    /// Takes steps in one transaction; where one does not hold, all are undone, and the others are taken singly.
    async fn together(&self, steps: &[&Step], what: &str) -> Vec<Result<Told>> {
        if let [step] = steps {
            return vec![self.alone(step, what).await];
        }
        let reasons = match self.transact(steps, what).await {
            Ok(None) => return steps.iter().map(|_| Ok(Told::Done)).collect(),
            Ok(Some(reasons)) if reasons.len() == steps.len() => reasons,
            // What it cannot say of them together, it says of each.
            Ok(Some(_)) => Vec::new(),
            Err(error) => return steps.iter().map(|_| Err(crate::errors::copy(&error))).collect(),
        };
        let mut reasons = reasons.into_iter();
        join_all(steps.iter().map(|step| {
            let reason = reasons.next();
            async move {
                match reason {
                    Some(reason) if reason.code() == Some("ConditionalCheckFailed") => {
                        Ok(Told::Held(reason.item))
                    }
                    _ => self.alone(step, what).await,
                }
            }
        }))
        .await
    }

    /// None if all was done; else why each was not.
    async fn transact(&self, steps: &[&Step], what: &str) -> Result<Option<Vec<CancellationReason>>> {
        self.ask(what, |client| async move {
            let now = item::now();
            let items =
                steps.iter().map(|step| self.in_transaction(step, now)).collect::<Result<Vec<_>, _>>();
            let items = items.map_err(SdkError::construction_failure)?;
            match client.transact_write_items().set_transact_items(Some(items)).send().await {
                Ok(_) => Ok(None),
                Err(SdkError::ServiceError(answer)) => match answer.err() {
                    TransactWriteItemsError::TransactionCanceledException(cancelled) => {
                        Ok(Some(cancelled.cancellation_reasons().to_vec()))
                    }
                    _ => Err(SdkError::ServiceError(answer)),
                },
                Err(error) => Err(error),
            }
        })
        .await
    }

    fn in_transaction(&self, step: &Step, now: u64) -> Result<TransactWriteItem, BuildError> {
        let Change { update, condition, values } = step.change(now, self.window);
        let key = Some(item::key(&step.key));
        Ok(match update {
            Some(update) => TransactWriteItem::builder()
                .update(
                    Update::builder()
                        .table_name(&self.name)
                        .set_key(key)
                        .update_expression(update)
                        .condition_expression(condition)
                        .set_expression_attribute_values(Some(values))
                        .return_values_on_condition_check_failure(OnFailure::AllOld)
                        .build()?,
                )
                .build(),
            None => TransactWriteItem::builder()
                .delete(
                    Delete::builder()
                        .table_name(&self.name)
                        .set_key(key)
                        .condition_expression(condition)
                        .set_expression_attribute_values(Some(values))
                        .build()?,
                )
                .build(),
        })
    }

    async fn alone(&self, step: &Step, what: &str) -> Result<Told> {
        let told = match step.change(0, self.window).update {
            Some(_) => self.update(step, what).await,
            None => self.delete(step, what).await,
        };
        told.map_err(|error| error.group(&*step.key.group))
    }

    async fn update(&self, step: &Step, what: &str) -> Result<Told> {
        self.ask(what, |client| async move {
            let Change { update, condition, values } = step.change(item::now(), self.window);
            let changed = client
                .update_item()
                .table_name(&self.name)
                .set_key(Some(item::key(&step.key)))
                .set_update_expression(update.map(str::to_owned))
                .condition_expression(condition)
                .set_expression_attribute_values(Some(values))
                .return_values_on_condition_check_failure(OnFailure::AllOld)
                .send()
                .await;
            match changed {
                Ok(_) => Ok(Told::Done),
                Err(SdkError::ServiceError(answer)) => match answer.err() {
                    UpdateItemError::ConditionalCheckFailedException(failed) => {
                        Ok(Told::Held(failed.item().cloned()))
                    }
                    _ => Err(SdkError::ServiceError(answer)),
                },
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn delete(&self, step: &Step, what: &str) -> Result<Told> {
        self.ask(what, |client| async move {
            let Change { condition, values, .. } = step.change(item::now(), self.window);
            let deleted = client
                .delete_item()
                .table_name(&self.name)
                .set_key(Some(item::key(&step.key)))
                .condition_expression(condition)
                .set_expression_attribute_values(Some(values))
                .send()
                .await;
            match deleted {
                Ok(_) => Ok(Told::Done),
                Err(SdkError::ServiceError(answer)) => match answer.err() {
                    DeleteItemError::ConditionalCheckFailedException(_) => Ok(Told::Held(None)),
                    _ => Err(SdkError::ServiceError(answer)),
                },
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Reads an item, as it is after all that was answered.
    pub(super) async fn read(&self, key: &DedupKey) -> Result<Option<Item>> {
        let read = self.ask("the id cannot be looked up", |client| async move {
            client
                .get_item()
                .table_name(&self.name)
                .set_key(Some(item::key(key)))
                .consistent_read(true)
                .send()
                .await
        });
        Ok(read.await.map_err(|error| error.group(&*key.group))?.item)
    }
}
