//! How long a large file takes to open after a crash: it must not depend on what it holds, only on what is in its
//! write-ahead log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use millstream::Message;
use millstream::sqlite::SqliteStore;
use millstream_core::Writer as _;

use crate::Result;

/// Bytes of a message.
const LARGE: usize = 256 << 10;
/// In one write.
const TOGETHER: usize = 16;

/// What was opened, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) file: u64,
    pub(crate) log: u64,
    pub(crate) took: Duration,
}

/// Fills a file with so many bytes, leaves it as a crash would, and opens it.
pub(crate) async fn open_after_crash(folder: &Path, bytes: u64) -> Result<Opened> {
    fs::create_dir_all(folder)?;
    let (live, crashed) = (folder.join("live.db"), folder.join("crashed.db"));
    let store = SqliteStore::builder(&live).private().open().await?;
    let writer = store.writer();
    let mut number = 0;
    while fs::metadata(&live)?.len() + fs::metadata(log_of(&live))?.len() < bytes {
        let batch = (0..TOGETHER).map(|n| {
            let data = vec![number as u8 ^ n as u8; LARGE];
            Message::new("large", data)
                .with_id(format!("{number}/{n}"))
                .with_time(std::time::SystemTime::now())
        });
        writer.write(batch.collect()).await?.into_result()?;
        number += 1;
    }
    // By another program: this one must not open and close the file beside SQLite.
    for (from, to) in [(live.clone(), crashed.clone()), (log_of(&live), log_of(&crashed))] {
        if !Command::new("cp").arg(from).arg(to).status()?.success() {
            return Err("`cp` failed".into());
        }
    }
    let (file, log) = (fs::metadata(&crashed)?.len(), fs::metadata(log_of(&crashed))?.len());
    let begun = Instant::now();
    let opened = SqliteStore::builder(&crashed).private().open().await?;
    let took = begun.elapsed();
    opened.writer().close().await?;
    drop(store);
    Ok(Opened { file, log, took })
}

fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}
