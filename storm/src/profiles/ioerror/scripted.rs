//! A process that does the same every time, on a disk that fails at one of its operations: a program that tries again
//! what failed, by id, as one should, and says in the record what was confirmed to it.
//!
//! Every error it gets has to name a fix. If something never works again though the disk does, it says so in its end.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, ValueEnum};
use millstream::sqlite::{
    Retention, SqliteDedupStore, SqliteSettler, SqliteStore, SqliteStoreBuilder, rusqlite,
};
use millstream::{End, ErrorKind, Position};
use millstream_core::admin::Admin as _;
use millstream_core::{
    DedupStore as _, Epoch, Message, OpenRequest, Opened, PartitionId, Read, ReadLimits, Reader as _,
    Reservation, Settled, Settlement, Settler as _, Source as _, Token, WriteOutcome, Writer as _,
};

use super::super::power::handling::{self, Group, Parks, TOPIC};
use super::super::power::recorded::{FILE, WINDOW};
use super::super::power::story::{Notes, Said};
use crate::Result;

/// How long anything may take until it works again.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(15);
/// After so many commits of nothing the driver carries its log into the file.
const COMMITS: u32 = 256;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Script {
    /// Makes a file, publishes, handles in four groups in every way, closes, and does it again.
    Whole,
    /// Commits until the log is carried into the file, and goes on.
    Checkpoint,
    /// Waits until retention deletes what is finished.
    Retention,
}

impl Script {
    pub(crate) const ALL: [Self; 3] = [Self::Whole, Self::Checkpoint, Self::Retention];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Checkpoint => "checkpoint",
            Self::Retention => "retention",
        }
    }
}

/// How it ends, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All was done.
    Done,
    /// It cannot go on, and the error says what to do.
    GaveUp,
    /// It cannot go on, and nobody says why.
    Stuck,
    /// An error did not say what to do, or was none of the disk's.
    BadError,
    /// A panic, somewhere.
    Panicked,
}

impl Ending {
    const ALL: [Self; 5] = [Self::Done, Self::GaveUp, Self::Stuck, Self::BadError, Self::Panicked];

    fn code(self) -> i32 {
        match self {
            Self::Done => 0,
            Self::GaveUp => 41,
            Self::Stuck => 42,
            Self::BadError => 43,
            Self::Panicked => 44,
        }
    }

    pub(crate) fn of(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|ending| ending.code() == code)
    }
}

/// Which script, and where.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The folder of the file: the disk that fails.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    #[arg(long, value_enum)]
    pub(crate) script: Script,
}

/// Why it does not go on.
struct GaveUp(Ending, String);

type Done<T = ()> = Result<T, GaveUp>;

/// Runs the script. Before the part in which the disk may fail it says `ready`, and waits for a line.
///
/// If it is not done in the end, the process ends with the code that says how.
pub(crate) async fn run(options: Options) -> Result {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::exit(Ending::Panicked.code());
    }));
    let ended = match Program::new(&options) {
        Ok(mut program) => match options.script {
            Script::Whole => program.whole().await,
            Script::Checkpoint => program.checkpoint().await,
            Script::Retention => program.retention().await,
        },
        Err(error) => Err(GaveUp(Ending::Stuck, error.to_string())),
    };
    match ended {
        Ok(()) => Ok(()),
        Err(GaveUp(ending, why)) => {
            eprintln!("{why}");
            std::process::exit(ending.code());
        }
    }
}

/// Something that is tried again and again.
struct Attempts {
    what: String,
    since: Instant,
    last: Option<String>,
}

impl Attempts {
    fn at(what: impl Into<String>) -> Self {
        Self { what: what.into(), since: Instant::now(), last: None }
    }

