//! What happened in a world, in order, with its time: hashed always, kept as lines for people on demand.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Whether a trace keeps its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Only their hash.
    #[default]
    Hash,
    /// All of them.
    Lines,
    /// None, but prints each as it comes: also of a world that does not end.
    Print,
}

/// The trace of one world. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    hash: DefaultHasher,
    line: String,
    lines: Vec<String>,
    keep: Keep,
}

impl Trace {
    pub(crate) fn new(keep: Keep) -> Self {
        let inner = Inner {
            start: Instant::now(),
            hash: DefaultHasher::new(),
            line: String::new(),
            lines: Vec::new(),
            keep,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Adds what happened now.
    pub(crate) fn add(&self, what: fmt::Arguments<'_>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { start, hash, line, lines, keep } = &mut *inner;
        line.clear();
        let at = start.elapsed();
        // Writing to a string does not fail.
        let _ = write!(line, "{:>6}.{:06} {what}", at.as_secs(), at.subsec_micros());
        hash.write(line.as_bytes());
        hash.write_u8(b'\n');
        match keep {
            Keep::Hash => {}
            Keep::Lines => lines.push(line.clone()),
            Keep::Print => println!("{line}"),
        }
    }

    /// The hash of all lines, and the lines if they were kept.
    pub(crate) fn finish(&self) -> (u64, Vec<String>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.hash.finish(), std::mem::take(&mut inner.lines))
    }
}
