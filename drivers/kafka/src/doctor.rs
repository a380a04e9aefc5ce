//! What of a cluster's settings endangers the rules of delivery.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use millstream_core::admin::{Finding, GroupInfo, Weight};
use millstream_core::{Error, ErrorKind, Result};
use rdkafka::admin::ResourceSpecifier;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use crate::cluster::{Cluster, options};
use crate::errors;
use crate::settings::{ANSWER_WITHIN, OVERHEAD};

/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The endings of topics that hold what must not be deleted: dead letters and parked messages.
pub(crate) const KEPT: [&str; 2] = [".dlq", ".park"];

/// A topic as the cluster has it.
#[derive(Debug, Clone, Default)]
struct Seen {
    brokers: usize,
    /// The partitions' replicas, those in sync, and whether there is a leader.
    partitions: Vec<(usize, usize, bool)>,
    settings: HashMap<String, String>,
    /// Of the broker.
    positions_kept: Option<Duration>,
}

impl Seen {
    fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.parse().ok()
    }

    /// How long messages are kept, unless for ever.
    fn kept(&self) -> Option<Duration> {
        u64::try_from(self.number("retention.ms")?).ok().map(Duration::from_millis)
    }

    fn deletes(&self) -> bool {
        self.settings.get("cleanup.policy").is_none_or(|policy| policy.contains("delete"))
    }
}

/// Looks at a topic, and at how far its groups are.
pub(crate) async fn diagnose(
    cluster: &Cluster,
    topic: &str,
    groups: &[GroupInfo],
    parks: &[(String, usize)],
) -> Result<Vec<Finding>> {
    let seen = look(cluster, topic).await?;
    let mut found = replicas(topic, &seen);
    found.extend(retention(topic, &seen, groups, SystemTime::now()));
    found.extend(limits(topic, &seen, cluster.settings.max_message));
    let count = seen.partitions.len();
    for (park, partitions) in parks.iter().filter(|(_, partitions)| *partitions != count) {
        found.push(Finding::new(
            Weight::Danger,
            format!("{park} has {partitions} partitions and its topic {count}: no subscription of this group starts"),
            format!("give it as many: kafka-topics.sh --alter --topic {park} --partitions {count}"),
        ));
    }
    found.sort_by_key(|finding| finding.weight);
    Ok(found)
}

async fn look(cluster: &Cluster, topic: &str) -> Result<Seen> {
    let name = topic.to_owned();
    let seen = cluster
        .ask(move |asker| {
            let metadata = asker.fetch_metadata(Some(&name), ANSWER_WITHIN)?;
            let found = metadata.topics().iter().find(|t| t.name() == name && t.error().is_none());
            Ok(found.map(|topic| Seen {
                brokers: metadata.brokers().len(),
                partitions: topic
                    .partitions()
                    .iter()
                    .map(|p| (p.replicas().len(), p.isr().len(), p.leader() >= 0))
                    .collect(),
                ..Seen::default()
            }))
        })
        .await
        .map_err(|e: KafkaError| cluster.unreachable(&e).topic(topic))?;
    let mut seen = seen.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no such topic").topic(topic).fix("check its name")
    })?;
    seen.settings = settings(cluster, ResourceSpecifier::Topic(topic)).await.map_err(|e| e.topic(topic))?;
    let broker =
        cluster.ask(|asker| asker.fetch_metadata(None, ANSWER_WITHIN).map(|m| m.orig_broker_id())).await;
    if let Ok(broker) = broker
        && let Ok(settings) = settings(cluster, ResourceSpecifier::Broker(broker)).await
    {
        let minutes = settings.get("offsets.retention.minutes").and_then(|m| m.parse::<u64>().ok());
        seen.positions_kept = minutes.map(|m| Duration::from_secs(m * 60));
    }
    Ok(seen)
}

async fn settings(cluster: &Cluster, of: ResourceSpecifier<'_>) -> Result<HashMap<String, String>> {
    let answers = cluster.admin()?.describe_configs([&of], &options()).await;
    let answers = answers.map_err(|e| errors::of(&e, "the settings cannot be asked for"))?;
    let mut settings = HashMap::new();
    for answer in answers {
        let resource = answer.map_err(|code| errors::of_code(code, "the settings cannot be asked for"))?;
        settings.extend(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
    }
    Ok(settings)
}

/// A setting of a topic's, as it is changed with the broker's own tool.
fn set(topic: &str, setting: &str) -> String {
    format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}")
}

