//! `millstream publish`: lines in, messages out, and of each line it is known whether it is confirmed.
//!
//! `lines` cuts the input, `payload` makes a message of a line, `lanes` writes, `confirmed` keeps the books. Here
//! they are put together: what stops it, and what is said then.

mod confirmed;
mod lanes;
mod lines;
mod payload;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use millstream::core::{BoxError, Endpoint};
use millstream::{Connection, Error, ErrorKind, EventRegistry, Message, Publisher, Result};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use self::confirmed::Confirmed;
use self::lanes::{Failure, Lanes, Outcome};
use self::lines::{Chunk, Line};
use self::payload::{Format, Maker};
use crate::failed::{Ended, Failed, Form};
use crate::signals::Stop;
use crate::{broker, output, text};

/// Publishes each line of a file or of the input as a message
///
/// A line of NDJSON is published byte for byte as application/json, once it was seen to be JSON. It ends at the first
/// line that cannot be published; those before it stay published, and the error says with which --skip to go on.
#[derive(Debug, Args)]
#[command(after_long_help = crate::EXIT_CODES)]
pub(crate) struct Options {
    /// The broker, such as sqlite://app.db
    url: String,
    /// The topic; made if it is not there
    topic: String,
    /// The file; the standard input if left out or -
    file: Option<PathBuf>,
    /// What a line is
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
    /// The field at the top of each JSON document whose text or number is the key
    #[arg(long, value_name = "FIELD")]
    key_field: Option<String>,
    /// Leaves out so many lines at the beginning: to go on behind an error
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
}

/// Lines taken from the input and not yet confirmed at most.
const UNDER_WAY: usize = 8_000;
/// Bytes of those at most, in whole chunks.
const BYTES_UNDER_WAY: usize = 32 << 20;

pub(crate) async fn run(options: Options, form: Form) -> Ended {
    let mut stop = Stop::watch()?;
    if options.key_field.is_some() && options.format != Format::Ndjson {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "--key-field needs JSON, and --format says otherwise",
        )
        .fix("leave one of the two out")
        .into());
    }
    // Before the broker is reached: a file that is not there shall not make one of the broker's.
    let input = open(options.file.as_deref())?;
    let connection = broker::connect(&options.url).await?;
    let topic = options.topic.clone();
    let published = publish(connection, options, input, &mut stop).await?;
    match form {
        Form::Json => output::document(&published),
        Form::Text => output::line(&format!(
            "Published {} to {topic:?}.",
            text::count(published["published"].as_u64().unwrap_or_default(), "message")
        )),
    }
    Ok(ExitCode::SUCCESS)
}

fn open(file: Option<&Path>) -> Result<Box<dyn Read + Send>> {
    match file.filter(|file| *file != Path::new("-")) {
        None => Ok(Box::new(io::stdin())),
        Some(path) => match File::open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => ErrorKind::NotFound,
                    io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                    _ => ErrorKind::Io,
                };
                Err(Error::new(kind, format!("the file {path:?} cannot be opened"))
                    .fix("check its name and its rights")
                    .source(error))
            }
        },
    }
}

async fn publish(
    connection: Connection,
    options: Options,
    input: Box<dyn Read + Send>,
    stop: &mut Stop,
) -> Result<Value, Failed> {
    let publisher = Publisher::from_dyn(connection.writer, EventRegistry::new());
    publisher.limits().check_topic(&options.topic)?;
    let chunks = lines::read(input, options.skip, publisher.limits().payload);
    let facts = json!({ "url": Endpoint::parse(&options.url)?.to_string(), "topic": options.topic });
    let maker = Maker { topic: options.topic.into(), format: options.format, key_field: options.key_field };
    let mut run = Run {
        skip: options.skip,
        facts,
        maker,
        lanes: Lanes::new(publisher.clone()),
        publisher: publisher.clone(),
        confirmed: Confirmed::behind(options.skip),
        published: 0,
        ended: None,
        failure: None,
        progress: progress(),
    };
    run.all(chunks, stop).await;
    run.progress.finish_and_clear();
    let closed = publisher.close().await;
    let done = run.outcome()?;
    closed.map_err(|error| Failed::having_done(error, done.clone()))?;
    Ok(done)
}

