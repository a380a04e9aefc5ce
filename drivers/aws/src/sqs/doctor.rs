//! What of a queue's settings endangers the rules of delivery.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use millstream_core::admin::{Finding, Weight};
use serde_json::Value;

use crate::sqs::queues::Queue;
use crate::sqs::settings::Settings;

/// A day.
const DAY: u64 = 24 * 3600;

/// The receipts that the default retry needs before a message is a dead letter of ours: ten attempts, and ten more before
/// it counts as a crash loop.
const RECEIPTS: u64 = 20;

/// A setting as it is changed with AWS's own tool.
fn set(queue: &Queue, setting: &str) -> String {
    format!("aws sqs set-queue-attributes --queue-url {} --attributes {setting}", queue.url)
}

/// Looks at a queue's settings: worst first.
pub(crate) fn diagnose(queue: &Queue, said: &HashMap<Name, String>, settings: &Settings) -> Vec<Finding> {
    let number = |name: &Name| said.get(name).and_then(|n| n.parse::<u64>().ok());
    let mut found = Vec::new();
    let mut add = |weight, what: String, fix: String| found.push(Finding::new(weight, what, fix));
    if let Some(policy) = said.get(&Name::RedrivePolicy).filter(|policy| !policy.is_empty()) {
        let policy: Value = serde_json::from_str(policy).unwrap_or_default();
        let most =
            policy.get("maxReceiveCount").map(|n| n.as_str().map_or_else(|| n.to_string(), Into::into));
        let most = most.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let target = policy.get("deadLetterTargetArn").and_then(Value::as_str).unwrap_or_default();
        let target = target.rsplit(':').next().unwrap_or_default();
        let (weight, fix) = match most <= RECEIPTS {
            true => (Weight::Danger, "take the policy off, or raise maxReceiveCount to 1000"),
            false => (Weight::Note, "nothing, as long as nobody retries that often"),
        };
        add(
            weight,
            format!(
                "SQS itself moves a message to {target:?} after {most} receipts, without a reason in it, and without any \
                 handler's policy: also one that was only given back"
            ),
            format!("{fix}: {}", set(queue, "RedrivePolicy=")),
        );
    }
    if let Some(retention) = number(&Name::MessageRetentionPeriod) {
        let kept = humantime::format_duration(Duration::from_secs(retention));
        let fix = set(queue, "MessageRetentionPeriod=1209600");
        if queue.name.trim_end_matches(crate::sqs::names::FIFO).ends_with("-dlq") && retention < 14 * DAY {
            let what =
                format!("dead letters are deleted after {kept}, whether anybody has seen to them or not");
            add(Weight::Danger, what, fix);
        } else if retention < DAY {
            let what =
                format!("messages are deleted after {kept}, read or not, and while they are retried too");
            add(Weight::Danger, what, fix);
        } else if retention < 4 * DAY {
            add(Weight::Warning, format!("messages are deleted after {kept}, read or not"), fix);
        }
    }
    if number(&Name::DelaySeconds).is_some_and(|delay| delay > 0) {
        add(
            Weight::Note,
            "every message is delayed by the queue's DelaySeconds".to_owned(),
            set(queue, "DelaySeconds=0"),
        );
    }
    if said.get(&Name::ContentBasedDeduplication).is_some_and(|on| on == "true") {
        add(
            Weight::Warning,
            "ContentBasedDeduplication is on: of what others send without a deduplication id, an equal body within five \
             minutes is dropped, whatever its attributes are"
                .to_owned(),
            set(queue, "ContentBasedDeduplication=false"),
        );
    }
    if let Some(limit) = number(&Name::MaximumMessageSize)
        && limit < settings.max_message as u64
    {
        add(
            Weight::Note,
            format!("messages of more than {limit} bytes are refused"),
            set(queue, &format!("MaximumMessageSize={}", settings.max_message)),
        );
    }
    found.sort_by_key(|finding| finding.weight);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, said: &[(Name, &str)]) -> Vec<Finding> {
        let queue = Queue { name: name.to_owned(), url: format!("http://h/1/{name}"), fifo: false, limit: 0 };
        let said = said.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect();
        diagnose(&queue, &said, &Settings::default())
    }

    #[test]
    fn a_queue_as_it_is_made_here_is_sound() {
        let said = [(Name::MessageRetentionPeriod, "1209600"), (Name::DelaySeconds, "0")];
        assert_eq!(found("orders", &said), []);
        assert_eq!(found("orders-dlq", &said), []);
    }

    #[test]
    fn a_policy_that_takes_messages_away_from_us_is_a_danger() {
        let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:eu-west-1:1:other","maxReceiveCount":"3"}"#;
        let found = found("orders", &[(Name::RedrivePolicy, policy)]);
        assert_eq!(found[0].weight, Weight::Danger);
        assert!(found[0].what.contains("\"other\" after 3 receipts"), "{found:?}");
    }

    #[test]
    fn dead_letters_that_are_deleted_are_a_danger() {
        let four_days = [(Name::MessageRetentionPeriod, "345600")];
        assert_eq!(found("orders-dlq", &four_days)[0].weight, Weight::Danger);
        assert_eq!(found("orders", &four_days), []);
    }
}
