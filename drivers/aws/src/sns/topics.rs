//! The topics of SNS, and the queues of groups that are subscribed to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_sns::types::Subscription as Raw;
use aws_sdk_sqs::types::QueueAttributeName as Name;
use bytestring::ByteString;
use millstream_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::create::Create;
use crate::errors::Failure;
use crate::retry::{Repeat, Tries};
use crate::sqs::client::Sns;
use crate::sqs::names::{self, FIFO, Kind, Taken};
use crate::sqs::queues::{Known, Queue};

/// How long a question is tried.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// How the queue of a group is subscribed to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    raw: bool,
    filter: Option<(&'static str, String)>,
}

impl Subscription {
    /// The queue gets messages as they were published, with their attributes.
    #[must_use]
    pub fn raw() -> Self {
        Self { raw: true, filter: None }
    }

    /// The queue gets each message in an envelope of JSON, for others that read it. Millstream reads both.
    #[must_use]
    pub fn envelope() -> Self {
        Self { raw: false, filter: None }
    }

    /// Only messages whose attributes match this policy, in JSON: headers that have an attribute of their own, and those of
    /// Millstream.
    #[must_use]
    pub fn filter_attributes(mut self, policy: impl Into<String>) -> Self {
        self.filter = Some(("MessageAttributes", policy.into()));
        self
    }

    /// Only messages whose payload, which is JSON, matches this policy.
    #[must_use]
    pub fn filter_body(mut self, policy: impl Into<String>) -> Self {
        self.filter = Some(("MessageBody", policy.into()));
        self
    }
}

/// The topics of a connection.
#[derive(Debug)]
pub(crate) struct Topics {
    pub(crate) queues: Arc<Known>,
    pub(crate) sns: Sns,
    taken: Taken,
    arns: Mutex<HashMap<ByteString, Arc<str>>>,
}

impl Topics {
    pub(crate) fn new(queues: Arc<Known>) -> Self {
        let sns = Sns::new(&queues.aws);
        Self { queues, sns, taken: Taken::default(), arns: Mutex::default() }
    }

    pub(crate) fn name(&self, topic: &ByteString) -> Result<String> {
        let name = names::of(topic, Kind::Topic, self.queues.settings.queues)?;
        self.taken.take(&name, topic)?;
        Ok(name)
    }

    /// The topic that a name stands for: the one it was used for here, else itself.
    pub(crate) fn topic(&self, name: &str) -> ByteString {
        self.taken.topic(name).unwrap_or_else(|| name.into())
    }

