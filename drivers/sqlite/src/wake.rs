//! Waking other processes: a small file beside the database, written after a commit and watched by all.
//!
//! Watching the write-ahead log itself would tell too early: it changes before the commit can be seen.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::hub::Shared;
use crate::turn::Turn;

/// The file, and the watch on it.
#[derive(Debug)]
pub(crate) struct Wake {
    file: File,
    /// None where the system has no watches left: then only the regular look finds what others did.
    _watcher: Option<RecommendedWatcher>,
}

impl Wake {
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self> {
        let mut path = shared.path.clone().into_os_string();
        path.push("-wake");
        let file = OpenOptions::new().create(true).append(false).write(true).truncate(false).open(&path).map_err(
            |e| {
                Error::new(ErrorKind::Io, format!("{} cannot be opened", path.display()))
                    .fix("give this user the right to write in the folder: other processes are woken by that file")
                    .source(e)
            },
        )?;
        let weak = Arc::downgrade(shared);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let ours = event.is_ok_and(|event| matches!(event.kind, EventKind::Modify(_)));
            if ours && let Some(shared) = weak.upgrade() {
                shared.reader_bell.ring_from_outside();
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(path.as_ref(), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(path = %path.display(), %error,
                    "the file cannot be watched: what other processes publish is seen up to 250 ms later");
            })
            .ok();
        Ok(Self { file, _watcher: watcher })
    }

    /// Waits until it is our turn to write; none if that takes too long.
    pub(crate) fn turn(&self) -> Option<Turn<'_>> {
        Turn::wait(&self.file)
    }

    /// Wakes the others.
    pub(crate) fn wake(&self) {
        // If it cannot be written, the others look by themselves a moment later.
        let mut file = &self.file;
        let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.write(b"w"));
    }
}
