//! What a worker on a server does: it publishes, and handles what comes, until it is told to stop or is killed.
//!
//! It has no transaction that its effects could share with the acknowledgement. An effect is a line of its journal,
//! written before the handler returns: it survives whatever happens to the process. Publishers keep at most one message
//! of a key on its way: a write of which nobody knows whether it happened is repeated, and what follows it in its key
//! waits. Keys are those of one life, since what a killed life sent may arrive behind what its next life sends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use clap::Args;
use millstream::{
    Attempt, Bus, Connection, ErrorKind, Failure, Message, MessageId, Outcome, PublishOptions, Publisher,
    Retry, Settings, State, Subscribe, Units, WriteOutcome, WriteReport,
};
use millstream_testkit::ledger::Record;
use tokio::signal::unix::{SignalKind, signal};

use crate::Result;
use crate::arena::millis;
use crate::crew::Post;
use crate::events::{self, AFTER, Fate, Followed, PLAIN, Tick};
use crate::journal::Journal;
use crate::progress::Progress;

/// How long the servers may take until they let a worker begin.
const CONNECT_WITHIN: Duration = Duration::from_secs(60);

/// How much the workers of a storm do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) publishers: u32,
    /// Keys of one publisher.
    pub(crate) keys: u64,
    /// Messages of one write, at most, and never more than there are keys.
    pub(crate) batch: u64,
    /// The longest pause between two writes of a publisher.
    pub(crate) pause: Duration,
    /// How long handlers may take to end when a worker is asked to.
    pub(crate) drain: Duration,
}

/// Who a worker is and how much it does, as its command line says.
#[derive(Debug, Clone, Args)]
pub(crate) struct Duty {
    /// Where it writes its journal.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Which of the storm's workers it is.
    #[arg(long)]
    place: usize,
    /// Which of the storm's lives it is; later ones are higher.
    #[arg(long)]
    life: u64,
    #[arg(long)]
    seed: u64,
    /// Tasks that publish.
    #[arg(long)]
    publishers: u32,
    /// Keys of each of them.
    #[arg(long)]
    keys: u64,
    /// Messages of one write, at most.
    #[arg(long)]
    batch: u64,
    /// The longest pause between two writes of a task; the shortest is none.
    #[arg(long)]
    pause_ms: u64,
    /// How long handlers may take to end once SIGTERM came.
    #[arg(long)]
    drain_ms: u64,
}

impl Duty {
    pub(crate) fn of(post: &Post, load: Load) -> Self {
        Self {
            journal: post.journal.clone(),
            place: post.place,
            life: post.life,
            seed: post.seed,
            publishers: load.publishers,
            keys: load.keys,
            batch: load.batch.min(load.keys),
            pause_ms: millis(load.pause),
            drain_ms: millis(load.drain),
        }
    }

    /// The worker's name in this life.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.place, self.life)
    }

    /// The words of the command line that say it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let words = [
            ("--journal", self.journal.display().to_string()),
            ("--place", self.place.to_string()),
            ("--life", self.life.to_string()),
            ("--seed", self.seed.to_string()),
            ("--publishers", self.publishers.to_string()),
            ("--keys", self.keys.to_string()),
            ("--batch", self.batch.to_string()),
            ("--pause-ms", self.pause_ms.to_string()),
            ("--drain-ms", self.drain_ms.to_string()),
        ];
        words.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

/// What the worker's tasks share.
#[derive(Debug)]
struct Worker {
    duty: Duty,
    journal: Arc<Journal>,
    progress: Arc<Progress>,
}

/// Works until SIGTERM, on what connecting gives.
pub(crate) async fn work(
    duty: Duty,
    connect: impl AsyncFn(Arc<Journal>) -> millstream::Result<Connection>,
) -> Result {
    let journal = Arc::new(Journal::append_to(&duty.journal)?);
    let progress = Progress::of(duty.publishers);
    let worker = Arc::new(Worker { duty: duty.clone(), journal, progress });
    let bus = Bus::from_connection(persistently(&worker.journal, connect).await?);
    let publisher = bus.publisher().clone();
    // Some waits are long enough to be parked. Nothing counts as a crash loop: here the loop is wanted.
    let retry = Retry::exponential(5.ms(), 40.ms()).attempts(8);
    let mut settings = Settings::default();
    settings.drain = Duration::from_millis(duty.drain_ms);
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
    for number in 0..duty.publishers {
        tokio::spawn(publish(Arc::clone(&worker), publisher.clone(), number));
    }
    tokio::spawn(Arc::clone(&worker.progress).tell(50.ms()));
    let mut asked = signal(SignalKind::terminate())?;
    let running = bus.start().await?;
    println!("ready");
    asked.recv().await;
    for subscription in running.shutdown().await.subscriptions {
        subscription.errors.iter().for_each(|error| eprintln!("{}: {error}", subscription.topic));
    }
    Ok(())
}

/// Connects, also while the servers are being broken: whoever supervises a service starts it again.
async fn persistently(
    journal: &Arc<Journal>,
    connect: impl AsyncFn(Arc<Journal>) -> millstream::Result<Connection>,
) -> Result<Connection> {
    let until = Instant::now() + CONNECT_WITHIN;
    loop {
        match connect(Arc::clone(journal)).await {
            Ok(connection) => return Ok(connection),
            Err(error) if error.is_retryable() && Instant::now() < until => {
                tokio::time::sleep(200.ms()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

// ---- Publishing ----------------------------------------------------------------------------------------------

/// Publishes a batch at a time, each message of another key, until there is no more to be done.
async fn publish(worker: Arc<Worker>, publisher: Publisher, number: u32) {
    let mut random = fastrand::Rng::with_seed(worker.duty.seed ^ (u64::from(number) << 32));
    let mut next = 0u64;
    let mut open = true;
    while open && !worker.progress.is_draining() {
        let size = random.u64(1..=worker.duty.batch);
        let batch = (next..next + size).map(|n| worker.message(&publisher, number, n, &mut random)).collect();
        next += size;
        open = match batch {
            Ok(batch) => worker.deliver(&publisher, batch).await,
            Err(error) => worker.give_up(&error),
        };
        tokio::time::sleep(Duration::from_micros(random.u64(0..=worker.duty.pause_ms * 1_000))).await;
    }
    worker.progress.publisher_ended();
}

impl Worker {
    fn message(
        &self,
        publisher: &Publisher,
        number: u32,
        n: u64,
        random: &mut fastrand::Rng,
    ) -> millstream::Result<Message> {
        let Duty { place, life, keys, .. } = self.duty;
        let key = match random.u8(..64) {
            0 => String::new(),
            _ => format!("{place}.{life}.{number}-{}", n % keys),
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
                        self.progress.acknowledged();
                        return false;
                    }
                    Some(WriteOutcome::Failed(error)) if !error.is_retryable() => fatal = Some(error),
                    _ => {}
                }
                self.progress.refused();
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
        eprintln!("{}: publishing failed for good: {error:?}", self.duty.name());
        std::process::exit(4);
    }

    fn done(&self, id: ByteString, group: &'static str) {
        self.journal.write(Record::Effect { id, group: group.into() });
        self.progress.handled();
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