/// A line that counts, on stderr if that is a terminal.
fn progress() -> ProgressBar {
    let rate = |state: &ProgressState, to: &mut dyn std::fmt::Write| {
        // A terminal that went away is no reason to fail.
        let _ = to.write_str(&text::grouped(state.per_sec() as u64));
    };
    let style = ProgressStyle::with_template("{spinner} {human_pos} published, {rate} a second")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .with_key("rate", rate);
    let bar = ProgressBar::no_length().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// One run.
struct Run {
    skip: u64,
    /// What the document begins with.
    facts: Value,
    maker: Maker,
    publisher: Publisher,
    lanes: Lanes,
    confirmed: Confirmed,
    published: u64,
    /// Why nothing more is taken from the input.
    ended: Option<End>,
    /// The first line, by its number, that the broker did not take.
    failure: Option<(u64, Failure)>,
    progress: ProgressBar,
}

/// Why nothing more is taken from the input.
#[derive(Debug)]
enum End {
    /// It is over.
    Input,
    /// The user said so.
    Interrupted,
    /// A line cannot be published, or the input broke.
    Refused(Refused),
}

/// What is wrong with the input. What was published before is added when that is known.
#[derive(Debug)]
struct Refused {
    kind: ErrorKind,
    what: String,
    fix: String,
    cause: Option<BoxError>,
}

impl Refused {
    /// A line that is wrong.
    fn line(line: u64, kind: ErrorKind, why: &str) -> Self {
        let fix = format!("mend the line and go on with --skip {}", line - 1);
        Self { kind, what: format!("line {line} {why}"), fix, cause: None }
    }

    fn because(mut self, cause: impl Into<BoxError>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    fn into_error(self, so_far: &str) -> Error {
        let error = Error::new(self.kind, format!("{}; {so_far}", self.what)).fix(self.fix);
        match self.cause {
            Some(cause) => error.source(cause),
            None => error,
        }
    }
}

impl Run {
    /// Publishes until the input ends or something stops it; all that was handed to the broker has its outcome then.
    async fn all(&mut self, mut chunks: mpsc::Receiver<Chunk>, stop: &mut Stop) {
        loop {
            if self.failure.is_none() {
                self.lanes.start();
            }
            let takes = self.ended.is_none()
                && self.failure.is_none()
                && self.confirmed.under_way() < UNDER_WAY
                && self.lanes.bytes() < BYTES_UNDER_WAY;
            if !takes && !self.lanes.is_writing() {
                return;
            }
            tokio::select! {
                biased;
                () = stop.asked(), if self.ended.is_none() => self.ended = Some(End::Interrupted),
                Some(outcomes) = self.lanes.next(), if self.lanes.is_writing() => self.written(outcomes),
                chunk = chunks.recv(), if takes => self.take(chunk),
            }
        }
    }

    fn take(&mut self, chunk: Option<Chunk>) {
        let refused = match chunk {
            Some(Chunk::Lines(lines)) => lines.iter().find_map(|line| self.line(line).err()),
            Some(Chunk::End(lines)) if lines >= self.skip => {
                self.ended = Some(End::Input);
                return;
            }
            Some(Chunk::End(lines)) => Some(Refused {
                kind: ErrorKind::InvalidConfig,
                what: format!("the input has {}, and --skip says {}", text::count(lines, "line"), self.skip),
                fix: "skip fewer".to_owned(),
                cause: None,
            }),
            Some(Chunk::TooLong(line)) => {
                let limit = text::grouped(self.publisher.limits().payload as u64);
                let why = format!("is longer than a payload may be, {limit} bytes");
                Some(Refused::line(line, ErrorKind::TooLarge, &why))
            }
            Some(Chunk::Broken(lines, error)) => Some(Refused {
                kind: ErrorKind::Io,
                what: format!("the input cannot be read behind line {lines}"),
                fix: format!("mend the input and go on with --skip {lines}"),
                cause: Some(error.into()),
            }),
            None => Some(Refused {
                kind: ErrorKind::Internal,
                what: "reading the input broke off".to_owned(),
                fix: "report it".to_owned(),
                cause: None,
            }),
        };
        self.ended = refused.map(End::Refused);
    }

    /// Takes a line.
    fn line(&mut self, line: &Line) -> Result<(), Refused> {
        let made = self.maker.message(line);
        let message = made.map_err(|why| Refused::line(line.number, ErrorKind::InvalidMessage, &why))?;
        if let Some(message) = &message {
            self.check(message).map_err(|error| {
                Refused::line(line.number, error.kind(), "cannot be published").because(error)
            })?;
        }
        self.confirmed.taken();
        match message {
            Some(message) => self.lanes.add(line.number, message),
            // A blank line has nothing to wait for.
            None => self.confirmed.done(line.number),
        }
        Ok(())
    }

    /// What the publisher would refuse, said of the line: of a batch it could not say which.
    fn check(&self, message: &Message) -> Result<()> {
        /// Bytes of the id that the publisher adds.
        const ID: usize = 36;
        self.publisher.limits().check(message)?;
        match self.publisher.capabilities().max_message {
            Some(limit) if message.size() + ID > limit => Err(message.locate(
                Error::new(
                    ErrorKind::TooLarge,
                    format!("the message has {} bytes, the driver takes {limit}", message.size() + ID),
                )
                .fix("send less: keep large payloads elsewhere and send where they are"),
            )),
            _ => Ok(()),
        }
    }

    fn written(&mut self, outcomes: Result<Vec<Outcome>>) {
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                // Which lines these were went down with it: the first one that is not confirmed is one of them.
                self.failure.get_or_insert((self.confirmed.front() + 1, Failure::Unknown(error)));
                return;
            }
        };
        for Outcome { line, failure } in outcomes {
            match failure {
                None => {
                    self.published += 1;
                    self.confirmed.done(line);
                }
                Some(failure) => {
                    if self.failure.as_ref().is_none_or(|(first, _)| line < *first) {
                        self.failure = Some((line, failure));
                    }
                }
            }
        }
        self.progress.set_position(self.published);
    }

    /// What there is to say at the end: the document, or what failed.
    fn outcome(self) -> Result<Value, Failed> {
        let front = self.confirmed.front();
        let mut done = self.facts;
        done["published"] = self.published.into();
        done["lines"] = front.into();
        done["skipped"] = self.skip.into();
        if self.failure.is_none() && matches!(self.ended, Some(End::Input)) {
            return Ok(done);
        }
        let beyond = self.confirmed.beyond();
        done["published_beyond"] = beyond.into();
        let so_far = published_so_far(self.skip, front, beyond);
        let go_on = format!("go on with --skip {front}");
        let error = match (self.failure, self.ended) {
            (Some((line, Failure::Failed(error))), _) => {
                Error::new(error.kind(), format!("line {line} was not published; {so_far}"))
                    .fix(format!("see the cause, then {go_on}"))
                    .source(error)
            }
            (Some((line, Failure::Unknown(error))), _) => Error::new(
                ErrorKind::Unknown,
                format!("whether line {line} was published is not known; {so_far}"),
            )
            .fix(format!("look whether it is there; {go_on} publishes it again under another id"))
            .source(error),
            (None, Some(End::Refused(refused))) => refused.into_error(&so_far),
            (None, _) => Error::new(ErrorKind::Unavailable, format!("interrupted; {so_far}")).fix(go_on),
        };
        Err(Failed::having_done(error, done))
    }
}

