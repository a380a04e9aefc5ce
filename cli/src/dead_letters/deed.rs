//! Redriving and discarding: one letter after the other, so that it is always known how far it came.

use std::collections::BTreeSet;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use millstream::core::Endpoint;
use millstream::{DeadLetters, Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::describe;
use super::filter::{Filter, Walk};
use crate::failed::{Failed, Form};
use crate::moment::Rate;
use crate::output::{Out, Printed};
use crate::signals::Stop;
use crate::text;

/// What is done with each letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    Redrive,
    Discard,
}

impl Deed {
    fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Self::Redrive => "redriving",
            Self::Discard => "discarding",
        }
    }
}

/// Says which letters are meant, and changes nothing.
pub(crate) async fn would(
    deed: Deed,
    letters: &DeadLetters,
    filter: &Filter,
    form: Form,
    out: &mut Out<'_>,
) -> Result<()> {
    let mut walk = Walk::new(letters, filter);
    let mut table = describe::table();
    let mut ids = BTreeSet::new();
    while let Some((id, letter)) = walk.next().await? {
        ids.insert(id);
        if form == Form::Json {
            continue;
        }
        table.row(describe::row(id, &letter));
        if walk.is_at_page_end() && super::print_rows(&mut table, out)? == Printed::Closed {
            return Ok(());
        }
    }
    super::print_rows(&mut table, out)?;
    let count = ids.len() as u64;
    match form {
        Form::Json => {
            let document = json!({ "topic": letters.topic(), "dry_run": true, deed.done(): 0, "would_be": count, "ids": ids });
            out.json(&document)?;
        }
        Form::Text => {
            let of = text::count(count, "dead letter");
            out.line(&format!(
                "{of} of {:?} would be {}; nothing was changed.",
                letters.topic(),
                deed.done()
            ))?;
        }
    }
    out.flush()?;
    filter.expect_named(letters.topic(), &ids)
}

/// Does it with each letter that is meant and is there now.
pub(crate) async fn carry_out(
    deed: Deed,
    letters: &DeadLetters,
    filter: &Filter,
    mut pace: Pace,
    form: Form,
    out: &mut Out<'_>,
    stop: &mut Stop,
) -> Result<(), Failed> {
    let mut books = Books { deed, topic: letters.topic().to_owned(), done: 0, gone: 0, last: None };
    let survey = survey(letters, filter, stop).await?;
    if let Some(last) = survey.last {
        let progress = progress(deed, survey.count);
        let mut walk = Walk::new(letters, filter).up_to(last);
        let ended = each(deed, letters, &mut walk, &mut pace, &mut books, &progress, stop).await;
        progress.finish_and_clear();
        if let Err(halt) = ended {
            return Err(books.halted(halt, filter.limit()));
        }
    }
    match form {
        Form::Json => out.json(&books.document())?,
        Form::Text => out.line(&books.sentence())?,
    };
    out.flush()?;
    filter.expect_named(letters.topic(), &survey.named)?;
    Ok(())
}

/// Why it ended before all was done.
enum Halt {
    /// The user said so.
    Interrupted,
    /// The next letters cannot be read.
    Unread(Error),
    /// This one failed.
    Failed(u64, Error),
}

/// What there is to do.
struct Survey {
    count: u64,
    /// The last letter that is meant.
    last: Option<u64>,
    /// Those that were named by their number.
    named: BTreeSet<u64>,
}

/// Looks through the letters before anything is done, so that those that die meanwhile are left alone.
async fn survey(letters: &DeadLetters, filter: &Filter, stop: &Stop) -> Result<Survey> {
    let mut survey = Survey { count: 0, last: None, named: BTreeSet::new() };
    let mut walk = Walk::new(letters, filter);
    while let Some((id, _)) = walk.next().await? {
        survey.count += 1;
        survey.last = Some(id);
        if filter.names(id) {
            survey.named.insert(id);
        }
        if stop.is_asked() {
            break;
        }
    }
    Ok(survey)
}

async fn each(
    deed: Deed,
    letters: &DeadLetters,
    walk: &mut Walk<'_>,
    pace: &mut Pace,
    books: &mut Books,
    progress: &ProgressBar,
    stop: &mut Stop,
) -> Result<(), Halt> {
    while let Some((id, _)) = walk.next().await.map_err(Halt::Unread)? {
        tokio::select! {
            biased;
            () = stop.asked() => return Err(Halt::Interrupted),
            () = pace.wait() => {}
        }
        // Never cut off in the middle: then nobody would know.
        let was_there = match deed {
            Deed::Redrive => letters.redrive(id).await,
            Deed::Discard => letters.discard(id).await,
        };
        match was_there {
            Ok(true) => books.done += 1,
            // Somebody else was quicker.
            Ok(false) => books.gone += 1,
            Err(error) => return Err(Halt::Failed(id, error)),
        }
        books.last = Some(id);
        progress.set_position(books.all());
    }
    Ok(())
}

