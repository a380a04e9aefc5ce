//! What the judges of storms on servers have in common: the journals of all lives as one story, and the times in which
//! something was wrong.

use millstream_testkit::ledger::Entry;

use crate::Result;
use crate::crew::{Life, Span};
use crate::journal::Journal;
use crate::report::Row;

pub(crate) const MILLI: u64 = 1_000_000;

/// Examples of one kind of problem that are told.
const TOLD: usize = 5;

/// What a storm came to, and its whole story.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) row: Row,
    pub(crate) entries: Vec<Entry>,
}

/// A record, and the life that wrote it.
pub(crate) type Told = (usize, Entry);

/// Reads the journals of all lives, and puts them together by time.
pub(crate) fn gather(lives: &mut [Life]) -> Result<Vec<Told>> {
    let mut all = Vec::new();
    for (number, life) in lives.iter_mut().enumerate() {
        // One that was killed while it started has none.
        let entries = if life.journal.exists() { Journal::read(&life.journal)? } else { Vec::new() };
        if let Some(killed) = &mut life.killed {
            // It lived a little longer than until the signal was sent.
            *killed = entries.last().map_or(0, |entry| entry.at).max(*killed);
        }
        all.extend(entries.into_iter().map(|entry| (number, entry)));
    }
    // Stable: what one life wrote keeps its order.
    all.sort_by_key(|(_, entry)| entry.at);
    Ok(all)
}

/// Adds a problem with a few examples, if there is one.
pub(crate) fn tell(problems: &mut Vec<String>, what: &str, which: &[String]) {
    if !which.is_empty() {
        let examples: Vec<&str> = which.iter().take(TOLD).map(String::as_str).collect();
        problems.push(format!("{} {what}:\n  {}", which.len(), examples.join("\n  ")));
    }
}

/// Whether one of the spans, each with what it leaves behind, has anything in common with this one.
pub(crate) fn overlaps(spans: &[Span], with: Span, aftermath: u64) -> bool {
    spans.iter().any(|span| span.0 <= with.1 && with.0 <= span.1 + aftermath)
}

/// Whether it stood still for at least so long, and that had anything to do with this time.
pub(crate) fn stood_still(life: &Life, least: u64, between: Span, aftermath: u64) -> bool {
    let stops: Vec<Span> = life.stopped.iter().filter(|stop| stop.1 - stop.0 >= least).copied().collect();
    overlaps(&stops, between, aftermath)
}
