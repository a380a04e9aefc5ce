//! `millstream doctor`: whether a broker's settings, and how its groups are, endanger what the toolkit promises.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use millstream::core::Endpoint;
use millstream::core::admin::{Finding, GroupInfo, TopicInfo, Weight};
use millstream::core::erased::DynAdmin;
use millstream::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::failed::{self, Ended, Form};
use crate::{broker, output, text};

/// Looks for settings and states that endanger messages, and says what to do about each
///
/// Exit code 1 if messages can be lost, or are being lost, as it is.
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    /// The broker, such as kafka://localhost
    url: String,
    /// Which topics; all of them by default
    topics: Vec<String>,
}

/// A topic and what was found there.
type Examined = (String, Vec<Finding>);

pub(crate) async fn run(options: &Options, form: Form) -> Ended {
    let connection = broker::look(&options.url).await?;
    let admin = &**broker::admin(&connection, &options.url)?;
    for topic in &options.topics {
        broker::expect_topic_of(admin, topic).await?;
    }
    let examined = examine(admin, &options.topics).await?;
    match form {
        Form::Json => output::document(&document(&examined, &Endpoint::parse(&options.url)?)),
        Form::Text => output::line(&told(&examined)),
    }
    let danger = examined.iter().flat_map(|(_, found)| found).any(|found| found.weight == Weight::Danger);
    Ok(if danger { failed::FAILED.into() } else { ExitCode::SUCCESS })
}

async fn examine(admin: &dyn DynAdmin, wanted: &[String]) -> Result<Vec<Examined>> {
    let now = SystemTime::now();
    let mut examined = Vec::new();
    for topic in admin.topics().await? {
        if !wanted.is_empty() && !wanted.iter().any(|name| *name == *topic.name) {
            continue;
        }
        let asked = async {
            let groups = match admin.groups(&topic.name).await {
                // What keeps the broker from telling is among what is found.
                Err(error) if error.is_retryable() => Vec::new(),
                groups => groups?,
            };
            Ok::<_, Error>((groups, admin.diagnose(&topic.name).await?))
        };
        match asked.await {
            Ok((groups, mut found)) => {
                found.extend(of_topic(&topic));
                found.extend(groups.iter().filter_map(|group| of_group(group, now)));
                found.sort_by_key(|finding: &Finding| finding.weight);
                examined.push((topic.name.to_string(), found));
            }
            // It was removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(examined)
}

/// What any broker tells of a topic.
fn of_topic(topic: &TopicInfo) -> Option<Finding> {
    let letters = text::count(topic.dead_letters, "dead letter");
    (topic.dead_letters > 0).then(|| {
        let fix = format!("see them with: millstream dead-letters list URL {}", topic.name);
        Finding::new(Weight::Note, format!("there are {letters}"), fix)
    })
}

/// And of a group.
fn of_group(group: &GroupInfo, now: SystemTime) -> Option<Finding> {
    if group.lag == 0 || group.members > 0 {
        return None;
    }
    let age = group.oldest.and_then(|oldest| now.duration_since(oldest).ok());
    let age = age.map(|age| format!(", the oldest {} old", text::span(age))).unwrap_or_default();
    let what = format!(
        "nobody reads for the group {:?}, and {} wait{age}",
        &*group.name,
        text::count(group.lag, "message")
    );
    Some(Finding::new(Weight::Warning, what, "start its program; or, if it is no more, remove the group"))
}

fn name_of(weight: Weight) -> &'static str {
    match weight {
        Weight::Danger => "danger",
        Weight::Warning => "warning",
        _ => "note",
    }
}

fn document(examined: &[Examined], endpoint: &Endpoint) -> Value {
    let finding =
        |found: &Finding| json!({ "weight": name_of(found.weight), "what": found.what, "fix": found.fix });
    let topic = |(name, found): &Examined| json!({ "name": name, "findings": found.iter().map(finding).collect::<Vec<_>>() });
    json!({ "url": endpoint.to_string(), "topics": examined.iter().map(topic).collect::<Vec<_>>() })
}

fn told(examined: &[Examined]) -> String {
    let mut lines = Vec::new();
    for (topic, found) in examined.iter().filter(|(_, found)| !found.is_empty()) {
        lines.push(text::line(topic.as_bytes()));
        for finding in found {
            lines.push(format!("  {:<8} {}", name_of(finding.weight), text::line(finding.what.as_bytes())));
            lines.push(format!("  {:<8} fix: {}", "", text::line(finding.fix.as_bytes())));
        }
    }
    let topics = text::count(examined.len() as u64, "topic");
    let count =
        |weight| examined.iter().flat_map(|(_, found)| found).filter(|f| f.weight == weight).count() as u64;
    let (dangers, warnings, notes) = (count(Weight::Danger), count(Weight::Warning), count(Weight::Note));
    lines.push(match (dangers, warnings, notes) {
        (0, 0, 0) => format!("{topics}: nothing was found."),
        _ => format!(
            "{topics}: {}, {}, {}.",
            text::count(dangers, "danger"),
            text::count(warnings, "warning"),
            text::count(notes, "note"),
        ),
    });
    lines.join("\n")
}
