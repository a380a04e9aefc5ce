//! Whom `sqlite://` is measured against: the least that makes the same bytes durable.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

use super::load::{self, Load, PUBLISHERS};
use crate::Result;

/// Bytes of a row beside its payload.
const ROW: usize = 84;

/// Appends what waits to a growing file, syncs its data, and answers all: 64 publishers, each awaiting its own.
pub(super) async fn append(path: &Path, time: Duration, bytes: usize) -> Result<Load> {
    let record = vec![b'x'; bytes + ROW];
    let (send, receive) = mpsc::channel(PUBLISHERS);
    let file = File::create(path)?;
    let writer = std::thread::spawn(move || gather(file, receive));
    let load = load::during(time, PUBLISHERS, move |_| {
        let (send, record) = (send.clone(), record.clone());
        async move {
            let (done, written) = oneshot::channel();
            send.send((record, done)).await?;
            Ok(written.await?)
        }
    })
    .await;
    writer.join().map_err(|_| "the appending thread panicked")??;
    std::fs::remove_file(path)?;
    load
}

/// A record, and who waits for it.
type Waiting = (Vec<u8>, oneshot::Sender<()>);

fn gather(mut file: File, mut receive: mpsc::Receiver<Waiting>) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    let mut waiting = Vec::new();
    while let Some((record, done)) = receive.blocking_recv() {
        buffer.extend_from_slice(&record);
        waiting.push(done);
        while let Ok((record, done)) = receive.try_recv() {
            buffer.extend_from_slice(&record);
            waiting.push(done);
        }
        file.write_all(&buffer)?;
        file.sync_data()?;
        buffer.clear();
        for done in waiting.drain(..) {
            // Whoever has stopped does not wait.
            let _ = done.send(());
        }
    }
    Ok(())
}

/// Inserts the rows of `sqlite://` with `rusqlite` alone, so many in a transaction; gives rows a second. Write-ahead log,
/// `synchronous=FULL`, and SQLite's own automatic checkpoints.
pub(super) fn insert(path: &Path, time: Duration, batch: usize, bytes: usize) -> Result<f64> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; \
         CREATE TABLE log(seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, id TEXT NOT NULL, key BLOB, \
         ct TEXT NOT NULL, headers BLOB, data BLOB, crc INTEGER NOT NULL) STRICT",
    )?;
    let message = load::message(0, bytes);
    let (key, data) = (message.key.as_deref(), message.data.as_deref());
    let begun = Instant::now();
    let mut seq = 0u64;
    while begun.elapsed() < time {
        let transaction = connection.transaction()?;
        let mut insert =
            transaction.prepare_cached("INSERT INTO log VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        for _ in 0..batch {
            seq += 1;
            insert.execute(params![
                seq,
                1_800_000_000_000_000_000_i64,
                &*message.id,
                key,
                &*message.content_type,
                None::<&[u8]>,
                data,
                4_000_000_000_u32
            ])?;
        }
        drop(insert);
        transaction.commit()?;
    }
    Ok(seq as f64 / begun.elapsed().as_secs_f64())
}
