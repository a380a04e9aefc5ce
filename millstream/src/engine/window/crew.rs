//! The crew: which run loops sleep, and when one more is worth being woken.
//!
//! To wake a loop costs more than many a handler: a thread comes from its sleep, and the messages go from one core's
//! cache to another's. So one loop serves alone for as long as it keeps up, by the time that it spends on each message;
//! time in which a handler waits for something else is not spent. A loop that does not come back is not waited for.

use std::time::Duration;

use tokio::time::Instant;

/// Where it would take those that are awake longer than this to begin all that is ready, one more is woken.
const WORTH: Duration = Duration::from_millis(1);

/// A loop that has not come by for so long may be held up by a handler for as long again.
const LATE: Duration = Duration::from_millis(5);

/// The run loops of a subscription, by number.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    /// How many have come by so far.
    size: usize,
    /// Who sleeps. The last one is woken first: what it needs is in a cache yet.
    asleep: Vec<usize>,
    /// How long they were busy since some messages ended.
    busy: Duration,
    /// What a message has taken of a loop's time of late. `None`: nothing has ended so far.
    pace: Option<Duration>,
    /// When a loop came by last, or was woken.
    seen: Option<Instant>,
}

impl Crew {
    /// A loop comes by: it was busy for so long since it last did, and so many messages ended.
    pub(crate) fn comes(&mut self, who: usize, busy: Duration, ended: usize, now: Instant) {
        self.size = self.size.max(who + 1);
        self.seen = Some(now);
        self.asleep.retain(|one| *one != who);
        self.busy += busy;
        if let Ok(ended) = u32::try_from(ended)
            && ended > 0
        {
            let one = std::mem::take(&mut self.busy) / ended;
            // A clock that stands still, as one of a test does, tells nothing.
            if one.is_zero() {
                return;
            }
            self.pace = Some(self.pace.map_or(one, |before| (3 * before + one) / 4));
        }
    }

    /// A loop found nothing to do, and sleeps until it is called or one of its handlers goes on.
    pub(crate) fn sleeps(&mut self, who: usize) {
        self.asleep.push(who);
    }

    /// Among how many loops what is ready is to be shared.
    pub(crate) fn sharers(&self, ready: usize) -> usize {
        if self.keeps_up(ready) { self.awake().max(1) } else { self.size.max(1) }
    }

    /// So many messages may begin: whom to wake for them.
    pub(crate) fn call(&mut self, ready: usize, now: Instant) -> Option<usize> {
        if ready == 0 || (self.awake() > 0 && self.keeps_up(ready) && !self.is_late(now)) {
            return None;
        }
        let who = self.asleep.pop()?;
        // From now on it is waited for.
        self.seen = Some(now);
        Some(who)
    }

    /// When to look again whether those that are awake have come by.
    pub(crate) fn look_again(&self) -> Option<Instant> {
        self.seen.filter(|_| self.awake() > 0 && !self.asleep.is_empty()).map(|seen| seen + LATE)
    }

    fn awake(&self) -> usize {
        self.size - self.asleep.len()
    }

    /// Whether those that are awake have begun all this soon enough.
    fn keeps_up(&self, ready: usize) -> bool {
        let (Some(pace), Ok(ready)) = (self.pace, u32::try_from(ready)) else { return false };
        let awake = u32::try_from(self.awake()).unwrap_or(u32::MAX);
        pace.saturating_mul(ready) <= WORTH.saturating_mul(awake)
    }

