//! `millstream tail`: prints messages as they come, as a looker-on or as a member of a group.
//!
//! Here are the options and the reading; `print` makes a message a line, `acknowledge` settles what was printed.

mod acknowledge;
mod print;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use millstream::core::erased::DynSource;
use millstream::core::{Delivery, End, OpenRequest, Read, ReadLimits};
use millstream::{Connection, Error, ErrorKind, Result, Start};

use self::acknowledge::Acknowledger;
use self::print::Printer;
use crate::failed::{Ended, Form};
use crate::output::{self, Out, Printed};
use crate::signals::Stop;
use crate::{broker, failed, moment};

/// Prints the messages of a topic as they come, until Ctrl-C
///
/// Each line has position, time, key and payload, with tabs between them. Without a group it looks on and leaves no
/// trace. With a group it takes part in it: what it printed is acknowledged, and other members do not get it.
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    /// The broker, such as sqlite://app.db
    url: String,
    /// The topic
    topic: String,
    /// Takes part in this group, and acknowledges what it printed
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Where to start: earliest, latest, a time (2026-11-24T12:00:00Z), how long ago (-10m), or a position
    ///
    /// Default: latest when looking on, earliest with --to-end or for a new group. A group that has read before goes on
    /// where it was, whatever this says.
    #[arg(long, value_name = "START", allow_hyphen_values = true, value_parser = moment::start)]
    from: Option<Start>,
    /// Ends after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Waits for more at the end: the default
    #[arg(long, conflicts_with = "to_end")]
    follow: bool,
    /// Ends behind the last message there is now
    #[arg(long)]
    to_end: bool,
}

/// Messages taken at once.
const BATCH: usize = 256;
/// Bytes of those at most.
const BATCH_BYTES: usize = 8 << 20;
/// How often in a row reading is tried again.
const TRIES: u32 = 8;
/// The first wait before it is; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

pub(crate) async fn run(options: &Options, form: Form) -> Ended {
    let mut stop = Stop::watch()?;
    let connection = broker::look(&options.url).await?;
    tail(&connection, options, form, &mut Out::stdout(), &mut stop).await?;
    Ok(ExitCode::SUCCESS)
}

async fn tail(
    connection: &Connection,
    options: &Options,
    form: Form,
    out: &mut Out<'_>,
    stop: &mut Stop,
) -> Result<()> {
    let capabilities = connection.reader.capabilities();
    if options.group.is_none() && !capabilities.browse {
        return Err(Error::new(ErrorKind::Unsupported, "this broker can be read in a group alone")
            .topic(&options.topic)
            .fix("name one with --group; what it prints is acknowledged for that group"));
    }
    broker::expect_topic(connection, &options.topic).await?;
    if options.from.is_some() {
        say_if_the_group_goes_on(connection, options).await?;
    }
    let opened = connection.reader.open(request(options)).await?;
    let mut acknowledger = Acknowledger::new(opened.settler, options.group.is_some());
    let mut source = opened.source;
    let mut printer = Printer::new(form, capabilities.partitions);
    let ended = print_all(&mut source, &mut acknowledger, &mut printer, options.limit, out, stop).await;
    // What was read and not printed goes back, whatever happened.
    let acknowledged = acknowledger.close().await;
    let closed = source.close().await;
    ended.and(acknowledged).and(closed)
}

fn request(options: &Options) -> OpenRequest {
    let start = options.from.unwrap_or(match (&options.group, options.to_end) {
        (None, false) => Start::Latest,
        _ => Start::Earliest,
    });
    let end = if options.to_end { End::Latest } else { End::Never };
    let mut request = OpenRequest::new(options.topic.clone()).start(start).end(end);
    request.max_in_flight = BATCH;
    match &options.group {
        Some(group) => request.group(group.clone()),
        None => request,
    }
}

/// A start that does nothing is said, so that nobody takes what follows for all there is.
async fn say_if_the_group_goes_on(connection: &Connection, options: &Options) -> Result<()> {
    let (Some(admin), Some(group)) = (&connection.admin, &options.group) else { return Ok(()) };
    if admin.group(&options.topic, group).await?.is_some() {
        eprintln!(
            "note: the group {group:?} is there already and goes on where it was: --from is for new groups"
        );
    }
    Ok(())
}

