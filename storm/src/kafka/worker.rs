//! A worker on Kafka: a process that publishes to the cluster and is a member of its groups, until it is told to stop or
//! is killed.
//!
//! It has no transaction that its effects could share with the acknowledgement. An effect is a line of its journal,
//! written before the handler returns: it survives whatever happens to the process. Publishers keep at most one message
//! of a key on its way: a write of which nobody knows whether it happened is repeated, and what follows it in its key
//! waits. Keys are those of one life, since what a killed life sent may arrive behind what its next life sends.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use clap::{Args, ValueEnum};
use millstream::kafka::{Kafka, Protocol};
use millstream::{
    Attempt, Bus, Connection, ErrorKind, Failure, Message, MessageId, Outcome, PublishOptions, Publisher,
    Retry, Settings, State, Subscribe, Units, WriteOutcome, WriteReport,
};
use millstream_testkit::ledger::Record;
use tokio::signal::unix::{SignalKind, signal};

use crate::Result;
use crate::events::{self, AFTER, Fate, Followed, PLAIN, Tick};
use crate::journal::Journal;
use crate::watched::{Watched, WatchedWriter};

/// How long the brokers may take until they let a worker begin.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);

/// Keys of one publisher.
const KEYS: u64 = 240;

/// Who a worker is and how much it does.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Where the brokers are.
    #[arg(long)]
    pub(crate) brokers: String,
    /// Where it writes its journal.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Which of the storm's workers it is.
    #[arg(long)]
    pub(crate) place: usize,
    /// Which of the storm's lives it is; later ones are higher.
    #[arg(long)]
    pub(crate) life: u64,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) lease_ms: u64,
    #[arg(long, value_enum)]
    pub(crate) protocol: Sharing,
    /// Tasks that publish.
    #[arg(long)]
    pub(crate) publishers: u32,
    /// Messages of one write, at most.
    #[arg(long)]
    pub(crate) batch: u64,
    /// The longest pause between two writes of a task; the shortest is none.
    #[arg(long)]
    pub(crate) pause_ms: u64,
    /// How long handlers may take to end once SIGTERM came.
    #[arg(long)]
    pub(crate) drain_ms: u64,
}

/// How members share partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sharing {
    Range,
    Cooperative,
    Consumer,
}

impl Sharing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::Cooperative => "cooperative",
            Self::Consumer => "consumer",
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Range => Protocol::Range,
            Self::Cooperative => Protocol::Cooperative,
            Self::Consumer => Protocol::Consumer,
        }
    }
}

impl Options {
    /// The worker's name in this life.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.place, self.life)
    }

    /// The command line that starts it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let words = [
            ("--brokers", self.brokers.clone()),
            ("--journal", self.journal.display().to_string()),
            ("--place", self.place.to_string()),
            ("--life", self.life.to_string()),
            ("--seed", self.seed.to_string()),
            ("--lease-ms", self.lease_ms.to_string()),
            ("--protocol", self.protocol.name().to_owned()),
            ("--publishers", self.publishers.to_string()),
            ("--batch", self.batch.to_string()),
            ("--pause-ms", self.pause_ms.to_string()),
            ("--drain-ms", self.drain_ms.to_string()),
        ];
        let words = words.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("kafka-worker".to_owned()).chain(words).collect()
    }
}

/// What the worker's tasks share.
#[derive(Debug)]
struct Worker {
    options: Options,
    journal: Arc<Journal>,
    draining: AtomicBool,
    publishing: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    handled: AtomicU64,
}

