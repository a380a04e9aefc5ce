//! Shutting down at any moment, under random schedules: every delivery that was taken in is settled or given back
//! exactly once, and nothing is started after the end began. Only what still runs at the very end is neither.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Delivery, Epoch, Error, ErrorKind, Message, PartitionId, Settled, Token, Verdict};
use proptest::prelude::*;
use tokio::time::Instant;

use super::model::{begin, window};
use super::*;
use crate::Failure;
use crate::context::Held;

#[derive(Debug, Clone)]
enum Step {
    Arrive(usize),
    /// Takes jobs, and some ahead.
    Take(usize, usize),
    /// Gives back those ahead.
    PutBack,
    End(usize, Ending),
    Time(u64),
    /// What left is confirmed.
    Leave,
    /// What is settled is confirmed, or is to be sent again.
    Settle(Answer),
    Close,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Well,
    /// With a message of its own.
    Says,
    Badly,
    Hopeless,
}

#[derive(Debug, Clone, Copy)]
enum Answer {
    Done,
    Again,
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    let ending = prop_oneof![3 => Just(Ending::Well), 1 => Just(Ending::Says), 1 => Just(Ending::Badly), 1 => Just(Ending::Hopeless)];
    let answer = prop_oneof![4 => Just(Answer::Done), 1 => Just(Answer::Again), 1 => Just(Answer::Lost)];
    prop_oneof![
        8 => (1..6usize).prop_map(Step::Arrive),
        8 => (1..5usize, 0..4usize).prop_map(|(max, ahead)| Step::Take(max, ahead)),
        2 => Just(Step::PutBack),
        12 => (any::<usize>(), ending).prop_map(|(which, ending)| Step::End(which, ending)),
        4 => (1..90_000u64).prop_map(Step::Time),
        6 => Just(Step::Leave),
        8 => answer.prop_map(Step::Settle),
        1 => Just(Step::Close),
    ]
}

struct World {
    window: Window,
    now: Instant,
    arrived: u64,
    running: Vec<Job>,
    /// Handed out, and not begun.
    ahead: VecDeque<Job>,
    closed: bool,
    /// How each delivery ended, and how often.
    ended: BTreeMap<u64, Vec<&'static str>>,
}

impl World {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Arrive(count) => self.arrive(count),
            Step::Take(max, ahead) => {
                self.window.put_back(&mut self.ahead, self.now);
                let granted = self.window.take((max, ahead), self.now, &mut self.ahead);
                assert!(
                    self.ahead.is_empty() || !self.closed,
                    "something was handed out after the end began"
                );
                self.running.extend(begin(&mut self.ahead, granted));
            }
            Step::PutBack => self.window.put_back(&mut self.ahead, self.now),
            Step::End(which, ending) => self.end(which, ending),
            Step::Time(ms) => {
                self.now += Duration::from_millis(ms);
                self.window.fire(self.now);
            }
            Step::Leave => {
                for way in Way::ALL {
                    let mut out = Vec::new();
                    self.window.take_outgoing(way, &mut out);
                    out.into_iter().for_each(|one| self.window.left(one, self.now));
                }
            }
            Step::Settle(answer) => self.settle(answer),
            Step::Close => {
                // The pump does it once.
                if !std::mem::replace(&mut self.closed, true) {
                    self.window.close(self.now);
                }
            }
        }
    }

    fn arrive(&mut self, count: usize) {
        let limit = self.window.limits(Input::Main).messages.min(count);
        assert!(limit == 0 || !self.closed, "messages are asked for after the end began");
        let mut deliveries = Vec::new();
        for _ in 0..limit {
            let number = self.arrived;
            self.arrived += 1;
            let message =
                Message::new("t", "x").with_id(number.to_string()).with_key(format!("key {}", number % 5));
            deliveries.push(Delivery::new(message, Token::new(PartitionId(0), Epoch(0), number)));
        }
        self.window.arrive(Input::Main, &mut deliveries, self.now);
    }

    fn end(&mut self, which: usize, ending: Ending) {
        if self.running.is_empty() {
            return;
        }
        let Job { index, .. } = self.running.remove(which % self.running.len());
        let mut held = None;
        let outcome = match ending {
            Ending::Well => Ok(()),
            Ending::Says => {
                let says = Held::default();
                assert!(says.publish([Message::new("other", "y")]).is_ok());
                held = Some(Arc::new(says));
                Ok(())
            }
            Ending::Badly => Err(Failure::retry("no")),
            Ending::Hopeless => Err(Failure::unrecoverable("never")),
        };
        let mut done = vec![Done { index, rest: None, outcome, held }];
        // As a runner does: what is behind another goes back before anything is said of that.
        let (mut behind, others) = self.ahead.drain(..).partition(|job| job.follows);
        self.ahead = others;
        self.window.put_back(&mut behind, self.now);
        self.window.finished(&mut done, self.now);
        // As a runner does: the next of those ahead in its place, unless the end has begun.
        let next = if self.closed { None } else { self.ahead.pop_front() };
        match next {
            Some(next) => self.running.push(next),
            None => self.window.free(1),
        }
    }

    fn settle(&mut self, answer: Answer) {
        let mut outward = Outward::default();
        self.window.take_settlements(Input::Main, self.now, &mut outward);
        for (settlement, tag) in outward.settlements.into_iter().zip(outward.tags) {
            let number = settlement.token.id().id;
            let how = match settlement.verdict {
                Verdict::Ack => "settled",
                Verdict::Release | Verdict::Retry { .. } => "given back",
                Verdict::Park(_) => "parked",
                _ => "otherwise",
            };
            self.ended.entry(number).or_default().push(how);
            let outcome = match answer {
                Answer::Done => Settled::Done,
                Answer::Lost => Settled::Lost,
                Answer::Again => {
                    let error = Error::new(ErrorKind::Unavailable, "down");
                    let failed = Settled::Failed { error, settlement: Box::new(settlement) };
                    let again = self.window.settled(Input::Main, tag, failed, self.now);
                    assert!(again.is_some(), "it is to be sent again");
                    Settled::Done
                }
            };
            assert!(self.window.settled(Input::Main, tag, outcome, self.now).is_none());
        }
    }
}

proptest! {
    #[test]
    fn at_whatever_moment_the_end_begins_each_delivery_ends_exactly_once(
        steps in prop::collection::vec(step(), 0..150),
        parks in any::<bool>(),
        let_end in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let mut world = World {
            window: window(false, parks),
            now: Instant::now(),
            arrived: 0,
            running: Vec::new(),
            ahead: VecDeque::new(),
            closed: false,
            ended: BTreeMap::new(),
        };
        for step in &steps {
            world.step(step);
        }
        world.step(&Step::Close);
        world.step(&Step::PutBack);
        // The handlers end in time, or their time is over.
        while let_end && !world.running.is_empty() {
            world.step(&Step::End(0, Ending::Well));
        }
        for _ in 0..5 {
            world.step(&Step::Leave);
            world.step(&Step::Settle(Answer::Done));
        }

        let left: Vec<u64> = world.running.iter().map(|job| job.item.message.id.parse().unwrap()).collect();
        prop_assert_eq!(world.window.is_drained(), left.is_empty());
        prop_assert_eq!(world.window.running(), left.len());
        for number in 0..world.arrived {
            let ends = world.ended.get(&number).map_or(0, Vec::len);
            prop_assert_eq!(ends, usize::from(!left.contains(&number)), "{}: {:?}", number, world.ended.get(&number));
        }
    }
}
