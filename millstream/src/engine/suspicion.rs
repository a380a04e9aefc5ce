//! Crash loops where the broker counts nothing: a note beside the committed position tells a restart without
//! progress from a first start, and which message ran alone when the process died.

use std::collections::VecDeque;
use std::fmt;

use millstream_core::Position;

use super::window::Seat;

/// Starts at the same position after which one message at a time is run: the first, and two restarts.
const STARTS: u32 = 3;

/// Deaths while a message ran alone after which it is a dead letter.
const DEATHS: u32 = 2;

/// The note, as it is stored: `1 starts=3 at=120 run=124 runs=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    starts: u32,
    at: Option<u64>,
    run: Option<u64>,
    runs: u32,
}

impl Mark {
    /// The note to store when a partition is assigned, from the one that is stored.
    pub(super) fn on_start(stored: Option<&str>, start: Option<Position>) -> Self {
        let at = start.map(|p| p.0);
        match stored.and_then(Self::parse) {
            Some(mark) if mark.at == at => Self { starts: mark.starts.saturating_add(1), ..mark },
            // Progress, or a first start.
            _ => Self::fresh(start),
        }
    }

    /// The note of a partition that makes progress.
    pub(super) fn fresh(start: Option<Position>) -> Self {
        Self { starts: 1, at: start.map(|p| p.0), run: None, runs: 0 }
    }

    /// Whether nobody came here before without progress.
    pub(super) fn is_fresh(&self) -> bool {
        self.starts <= 1
    }

    /// The suspicion this note raises; it ends when a window full of messages was handled.
    pub(super) fn suspicion(&self, window: usize) -> Option<Suspicion> {
        (self.starts >= STARTS).then(|| Suspicion {
            mark: self.clone(),
            left: window,
            running: None,
            queue: VecDeque::new(),
        })
    }

    /// A note that cannot be read is as none: somebody else's.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some("1") {
            return None;
        }
        let mut mark = Self::default();
        for word in words {
            let (name, value) = word.split_once('=')?;
            match name {
                "starts" => mark.starts = value.parse().ok()?,
                "at" => mark.at = Some(value.parse().ok()?),
                "run" => mark.run = Some(value.parse().ok()?),
                "runs" => mark.runs = value.parse().ok()?,
                _ => {}
            }
        }
        Some(mark)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 starts={}", self.starts)?;
        if let Some(at) = self.at {
            write!(f, " at={at}")?;
        }
        if let Some(run) = self.run {
            write!(f, " run={run} runs={}", self.runs)?;
        }
        Ok(())
    }
}

/// A partition that was restarted without progress: its messages run one at a time, each noted before.
#[derive(Debug)]
pub(super) struct Suspicion {
    mark: Mark,
    /// Messages to be handled until it is over.
    left: usize,
    running: Option<Seat>,
    queue: VecDeque<(Seat, Option<Position>)>,
}

impl Suspicion {
    /// Whether the process died too often while this message ran alone.
    pub(super) fn is_guilty(&self, position: Option<Position>) -> bool {
        position.is_some_and(|p| self.mark.run == Some(p.0)) && self.mark.runs >= DEATHS
    }

    pub(super) fn queue(&mut self, seat: Seat, position: Option<Position>) {
        self.queue.push_back((seat, position));
    }

    /// The next to run, and the note to store before it does. Those that are gone or `waits` says no of, since they were
    /// given back, are left out.
    pub(super) fn next(
        &mut self,
        is_here: impl Fn(Seat) -> bool,
        waits: impl Fn(Seat) -> bool,
    ) -> Option<(Seat, String)> {
        if self.running.is_some_and(is_here) {
            return None;
        }
        let (seat, position) = loop {
            let (seat, position) = self.queue.pop_front()?;
            if waits(seat) {
                break (seat, position);
            }
        };
        self.running = Some(seat);
        let run = position.map(|p| p.0);
        let runs = if run == self.mark.run { self.mark.runs + 1 } else { 1 };
        self.mark = Mark { run, runs, ..self.mark.clone() };
        Some((seat, self.mark.to_string()))
    }

    /// A message ended without killing the process; says whether it was the one that runs.
    pub(super) fn ran(&mut self, seat: Seat) -> bool {
        if self.running != Some(seat) {
            return false;
        }
        self.running = None;
        self.left = self.left.saturating_sub(1);
        true
    }

    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    pub(super) fn take_queue(&mut self) -> Vec<Seat> {
        self.queue.drain(..).map(|(seat, _)| seat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_as_it_was_written() {
        let mark = Mark { starts: 3, at: Some(120), run: Some(124), runs: 1 };
        assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
    }

    #[test]
    fn the_second_restart_without_progress_raises_suspicion() {
        let start = Some(Position(7));
        let first = Mark::on_start(None, start);
        let second = Mark::on_start(Some(&first.to_string()), start);
        let third = Mark::on_start(Some(&second.to_string()), start);
        assert!(first.suspicion(10).is_none() && second.suspicion(10).is_none());
        assert!(third.suspicion(10).is_some());
        assert!(Mark::on_start(Some(&third.to_string()), Some(Position(8))).suspicion(10).is_none());
    }

    #[test]
    fn a_message_that_killed_the_process_twice_alone_is_guilty() {
        let mut stored = Mark { starts: 3, at: Some(7), run: None, runs: 0 }.to_string();
        for deaths in 0..DEATHS {
            let mut suspicion = Mark::parse(&stored).unwrap().suspicion(10).unwrap();
            assert!(!suspicion.is_guilty(Some(Position(7))), "after {deaths} deaths");
            suspicion.queue(Seat::default(), Some(Position(7)));
            stored = suspicion.next(|_| true, |_| true).unwrap().1;
        }
        assert!(Mark::parse(&stored).unwrap().suspicion(10).unwrap().is_guilty(Some(Position(7))));
    }
}