fn replicas(topic: &str, seen: &Seen) -> Vec<Finding> {
    let mut found = Vec::new();
    let least = seen.number("min.insync.replicas").and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let replicas = seen.partitions.iter().map(|(replicas, ..)| *replicas).min().unwrap_or(1);
    let leaderless = seen.partitions.iter().filter(|(.., led)| !led).count();
    let few = seen.partitions.iter().filter(|(_, in_sync, _)| *in_sync < least).count();
    let behind = seen.partitions.iter().filter(|(replicas, in_sync, _)| in_sync < replicas).count();
    if leaderless > 0 {
        let what = format!("{leaderless} partitions have no leader: they can be neither read nor written");
        found.push(Finding::new(Weight::Danger, what, "start the brokers that hold them"));
    } else if few > 0 {
        let what = format!(
            "{few} partitions have fewer replicas in sync than min.insync.replicas: no write is taken"
        );
        found.push(Finding::new(Weight::Danger, what, "start the brokers that hold them"));
    } else if behind > 0 {
        let what = format!("{behind} partitions have replicas that are not in sync");
        found.push(Finding::new(Weight::Warning, what, "look at the brokers that hold them"));
    }
    if replicas == 1 {
        let weight = if seen.brokers > 1 { Weight::Danger } else { Weight::Warning };
        found.push(Finding::new(
            weight,
            "each partition is on one broker only: its messages are gone with that broker's disk",
            "give the topic three replicas, with kafka-reassign-partitions.sh; new ones with replication=3 in the URL",
        ));
    } else if least < 2 {
        found.push(Finding::new(
            Weight::Danger,
            "min.insync.replicas is 1: a write that only one broker has is confirmed, and lost with it",
            set(topic, "min.insync.replicas=2"),
        ));
    } else if least >= replicas {
        found.push(Finding::new(
            Weight::Warning,
            format!("min.insync.replicas is {least} of {replicas} replicas: one broker that is down stops all writes"),
            set(topic, &format!("min.insync.replicas={}", replicas - 1)),
        ));
    }
    if seen.settings.get("unclean.leader.election.enable").is_some_and(|on| on == "true") {
        found.push(Finding::new(
            Weight::Danger,
            "unclean.leader.election.enable is on: a replica that is behind may become leader, and confirmed messages \
             are lost",
            set(topic, "unclean.leader.election.enable=false"),
        ));
    }
    found
}

fn retention(topic: &str, seen: &Seen, groups: &[GroupInfo], now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    let span = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    if KEPT.iter().any(|ending| topic.ends_with(ending)) {
        if seen.deletes() && (seen.kept().is_some() || seen.number("retention.bytes").is_some_and(|b| b >= 0))
        {
            let after =
                seen.kept().map_or_else(|| "by size".to_owned(), |kept| format!("after {}", span(kept)));
            found.push(Finding::new(
                Weight::Danger,
                format!("what waits here is deleted {after}, whether anybody has seen to it or not"),
                set(topic, "retention.ms=-1,retention.bytes=-1"),
            ));
        }
        return found;
    }
    if seen.settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        found.push(Finding::new(
            Weight::Warning,
            "the topic is compacted: of each key only the newest message is sure to be read",
            "that is right for states; for events: ".to_owned() + &set(topic, "cleanup.policy=delete"),
        ));
    }
    if let Some(kept) = seen.kept().filter(|_| seen.deletes()) {
        for group in groups.iter().filter(|group| group.lag > 0) {
            let age = group.oldest.and_then(|oldest| now.duration_since(oldest).ok()).unwrap_or_default();
            if age * 2 > kept {
                let left = kept.saturating_sub(age);
                let what = format!(
                    "the group {:?} has not read messages that are {} old; unread messages are deleted in {}",
                    &*group.name,
                    span(age),
                    span(left)
                );
                let fix = format!("let it read them; until then: {}", set(topic, "retention.ms=-1"));
                found.push(Finding::new(Weight::Danger, what, fix));
            }
        }
        if kept < DAY {
            found.push(Finding::new(
                Weight::Warning,
                format!("messages are deleted after {}, read or not", span(kept)),
                set(topic, "retention.ms=604800000"),
            ));
        }
    }
    if seen.deletes() && seen.number("retention.bytes").is_some_and(|bytes| bytes >= 0) {
        found.push(Finding::new(
            Weight::Warning,
            "retention.bytes is set: a burst of messages deletes unread ones",
            set(topic, "retention.bytes=-1"),
        ));
    }
    if let Some(kept) = seen.positions_kept.filter(|kept| *kept < 7 * DAY) {
        found.push(Finding::new(
            Weight::Warning,
            format!(
                "the positions of a group without members are forgotten after {}: it then begins anew",
                span(kept)
            ),
            "set offsets.retention.minutes of the brokers to a week or more",
        ));
    }
    found
}