async fn print_all(
    source: &mut Box<dyn DynSource>,
    acknowledger: &mut Acknowledger,
    printer: &mut Printer,
    limit: Option<u64>,
    out: &mut Out<'_>,
    stop: &mut Stop,
) -> Result<()> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut deliveries = Vec::new();
    while left > 0 {
        let limits = ReadLimits::new(BATCH.min(left.try_into().unwrap_or(BATCH)), BATCH_BYTES);
        let read = tokio::select! {
            biased;
            () = stop.asked() => return Ok(()),
            () = output::reader_is_gone() => return Ok(()),
            read = read(source, &mut deliveries, limits) => read?,
        };
        left = left.saturating_sub(deliveries.len() as u64);
        for delivery in &deliveries {
            if printer.print(delivery, out)? == Printed::Closed {
                return Ok(());
            }
        }
        if out.flush()? == Printed::Closed {
            return Ok(());
        }
        acknowledger.acknowledge(deliveries.drain(..)).await?;
        match read {
            Read::End => return Ok(()),
            // Nothing that was taken is unsettled here.
            Read::Revoking(revoking) => revoking.done(),
            _ => {}
        }
    }
    Ok(())
}

/// Reads, and tries again what may go better the next time. Cancel safe, as reading is.
async fn read(source: &mut Box<dyn DynSource>, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match source.read(into, limits).await {
            Err(error) if error.is_retryable() => {
                eprintln!("note: reading failed and is tried again: {}", failed::text(&error));
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            read => return read,
        }
    }
    source.read(into, limits).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use millstream::{Drivers, Message};

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(args: &[&str]) -> Options {
        Line::parse_from(["tail", "memory://", "orders"].iter().chain(args)).options
    }

    async fn broker(messages: usize) -> Connection {
        let connection = Drivers::built_in().connect("memory://").await.unwrap();
        // A group that wants them: what nobody wants is not kept for who comes later.
        connection.reader.open(OpenRequest::new("orders").group("keeper")).await.unwrap();
        let message = |n: usize| Message::new("orders", format!("payload {n}")).with_id(n.to_string());
        let report = connection.writer.write((0..messages).map(message).collect()).await.unwrap();
        assert!(report.is_all_written());
        connection
    }

    async fn printed(connection: &Connection, args: &[&str]) -> Vec<String> {
        let mut text = Vec::new();
        let mut out = Out::to(&mut text);
        tail(connection, &options(args), Form::Text, &mut out, &mut Stop::never()).await.unwrap();
        drop(out);
        String::from_utf8(text)
            .unwrap()
            .lines()
            .map(|line| line.split('\t').nth(3).unwrap().to_owned())
            .collect()
    }

    #[tokio::test]
    async fn looking_on_to_the_end_prints_all_and_leaves_no_trace() {
        let broker = broker(600).await;
        for _ in 0..2 {
            let lines = printed(&broker, &["--to-end"]).await;
            assert_eq!((lines.len(), &*lines[0], &*lines[599]), (600, "payload 0", "payload 599"));
        }
        let groups = broker.admin.as_ref().unwrap().groups("orders").await.unwrap();
        assert_eq!(groups.len(), 1, "only the one that was there");
    }

    #[tokio::test]
    async fn a_group_goes_on_behind_what_was_printed() {
        let broker = broker(10).await;
        let first = printed(&broker, &["--group", "g", "--limit", "4", "--to-end"]).await;
        assert_eq!(first, ["payload 0", "payload 1", "payload 2", "payload 3"]);
        let rest = printed(&broker, &["--group", "g", "--to-end"]).await;
        assert_eq!((rest.len(), &*rest[0]), (6, "payload 4"));
    }

    #[tokio::test]
    async fn what_could_not_be_printed_is_not_acknowledged() {
        struct Closed;
        impl std::io::Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let broker = broker(3).await;
        let args = options(&["--group", "g", "--to-end"]);
        tail(&broker, &args, Form::Text, &mut Out::to(Closed), &mut Stop::never()).await.unwrap();
        assert_eq!(printed(&broker, &["--group", "g", "--to-end"]).await.len(), 3);
    }

    #[tokio::test]
    async fn it_starts_at_a_position() {
        let broker = broker(10).await;
        assert_eq!(printed(&broker, &["--from", "8", "--to-end"]).await, ["payload 8", "payload 9"]);
    }

    #[tokio::test]
    async fn a_topic_that_is_not_there_is_not_made_and_the_others_are_named() {
        let broker = broker(1).await;
        let mut line = options(&["--to-end"]);
        line.topic = "ordres".into();
        let mut text = Vec::new();
        let tailed = tail(&broker, &line, Form::Text, &mut Out::to(&mut text), &mut Stop::never()).await;
        let error = tailed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("there are: \"orders\""), "{error}");
        assert_eq!(broker.admin.as_ref().unwrap().topics().await.unwrap().len(), 1);
    }

    #[test]
    fn looking_on_starts_at_the_newest_and_a_group_misses_nothing() {
        let start = |args: &[&str]| request(&options(args)).start;
        assert_eq!(start(&[]), Start::Latest);
        assert_eq!(start(&["--to-end"]), Start::Earliest);
        assert_eq!(start(&["--group", "g"]), Start::Earliest);
        assert_eq!(start(&["--group", "g", "--from", "latest"]), Start::Latest);
        assert!(matches!(start(&["--from", "-10m"]), Start::Time(_)));
    }
}