    /// It failed: whether to try again.
    async fn failed(&mut self, error: &millstream::Error) -> Done {
        let what = &self.what;
        let text = format!("{what}: {error:?}");
        let strange = matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt);
        if error.context().fix.is_none() || strange {
            return Err(GaveUp(Ending::BadError, text));
        }
        self.failed_so(text).await
    }

    async fn failed_so(&mut self, text: String) -> Done {
        if self.since.elapsed() > PATIENCE {
            return Err(GaveUp(Ending::GaveUp, text));
        }
        self.last = Some(text);
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Something came of it; perhaps the same, again and again.
    fn goes_round(&self) -> Done {
        if self.since.elapsed() < 2 * PATIENCE {
            return Ok(());
        }
        let last = self.last.as_deref().unwrap_or("none");
        Err(GaveUp(Ending::Stuck, format!("{}: it goes round in circles; the last error: {last}", self.what)))
    }

    /// Nothing came of it and there was no error: whether to wait on.
    async fn waited(&mut self) -> Done {
        if self.since.elapsed() > PATIENCE {
            let last = self.last.as_deref().unwrap_or("none");
            return Err(GaveUp(
                Ending::Stuck,
                format!("{}: nothing happens; the last error: {last}", self.what),
            ));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(())
    }
}

struct Program {
    file: PathBuf,
    notes: Notes,
}

impl Program {
    fn new(options: &Options) -> Result<Self> {
        Ok(Self { file: options.folder.join(FILE), notes: Notes::open(&options.folder)? })
    }

    // ---- The scripts ---------------------------------------------------------------------------------------

    async fn whole(&mut self) -> Done {
        go().await?;
        let store = self.open(self.builder()).await?;
        self.make_effects().await?;
        self.publish(&store, ["1.0-0"]).await?;
        self.publish(&store, ["1.0-1", "1.0-2", "1.0-3", "1.0-4", "1.0-5", "1.1-0"]).await?;
        self.publish_later(&store, "1.1-1").await?;
        for group in Group::ALL {
            self.handle_all(&store, group, Parks::Some).await?;
        }
        self.publish_in_a_transaction(&store, "1.1-2").await?;
        self.look_around(&store).await?;
        self.close(store).await;
        let store = self.open(self.builder()).await?;
        self.publish(&store, ["2.0-0", "2.0-1"]).await?;
        for group in Group::ALL {
            self.handle_all(&store, group, Parks::None).await?;
        }
        self.close(store).await;
        Ok(())
    }

    async fn checkpoint(&mut self) -> Done {
        let store = self.open(self.builder()).await?;
        self.make_effects().await?;
        for number in 0..COMMITS - 6 {
            self.publish_quietly(&store, &format!("1.{number}-0")).await?;
        }
        go().await?;
        for number in COMMITS..COMMITS + 12 {
            self.publish(&store, [&*format!("1.{number}-0")]).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Time for a checkpoint that was not done before.
        tokio::time::sleep(Duration::from_millis(150)).await;
        self.publish(&store, ["2.0-0"]).await?;
        self.publish(&store, ["2.0-1"]).await?;
        self.close(store).await;
        Ok(())
    }

    async fn retention(&mut self) -> Done {
        let begun = Instant::now();
        let kept = Retention { age: None, size: Some(0) };
        let store = self.open(self.builder().retention(kept)).await?;
        self.make_effects().await?;
        let ids: Vec<String> = (0..40).map(|number| format!("1.0-{number}")).collect();
        self.publish(&store, ids.iter().map(String::as_str)).await?;
        self.handle_all(&store, Group::Plain, Parks::None).await?;
        let finished = ids.iter().cloned().map(Said::MayExpire);
        self.say(finished)?;
        // It is looked at every ten seconds.
        tokio::time::sleep(Duration::from_millis(9_500).saturating_sub(begun.elapsed())).await;
        go().await?;
        let mut waiting = Attempts::at("retention");
        while self.first(&store).await? == 1 {
            waiting.waited().await?;
        }
        self.publish(&store, ["2.0-0"]).await?;
        self.close(store).await;
        Ok(())
    }

    // ---- Its parts -----------------------------------------------------------------------------------------

    fn say(&self, all: impl IntoIterator<Item = Said>) -> Done {
        self.notes.say(all).map_err(|e| GaveUp(Ending::Stuck, format!("the notes cannot be written: {e}")))
    }

    fn builder(&self) -> SqliteStoreBuilder {
        SqliteStore::builder(&self.file)
    }

    async fn open(&self, builder: SqliteStoreBuilder) -> Done<SqliteStore> {
        let mut opening = Attempts::at("opening");
        loop {
            match builder.clone().open().await {
                Ok(store) => return Ok(store),
                Err(error) => opening.failed(&error).await?,
            }
        }
    }

    /// Closes all, and gives the driver's threads the time to do so, too.
    async fn close(&self, store: SqliteStore) {
        // It has nothing to say: all was confirmed before.
        let _ = store.writer().close().await;
        drop(store);
        let log = self.file.with_file_name(format!("{FILE}-wal"));
        for _ in 0..100 {
            if !log.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// On a connection of the program's own.
    async fn own<T>(
        &self,
        what: &str,
        work: impl Fn(&mut rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Done<T> {
        let mut working = Attempts::at(what);
        loop {
            let done = rusqlite::Connection::open(&self.file).and_then(|mut connection| {
                connection.busy_timeout(Duration::from_secs(5))?;
                work(&mut connection)
            });
            match done {
                Ok(done) => return Ok(done),
                Err(error) => working.failed_so(format!("{what}: {error}")).await?,
            }
        }
    }

    async fn make_effects(&self) -> Done {
        self.own("making a table", |connection| connection.execute_batch(handling::EFFECTS)).await
    }

    async fn publish<'i>(&self, store: &SqliteStore, ids: impl IntoIterator<Item = &'i str>) -> Done {
        self.publish_all(store, ids.into_iter().map(handling::message).collect()).await
    }

    async fn publish_later(&self, store: &SqliteStore, id: &str) -> Done {
        let due = SystemTime::now() + Duration::from_millis(15);
        self.publish_all(store, vec![handling::message(id).with_deliver_at(due)]).await?;
        let mut waiting = Attempts::at("a delayed message");
        while !self.is_in_the_log(store, id).await? {
            waiting.waited().await?;
        }
        Ok(())
    }

    /// Publishes without words: before the disk may fail.
    async fn publish_quietly(&self, store: &SqliteStore, id: &str) -> Done {
        self.say([Said::Publishing(id.into())])?;
        let written = store.writer().write(vec![handling::message(id)]).await;
        written
            .and_then(millstream::WriteReport::into_result)
            .map_err(|e| GaveUp(Ending::BadError, e.to_string()))?;
        self.say([Said::Published(id.into())])
    }

    /// Publishes each once: what failed is written again; what nobody knows of is looked up first.
    async fn publish_all(&self, store: &SqliteStore, messages: Vec<Message>) -> Done {
        let ids: Vec<String> = messages.iter().map(|message| message.id.to_string()).collect();
        self.say(ids.iter().cloned().map(Said::Publishing))?;
        let mut publishing = Attempts::at("publishing");
        let mut left = messages;
        while !left.is_empty() {
            let outcomes = match store.writer().write(left.clone()).await {
                Ok(report) => report.into_outcomes(),
                Err(error) => {
                    publishing.failed(&error).await?;
                    continue;
                }
            };
            let mut again = Vec::new();
            for (message, outcome) in left.into_iter().zip(outcomes) {
                let error = match outcome {
                    WriteOutcome::Written(_) => {
                        self.say([Said::Published(message.id.to_string())])?;
                        continue;
                    }
                    WriteOutcome::Failed(error) => error,
                    WriteOutcome::Unknown(error) => {
                        if self.is_there(store, &message.id).await? {
                            self.say([Said::Published(message.id.to_string())])?;
                            continue;
                        }
                        error
                    }
                    other => return Err(GaveUp(Ending::BadError, format!("{other:?}"))),
                };
                publishing.failed(&error).await?;
                again.push(message);
            }
            left = again;
        }
        Ok(())
    }

    async fn publish_in_a_transaction(&self, store: &SqliteStore, id: &str) -> Done {
        use millstream_core::Bind as _;
        self.say([Said::Publishing(id.into())])?;
        let mut publishing = Attempts::at("publishing in a transaction");
        loop {
            let writer = store.writer();
            let mut added: Result<(), millstream::Error> = Ok(());
            let done = rusqlite::Connection::open(&self.file).and_then(|mut connection| {
                connection.busy_timeout(Duration::from_secs(5))?;
                let immediate = rusqlite::TransactionBehavior::Immediate;
                let mut transaction = connection.transaction_with_behavior(immediate)?;
                added = writer.bind(&mut transaction).add(&[handling::message(id)]);
                if added.is_ok() { transaction.commit() } else { Ok(()) }
            });
            if let Err(error) = &added {
                publishing.failed(error).await?;
            } else if let Err(error) = done {
                publishing.failed_so(format!("a transaction of the program's own: {error}")).await?;
            } else {
                break;
            }
            if self.is_there(store, id).await? {
                break;
            }
        }
        store.writer().wake();
        self.say([Said::Published(id.into())])
    }

    /// Looks a message up by its id, in the log or among those that are not yet due.
    async fn is_there(&self, store: &SqliteStore, id: &str) -> Done<bool> {
        // First among those: from there it goes into the log.
        let is_delayed = "SELECT EXISTS(SELECT 1 FROM millstream_delayed WHERE mid = ?1)";
        let delayed = self
            .own("looking for a delayed message", |connection| {
                connection.query_row(is_delayed, [id], |row| row.get(0))
            })
            .await?;
        Ok(delayed || self.is_in_the_log(store, id).await?)
    }

    async fn is_in_the_log(&self, store: &SqliteStore, id: &str) -> Done<bool> {
        Ok(self.browse(store).await?.iter().any(|(_, message)| *message.id == *id))
    }

    async fn first(&self, store: &SqliteStore) -> Done<u64> {
        Ok(self.browse(store).await?.first().map_or(0, |(position, _)| position.0))
    }

    async fn browse(&self, store: &SqliteStore) -> Done<Vec<(Position, Message)>> {
        let mut browsing = Attempts::at("browsing");
        loop {
            match browse(store).await {
                Ok(all) => return Ok(all),
                Err(error) => browsing.failed(&error).await?,
            }
        }
    }

    /// Looks into everything once.
    async fn look_around(&self, store: &SqliteStore) -> Done {
        let admin = store.admin();
        let mut looking = Attempts::at("looking around");
        loop {
            let looked = async {
                admin.ensure_topic("another", millstream_core::admin::TopicSettings::default()).await?;
                admin.topics().await?;
                let letters = admin.dead_letters(TOPIC, None, 10).await?;
                admin.groups(TOPIC).await.map(|groups| (letters.len(), groups.len()))
            };
            match looked.await {
                Ok(_) => return Ok(()),
                Err(error) => looking.failed(&error).await?,
            }
        }
    }

    // ---- Handling ------------------------------------------------------------------------------------------

    /// Handles all there is for a group. A subscription that fails is opened again.
    async fn handle_all(&self, store: &SqliteStore, group: Group, parks: Parks) -> Done {
        let mut attempts = Attempts::at(format!("handling in group {}", group.name()));
        loop {
            match self.subscribe(store, group, parks, &mut attempts).await {
                Ok(()) => return Ok(()),
                Err(Interrupted::Failed(error)) => attempts.failed(&error).await?,
                Err(Interrupted::Over(why)) => return Err(why),
            }
        }
    }

    async fn subscribe(
        &self,
        store: &SqliteStore,
        group: Group,
        parks: Parks,
        attempts: &mut Attempts,
    ) -> Result<(), Interrupted> {
        let dedup = store.dedup_store(WINDOW);
        let request = OpenRequest::new(group.topic()).group(group.name());
        let Opened { mut source, mut settler, .. } = store.reader().open(request).await?;
        let mut looked = Instant::now();
        loop {
            let mut deliveries = Vec::new();
            let reading = source.read(&mut deliveries, ReadLimits::new(16, 1 << 20));
            match tokio::time::timeout(Duration::from_millis(5), reading).await {
                Ok(Ok(_)) => {}
                // A subscription survives what its reading meets.
                Ok(Err(error)) => attempts.failed(&error).await?,
                Err(_) if looked.elapsed() > Duration::from_millis(5) => {
                    looked = Instant::now();
                    if self.is_done(store, group).await? {
                        break;
                    }
                    attempts.waited().await?;
                }
                Err(_) => {}
            }
            if deliveries.is_empty() {
                continue;
            }
            attempts.goes_round()?;
            self.settle(group, deliveries, &dedup, parks, &mut settler, attempts).await?;
        }
        settler.close().await?;
        source.close().await?;
        Ok(())
    }

    async fn settle(
        &self,
        group: Group,
        deliveries: Vec<millstream_core::Delivery>,
        dedup: &SqliteDedupStore,
        parks: Parks,
        settler: &mut SqliteSettler,
        attempts: &mut Attempts,
    ) -> Result<(), Interrupted> {
        // What is not handled now comes again with the next subscription.
        let handled = handling::handle(group, deliveries, dedup, parks).await.map_err(of_the_store)?;
        let mut ends: HashMap<u64, u64> = HashMap::new();
        let mut reserved: HashMap<u64, Reservation> = HashMap::new();
        let mut batch: Vec<Settlement> = Vec::new();
        for one in handled {
            let token = one.settlement.token.id().id;
            if one.ends {
                ends.insert(token, one.seq);
            }
            reserved.extend(one.reserved.map(|reservation| (token, reservation)));
            batch.push(one.settlement);
        }
        self.say(ends.values().map(|seq| Said::Settling(group, *seq)))?;
        while !batch.is_empty() {
            let tokens: Vec<u64> = batch.iter().map(|one| one.token.id().id).collect();
            let mut again = Vec::new();
            for (token, settled) in tokens.into_iter().zip(settler.settle(batch).await) {
                match settled {
                    Settled::Done => {
                        reserved.remove(&token);
                        self.say(ends.get(&token).map(|seq| Said::Settled(group, *seq)))?;
                    }
                    // It comes again, unless it happened.
                    Settled::Lost => {}
                    Settled::Unknown(error) => attempts.failed(&error).await?,
                    Settled::Failed { error, settlement } => {
                        attempts.failed(&error).await?;
                        again.push(*settlement);
                    }
                    // As a handler that failed: it is given back and run again.
                    Settled::EffectsFailed(error) => {
                        attempts.failed(&error).await?;
                        let token = Token::new(PartitionId(0), Epoch(0), token);
                        again.push(Settlement::new(token, millstream_core::Verdict::Release));
                    }
                    other => return Err(GaveUp(Ending::BadError, format!("{other:?}")).into()),
                }
            }
            batch = again;
        }
        self.release(dedup, reserved.into_values().collect(), attempts).await
    }

    /// Gives back what was reserved for nothing, until that is done: what was confirmed all the same stays.
    async fn release(
        &self,
        dedup: &SqliteDedupStore,
        reserved: Vec<Reservation>,
        attempts: &mut Attempts,
    ) -> Result<(), Interrupted> {
        let again = |all: &[Reservation]| -> Vec<Reservation> {
            all.iter().map(|one| Reservation { key: one.key.clone(), owner: one.owner }).collect()
        };
        while let Err(error) = dedup.release(again(&reserved)).await {
            attempts.failed(&error).await?;
        }
        Ok(())
    }

    async fn is_done(&self, store: &SqliteStore, group: Group) -> Result<bool, Interrupted> {
        let groups = store.admin().groups(group.topic()).await?;
        Ok(groups.iter().any(|one| *one.name == *group.name() && one.lag == 0))
    }
}

/// Why a subscription came to an end.
enum Interrupted {
    Failed(millstream::Error),
    Over(GaveUp),
}

impl From<millstream::Error> for Interrupted {
    fn from(error: millstream::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<GaveUp> for Interrupted {
    fn from(why: GaveUp) -> Self {
        Self::Over(why)
    }
}

fn of_the_store(error: crate::Error) -> Interrupted {
    match error.downcast::<millstream::Error>() {
        Ok(error) => Interrupted::Failed(*error),
        Err(other) => Interrupted::Over(GaveUp(Ending::BadError, other.to_string())),
    }
}

async fn browse(store: &SqliteStore) -> millstream::Result<Vec<(Position, Message)>> {
    let mut source = store.reader().open(OpenRequest::new(TOPIC).end(End::Latest)).await?.source;
    let mut all = Vec::new();
    loop {
        let mut some = Vec::new();
        let read = source.read(&mut some, ReadLimits::new(1_000, 8 << 20)).await?;
        all.extend(some.into_iter().map(|d| (d.position.unwrap_or(Position(0)), (*d.message).clone())));
        if matches!(read, Read::End) {
            source.close().await?;
            return Ok(all);
        }
    }
}

/// Says that it is ready, and waits until it may go on.
async fn go() -> Done {
    println!("ready");
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next());
    match line.await {
        Ok(Some(Ok(_))) => Ok(()),
        _ => Err(GaveUp(Ending::Stuck, "nobody says that it may go on".into())),
    }
}
