//! Whether the writing thread stays awake a moment after a commit, for who was answered comes again at once.
//!
//! Where one publisher awaits each acknowledgement before it writes on, nothing overlaps: to put the thread to sleep and
//! to wake it would be added to each commit. It stays awake only where this was worth it the last time, so that a
//! publisher that comes now and then costs nothing.

use std::time::{Duration, Instant};

/// How long it stays awake.
const MOST: Duration = Duration::from_micros(100);
/// Who comes within this time, though the thread slept, would have come while it was awake: waking takes a while.
const SOON: Duration = Duration::from_micros(250);
/// Times that somebody came soon before it is believed.
const BELIEVED: u32 = 3;

/// What the rounds before told.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    /// When publishers were last answered, and nobody else.
    answered: Option<Instant>,
    /// How often in a row the next came soon.
    soon: u32,
}

impl Linger {
    /// A round has ended; only publishers were answered, or also others.
    pub(crate) fn answered(&mut self, publishers: bool) {
        self.answered = publishers.then(Instant::now);
    }

    /// Until when to stay awake now.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.answered.filter(|_| self.soon >= BELIEVED).map(|answered| answered + MOST)
    }

    /// Somebody came, or nobody did.
    pub(crate) fn came(&mut self, somebody: bool) {
        let Some(answered) = self.answered.take() else { return };
        let soon = somebody && answered.elapsed() < SOON;
        self.soon = if soon { self.soon.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round whose publishers come again so much later.
    fn round(linger: &mut Linger, later: Duration) -> bool {
        linger.answered(true);
        let lingers = linger.until().is_some();
        linger.answered = linger.answered.and_then(|answered| answered.checked_sub(later));
        linger.came(true);
        lingers
    }

    #[test]
    fn it_stays_awake_once_publishers_came_again_at_once_and_as_long_as_they_do() {
        let mut linger = Linger::default();
        let lingers: Vec<bool> = (0..5).map(|_| round(&mut linger, Duration::ZERO)).collect();
        assert_eq!(lingers, [false, false, false, true, true]);
        assert!(round(&mut linger, 2 * SOON));
        assert!(!round(&mut linger, Duration::ZERO));
    }

    #[test]
    fn it_never_stays_awake_for_others_than_publishers() {
        let mut linger = Linger::default();
        for _ in 0..5 {
            round(&mut linger, Duration::ZERO);
        }
        linger.answered(false);
        assert_eq!(linger.until(), None);
    }
}
