//! A worker: a process that publishes to the file and handles what is in it, until it is told to stop or is killed.
//!
//! It tells its story in a journal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytestring::ByteString;
use clap::Args;
use millstream::sqlite::{SqliteStore, Transaction, rusqlite};
use millstream::{
    Attempt, Bus, Connection, Context, ErrorKind, Failure, FromContext, Message, MessageId, Outcome,
    PublishOptions, Publisher, Retry, Settings, State, Subscribe, Units, WriteOutcome, WriteReport,
};
use millstream_core::BoxError;
use millstream_testkit::ledger::Record;

use crate::Result;
use crate::events::{self, AFTER, DEDUP, Fate, Followed, PLAIN, Tick};
use crate::journal::{self, Journal};
use crate::progress::Progress;
use crate::watched::Watched;

/// Who a worker is and how much it does.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The file with the messages.
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Where it writes its journal.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Which of the storm's workers it is. Its keys are its own, and those of its later lives.
    #[arg(long)]
    pub(crate) place: usize,
    /// Which of the storm's lives it is; later ones are higher.
    #[arg(long)]
    pub(crate) life: u64,
    #[arg(long)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) lease_ms: u64,
    /// Tasks that publish.
    #[arg(long)]
    pub(crate) publishers: u32,
    /// The longest pause between two publishes of a task; the shortest is none.
    #[arg(long)]
    pub(crate) pause_ms: u64,
    /// How long handlers may take to end once SIGTERM came.
    #[arg(long)]
    pub(crate) drain_ms: u64,
    /// Some messages are delayed, by so long at most; 0: none is.
    #[arg(long)]
    pub(crate) delay_ms: u64,
    /// Some handlers hang for so long; 0: none does.
    #[arg(long)]
    pub(crate) hang_ms: u64,
    /// It takes no part in the group with a deduplication store.
    #[arg(long)]
    pub(crate) without_dedup: bool,
}

impl Options {
    /// The worker's name in this life.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.place, self.life)
    }

    /// The command line that makes these options.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { file, journal, place, life, seed, lease_ms, publishers, pause_ms, .. } = self;
        let mut arguments: Vec<String> = [
            ("--file", file.display().to_string()),
            ("--journal", journal.display().to_string()),
            ("--place", place.to_string()),
            ("--life", life.to_string()),
            ("--seed", seed.to_string()),
            ("--lease-ms", lease_ms.to_string()),
            ("--publishers", publishers.to_string()),
            ("--pause-ms", pause_ms.to_string()),
            ("--drain-ms", self.drain_ms.to_string()),
            ("--delay-ms", self.delay_ms.to_string()),
            ("--hang-ms", self.hang_ms.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        if self.without_dedup {
            arguments.push("--without-dedup".into());
        }
        arguments
    }
}

/// Keys of one publisher.
const KEYS: u64 = 12;

/// What the worker's tasks share.
#[derive(Debug)]
struct Worker {
    options: Options,
    journal: Arc<Journal>,
    progress: Arc<Progress>,
}

/// Runs until SIGTERM.
pub(crate) async fn run(options: Options) -> Result {
    let journal = Arc::new(Journal::append_to(&options.journal)?);
    let worker = Arc::new(Worker {
        journal: Arc::clone(&journal),
        progress: Progress::of(options.publishers),
        options: options.clone(),
    });
    let lease = Duration::from_millis(options.lease_ms);
    let store = SqliteStore::builder(&options.file).lease(lease).open().await?;
    let reader = Watched::new(store.reader(), journal, options.name().into());
    let connection = Connection::new(reader, store.writer()).with_admin(store.admin());
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
        .subscribe(follow.group(AFTER).concurrency(16).retry(retry.clone()).max_deliveries(u32::MAX));
    let bus = if options.without_dedup {
        bus
    } else {
        bus.subscribe(
            handle
                .group(DEDUP)
                .concurrency(16)
                .retry(retry)
                .max_deliveries(u32::MAX)
                .deduplicate(store.dedup_store(Duration::from_secs(3_600))),
        )
    };
    for number in 0..options.publishers {
        tokio::spawn(publish(Arc::clone(&worker), publisher.clone(), number));
    }
    tokio::spawn(Arc::clone(&worker.progress).tell(20.ms()));
    println!("ready");
    bus.run().await?;
    Ok(())
}