/// How far it came.
#[derive(Debug)]
struct Books {
    deed: Deed,
    topic: String,
    done: u64,
    /// Letters that were gone when their turn came.
    gone: u64,
    last: Option<u64>,
}

impl Books {
    fn all(&self) -> u64 {
        self.done + self.gone
    }

    fn document(&self) -> Value {
        json!({ "topic": self.topic, self.deed.done(): self.done, "gone": self.gone, "last_id": self.last })
    }

    fn sentence(&self) -> String {
        let mut text =
            format!("{} of {:?} {}", text::count(self.done, "dead letter"), self.topic, self.deed.done());
        if self.gone > 0 {
            text.push_str(&format!("; {} were gone already", text::grouped(self.gone)));
        }
        text.push('.');
        text
    }

    /// The error that ended it, with how far it came and how to go on.
    fn halted(&self, halt: Halt, limit: Option<u64>) -> Failed {
        let doing = self.deed.doing();
        let (kind, what, cause) = match halt {
            Halt::Interrupted => (ErrorKind::Unavailable, format!("interrupted while {doing}"), None),
            Halt::Unread(error) => (error.kind(), format!("while {doing}, reading on failed"), Some(error)),
            Halt::Failed(id, error) => {
                (error.kind(), format!("{doing} dead letter {id} failed"), Some(error))
            }
        };
        let so_far = match self.last {
            None => format!("none was {}", self.deed.done()),
            Some(last) => {
                format!(
                    "{} {}, the last one done is {last}",
                    text::count(self.done, "letter"),
                    self.deed.done()
                )
            }
        };
        let left = limit.map(|limit| limit.saturating_sub(self.all()));
        let command = go_on(std::env::args(), self.last, left);
        let error = Error::new(kind, format!("{what}; {so_far}"))
            .topic(&self.topic)
            .fix(format!("go on with: {command}"));
        let error = match cause {
            Some(cause) => error.source(cause),
            None => error,
        };
        Failed::having_done(error, self.document())
    }
}

/// The command of this run, to go on behind a letter. A password is not repeated.
fn go_on(args: impl Iterator<Item = String>, after: Option<u64>, left: Option<u64>) -> String {
    let mut command = vec!["millstream".to_owned()];
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        match &*arg {
            "--after" | "--limit" => drop(args.next()),
            _ if arg.starts_with("--after=") || arg.starts_with("--limit=") => {}
            _ if arg.starts_with("--") && arg.contains("://") => match arg.split_once('=') {
                Some((name, url)) => command.push(format!("{name}={}", quoted(&without_password(url)))),
                None => command.push(quoted(&arg)),
            },
            _ if arg.contains("://") => command.push(quoted(&without_password(&arg))),
            _ => command.push(quoted(&arg)),
        }
    }
    let options = [("--after", after), ("--limit", left)];
    command.extend(options.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?))));
    command.join(" ")
}

fn without_password(url: &str) -> String {
    match Endpoint::parse(url) {
        Ok(endpoint) if endpoint.password().is_some() || endpoint.params().next().is_some() => {
            endpoint.to_string()
        }
        _ => url.to_owned(),
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Keeps to a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// As quick as it goes, without a rate.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self { every: rate.map_or(Duration::ZERO, |rate| rate.every), next: None }
    }

    /// Waits for the next one's turn. What was missed is not made up for.
    async fn wait(&mut self) {
        if self.every.is_zero() {
            return;
        }
        let now = Instant::now();
        let next = self.next.unwrap_or(now).max(now);
        tokio::time::sleep_until(next).await;
        self.next = Some(next + self.every);
    }
}

