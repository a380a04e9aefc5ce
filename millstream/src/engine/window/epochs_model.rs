//! The window and a partition that comes and goes, under random schedules: nothing is committed past what is
//! unfinished, nothing of an assignment that is over is committed, a partition is not given back while anything
//! of it is on its way to the broker, and one that is given back in order has everything committed that was handled.

use std::collections::BTreeSet;

use millstream_core::{
    Assigned, Delivery, Epoch, Message, PartitionId, Position, Settled, Settlement, Token,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::model::{rules, window_of};
use super::*;
use crate::context::Item;

const MESSAGES: u64 = 40;
const PARTITION: PartitionId = PartitionId(0);

#[derive(Debug, Clone)]
enum Step {
    /// The broker assigns the partition, anew if it is ours.
    Assign,
    /// The broker wants it back, in order.
    Revoke,
    /// It is gone.
    Lose,
    Read(usize),
    Take(usize),
    /// Ends one of the running handlers.
    End(usize),
    /// What had to leave has left.
    Leave,
    /// The settler takes what there is.
    Send,
    /// The broker answers the oldest of what was sent.
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Assign),
        1 => Just(Step::Revoke),
        1 => Just(Step::Lose),
        4 => (1..6usize).prop_map(Step::Read),
        4 => (1..5usize).prop_map(Step::Take),
        6 => any::<usize>().prop_map(Step::End),
        3 => Just(Step::Leave),
        3 => Just(Step::Send),
        3 => Just(Step::Answer),
    ]
}

/// The broker and the runners, as simple as can be.
struct World {
    window: Window,
    now: Instant,
    /// The assignment that counts, and whether it is asked back.
    ours: Option<(Epoch, bool)>,
    last_epoch: u32,
    /// What the broker has: all before is done.
    committed: u64,
    /// The next that the broker delivers under this assignment.
    next: u64,
    /// What was finished under this assignment.
    finished: BTreeSet<u64>,
    running: Vec<Job>,
    sent: VecDeque<(Settlement, Tag)>,
}

impl World {
    fn new() -> Self {
        let mut rules = rules(true, false);
        rules.partitions = true;
        Self {
            window: window_of(rules),
            now: Instant::now(),
            ours: None,
            last_epoch: 0,
            committed: 0,
            next: 0,
            finished: BTreeSet::new(),
            running: Vec::new(),
            sent: VecDeque::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Assign => self.assign(),
            Step::Revoke => {
                if let Some((epoch, revoked)) = &mut self.ours {
                    *revoked = true;
                    self.window.revoking(Input::Main, &[(PARTITION, *epoch)], self.now);
                }
            }
            Step::Lose => self.lose(),
            Step::Read(count) => self.read(*count),
            Step::Take(max) => {
                let mut jobs = VecDeque::new();
                self.window.take((*max, 0), self.now, &mut jobs);
                self.running.extend(jobs);
            }
            Step::End(which) => self.end(*which),
            Step::Leave => {
                for way in Way::ALL {
                    let mut out = Vec::new();
                    self.window.take_outgoing(way, &mut out);
                    out.into_iter().for_each(|one| self.window.left(one, self.now));
                }
            }
            Step::Send => {
                let mut outward = Outward::default();
                self.window.take_settlements(Input::Main, self.now, &mut outward);
                self.sent.extend(outward.settlements.into_iter().zip(outward.tags));
            }
            Step::Answer => self.answer(),
        }
        self.check();
    }

    fn assign(&mut self) {
        self.lose();
        self.last_epoch += 1;
        let epoch = Epoch(self.last_epoch);
        self.ours = Some((epoch, false));
        self.window.assigned(Input::Main, &[Assigned::new(PARTITION, epoch)], false, Instant::now());
        (self.next, self.finished) = (self.committed, (0..self.committed).collect());
    }

    fn lose(&mut self) {
        if let Some((epoch, _)) = self.ours.take() {
            self.window.lost(Input::Main, &[(PARTITION, epoch)], self.now);
        }
    }

    fn read(&mut self, count: usize) {
        let Some((epoch, false)) = self.ours else { return };
        let limit = self.window.limits(Input::Main).messages.min(count);
        let end = MESSAGES.min(self.next + limit as u64);
        let mut deliveries: Vec<Delivery> = (self.next..end)
            .map(|number| {
                // Some keys have much to do, so that others overtake them.
                let key = format!("key {}", number % 4 * (number % 3));
                let message = Message::new("t", "x").with_id(number.to_string()).with_key(key);
                Delivery::new(message, Token::new(PARTITION, epoch, number)).at(Position(number))
            })
            .collect();
        self.next = end;
        self.window.arrive(Input::Main, &mut deliveries, self.now);
    }

    fn end(&mut self, which: usize) {
        if self.running.is_empty() {
            return;
        }
        let Job { index, item, .. } = self.running.remove(which % self.running.len());
        if self.ours.is_some_and(|(epoch, _)| epoch == item.origin.epoch) {
            self.finished.insert(number_of(&item));
        }
        let mut done = vec![Done { index, rest: None, outcome: Ok(()), held: None }];
        self.window.finished(&mut done, self.now);
        self.window.free(1);
    }

    fn answer(&mut self) {
        let Some((settlement, tag)) = self.sent.pop_front() else { return };
        let id = settlement.token.id();
        // The broker takes nothing of an assignment that is over.
        let outcome = match self.ours {
            Some((epoch, _)) if epoch == id.epoch => {
                assert!(
                    (0..=id.id).all(|n| self.finished.contains(&n)),
                    "committed past a gap, at {}",
                    id.id
                );
                assert!(id.id >= self.committed, "the committed position went back");
                self.committed = id.id + 1;
                Settled::Done
            }
            _ => Settled::Lost,
        };
        assert!(self.window.settled(Input::Main, tag, outcome, self.now).is_none());
    }

    fn check(&self) {
        let Some((epoch, true)) = self.ours else { return };
        if self.window.is_released(Input::Main, &[(PARTITION, epoch)]) {
            let waits =
                self.window.settlements[0].settlements.iter().chain(self.sent.iter().map(|(one, _)| one));
            let under_way = waits.filter(|one| one.token.id().epoch == epoch).count();
            let runs = self.running.iter().filter(|job| job.item.origin.epoch == epoch).count();
            assert!(
                under_way == 0 && runs == 0,
                "given back while {runs} run and {under_way} are on their way"
            );
            let again = self.finished.iter().find(|number| **number >= self.committed);
            assert!(again.is_none(), "given back, and what was handled comes again: {again:?}");
        }
    }

    /// What is left is handled under one more assignment.
    fn drain(&mut self) {
        self.step(&Step::Assign);
        for _ in 0..10_000 {
            if self.committed == MESSAGES {
                break;
            }
            self.step(&Step::Read(16));
            self.step(&Step::Take(5));
            self.step(&Step::End(0));
            self.step(&Step::Leave);
            self.step(&Step::Send);
            self.step(&Step::Answer);
        }
        assert_eq!(self.committed, MESSAGES, "not every message was committed");
        while !self.running.is_empty() {
            self.step(&Step::End(0));
        }
        self.step(&Step::Send);
        while !self.sent.is_empty() {
            self.step(&Step::Answer);
        }
        assert!(self.window.in_flight() == 0 && self.window.bytes == 0, "something is left in the window");
    }
}

fn number_of(item: &Item) -> u64 {
    item.message.id.parse().unwrap()
}

proptest! {
    #[test]
    fn whatever_assignments_come_and_go_nothing_is_committed_past_a_gap_or_for_another(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.drain();
    }
}