fn limits(topic: &str, seen: &Seen, max_message: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    let wanted = max_message + OVERHEAD;
    if let Some(limit) = seen.number("max.message.bytes").and_then(|n| usize::try_from(n).ok())
        && limit < wanted
    {
        let what = format!("messages of more than {} bytes are refused", limit.saturating_sub(OVERHEAD));
        found.push(Finding::new(Weight::Note, what, set(topic, &format!("max.message.bytes={wanted}"))));
    }
    if seen.settings.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime") {
        found.push(Finding::new(
            Weight::Note,
            "message.timestamp.type is LogAppendTime: a message's time is when the broker got it, not when it was \
             published",
            set(topic, "message.timestamp.type=CreateTime"),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn seen(replicas: usize, settings: &[(&str, &str)]) -> Seen {
        Seen {
            brokers: 3,
            partitions: vec![(replicas, replicas, true); 2],
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            positions_kept: Some(7 * DAY),
        }
    }

    fn weights(found: &[Finding]) -> Vec<Weight> {
        found.iter().map(|finding| finding.weight).collect()
    }

    #[test]
    fn three_replicas_of_which_two_confirm_are_sound() {
        let sound = seen(3, &[("min.insync.replicas", "2"), ("unclean.leader.election.enable", "false")]);
        assert_eq!(replicas("orders", &sound), []);
    }

    #[test]
    fn what_loses_confirmed_messages_is_a_danger() {
        for (count, settings) in [
            (1, vec![]),
            (3, vec![("min.insync.replicas", "1")]),
            (3, vec![("min.insync.replicas", "2"), ("unclean.leader.election.enable", "true")]),
        ] {
            assert_eq!(
                weights(&replicas("orders", &seen(count, &settings))),
                [Weight::Danger],
                "{settings:?}"
            );
        }
        let stiff = seen(3, &[("min.insync.replicas", "3")]);
        assert_eq!(weights(&replicas("orders", &stiff)), [Weight::Warning]);
    }

    #[test]
    fn dead_letters_and_parked_messages_that_are_deleted_are_a_danger() {
        let week = seen(
            3,
            &[("retention.ms", "604800000"), ("retention.bytes", "-1"), ("cleanup.policy", "delete")],
        );
        for topic in ["orders.dlq", "orders.billing.park"] {
            let found = retention(topic, &week, &[], UNIX_EPOCH);
            assert_eq!(weights(&found), [Weight::Danger]);
            assert!(
                found[0].fix.contains("retention.ms=-1") && found[0].what.contains("after 7days"),
                "{found:?}"
            );
        }
        let kept =
            seen(3, &[("retention.ms", "-1"), ("retention.bytes", "-1"), ("cleanup.policy", "delete")]);
        assert_eq!(retention("orders.dlq", &kept, &[], UNIX_EPOCH), []);
    }

    #[test]
    fn a_group_that_is_far_behind_is_told_when_its_messages_are_deleted() {
        let day = seen(3, &[("retention.ms", "86400000"), ("cleanup.policy", "delete")]);
        let mut group = GroupInfo::new("billing");
        group.lag = 5;
        let now = UNIX_EPOCH + 1_000 * DAY;
        group.oldest = Some(now - DAY / 4);
        assert_eq!(retention("orders", &day, std::slice::from_ref(&group), now), []);
        group.oldest = Some(now - DAY * 3 / 4);
        let found = retention("orders", &day, &[group], now);
        assert!(found[0].weight == Weight::Danger && found[0].what.contains("deleted in 6h"), "{found:?}");
    }
}