fn progress(deed: Deed, letters: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar:.cyan/blue} {human_pos}/{human_len}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(letters).with_style(style).with_prefix(deed.doing())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use millstream::core::WriterCapabilities;
    use millstream::{Bus, Connection, Drivers, Message, WriteReport, Writer};

    use super::super::tests::{bus, fill, filter};
    use super::*;

    async fn carried_out(deed: Deed, bus: &Bus, args: &[&str]) -> (Value, Result<(), Failed>) {
        let mut text = Vec::new();
        let mut out = Out::to(&mut text);
        let (letters, filter) = (bus.dead_letters("orders"), filter(args));
        let pace = Pace::new(None);
        let mut stop = Stop::never();
        let ended = carry_out(deed, &letters, &filter, pace, Form::Json, &mut out, &mut stop).await;
        drop(out);
        (serde_json::from_slice(&text).unwrap_or_default(), ended)
    }

    async fn left(bus: &Bus) -> Vec<u64> {
        bus.dead_letters("orders").list(None, 1_000).await.unwrap().iter().map(|l| l.id.unwrap()).collect()
    }

    #[tokio::test]
    async fn what_is_redriven_is_meant_and_leaves_the_letters() {
        let bus = bus(7).await;
        let (document, ended) = carried_out(Deed::Redrive, &bus, &["--class", "decode"]).await;
        ended.unwrap();
        assert_eq!(document, json!({ "topic": "orders", "redriven": 3, "gone": 0, "last_id": 6 }));
        assert_eq!(left(&bus).await, [1, 2, 4, 5]);
        let topics = bus.admin().unwrap().topics().await.unwrap();
        assert_eq!(topics.iter().find(|topic| topic.name == "orders").unwrap().messages, 3);
    }

    #[tokio::test]
    async fn a_dry_run_counts_the_same_and_changes_nothing() {
        let bus = bus(7).await;
        let mut text = Vec::new();
        let mut out = Out::to(&mut text);
        let letters = bus.dead_letters("orders");
        would(Deed::Discard, &letters, &filter(&["--class", "decode"]), Form::Json, &mut out).await.unwrap();
        drop(out);
        let document: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&document["would_be"], &document["ids"]), (&json!(3), &json!([0, 3, 6])));
        assert_eq!(left(&bus).await.len(), 7);
    }

    #[tokio::test]
    async fn a_limit_and_a_place_to_go_on_from_hold_for_what_is_done() {
        let bus = bus(7).await;
        let (document, ended) = carried_out(Deed::Discard, &bus, &["--after", "1", "--limit", "2"]).await;
        ended.unwrap();
        assert_eq!((&document["discarded"], &document["last_id"]), (&json!(2), &json!(3)));
        assert_eq!(left(&bus).await, [0, 1, 4, 5, 6]);
    }

    /// Takes so many messages and is full then.
    struct Takes {
        left: AtomicUsize,
        to: Connection,
    }

    impl Writer for Takes {
        fn capabilities(&self) -> WriterCapabilities {
            self.to.writer.capabilities()
        }
        async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
            if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err() {
                return Err(Error::new(ErrorKind::Full, "the disk is full"));
            }
            self.to.writer.write(batch).await
        }
        async fn close(&self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_error_says_how_far_it_came_and_nothing_is_removed_that_was_not_sent() {
        let mut connection = Drivers::built_in().connect("memory://").await.unwrap();
        let writer = Takes { left: AtomicUsize::new(7 + 2), to: connection.clone() };
        connection.writer = Arc::new(writer);
        let bus = Bus::from_connection(connection);
        fill(&bus, 7).await;
        let (_, ended) = carried_out(Deed::Redrive, &bus, &[]).await;
        let text = ended.unwrap_err().error().to_string();
        assert!(text.contains("dead letter 2 failed; 2 letters redriven, the last one done is 1"), "{text}");
        assert!(text.contains("--after 1"), "{text}");
        assert_eq!(left(&bus).await, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_command_to_go_on_is_the_same_behind_the_last_letter() {
        let go_on = |args: &[&str], after, left| go_on(args.iter().map(|a| (*a).to_owned()), after, left);
        let args =
            ["/bin/millstream", "dead-letters", "redrive", "sqlite://app.db", "orders", "--error", "it's"];
        let command = "millstream dead-letters redrive sqlite://app.db orders --error 'it'\\''s' --after 7";
        assert_eq!(go_on(&args, Some(7), None), command);
        let again = [&args[..], &["--after", "3", "--limit=9"]].concat();
        assert_eq!(go_on(&again, Some(7), Some(2)), format!("{command} --limit 2"));
        let secret = ["m", "dead-letters", "redrive", "kafka://ann:secret@host", "orders"];
        assert!(!go_on(&secret, None, None).contains("secret"));
        for to in [&["--to", "kafka://ann:secret@host"][..], &["--to=kafka://ann:secret@host"]] {
            let line = go_on(
                &[&["m", "dead-letters", "redrive", "folder:///letters", "orders"], to].concat(),
                None,
                None,
            );
            assert!(line.contains("ann:***@host") && !line.contains("secret"), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(Rate { every: Duration::from_millis(20) }));
        for _ in 0..11 {
            pace.wait().await;
        }
        assert_eq!(begun.elapsed(), Duration::from_millis(200));
    }
}