/// Runs until SIGTERM.
pub(crate) async fn run(options: Options) -> Result {
    let journal = Arc::new(Journal::append_to(&options.journal)?);
    let worker = Arc::new(Worker {
        journal: Arc::clone(&journal),
        draining: AtomicBool::new(false),
        publishing: AtomicU64::new(u64::from(options.publishers)),
        acknowledged: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        handled: AtomicU64::new(0),
        options: options.clone(),
    });
    listen(Arc::clone(&worker));
    let kafka = connect(&options).await?;
    let reader = Watched::new(kafka.reader(), Arc::clone(&journal), options.name().into());
    let writer = WatchedWriter::new(kafka.writer(), journal);
    let connection = Connection::new(reader, writer).with_admin(kafka.admin());
    let bus = Bus::from_connection(connection);
    let publisher = bus.publisher().clone();
    // Some waits are long enough to be parked. Nothing counts as a crash loop: here the loop is wanted.
    let retry = Retry::exponential(5.ms(), 40.ms()).attempts(8);
    let mut settings = Settings::default();
    settings.drain = Duration::from_millis(options.drain_ms);
    let bus = bus
        .settings(settings)
        .with_state(Arc::clone(&worker))
        .subscribe(
            handle
                .group(PLAIN)
                .concurrency(16)
                .retry(retry.clone())
                .park_after(10.ms())
                .max_deliveries(u32::MAX),
        )
        .subscribe(follow.group(AFTER).concurrency(16).retry(retry).max_deliveries(u32::MAX));
    for number in 0..options.publishers {
        tokio::spawn(publish(Arc::clone(&worker), publisher.clone(), number));
    }
    tokio::spawn(tell(worker));
    let mut asked = signal(SignalKind::terminate())?;
    let running = bus.start().await?;
    println!("ready");
    asked.recv().await;
    for subscription in running.shutdown().await.subscriptions {
        subscription.errors.iter().for_each(|error| eprintln!("{}: {error}", subscription.topic));
    }
    Ok(())
}