    fn is_late(&self, now: Instant) -> bool {
        self.seen.is_none_or(|seen| now.saturating_duration_since(seen) >= LATE)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SHORT: Duration = Duration::from_micros(2);
    const LONG: Duration = Duration::from_millis(5);

    /// Four loops that sleep, of handlers that took so long.
    fn crew(pace: Duration, now: Instant) -> Crew {
        let mut crew = Crew::default();
        for who in 0..4 {
            crew.comes(who, pace, 1, now);
            crew.sleeps(who);
        }
        crew
    }

    #[test]
    fn where_all_sleep_the_one_that_went_last_is_woken() {
        let now = Instant::now();
        assert_eq!(crew(SHORT, now).call(1, now), Some(3));
    }

    #[test]
    fn nobody_is_woken_for_nothing() {
        let now = Instant::now();
        assert_eq!(crew(LONG, now).call(0, now), None);
    }

    #[test]
    fn one_loop_serves_alone_while_it_keeps_up() {
        // Given handlers that are done at once, and one loop that is awake.
        let now = Instant::now();
        let mut crew = crew(SHORT, now);
        crew.call(1, now);
        // When it can begin all that is ready soon, then nobody else is woken, and it takes them all.
        assert_eq!(crew.call(500, now), None);
        assert_eq!(crew.sharers(500), 1);
        // When it is more, then one more is woken, as often as it is too much.
        assert_eq!(crew.call(501, now), Some(2));
        assert_eq!(crew.call(1_000, now), None);
        assert_eq!(crew.call(1_001, now), Some(1));
    }

    #[test]
    fn handlers_that_take_long_have_a_loop_each() {
        let now = Instant::now();
        let mut crew = crew(LONG, now);
        assert_eq!(crew.call(2, now), Some(3));
        assert_eq!(crew.sharers(2), 4);
        assert_eq!(crew.call(1, now), Some(2));
    }

    #[test]
    fn as_long_as_nothing_has_ended_handlers_may_take_long() {
        let now = Instant::now();
        let mut crew = Crew::default();
        for who in 0..2 {
            crew.comes(who, Duration::ZERO, 0, now);
            crew.sleeps(who);
        }
        assert_eq!(crew.call(2, now), Some(1));
        assert_eq!(crew.call(1, now), Some(0));
    }

    #[test]
    fn a_loop_that_does_not_come_back_is_not_waited_for() {
        // Given a loop that is awake and keeps up, as far as was seen.
        let now = Instant::now();
        let mut crew = crew(SHORT, now);
        crew.call(1, now);
        assert_eq!(crew.call(1, now), None);
        // When it does not come back, then it is looked at again, and another one is woken.
        let late = crew.look_again().unwrap();
        assert_eq!(late, now + LATE);
        assert_eq!(crew.call(1, late), Some(2));
    }

    #[test]
    fn one_that_was_just_woken_is_given_time() {
        // Given that all slept for long, when one was woken, then no other is for the same message.
        let now = Instant::now();
        let mut crew = crew(SHORT, now);
        let later = now + 10 * LATE;
        assert_eq!(crew.call(1, later), Some(3));
        assert_eq!(crew.call(1, later), None);
    }

    #[test]
    fn handlers_that_begin_to_take_long_are_noticed_and_forgotten() {
        let now = Instant::now();
        let mut crew = crew(SHORT, now);
        crew.comes(0, LONG, 1, now);
        assert!(!crew.keeps_up(10));
        for _ in 0..20 {
            crew.comes(0, SHORT, 1, now);
        }
        assert!(crew.keeps_up(10));
    }

    #[test]
    fn the_time_of_handlers_that_wait_before_they_end_is_counted() {
        // Given a handler that keeps its loop busy and then waits, when it ends, then all of that is what it took.
        let now = Instant::now();
        let mut crew = crew(SHORT, now);
        crew.comes(0, 4 * LONG, 0, now);
        assert!(crew.keeps_up(10));
        crew.comes(0, SHORT, 1, now);
        assert!(!crew.keeps_up(10));
    }

    #[test]
    fn who_comes_by_itself_is_not_woken_again() {
        let now = Instant::now();
        let mut crew = crew(LONG, now);
        crew.comes(3, Duration::ZERO, 0, now);
        assert_eq!(crew.call(1, now), Some(2));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// One of those that are awake comes by, after so many microseconds for so many messages; it sleeps if it finds
        /// nothing.
        Comes(usize, u64, usize),
        /// One that sleeps is woken by a handler of its own.
        Wakes(usize),
        Ready(usize),
        Time(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4usize, 0..10_000u64, 0..64usize)
                .prop_map(|(who, busy, ended)| Step::Comes(who, busy, ended)),
            (0..4usize).prop_map(Step::Wakes),
            (0..2_000usize).prop_map(Step::Ready),
            (0..10_000u64).prop_map(Step::Time),
        ]
    }

    proptest! {
        #[test]
        fn what_is_ready_has_a_loop_that_is_awake_or_will_be(steps in prop::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut crew = Crew::default();
            // As it really is: who is awake, and comes by sooner or later.
            let mut awake = [true; 4];
            let mut ready = 0;
            for step in steps {
                match step {
                    Step::Comes(who, busy, ended) if awake[who] => {
                        crew.comes(who, Duration::from_micros(busy), ended, now);
                        if ready == 0 {
                            crew.sleeps(who);
                            awake[who] = false;
                        }
                        ready -= ready.min(64);
                    }
                    Step::Comes(..) => {}
                    Step::Wakes(who) => awake[who] = true,
                    Step::Ready(more) => ready = more,
                    Step::Time(micros) => now += Duration::from_micros(micros),
                }
                if let Some(who) = crew.call(ready, now) {
                    prop_assert!(ready > 0, "{who} was woken for nothing");
                    awake[who] = true;
                }
                prop_assert!(ready == 0 || awake.contains(&true), "all sleep over {ready} messages");
                let asleep: BTreeSet<_> = crew.asleep.iter().collect();
                prop_assert_eq!(asleep.len(), crew.asleep.len(), "one sleeps twice");
            }
        }
    }
}