    /// Where a topic is. It is made if it is missing and may be made.
    pub(crate) async fn arn(&self, topic: &ByteString) -> Result<Arc<str>> {
        if let Some(arn) = self.arns.lock().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return Ok(Arc::clone(arn));
        }
        let locate = |e: Error| e.topic(&**topic);
        let name = self.name(topic).map_err(locate)?;
        let arn: Arc<str> = match self.queues.settings.create {
            Create::Missing => self.make(&name).await.map_err(locate)?.into(),
            Create::Never | Create::Assume => self.find(&name).await?.map(Into::into).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("there is no topic {name:?} of SNS in {}", self.queues.aws.region()),
                )
                .topic(&**topic)
                .fix("make it, or leave `create` at missing in the URL; and check region and account")
            })?,
        };
        self.arns.lock().unwrap_or_else(PoisonError::into_inner).insert(topic.clone(), Arc::clone(&arn));
        Ok(arn)
    }

    pub(crate) fn forget(&self, topic: &ByteString) {
        self.arns.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// Makes a topic, or finds it.
    pub(crate) async fn make(&self, name: &str) -> Result<String> {
        let mut tries = Tries::within(ASK_WITHIN);
        let asked = self.sns.ask(&mut tries, Repeat::Anything, "the topic was not made", |client| {
            let request = client.create_topic().name(name);
            match name.ends_with(FIFO) {
                true => request.attributes("FifoTopic", "true").send(),
                false => request.send(),
            }
        });
        let made = asked.await.map_err(|failure: Failure| failure.error)?;
        made.topic_arn.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a topic was made, and its address was not said").fix("try again")
        })
    }

    /// Where a topic is, if it is there. SNS has no question for it but that for all.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<String>> {
        Ok(self.all().await?.into_iter().find(|arn| arn.rsplit(':').next() == Some(name)))
    }

    /// All topics.
    pub(crate) async fn all(&self) -> Result<Vec<String>> {
        let mut arns = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut tries = Tries::within(ASK_WITHIN);
            let what = "the topics cannot be listed";
            let asked = self.sns.ask(&mut tries, Repeat::Anything, what, |client| {
                client.list_topics().set_next_token(token.clone()).send()
            });
            let page = asked.await.map_err(|failure: Failure| failure.error)?;
            arns.extend(page.topics.unwrap_or_default().into_iter().filter_map(|topic| topic.topic_arn));
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(arns);
            }
        }
    }

    /// What is subscribed to a topic.
    pub(crate) async fn subscriptions(&self, arn: &str) -> Result<Vec<Raw>> {
        let mut all = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut tries = Tries::within(ASK_WITHIN);
            let what = "the subscriptions cannot be listed";
            let asked = self.sns.ask(&mut tries, Repeat::Anything, what, |client| {
                client.list_subscriptions_by_topic().topic_arn(arn).set_next_token(token.clone()).send()
            });
            let page = asked.await.map_err(|failure: Failure| failure.error)?;
            all.extend(page.subscriptions.unwrap_or_default());
            token = page.next_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(all);
            }
        }
    }

    /// The queue of a group.
    pub(crate) async fn group_queue(&self, topic: &ByteString, group: &ByteString) -> Result<Arc<Queue>> {
        let queue = self.queues.queue(&ByteString::from(format!("{topic}.{group}"))).await;
        queue.map_err(|e| as_of_group(&e, topic, group))
    }

    /// Makes sure that a group's queue is subscribed, however it is.
    pub(crate) async fn ensure_subscribed(&self, topic: &ByteString, queue: &Queue) -> Result<()> {
        if self.queues.settings.create == Create::Assume {
            return Ok(());
        }
        let arn = self.arn(topic).await?;
        let queue_arn = self.queue_arn(queue).await?;
        let there = self.subscriptions(&arn).await?;
        if there.iter().any(|one| one.endpoint.as_deref() == Some(&*queue_arn)) {
            return Ok(());
        }
        match self.queues.settings.create {
            Create::Missing => self.subscribe(topic, queue, &Subscription::raw()).await,
            _ => Err(Error::new(
                ErrorKind::NotFound,
                format!("the queue {:?} is not subscribed to the topic", queue.name),
            )
            .fix("subscribe it with `Sns::subscribe`, or leave `create` at missing in the URL")),
        }
    }

    /// Subscribes a queue, and lets the topic send to it.
    pub(crate) async fn subscribe(
        &self,
        topic: &ByteString,
        queue: &Queue,
        how: &Subscription,
    ) -> Result<()> {
        let arn = self.arn(topic).await?;
        let queue_arn = self.queue_arn(queue).await?;
        self.allow(queue, &queue_arn, &arn).await?;
        let mut tries = Tries::within(ASK_WITHIN);
        let asked = self.sns.ask(&mut tries, Repeat::Anything, "the queue was not subscribed", |client| {
            let mut request = client
                .subscribe()
                .topic_arn(&*arn)
                .protocol("sqs")
                .endpoint(&queue_arn)
                .return_subscription_arn(true)
                .attributes("RawMessageDelivery", if how.raw { "true" } else { "false" });
            if let Some((scope, policy)) = &how.filter {
                request = request.attributes("FilterPolicyScope", *scope).attributes("FilterPolicy", policy);
            }
            request.send()
        });
        asked.await.map(|_| ()).map_err(|Failure { error, .. }| {
            match error.context().message.contains("already exists") {
                true => Error::new(ErrorKind::Conflict, &*error.context().message)
                    .fix("end that subscription first, or leave it as it is"),
                false => error,
            }
        })
    }

    async fn queue_arn(&self, queue: &Queue) -> Result<String> {
        let said = self.queues.attributes(&queue.url, &[Name::QueueArn]).await?;
        said.get(&Name::QueueArn).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("the queue {:?} does not say its ARN", queue.name))
                .fix("check that the endpoint serves SQS")
        })
    }

    /// Adds to the queue's policy that the topic may send to it. What else is in it stays.
    async fn allow(&self, queue: &Queue, queue_arn: &str, arn: &str) -> Result<()> {
        let said = self.queues.attributes(&queue.url, &[Name::Policy]).await?;
        let policy = said.get(&Name::Policy).map_or("", String::as_str);
        let Some(policy) = with_statement(policy, queue_arn, arn) else { return Ok(()) };
        let mut tries = Tries::within(ASK_WITHIN);
        let what = "the topic was not allowed to send to the queue";
        let asked = self.queues.calls.ask(&mut tries, Repeat::Anything, what, |client| {
            client.set_queue_attributes().queue_url(&queue.url).attributes(Name::Policy, &policy).send()
        });
        asked.await.map(|_| ()).map_err(|failure: Failure| failure.error)
    }
}

/// An error about a group's queue, for whoever knows the topic and the group.
fn as_of_group(error: &Error, topic: &str, group: &str) -> Error {
    let context = error.context();
    let error = Error::new(error.kind(), &*context.message).topic(topic).group(group);
    match &context.fix {
        Some(fix) => error.fix(fix),
        None => error,
    }
}

/// The policy with a statement that allows it; none if there is one already.
fn with_statement(policy: &str, queue_arn: &str, arn: &str) -> Option<String> {
    let mut policy = match serde_json::from_str::<Value>(policy) {
        Ok(policy @ Value::Object(_)) => policy,
        _ => json!({ "Version": "2012-10-17", "Statement": [] }),
    };
    let statement = json!({
        "Sid": format!("millstream-{}", arn.rsplit(':').next().unwrap_or_default().replace('.', "-")),
        "Effect": "Allow",
        "Principal": { "Service": "sns.amazonaws.com" },
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": { "ArnEquals": { "aws:SourceArn": arn } },
    });
    let statements = policy.get_mut("Statement")?;
    if !statements.is_array() {
        // One alone may stand without a list.
        *statements = json!([statements.clone()]);
    }
    let statements = statements.as_array_mut()?;
    if statements.iter().any(|there| there.get("Condition") == statement.get("Condition")) {
        return None;
    }
    statements.push(statement);
    Some(policy.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_keeps_what_is_in_it_and_gets_a_statement_once() {
        let one = with_statement("", "arn:q", "arn:aws:sns:eu-west-1:1:orders.fifo").unwrap();
        assert!(one.contains("\"millstream-orders-fifo\"") && one.contains("aws:SourceArn"), "{one}");
        assert_eq!(with_statement(&one, "arn:q", "arn:aws:sns:eu-west-1:1:orders.fifo"), None);
        let two: Value = serde_json::from_str(&with_statement(&one, "arn:q", "arn:other").unwrap()).unwrap();
        assert_eq!(two["Statement"].as_array().map(Vec::len), Some(2));
        let alone = r#"{"Version":"2012-10-17","Statement":{"Sid":"mine"}}"#;
        assert!(with_statement(alone, "arn:q", "arn:t").unwrap().contains("\"mine\""));
    }
}