/// Connects, also while the brokers are being killed: whoever supervises a service starts it again.
async fn connect(options: &Options) -> Result<Kafka> {
    let until = Instant::now() + CONNECT_WITHIN;
    loop {
        let builder = Kafka::builder(options.brokers.clone())
            .lease(Duration::from_millis(options.lease_ms))
            .protocol(options.protocol.protocol())
            .client_id(options.name());
        match builder.connect().await {
            Ok(kafka) => return Ok(kafka),
            Err(error) if error.is_retryable() && Instant::now() < until => {
                tokio::time::sleep(200.ms()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Does as stdin says, on a thread of its own, since reading it blocks.
fn listen(worker: Arc<Worker>) {
    use std::io::BufRead as _;
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if line == "drain" {
                worker.draining.store(true, Ordering::Release);
            }
        }
        std::process::exit(5);
    });
}

/// Says how far it is, again and again.
async fn tell(worker: Arc<Worker>) {
    loop {
        tokio::time::sleep(50.ms()).await;
        let of = |figure: &AtomicU64| figure.load(Ordering::Acquire);
        println!(
            "publishing {} acknowledged {} refused {} handled {}",
            of(&worker.publishing),
            of(&worker.acknowledged),
            of(&worker.refused),
            of(&worker.handled)
        );
    }
}

// ---- Publishing ----------------------------------------------------------------------------------------------

/// Publishes a batch at a time, each message of another key, until there is no more to be done.
async fn publish(worker: Arc<Worker>, publisher: Publisher, number: u32) {
    let mut random = fastrand::Rng::with_seed(worker.options.seed ^ (u64::from(number) << 32));
    let mut next = 0u64;
    let mut open = true;
    while open && !worker.draining.load(Ordering::Acquire) {
        let size = random.u64(1..=worker.options.batch.min(KEYS));
        let batch = (next..next + size).map(|n| worker.message(&publisher, number, n, &mut random)).collect();
        next += size;
        open = match batch {
            Ok(batch) => worker.deliver(&publisher, batch).await,
            Err(error) => worker.give_up(&error),
        };
        tokio::time::sleep(Duration::from_micros(random.u64(0..=worker.options.pause_ms * 1_000))).await;
    }
    worker.publishing.fetch_sub(1, Ordering::AcqRel);
}

impl Worker {
    fn message(
        &self,
        publisher: &Publisher,
        number: u32,
        n: u64,
        random: &mut fastrand::Rng,
    ) -> millstream::Result<Message> {
        let Options { place, life, .. } = self.options;
        let key = match random.u8(..64) {
            0 => String::new(),
            _ => format!("{place}.{life}.{number}-{}", n % KEYS),
        };
        let tick = Tick { key, seq: n, pad: "x".repeat(random.usize(0..200) * random.usize(0..4)) };
        let id = format!("{place}.{life}.{number}.{n}");
        let is_poison = Fate::of(&id) == Fate::Poison;
        let mut options = PublishOptions::new().id(id);
        if random.u8(..8) == 0 {
            options = options.header("weather", vec![random.u8(..), 0, 255]);
        }
        let mut message = publisher.message_with(&tick, options)?;
        if is_poison {
            message.data = message.data.map(|data| data.slice(..data.len() - 1));
        }
        self.journal.write(Record::intent(&message, tick.seq));
        Ok(message)
    }

    /// Publishes until each is confirmed; `false` if that cannot be any more.
    async fn deliver(&self, publisher: &Publisher, mut batch: Vec<Message>) -> bool {
        loop {
            let outcomes =
                match publisher.publish_messages(batch.clone()).await.map(WriteReport::into_outcomes) {
                    Ok(outcomes) => outcomes,
                    Err(error) if error.kind() == ErrorKind::BusIsShutdown => return false,
                    Err(error) if error.is_retryable() || error.kind() == ErrorKind::Unknown => Vec::new(),
                    Err(error) => return self.give_up(&error),
                };
            let mut outcomes = outcomes.into_iter();
            let mut fatal = None;
            batch.retain(|message| {
                match outcomes.next() {
                    Some(WriteOutcome::Written(_)) => {
                        self.journal.write(Record::Acked { id: message.id.clone() });
                        self.acknowledged.fetch_add(1, Ordering::AcqRel);
                        return false;
                    }
                    Some(WriteOutcome::Failed(error)) if !error.is_retryable() => fatal = Some(error),
                    _ => {}
                }
                self.refused.fetch_add(1, Ordering::AcqRel);
                true
            });
            match fatal {
                Some(error) if error.kind() == ErrorKind::BusIsShutdown => return false,
                Some(error) => return self.give_up(&error),
                None if batch.is_empty() => return true,
                None => tokio::time::sleep(50.ms()).await,
            }
        }
    }

    /// An error that must not be: the process says so, and ends.
    fn give_up(&self, error: &millstream::Error) -> bool {
        eprintln!("{}: publishing failed for good: {error:?}", self.options.name());
        std::process::exit(4);
    }

    fn done(&self, id: ByteString, group: &'static str) {
        self.journal.write(Record::Effect { id, group: group.into() });
        self.handled.fetch_add(1, Ordering::AcqRel);
    }
}

// ---- Handling ------------------------------------------------------------------------------------------------

async fn handle(
    tick: Tick,
    MessageId(id): MessageId,
    Attempt(attempt): Attempt,
    State(worker): State<Arc<Worker>>,
    publisher: Publisher,
) -> Outcome {
    tokio::time::sleep(events::runs_for(&id)).await;
    match Fate::of(&id) {
        Fate::Fails(times) if attempt <= times => return Err(Failure::retry("not yet")),
        Fate::EffectFails if attempt == 1 => return Err(Failure::retry("the effect failed")),
        Fate::Panics if attempt == 1 => panic!("on purpose"),
        Fate::Unrecoverable => return Err(Failure::unrecoverable("never")),
        _ => {}
    }
    if events::is_followed(&id) {
        let followed = Followed { key: tick.key, seq: tick.seq };
        let options = PublishOptions::new().id(events::followed_by(&id));
        let message = publisher.message_with(&followed, options)?;
        worker.journal.write(Record::intent(&message, tick.seq));
        publisher.publish_message(message).await?;
    }
    worker.done(id, PLAIN);
    Ok(())
}

async fn follow(_: Followed, MessageId(id): MessageId, State(worker): State<Arc<Worker>>) -> Outcome {
    worker.done(id, AFTER);
    Ok(())
}