/// Which lines are published, as the end of a sentence.
fn published_so_far(skip: u64, front: u64, beyond: u64) -> String {
    let all = match front - skip {
        0 if beyond == 0 => return "nothing is published".to_owned(),
        0 => "nothing before it is published".to_owned(),
        1 => format!("line {front} is published"),
        _ => format!("lines {} to {front} are published", skip + 1),
    };
    match beyond {
        0 => all,
        _ => format!(
            "{all}; of those behind, {} too, and going on publishes these again",
            text::count(beyond, "line")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::Parser as _;
    use millstream::core::{End as UpTo, OpenRequest, ReadLimits, WriterCapabilities};
    use millstream::{Drivers, WriteOutcome, WriteReport, Writer};

    use super::*;

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        options: Options,
    }

    fn options(args: &[&str]) -> Options {
        CommandLine::parse_from(["publish", "memory://", "orders"].iter().chain(args)).options
    }

    async fn memory() -> Connection {
        Drivers::built_in().connect("memory://").await.unwrap()
    }

    async fn published(connection: &Connection, args: &[&str], input: String) -> Result<Value, Failed> {
        let input = Box::new(io::Cursor::new(input));
        publish(connection.clone(), options(args), input, &mut Stop::never()).await
    }

    async fn all(connection: &Connection) -> Vec<Message> {
        let request = OpenRequest::new("orders").end(UpTo::Latest);
        let mut source = connection.reader.open(request).await.unwrap().source;
        let mut into = Vec::new();
        let limits = ReadLimits::new(usize::MAX, usize::MAX);
        while !matches!(source.read(&mut into, limits).await.unwrap(), millstream::core::Read::End) {}
        into.into_iter().map(|delivery| Arc::unwrap_or_clone(delivery.message)).collect()
    }

    fn documents(count: usize) -> String {
        (0..count).map(|n| format!("{{\"n\":{n},\"key\":\"k{}\"}}\n", n % 37)).collect()
    }

    fn number(message: &Message) -> u64 {
        serde_json::from_slice::<Value>(message.data.as_ref().unwrap()).unwrap()["n"].as_u64().unwrap()
    }

    #[tokio::test]
    async fn each_key_keeps_its_order_and_each_message_has_an_id() {
        let broker = memory().await;
        let done = published(&broker, &["--key-field", "key"], documents(20_000)).await.unwrap();
        assert_eq!((&done["published"], &done["lines"]), (&json!(20_000), &json!(20_000)));
        let mut last = HashMap::new();
        let messages = all(&broker).await;
        assert_eq!(messages.len(), 20_000);
        for message in messages {
            assert_eq!(message.id.len(), 36, "a UUID");
            let before = last.insert(message.key.clone().unwrap(), number(&message));
            assert!(before < Some(number(&message)), "{:?}", message.key);
        }
    }

    #[tokio::test]
    async fn without_keys_the_order_is_that_of_the_input() {
        let broker = memory().await;
        published(&broker, &[], documents(5_000)).await.unwrap();
        let numbers: Vec<_> = all(&broker).await.iter().map(number).collect();
        assert!(numbers.is_sorted() && numbers.len() == 5_000);
    }

    #[tokio::test]
    async fn a_bad_line_is_named_and_those_before_it_are_published() {
        let broker = memory().await;
        let input = documents(2_500) + "{oops\n" + &documents(3);
        let failed = published(&broker, &["--key-field", "key"], input.clone()).await.unwrap_err();
        let text = failed.error().to_string();
        assert!(text.starts_with("line 2501 is no JSON"), "{text}");
        assert!(text.contains("; lines 1 to 2500 are published") && text.contains("--skip 2500"), "{text}");
        assert_eq!(all(&broker).await.len(), 2_500);

        let broker = memory().await;
        published(&broker, &["--skip", "2501"], input).await.unwrap();
        assert_eq!(all(&broker).await.len(), 3);
    }

    #[tokio::test]
    async fn a_line_that_breaks_a_limit_is_named() {
        let broker = memory().await;
        let long = format!("ok\n{}\n", "x".repeat(2 << 20));
        let failed = published(&broker, &["--format", "lines"], long).await.unwrap_err();
        assert_eq!(failed.error().kind(), ErrorKind::TooLarge);
        assert!(failed.error().to_string().starts_with("line 2 is longer"), "{}", failed.error());

        let long = format!("{{\"key\":\"{}\"}}", "x".repeat(2_000));
        let failed = published(&broker, &["--key-field", "key"], long).await.unwrap_err();
        assert_eq!(failed.error().kind(), ErrorKind::TooLarge);
        assert!(failed.error().to_string().starts_with("line 1 cannot be published"), "{}", failed.error());
        assert_eq!(all(&broker).await.len(), 1);
    }

    #[test]
    fn what_is_published_so_far_is_said_by_line() {
        assert_eq!(published_so_far(0, 0, 0), "nothing is published");
        assert_eq!(published_so_far(5, 5, 0), "nothing is published");
        assert_eq!(published_so_far(5, 6, 0), "line 6 is published");
        assert_eq!(published_so_far(5, 9, 0), "lines 6 to 9 are published");
        assert_eq!(
            published_so_far(0, 9, 2),
            "lines 1 to 9 are published; of those behind, 2 lines too, and going on publishes these again"
        );
    }

    #[tokio::test]
    async fn skipping_more_than_there_is_is_a_mistake() {
        let failed = published(&memory().await, &["--skip", "4"], documents(3)).await.unwrap_err();
        assert!(failed.error().to_string().contains("3 lines"), "{}", failed.error());
    }

    /// Takes so many messages; what becomes of the next one is said.
    struct Takes {
        left: AtomicUsize,
        then: fn() -> WriteOutcome,
        to: Connection,
    }

    impl Writer for Takes {
        fn capabilities(&self) -> WriterCapabilities {
            self.to.writer.capabilities()
        }
        async fn write(&self, mut batch: Vec<Message>) -> Result<WriteReport> {
            let left = self.left.load(Ordering::Relaxed);
            let refused = batch.split_off(left.min(batch.len()));
            self.left.store(left - batch.len(), Ordering::Relaxed);
            let mut outcomes = Vec::new();
            if !batch.is_empty() {
                outcomes = self.to.writer.write(batch).await?.into_outcomes();
            }
            outcomes.extend(refused.iter().map(|_| (self.then)()));
            Ok(WriteReport::each(outcomes))
        }
        async fn close(&self) -> Result<()> {
            Ok(())
        }
    }

    async fn takes(left: usize, then: fn() -> WriteOutcome) -> Connection {
        let mut connection = memory().await;
        connection.writer = Arc::new(Takes { left: AtomicUsize::new(left), then, to: connection.clone() });
        connection
    }

    #[tokio::test]
    async fn a_full_disk_says_where_to_go_on() {
        let broker =
            takes(1_234, || WriteOutcome::Failed(Error::new(ErrorKind::Full, "the disk is full"))).await;
        let failed = published(&broker, &[], documents(5_000)).await.unwrap_err();
        assert_eq!(failed.error().kind(), ErrorKind::Full);
        let text = crate::failed::text(failed.error());
        assert!(text.starts_with("line 1235 was not published; lines 1 to 1234 are published"), "{text}");
        assert!(text.contains("--skip 1234") && text.contains("the disk is full"), "{text}");
        assert_eq!(all(&broker).await.len(), 1_234);
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_neither_success_nor_failure() {
        let broker =
            takes(10, || WriteOutcome::Unknown(Error::new(ErrorKind::Timeout, "no answer came"))).await;
        let failed = published(&broker, &[], documents(20)).await.unwrap_err();
        assert_eq!(failed.error().kind(), ErrorKind::Unknown);
        assert!(failed.error().to_string().starts_with("whether line 11 was published is not known"));
    }

    #[tokio::test]
    async fn lines_behind_the_one_that_failed_are_counted_apart() {
        // One lane ends at the limit, the other one may have come further: all that is confirmed is accounted for.
        let broker =
            takes(3_000, || WriteOutcome::Failed(Error::new(ErrorKind::Io, "the disk is gone"))).await;
        let failed = published(&broker, &["--key-field", "key"], documents(5_000)).await.unwrap_err();
        let done = failed.done();
        let (front, beyond) = (done["lines"].as_u64().unwrap(), done["published_beyond"].as_u64().unwrap());
        assert_eq!(front + beyond, 3_000, "{done}");
        assert_eq!(done["published"], 3_000);
    }
}