// ---- Publishing ----------------------------------------------------------------------------------------------

/// Publishes, one message or a few at a time, until there is no more to be done.
async fn publish(worker: Arc<Worker>, publisher: Publisher, number: u32) {
    let mut random = fastrand::Rng::with_seed(worker.options.seed ^ (u64::from(number) << 32));
    let mut next = 0u64;
    let mut open = true;
    while open && !worker.progress.is_draining() {
        let size = if random.u8(..4) == 0 { random.u64(2..12) } else { 1 };
        let batch = (next..next + size).map(|n| worker.message(&publisher, number, n, &mut random)).collect();
        next += size;
        open = match batch {
            Ok(batch) => worker.deliver(&publisher, batch).await,
            Err(error) => worker.give_up(&error),
        };
        tokio::time::sleep(Duration::from_micros(random.u64(0..=worker.options.pause_ms * 1_000))).await;
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
        let Options { place, life, .. } = self.options;
        let due = self.due(random);
        let key = match random.u64(0..KEYS * 8) {
            // What is delayed would be overtaken by its key.
            _ if due.is_some() => String::new(),
            0 => String::new(),
            key => format!("{place}-{number}-{}", key % KEYS),
        };
        let tick =
            Tick { key, seq: life << 32 | n, pad: "x".repeat(random.usize(0..200) * random.usize(0..4)) };
        let mut id = format!("{place}.{life}.{number}.{n}");
        if let Some(due) = due {
            id = events::due_at(&id, due);
        }
        let is_poison = Fate::of(&id) == Fate::Poison;
        let mut options = PublishOptions::new().id(id);
        if random.bool() {
            options = options.header("weather", vec![random.u8(..), 0, 255]);
        }
        if let Some(due) = due {
            options = options.deliver_at(UNIX_EPOCH + Duration::from_nanos(due));
        }
        let mut message = publisher.message_with(&tick, options)?;
        if is_poison {
            message.data = message.data.map(|data| data.slice(..data.len() - 1));
        }
        self.journal.write(Record::intent(&message, tick.seq));
        Ok(message)
    }

    /// When a message is due, if it is one that is delayed; told by the right time, whatever our clock says.
    fn due(&self, random: &mut fastrand::Rng) -> Option<u64> {
        let longest = self.options.delay_ms;
        (longest > 0 && random.u8(..8) == 0).then(|| journal::now() + random.u64(0..longest) * 1_000_000)
    }

    /// Publishes until each is confirmed; `false` if that cannot be any more.
    async fn deliver(&self, publisher: &Publisher, mut batch: Vec<Message>) -> bool {
        loop {
            let report = match batch.as_slice() {
                [one] => {
                    publisher.publish_message(one.clone()).await.map(|()| vec![WriteOutcome::Written(None)])
                }
                _ => publisher.publish_messages(batch.clone()).await.map(WriteReport::into_outcomes),
            };
            let outcomes = match report {
                Ok(outcomes) => outcomes,
                Err(error) if error.kind() == ErrorKind::BusIsShutdown => return false,
                Err(error) if error.kind() == ErrorKind::Unknown => {
                    batch.iter().for_each(|m| self.journal.write(Record::MaybeWritten { id: m.id.clone() }));
                    Vec::new()
                }
                Err(error) if error.is_retryable() => Vec::new(),
                Err(error) => return self.give_up(&error),
            };
            let mut outcomes = outcomes.into_iter();
            let mut fatal = None;
            batch.retain(|message| {
                let id = message.id.clone();
                match outcomes.next() {
                    Some(WriteOutcome::Written(_)) => {
                        self.journal.write(Record::Acked { id });
                        self.progress.acknowledged();
                        return false;
                    }
                    Some(WriteOutcome::Unknown(_)) => self.journal.write(Record::MaybeWritten { id }),
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
                None => tokio::time::sleep(10.ms()).await,
            }
        }
    }

    /// An error that must not be: the process says so, and ends.
    fn give_up(&self, error: &millstream::Error) -> bool {
        eprintln!("{}: publishing failed for good: {error:?}", self.options.name());
        std::process::exit(4);
    }
}

// ---- Handling ------------------------------------------------------------------------------------------------

/// The group that a handler runs for.
struct Group(ByteString);

impl<S> FromContext<S> for Group {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self(context.subscription().group.clone().unwrap_or_default()))
    }
}

