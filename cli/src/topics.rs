//! `millstream topics`: what a broker holds, and how far each group is.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use millstream::core::Endpoint;
use millstream::core::admin::{GroupInfo, TopicInfo};
use millstream::core::erased::DynAdmin;
use millstream::{ErrorKind, Result};
use serde_json::{Value, json};

use crate::failed::{Ended, Form};
use crate::text::{Side, Table, grouped};
use crate::{broker, output, text};

/// Lists topics with their messages and dead letters, and how far each group is
///
/// OLDEST is how long ago the oldest message was published that the group has not settled.
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    /// The broker, such as sqlite://app.db
    url: String,
}

pub(crate) async fn run(options: &Options, form: Form) -> Ended {
    let connection = broker::look(&options.url).await?;
    let topics = ask(&**broker::admin(&connection, &options.url)?).await?;
    match form {
        Form::Json => output::document(&document(&topics, &Endpoint::parse(&options.url)?)),
        Form::Text => output::line(&table(&topics, SystemTime::now())),
    }
    Ok(ExitCode::SUCCESS)
}

type Topic = (TopicInfo, Vec<GroupInfo>);

async fn ask(admin: &dyn DynAdmin) -> Result<Vec<Topic>> {
    let mut topics = Vec::new();
    for topic in admin.topics().await? {
        match admin.groups(&topic.name).await {
            Ok(groups) => topics.push((topic, groups)),
            // It was removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Such as one of whose partitions the leader is away.
            Err(error) if error.is_retryable() => {
                eprintln!("note: the groups of {:?} are left out: {error}", &*topic.name);
                topics.push((topic, Vec::new()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(topics)
}

fn document(topics: &[Topic], endpoint: &Endpoint) -> Value {
    let group = |group: &GroupInfo| {
        let committed = group.committed.iter();
        json!({
            "name": &*group.name,
            "members": group.members,
            "lag": group.lag,
            "oldest": group.oldest.and_then(text::exact_time),
            "in_flight": group.in_flight,
            "parked": group.parked,
            "committed": committed
                .map(|(partition, position)| json!({ "partition": partition.0, "position": position.0 }))
                .collect::<Vec<_>>(),
        })
    };
    let topic = |(topic, groups): &Topic| {
        json!({
            "name": &*topic.name,
            "partitions": topic.partitions,
            "messages": topic.messages,
            "dead_letters": topic.dead_letters,
            "groups": groups.iter().map(group).collect::<Vec<_>>(),
        })
    };
    json!({ "url": endpoint.to_string(), "topics": topics.iter().map(topic).collect::<Vec<_>>() })
}

fn table(topics: &[Topic], now: SystemTime) -> String {
    if topics.is_empty() {
        return "There are no topics yet.".to_owned();
    }
    let mut table = Table::new([
        ("TOPIC", Side::Left),
        ("MESSAGES", Side::Right),
        ("DEAD LETTERS", Side::Right),
        ("GROUP", Side::Left),
        ("MEMBERS", Side::Right),
        ("LAG", Side::Right),
        ("OLDEST", Side::Right),
        ("IN FLIGHT", Side::Right),
        ("PARKED", Side::Right),
    ]);
    for (topic, groups) in topics {
        let of_topic =
            [text::line(topic.name.as_bytes()), grouped(topic.messages), grouped(topic.dead_letters)];
        let mut of_groups: Vec<_> = groups.iter().map(|group| cells(group, now)).collect();
        if of_groups.is_empty() {
            of_groups.push(["-", "", "", "", "", ""].map(str::to_owned));
        }
        for (i, [name, members, lag, oldest, in_flight, parked]) in of_groups.into_iter().enumerate() {
            // A topic is named once: its further groups stand below.
            let [topic, messages, dead] =
                if i == 0 { of_topic.clone() } else { [const { String::new() }; 3] };
            table.row([topic, messages, dead, name, members, lag, oldest, in_flight, parked]);
        }
    }
    table.take().join("\n")
}

fn cells(group: &GroupInfo, now: SystemTime) -> [String; 6] {
    let oldest = group.oldest.map(|oldest| text::span(now.duration_since(oldest).unwrap_or_default()));
    [
        text::line(group.name.as_bytes()),
        grouped(group.members.into()),
        grouped(group.lag),
        oldest.unwrap_or_else(|| "-".to_owned()),
        grouped(group.in_flight),
        grouped(group.parked),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn topics(now: SystemTime) -> Vec<Topic> {
        let mut orders = TopicInfo::new("orders");
        (orders.messages, orders.dead_letters) = (1_200, 3);
        let mut billing = GroupInfo::new("billing");
        (billing.members, billing.lag, billing.in_flight) = (1, 12, 5);
        billing.oldest = Some(now - Duration::from_secs(243));
        vec![(orders, vec![billing, GroupInfo::new("stock")]), (TopicInfo::new("invoices"), Vec::new())]
    }

    #[test]
    fn the_table_has_a_line_a_group_and_names_a_topic_once() {
        let now = SystemTime::now();
        let lines = [
            "TOPIC     MESSAGES  DEAD LETTERS  GROUP    MEMBERS  LAG  OLDEST  IN FLIGHT  PARKED",
            "orders       1,200             3  billing        1   12   4m 3s          5       0",
            "                                  stock          0    0       -          0       0",
            "invoices         0             0  -",
        ];
        assert_eq!(table(&topics(now), now).lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn the_document_has_the_groups_within_their_topics_and_no_password() {
        let endpoint = Endpoint::parse("kafka://ann:secret@host").unwrap();
        let document = document(&topics(SystemTime::now()), &endpoint);
        assert_eq!(document["url"], "kafka://ann:***@host");
        assert_eq!(document["topics"][0]["groups"][0]["lag"], 12);
        assert_eq!(document["topics"][0]["groups"][1]["oldest"], Value::Null);
        assert_eq!(document["topics"][1]["groups"], json!([]));
    }
}
