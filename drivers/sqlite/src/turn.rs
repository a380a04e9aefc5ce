//! Who writes next: those who wait for the file wait one at a time, so that nobody is left behind.
//!
//! SQLite's lock goes to whoever asks in the moment when it is free. A process that has much to write asks again at once,
//! and one that sleeps between two looks may find it taken for seconds where two others have much to write: longer than
//! its lease. So everybody takes a turn before asking, and keeps it until he has the lock. Who has the turn is next; the
//! others contend for the turn, as equals, since nobody has just been at it.
//!
//! It is a courtesy and protects nothing: whoever does not get it in time goes on without, for its holder may have been
//! stopped.

use std::fs::File;
use std::time::{Duration, Instant};

/// How long somebody waits for his turn. A commit takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);
/// From one look to the next.
const STEP: Duration = Duration::from_micros(250);

/// Given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'f>(&'f File);

impl<'f> Turn<'f> {
    /// Waits for the turn at a file that all open for themselves.
    pub(crate) fn wait(file: &'f File) -> Option<Self> {
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Some(Self(file)),
                Err(std::fs::TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(STEP);
                }
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // It also goes with the file, or the process.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_twice() -> (File, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().write(true).open(file.path()).unwrap();
        (open(), open())
    }

    #[test]
    fn the_turn_is_one_s_at_a_time_and_the_next_gets_it_when_it_is_given_up() {
        let (one, other) = open_twice();
        let turn = Turn::wait(&one).unwrap();
        let waiting = std::thread::spawn(move || (Turn::wait(&other).is_some(), Instant::now()));
        std::thread::sleep(Duration::from_millis(20));
        let given_up = Instant::now();
        drop(turn);
        let (got, at) = waiting.join().unwrap();
        assert!(got && at >= given_up);
    }

    #[test]
    fn who_waits_for_one_that_keeps_it_goes_on_without() {
        let (one, other) = open_twice();
        let _kept = Turn::wait(&one).unwrap();
        let begun = Instant::now();
        assert!(Turn::wait(&other).is_none());
        assert!(begun.elapsed() >= PATIENCE);
    }
}