async fn handle(
    tick: Tick,
    MessageId(id): MessageId,
    Attempt(attempt): Attempt,
    Group(group): Group,
    State(worker): State<Arc<Worker>>,
    transaction: Transaction,
    publisher: Publisher,
) -> Outcome {
    let hang = Duration::from_millis(worker.options.hang_ms);
    let hangs = hang > Duration::ZERO && events::may_hang(&id);
    tokio::time::sleep(if hangs { hang } else { events::runs_for(&id) }).await;
    match Fate::of(&id) {
        Fate::Fails(times) if attempt <= times => return Err(Failure::retry("not yet")),
        Fate::Panics if attempt == 1 => panic!("on purpose"),
        Fate::Unrecoverable => {
            queue_effect(&transaction, &worker, &group, &id, &tick.key, tick.seq)?;
            return Err(Failure::unrecoverable("never"));
        }
        Fate::EffectFails if attempt == 1 => {
            queue_effect(&transaction, &worker, &group, &id, &tick.key, tick.seq)?;
            transaction.execute("INSERT INTO no_such_table VALUES(1)", ())?;
            worker.done(id, group);
            return Ok(());
        }
        _ => {}
    }
    queue_effect(&transaction, &worker, &group, &id, &tick.key, tick.seq)?;
    if &*group == PLAIN && events::is_followed(&id) {
        let followed = Followed { key: tick.key, seq: tick.seq };
        let options = PublishOptions::new().id(events::followed_by(&id));
        let message = publisher.message_with(&followed, options)?;
        worker.journal.write(Record::intent(&message, tick.seq));
        publisher.publish_message(message).await?;
    }
    worker.done(id, group);
    Ok(())
}

async fn follow(
    followed: Followed,
    MessageId(id): MessageId,
    Group(group): Group,
    State(worker): State<Arc<Worker>>,
    transaction: Transaction,
) -> Outcome {
    queue_effect(&transaction, &worker, &group, &id, &followed.key, followed.seq)?;
    worker.done(id, group);
    Ok(())
}

impl Worker {
    fn done(&self, id: ByteString, group: ByteString) {
        self.journal.write(Record::Effect { id, group });
        self.progress.handled();
    }
}

/// The tables that effects are kept in. Nothing in them is unique: what happens twice is seen.
pub(crate) const TABLES: &str = "
CREATE TABLE effect(grp TEXT NOT NULL, id TEXT NOT NULL, worker TEXT NOT NULL) STRICT;
CREATE TABLE latest(grp TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(grp, key)) STRICT;
CREATE TABLE inversion(grp TEXT NOT NULL, key TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL,
  latest INTEGER NOT NULL) STRICT;
";

/// The message's effect: a row, and a look at what came before it in its key.
fn queue_effect(
    transaction: &Transaction,
    worker: &Worker,
    group: &str,
    id: &str,
    key: &str,
    seq: u64,
) -> Outcome {
    let name = worker.options.name();
    transaction.execute("INSERT INTO effect VALUES(?1, ?2, ?3)", (group.to_owned(), id.to_owned(), name))?;
    if key.is_empty() {
        return Ok(());
    }
    let (group, id, key, seq) = (group.to_owned(), id.to_owned(), key.to_owned(), i64::try_from(seq)?);
    transaction.run(move |connection| keep_order(connection, &group, &id, &key, seq))?;
    Ok(())
}

fn keep_order(
    connection: &rusqlite::Connection,
    group: &str,
    id: &str,
    key: &str,
    seq: i64,
) -> Result<(), BoxError> {
    connection
        .prepare_cached(
            "INSERT INTO inversion SELECT ?1, ?2, ?3, ?4, seq FROM latest
             WHERE grp = ?1 AND key = ?2 AND seq > ?4",
        )?
        .execute((group, key, id, seq))?;
    connection
        .prepare_cached(
            "INSERT INTO latest VALUES(?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
        )?
        .execute((group, key, seq))?;
    Ok(())
}
