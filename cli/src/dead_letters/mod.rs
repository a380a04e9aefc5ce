//! `millstream dead-letters`: looks at what could not be handled, sends it back, or removes it.
//!
//! `filter` says which letters are meant and reads them, `describe` prints them, `deed` redrives and discards. Here
//! are the command line and the two that only look.

mod deed;
mod describe;
mod filter;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use millstream::core::erased::DynAdmin;
use millstream::{Bus, DeadLetters, Error, ErrorKind, Result};

use self::deed::{Deed, Pace};
use self::describe::Document;
use self::filter::{Filter, Walk};
use crate::failed::{Ended, Failed, Form};
use crate::moment::{self, Rate};
use crate::output::{Out, Printed};
use crate::signals::Stop;
use crate::{broker, text};

/// Lists, shows, redrives and discards messages that could not be handled
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

/// The heading of options that say how, not which.
const DOING: &str = "How";

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists dead letters, a line each, oldest first
    #[command(visible_alias = "list")]
    Ls(Which),
    /// Prints all that is known of dead letters: errors, headers, payload
    Show(Which),
    /// Sends dead letters back to the group that could not handle them
    ///
    /// Each keeps its id, and is removed once its message is confirmed; the other groups acknowledge it as skipped.
    /// Letters that die again meanwhile are left alone.
    Redrive {
        #[command(flatten)]
        which: Which,
        /// Says which letters it would redrive, and changes nothing
        #[arg(long, help_heading = DOING)]
        dry_run: bool,
        /// So many at most in a time: 50/s, 10/m, 500/h
        #[arg(long, value_name = "N/s", value_parser = moment::rate, help_heading = DOING)]
        rate: Option<Rate>,
        /// The broker that they go back to, where they lie elsewhere, such as in s3://bucket
        #[arg(long, value_name = "URL", help_heading = DOING)]
        to: Option<String>,
    },
    /// Removes dead letters for good
    Discard {
        #[command(flatten)]
        which: Which,
        /// Says which letters it would discard, and changes nothing
        #[arg(long, help_heading = DOING)]
        dry_run: bool,
        /// Means all of the topic: needed where nothing else says which
        #[arg(long, help_heading = DOING)]
        all: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Where they lie: the broker, such as sqlite://app.db, or the store that they were written to
    url: String,
    /// The topic whose messages they were
    topic: String,
    #[command(flatten)]
    filter: Filter,
}

/// How a letter is printed.
#[derive(Clone, Copy)]
enum Detail {
    Line,
    Whole,
}

pub(crate) async fn run(options: &Options, form: Form) -> Ended {
    let (which, what) = match &options.command {
        Command::Ls(which) => (which, What::Look(Detail::Line)),
        Command::Show(which) => (which, What::Look(Detail::Whole)),
        Command::Redrive { which, dry_run: true, .. } => (which, What::Try(Deed::Redrive)),
        Command::Redrive { which, rate, .. } => (which, What::Do(Deed::Redrive, Pace::new(*rate))),
        Command::Discard { which, all, .. } if *all != which.filter.means_all() => {
            return Err(unclear_discard(which, *all).into());
        }
        Command::Discard { which, dry_run: true, .. } => (which, What::Try(Deed::Discard)),
        Command::Discard { which, .. } => (which, What::Do(Deed::Discard, Pace::new(None))),
    };
    let mut stop = Stop::watch()?;
    let to = match &options.command {
        Command::Redrive { to, .. } => to.as_deref(),
        _ => None,
    };
    let store = broker::look(&which.url).await?;
    let bus = match to {
        Some(to) => Bus::from_connection(broker::look(to).await?),
        None => Bus::from_connection(store.clone()),
    };
    let mut letters = bus.dead_letters(which.topic.clone());
    if let Some(admin) = &store.admin {
        letters = letters.stored_in_dyn(Arc::clone(admin));
    }
    expect_letters_or_topic(store.admin.as_deref(), &letters).await?;
    let mut out = Out::stdout();
    match what {
        What::Look(detail) => look(&letters, &which.filter, detail, form, &mut out).await?,
        What::Try(deed) => deed::would(deed, &letters, &which.filter, form, &mut out).await?,
        What::Do(deed, pace) => {
            deed::carry_out(deed, &letters, &which.filter, pace, form, &mut out, &mut stop).await?;
        }
    }
    bus.close().await.map_err(Failed::from)?;
    Ok(ExitCode::SUCCESS)
}

enum What {
    Look(Detail),
    Try(Deed),
    Do(Deed, Pace),
}

fn unclear_discard(which: &Which, all: bool) -> Error {
    let (what, fix) = if all {
        ("--all means all dead letters, and a filter only some", "leave one of the two out")
    } else {
        (
            "nothing says which dead letters to discard",
            "name some, such as with --id or --class, or say --all",
        )
    };
    Error::new(ErrorKind::InvalidConfig, what).topic(&which.topic).fix(fix)
}

/// A typing error in the topic's name must not read as "there are none".
async fn expect_letters_or_topic(store: Option<&dyn DynAdmin>, letters: &DeadLetters) -> Result<()> {
    if !letters.list(None, 1).await?.is_empty() {
        return Ok(());
    }
    match store {
        Some(admin) => broker::expect_topic_of(admin, letters.topic()).await,
        None => Ok(()),
    }
}

