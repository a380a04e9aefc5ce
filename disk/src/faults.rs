//! Which operation fails, how, and for how long.

use std::collections::HashMap;

/// What is asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening a file, or making it.
    Open,
    /// Reading from the disk. What the system's cache has is not read from it.
    Read,
    /// Writing. What is written into a mapping, and later carried to the disk by the system, is not counted.
    Write,
    /// `fsync` of a file or of the folder.
    Sync,
    /// Changing a file's size.
    Truncate,
    /// Deleting a name.
    Unlink,
    /// Giving a file another name, or one more.
    Rename,
    /// Anything but reading: a disk that is gone.
    Any,
}

impl Operation {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::Read,
        Self::Write,
        Self::Sync,
        Self::Truncate,
        Self::Unlink,
        Self::Rename,
        Self::Any,
    ];
}

/// What the system says to whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// `EIO`: the disk is broken.
    Io,
    /// `ENOSPC`: the disk is full.
    NoSpace,
}

/// For how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lasts {
    /// One operation.
    Once,
    /// That one and all of its kind that follow.
    UntilHealed,
}

/// Fails the operation of a kind that is the `nth` from now on; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Which kind.
    pub operation: Operation,
    /// Which of them.
    pub nth: u64,
    /// How.
    pub failure: Failure,
    /// For how long.
    pub lasts: Lasts,
}

/// The fault that is armed, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    armed: Option<Fault>,
    /// Operations since then, by their kinds.
    seen: HashMap<Operation, u64>,
    failed: u64,
}

impl Faults {
    pub(crate) fn arm(&mut self, fault: Fault) {
        *self = Self { armed: Some(fault), ..Self::default() };
    }

    /// Counts from here on.
    pub(crate) fn count(&mut self) {
        *self = Self::default();
    }

    /// How many of a kind there were since.
    pub(crate) fn counted(&self, operation: Operation) -> u64 {
        self.seen.get(&operation).copied().unwrap_or(0)
    }

    /// Ends it; how often it struck is still known.
    pub(crate) fn heal(&mut self) {
        self.armed = None;
    }

    /// How many operations failed since it was armed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// Says whether this one fails.
    pub(crate) fn strike(&mut self, operation: Operation) -> Option<Failure> {
        *self.seen.entry(operation).or_default() += 1;
        let any = operation != Operation::Read;
        *self.seen.entry(Operation::Any).or_default() += u64::from(any);
        let meant =
            |fault: &Fault| fault.operation == operation || (any && fault.operation == Operation::Any);
        let fault = self.armed.filter(meant)?;
        let seen = self.counted(fault.operation);
        let struck = match fault.lasts {
            Lasts::Once => seen == fault.nth,
            Lasts::UntilHealed => seen >= fault.nth,
        };
        self.failed += u64::from(struck);
        struck.then_some(fault.failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed(nth: u64, lasts: Lasts) -> Faults {
        let mut faults = Faults::default();
        faults.arm(Fault { operation: Operation::Write, nth, failure: Failure::NoSpace, lasts });
        faults
    }

    fn writes(faults: &mut Faults, count: usize) -> Vec<bool> {
        (0..count).map(|_| faults.strike(Operation::Write).is_some()).collect()
    }

    #[test]
    fn once_strikes_the_nth_of_its_kind_alone() {
        let mut faults = armed(3, Lasts::Once);
        assert_eq!(faults.strike(Operation::Sync), None);
        assert_eq!(writes(&mut faults, 5), [false, false, true, false, false]);
        assert_eq!(faults.failed(), 1);
    }

    #[test]
    fn a_disk_that_is_gone_fails_whatever_is_asked_but_reads() {
        let mut faults = Faults::default();
        let (operation, lasts) = (Operation::Any, Lasts::UntilHealed);
        faults.arm(Fault { operation, nth: 2, failure: Failure::Io, lasts });
        assert_eq!(faults.strike(Operation::Write), None);
        assert_eq!(faults.strike(Operation::Read), None);
        assert_eq!(faults.strike(Operation::Sync), Some(Failure::Io));
        assert_eq!(faults.strike(Operation::Open), Some(Failure::Io));
        assert_eq!(faults.counted(Operation::Any), 3);
    }

    #[test]
    fn operations_are_counted_by_their_kinds_also_without_a_fault() {
        let mut faults = armed(1, Lasts::Once);
        faults.count();
        writes(&mut faults, 3);
        faults.strike(Operation::Sync);
        assert_eq!(faults.counted(Operation::Write), 3);
        assert_eq!((faults.counted(Operation::Sync), faults.counted(Operation::Open)), (1, 0));
        assert_eq!(faults.failed(), 0);
    }

    #[test]
    fn until_healed_strikes_from_the_nth_on() {
        let mut faults = armed(2, Lasts::UntilHealed);
        assert_eq!(writes(&mut faults, 4), [false, true, true, true]);
        faults.heal();
        assert_eq!(writes(&mut faults, 2), [false, false]);
        assert_eq!(faults.failed(), 3);
    }
}
