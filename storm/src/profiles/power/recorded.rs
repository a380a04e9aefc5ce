//! A process whose file is recorded: it publishes and handles, and says in the record what it does and what was
//! confirmed to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use fastrand::Rng;
use millstream::sqlite::{SqliteStore, rusqlite};
use millstream_core::{
    OpenRequest, Opened, ReadLimits, Reader as _, Settled, Settlement, Settler as _, Source as _,
    WriteOutcome, Writer as _,
};

use super::handling::{self, Group, Handled, Parks};
use super::story::{Notes, Said};
use crate::Result;

pub(crate) const FILE: &str = "storm.db";
pub(crate) const LEASE: Duration = Duration::from_secs(2);
/// How long ids are remembered.
pub(crate) const WINDOW: Duration = Duration::from_secs(3_600);
/// Tasks that publish.
const PUBLISHERS: u32 = 4;
/// How long a group may take for what is left, once nothing is published any more.
const REST: Duration = Duration::from_secs(5);
/// How long nothing comes when all is done.
const SILENCE: Duration = Duration::from_millis(60);

/// Who it is and how much it does.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The folder of the file: the recorded disk.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    #[arg(long)]
    pub(crate) seed: u64,
    /// Which life of the recording it is: its ids are its own.
    #[arg(long)]
    pub(crate) life: u64,
    /// How many messages it publishes.
    #[arg(long)]
    pub(crate) messages: u32,
}

struct Recorded {
    options: Options,
    notes: Notes,
    store: SqliteStore,
    publishing: AtomicU32,
    ended: AtomicBool,
}

/// Publishes and handles; then ends in order, or just so.
pub(crate) async fn run(options: Options) -> Result {
    let notes = Notes::open(&options.folder)?;
    let file = options.folder.join(FILE);
    let store = SqliteStore::builder(&file).lease(LEASE).open().await?;
    {
        let connection = rusqlite::Connection::open(&file)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.execute_batch(handling::EFFECTS)?;
    }
    let mut random = Rng::with_seed(options.seed ^ (options.life << 32));
    let recorded = Arc::new(Recorded {
        notes,
        store,
        publishing: AtomicU32::new(PUBLISHERS),
        ended: AtomicBool::new(false),
        options,
    });
    let mut groups = Vec::new();
    for group in Group::ALL {
        groups.push(tokio::spawn(handle(Arc::clone(&recorded), group)));
    }
    for number in 0..PUBLISHERS {
        let own = Rng::with_seed(random.u64(..));
        tokio::spawn(publish(Arc::clone(&recorded), number, own));
    }
    tokio::task::spawn_blocking({
        let (recorded, random) = (Arc::clone(&recorded), Rng::with_seed(random.u64(..)));
        move || truncate_now_and_then(&recorded, random)
    });
    if random.u8(..3) == 0 {
        // As if it were killed, amid its work.
        tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
        std::process::exit(0);
    }
    for group in groups {
        group.await??;
    }
    recorded.ended.store(true, Ordering::Release);
    if random.bool() {
        recorded.store.writer().close().await?;
        return Ok(());
    }
    std::process::exit(0);
}

async fn publish(recorded: Arc<Recorded>, number: u32, mut random: Rng) -> Result {
    let Options { life, messages, .. } = recorded.options;
    let writer = recorded.store.writer();
    let mut next = 0;
    while next < messages / PUBLISHERS {
        let mut batch = Vec::new();
        for _ in 0..random.usize(1..4) {
            let mut message = handling::message(&format!("{life}.{number}-{next}"));
            next += 1;
            if random.u8(..20) == 0 {
                message =
                    message.with_deliver_at(SystemTime::now() + Duration::from_millis(random.u64(1..60)));
            }
            if random.u8(..20) == 0 {
                batch.push(message.clone());
            }
            batch.push(message);
        }
        let ids: Vec<String> = batch.iter().map(|message| message.id.to_string()).collect();
        recorded.notes.say(ids.iter().cloned().map(Said::Publishing))?;
        let outcomes = writer.write(batch).await?.into_outcomes();
        let written = ids.into_iter().zip(outcomes).filter(|(_, o)| matches!(o, WriteOutcome::Written(_)));
        recorded.notes.say(written.map(|(id, _)| Said::Published(id)))?;
        tokio::time::sleep(Duration::from_micros(random.u64(0..3_000))).await;
    }
    recorded.publishing.fetch_sub(1, Ordering::AcqRel);
    Ok(())
}

/// Handles what comes, until nothing is published and nothing comes any more.
async fn handle(recorded: Arc<Recorded>, group: Group) -> Result {
    let dedup = recorded.store.dedup_store(WINDOW);
    let request = OpenRequest::new(group.topic()).group(group.name());
    let Opened { mut source, mut settler, .. } = recorded.store.reader().open(request).await?;
    let mut published: Option<Instant> = None;
    loop {
        let mut deliveries = Vec::new();
        let reading = source.read(&mut deliveries, ReadLimits::new(16, 1 << 20));
        let came = match tokio::time::timeout(SILENCE, reading).await {
            Ok(read) => {
                read?;
                true
            }
            Err(_) => false,
        };
        if published.is_none() && recorded.publishing.load(Ordering::Acquire) == 0 {
            published = Some(Instant::now());
        }
        if published.is_some_and(|at| !came || at.elapsed() > REST) {
            break;
        }
        let handled = handling::handle(group, deliveries, &dedup, Parks::Some).await?;
        let ends: Vec<Option<u64>> = handled.iter().map(|one| one.ends.then_some(one.seq)).collect();
        recorded.notes.say(ends.iter().flatten().map(|seq| Said::Settling(group, *seq)))?;
        let batch: Vec<Settlement> =
            handled.into_iter().map(|Handled { settlement, .. }| settlement).collect();
        let settled = settler.settle(batch).await;
        let done = ends.into_iter().zip(&settled).filter(|(_, settled)| matches!(settled, Settled::Done));
        recorded.notes.say(done.filter_map(|(seq, _)| seq).map(|seq| Said::Settled(group, seq)))?;
    }
    settler.close().await?;
    source.close().await?;
    Ok(())
}

/// As a person with a tool might: cuts the write-ahead log back if nobody is in its way.
fn truncate_now_and_then(recorded: &Recorded, mut random: Rng) {
    while !recorded.ended.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(random.u64(30..300)));
        let Ok(connection) = rusqlite::Connection::open(recorded.store.path()) else { continue };
        let mode = if random.bool() { "TRUNCATE" } else { "RESTART" };
        // If it is in use, then not.
        let _ = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
    }
}
