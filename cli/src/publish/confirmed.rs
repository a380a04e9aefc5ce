//! Which lines are confirmed: all up to one, and some behind it.

use std::collections::VecDeque;

/// The lines of an input, which are taken in order and end in any.
#[derive(Debug)]
pub(crate) struct Confirmed {
    /// All lines up to this one are done.
    front: u64,
    /// Those behind, as far as they were taken, and whether each is done.
    behind: VecDeque<bool>,
}

impl Confirmed {
    /// So many lines are done before it begins.
    pub(crate) fn behind(lines: u64) -> Self {
        Self { front: lines, behind: VecDeque::new() }
    }

    /// The next line is under way.
    pub(crate) fn taken(&mut self) {
        self.behind.push_back(false);
    }

    /// A line that was taken is done.
    pub(crate) fn done(&mut self, number: u64) {
        if let Some(place) = number.checked_sub(self.front + 1)
            && let Some(line) = usize::try_from(place).ok().and_then(|place| self.behind.get_mut(place))
        {
            *line = true;
        }
        while self.behind.front() == Some(&true) {
            self.behind.pop_front();
            self.front += 1;
        }
    }

    /// All lines up to this one are done.
    pub(crate) fn front(&self) -> u64 {
        self.front
    }

    /// How many lines are done behind one that is not.
    pub(crate) fn beyond(&self) -> u64 {
        self.behind.iter().filter(|done| **done).count() as u64
    }

    /// Lines that are under way, or wait for one that is.
    pub(crate) fn under_way(&self) -> usize {
        self.behind.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_never_passes_a_line_that_is_not_done() {
        let mut lines = Confirmed::behind(10);
        (0..4).for_each(|_| lines.taken());
        lines.done(13);
        lines.done(12);
        assert_eq!((lines.front(), lines.beyond(), lines.under_way()), (10, 2, 4));
        lines.done(11);
        assert_eq!((lines.front(), lines.beyond(), lines.under_way()), (13, 0, 1));
        lines.done(11);
        assert_eq!(lines.front(), 13);
    }
}
