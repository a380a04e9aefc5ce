//! A disk that fails while the driver opens, commits and checkpoints: what was confirmed is there, and it goes on.
//! Where FUSE is not allowed these tests say so and test nothing.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{GROUP, PATIENCE, TOPIC, message, messages};
use millstream_core::{Delivery, Message, OpenRequest, ReadLimits, Reader, Result, Source, Writer};
use millstream_disk::{Disk, Failure, Fault, Lasts, Operation, PowerCut, Survives};
use millstream_sqlite::SqliteStore;
use tempfile::TempDir;

struct OnDisk {
    disk: Disk,
    folder: TempDir,
}

impl OnDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let point = folder.path().join("disk");
        fs::create_dir(&point).unwrap();
        match Disk::mount(&point) {
            Ok(disk) => Some(Self { disk, folder }),
            Err(why) => {
                eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.disk.point().join("app.db")
    }

    async fn open(&self) -> Result<SqliteStore> {
        SqliteStore::builder(self.file()).private().open().await
    }

    fn arm(&self, operation: Operation, nth: u64, failure: Failure, lasts: Lasts) {
        self.disk.arm(Fault { operation, nth, failure, lasts });
    }

    /// Opens it with the nth operation of a kind failing, and again if that fails; none if there were fewer.
    async fn open_failing(&self, operation: Operation, nth: u64) -> Option<SqliteStore> {
        self.arm(operation, nth, Failure::NoSpace, Lasts::Once);
        let opened = self.open().await;
        let struck = self.disk.failed() > 0;
        self.disk.heal();
        match opened {
            _ if !struck => None,
            Ok(store) => Some(store),
            Err(error) => {
                assert!(error.context().fix.is_some(), "{error}");
                Some(self.open().await.unwrap())
            }
        }
    }
}

async fn write(store: &SqliteStore, messages: Vec<Message>) -> Result<()> {
    store.writer().write(messages).await?.into_result().map(drop)
}

/// Publishes, again if it fails, as long as anything may take.
async fn write_in_the_end(store: &SqliteStore, message: &Message) {
    let begun = Instant::now();
    while let Err(error) = write(store, vec![message.clone()]).await {
        assert!(begun.elapsed() < PATIENCE, "it does not go on: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_open_fails_while_the_file_is_opened_messages_can_be_published_afterwards() {
    // SQLite opens a file just for reading if it cannot have it otherwise, and stays with that.
    let Some(on) = OnDisk::mount() else { return };
    drop(on.open().await.unwrap());
    let mut nth = 1;
    while let Some(store) = on.open_failing(Operation::Open, nth).await {
        write_in_the_end(&store, &message(nth as usize, "key")).await;
        nth += 1;
    }
    assert!(nth > 5, "{nth} opens failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_open_fails_while_the_file_is_opened_the_log_is_carried_into_it_afterwards() {
    let Some(on) = OnDisk::mount() else { return };
    drop(on.open().await.unwrap());
    let mut nth = 1;
    while let Some(store) = on.open_failing(Operation::Open, nth).await {
        let before = fs::metadata(on.file()).unwrap().len();
        let begun = Instant::now();
        let mut number = 0;
        // Each asks for a checkpoint; the first may find that it cannot be done.
        while fs::metadata(on.file()).unwrap().len() < before + (256 << 10) {
            assert!(begun.elapsed() < PATIENCE, "with open {nth} failing nothing is carried into the file");
            number += 1;
            let large = Message::new(TOPIC, vec![b'x'; 1 << 20]).with_id(format!("{nth} {number}"));
            write_in_the_end(&store, &large).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        nth += 1;
    }
    assert!(nth > 5, "{nth} opens failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_sync_fails_what_is_confirmed_survives_a_power_cut() {
    // SQLite syncs the folder for the write-ahead log's name, and swallows the error.
    let Some(on) = OnDisk::mount() else { return };
    drop(on.open().await.unwrap());
    let mut nth = 1;
    loop {
        on.arm(Operation::Sync, nth, Failure::Io, Lasts::Once);
        let store = match on.open().await {
            Ok(store) => store,
            Err(_) => on.open().await.unwrap(),
        };
        let text = format!("after sync {nth}");
        write_in_the_end(&store, &Message::new(TOPIC, text.clone()).with_id(text.clone())).await;
        let struck = on.disk.failed() > 0;
        // When the power is cut now and nothing survives that was not synced, then it is there.
        let record = on.disk.record();
        let cut = PowerCut { after: record.changes().len(), survives: Survives::Nothing, seed: 0 };
        let left = on.folder.path().join(nth.to_string());
        fs::create_dir(&left).unwrap();
        record.after(cut).write_to(&left).unwrap();
        let other = SqliteStore::builder(left.join("app.db")).private().open().await.unwrap();
        assert!(browse(&other).await.contains(&text), "sync {nth} failed, and what was confirmed is lost");
        if !struck {
            break;
        }
        nth += 1;
    }
    assert!(nth > 3, "{nth} syncs failed");
}

async fn browse(store: &SqliteStore) -> Vec<String> {
    let request = OpenRequest::new(TOPIC).end(millstream_core::End::Latest);
    let mut source = store.reader().open(request).await.unwrap().source;
    let mut all: Vec<Delivery> = Vec::new();
    while !matches!(
        source.read(&mut all, ReadLimits::new(100, 1 << 20)).await,
        Ok(millstream_core::Read::End)
    ) {}
    all.into_iter().map(|delivery| delivery.message.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_on_when_a_disk_comes_back_that_was_gone_altogether() {
    // Given a subscription, and a disk on which nothing can be written, synced or opened any more.
    let Some(on) = OnDisk::mount() else { return };
    let store = on.open().await.unwrap();
    let mut opened = store.reader().open(OpenRequest::new(TOPIC).group(GROUP)).await.unwrap();
    write(&store, messages(1)).await.unwrap();
    on.arm(Operation::Any, 1, Failure::Io, Lasts::UntilHealed);
    write(&store, vec![message(1, "key")]).await.unwrap_err();
    // Long enough for the file to be opened again, in vain.
    tokio::time::sleep(Duration::from_millis(700)).await;
    on.disk.heal();
    // When it is there again and something is published, then it is delivered.
    let late = message(2, "key");
    write_in_the_end(&store, &late).await;
    let begun = Instant::now();
    let mut came = Vec::new();
    while !came.iter().any(|delivery: &Delivery| delivery.message.id == late.id) {
        assert!(begun.elapsed() < PATIENCE, "the subscription stands still");
        let reading = opened.source.read(&mut came, ReadLimits::new(10, 1 << 20));
        let _ = tokio::time::timeout(Duration::from_millis(100), reading).await;
    }
}