async fn look(
    letters: &DeadLetters,
    filter: &Filter,
    detail: Detail,
    form: Form,
    out: &mut Out<'_>,
) -> Result<()> {
    let mut walk = Walk::new(letters, filter);
    let mut table = describe::table();
    let mut found = BTreeSet::new();
    let mut count = 0;
    while let Some((id, letter)) = walk.next().await? {
        count += 1;
        // Only what was named is looked for afterwards.
        if filter.names(id) {
            found.insert(id);
        }
        let printed = match (form, detail) {
            (Form::Json, Detail::Line) => out.json(&Document::brief(&letter))?,
            (Form::Json, Detail::Whole) => out.json(&Document::full(&letter))?,
            (Form::Text, Detail::Whole) => {
                if count > 1 {
                    out.line("")?;
                }
                out.line(&describe::whole(id, &letter))?
            }
            (Form::Text, Detail::Line) => {
                table.row(describe::row(id, &letter));
                if walk.is_at_page_end() { print_rows(&mut table, out)? } else { Printed::Yes }
            }
        };
        if printed == Printed::Closed {
            return Ok(());
        }
    }
    print_rows(&mut table, out)?;
    if form == Form::Text && count == 0 {
        let none = match walk.seen() {
            0 => "There are none.".to_owned(),
            seen => format!("None of {} is meant.", text::count(seen, "dead letter")),
        };
        out.line(&none)?;
    }
    out.flush()?;
    filter.expect_named(letters.topic(), &found)
}

/// Prints the rows that have been collected.
fn print_rows(table: &mut text::Table<7>, out: &mut Out<'_>) -> Result<Printed> {
    for line in table.take() {
        if out.line(&line)? == Printed::Closed {
            return Ok(Printed::Closed);
        }
    }
    Ok(Printed::Yes)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use millstream::{Message, names};

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        filter: Filter,
    }

    pub(super) fn filter(args: &[&str]) -> Filter {
        Line::parse_from(["ls"].iter().chain(args)).filter
    }

    /// A bus with so many dead letters of the topic "orders", for which letters 0, 3, 6, … are of the class decode.
    pub(super) async fn bus(letters: usize) -> Bus {
        let bus = Bus::connect("memory://").await.unwrap();
        fill(&bus, letters).await;
        bus
    }

    pub(super) async fn fill(bus: &Bus, letters: usize) {
        for n in 0..letters {
            let class = if n.is_multiple_of(3) { "decode" } else { "exhausted" };
            let letter = Message::new("orders.dlq", format!("payload {n}"))
                .with_id(format!("m-{n}"))
                .with_key("k")
                .with_header(names::DL_TOPIC, "orders")
                .with_header(names::DL_GROUP, "billing")
                .with_header(names::DL_CLASS, class)
                .with_header(names::DL_ERROR, "it failed");
            bus.publish_message(letter).await.unwrap();
        }
    }

    async fn looked(bus: &Bus, args: &[&str], detail: Detail, form: Form) -> (String, Result<()>) {
        let mut text = Vec::new();
        let mut out = Out::to(&mut text);
        let looked = look(&bus.dead_letters("orders"), &filter(args), detail, form, &mut out).await;
        drop(out);
        (String::from_utf8(text).unwrap(), looked)
    }

    #[tokio::test]
    async fn a_list_longer_than_a_page_has_one_heading_and_a_line_each() {
        let (text, looked) = looked(&bus(250).await, &[], Detail::Line, Form::Text).await;
        looked.unwrap();
        assert_eq!(text.lines().count(), 251);
        assert_eq!(text.lines().filter(|line| line.contains("LAST FAILURE")).count(), 1);
    }

    #[tokio::test]
    async fn a_limit_counts_what_is_meant() {
        let (text, _) =
            looked(&bus(250).await, &["--class", "decode", "--limit", "2"], Detail::Line, Form::Json).await;
        let ids: Vec<_> =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        assert_eq!(ids.iter().map(|letter| &letter["message_id"]).collect::<Vec<_>>(), ["m-0", "m-3"]);
    }

    #[tokio::test]
    async fn a_letter_that_is_named_and_not_there_is_an_error() {
        let (text, looked) =
            looked(&bus(3).await, &["--id", "1", "--id", "99"], Detail::Whole, Form::Text).await;
        assert!(text.contains("payload 1"), "{text}");
        let error = looked.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("99"), "{error}");
    }

    #[tokio::test]
    async fn a_topic_without_letters_says_so_and_an_unknown_one_is_an_error() {
        let bus = bus(0).await;
        bus.publish_message(Message::new("orders", "{}")).await.unwrap();
        let (text, _) = looked(&bus, &[], Detail::Line, Form::Text).await;
        assert_eq!(text, "There are none.\n");
        let admin = bus.admin().map(|admin| &**admin);
        expect_letters_or_topic(admin, &bus.dead_letters("orders")).await.unwrap();
        let error = expect_letters_or_topic(admin, &bus.dead_letters("ordres")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
