//! What a world is doing right now, so that faults can be aimed, and the table of what was hit when.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::fault::Fault;

/// What a world can be doing; often several at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Something is fetched from the broker.
    Reading,
    /// A handler runs.
    Running,
    /// Settlements are on their way.
    Settling,
    /// A message is being set aside: to a park, or with a verdict that delivers it again later.
    Parking,
    /// A dead letter is being stored.
    DeadLettering,
    /// A message is being published, by a publisher or with a handler's success.
    Publishing,
    /// A process is shutting down.
    Draining,
    /// Everything is handled, and nothing is published.
    Idle,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Reading,
        Self::Running,
        Self::Settling,
        Self::Parking,
        Self::DeadLettering,
        Self::Publishing,
        Self::Draining,
        Self::Idle,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Running => "running",
            Self::Settling => "settling",
            Self::Parking => "parking",
            Self::DeadLettering => "dead-lettering",
            Self::Publishing => "publishing",
            Self::Draining => "draining",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Counts what is under way. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Activity {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Mutex<[u32; 8]>,
    begun: Notify,
}

/// Something is under way until this is dropped.
#[derive(Debug)]
#[must_use = "it ends when this is dropped"]
pub(crate) struct Active {
    activity: Activity,
    phases: Vec<Phase>,
}

impl Activity {
    pub(crate) fn enter(&self, phases: impl IntoIterator<Item = Phase>) -> Active {
        let phases: Vec<Phase> = phases.into_iter().collect();
        let mut now = self.lock();
        phases.iter().for_each(|phase| now[*phase as usize] += 1);
        drop(now);
        self.inner.begun.notify_waiters();
        Active { activity: self.clone(), phases }
    }

    pub(crate) fn is(&self, phase: Phase) -> bool {
        self.lock()[phase as usize] > 0
    }

    pub(crate) fn all(&self) -> Vec<Phase> {
        let now = self.lock();
        Phase::ALL.into_iter().filter(|phase| now[*phase as usize] > 0).collect()
    }

    /// Resolves as soon as a phase is on.
    pub(crate) async fn reached(&self, phase: Phase) {
        loop {
            let begun = self.inner.begun.notified();
            if self.is(phase) {
                return;
            }
            begun.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, [u32; 8]> {
        self.inner.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut now = self.activity.lock();
        self.phases.iter().for_each(|phase| now[*phase as usize] -= 1);
    }
}

/// How often each fault took effect, by the phase in which it struck.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matrix {
    cells: BTreeMap<Fault, [u64; 8]>,
}

impl Matrix {
    pub(crate) fn add(&mut self, fault: Fault, phases: &[Phase]) {
        let row = self.cells.entry(fault).or_default();
        phases.iter().for_each(|phase| row[*phase as usize] += 1);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (fault, row) in &other.cells {
            let mine = self.cells.entry(*fault).or_default();
            mine.iter_mut().zip(row).for_each(|(mine, more)| *mine += more);
        }
    }

    /// How often a fault struck in a phase.
    #[must_use]
    pub fn get(&self, fault: Fault, phase: Phase) -> u64 {
        self.cells.get(&fault).map_or(0, |row| row[phase as usize])
    }

    /// How often anything struck, in any phase.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.cells.values().flatten().sum()
    }

    /// The cells in which nothing struck.
    #[must_use]
    pub fn zero(&self) -> Vec<(Fault, Phase)> {
        let all = Fault::ALL.iter().flat_map(|fault| Phase::ALL.map(|phase| (*fault, phase)));
        all.filter(|(fault, phase)| self.get(*fault, *phase) == 0).collect()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<22}", "")?;
        for phase in Phase::ALL {
            write!(f, "{phase:>15}")?;
        }
        for fault in Fault::ALL {
            write!(f, "\n{fault:<22}")?;
            for phase in Phase::ALL {
                write!(f, "{:>15}", self.get(*fault, phase))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_phase_is_on_while_anything_of_it_is_under_way() {
        let activity = Activity::default();
        let first = activity.enter([Phase::Settling, Phase::Parking]);
        let second = activity.enter([Phase::Settling]);
        activity.reached(Phase::Parking).await;
        drop(first);
        assert_eq!(activity.all(), [Phase::Settling]);
        drop(second);
        assert!(activity.all().is_empty());
    }

    #[test]
    fn a_matrix_says_which_cells_are_zero() {
        let mut matrix = Matrix::default();
        for fault in Fault::ALL {
            matrix.add(*fault, &Phase::ALL);
        }
        assert!(matrix.zero().is_empty());
        let mut other = Matrix::default();
        other.add(Fault::Crash, &[Phase::Idle]);
        assert_eq!(other.zero().len(), Fault::ALL.len() * 8 - 1);
        matrix.merge(&other);
        assert_eq!((matrix.get(Fault::Crash, Phase::Idle), matrix.get(Fault::Crash, Phase::Running)), (2, 1));
    }
}
