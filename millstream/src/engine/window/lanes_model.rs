//! Lanes under random schedules: at most one message of a key runs, a key's messages run in order, and no key ever
//! waits for another. Whatever may run is handed out as soon as there is a runner.

use std::collections::{BTreeMap, BTreeSet};

use millstream_core::{Delivery, Epoch, Message, PartitionId, Token};
use proptest::prelude::*;
use tokio::time::Instant;

use super::model::{begin, window};
use super::*;

const CONCURRENCY: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    /// Messages of these keys arrive; none: without a key.
    Arrive(Vec<Option<u8>>),
    /// Takes jobs, some of them ahead, and begins those that may run.
    Take(usize, usize),
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::vec(prop::option::weighted(0.8, 0..5u8), 1..6).prop_map(Step::Arrive),
        (1..8usize, 0..4usize).prop_map(|(max, ahead)| Step::Take(max, ahead)),
        any::<usize>().prop_map(Step::End),
    ]
}

/// A queue for each key: what lanes are meant to be. A message without a key has one for itself.
#[derive(Default)]
struct Reference {
    queues: BTreeMap<String, VecDeque<u64>>,
    busy: BTreeSet<String>,
}

impl Reference {
    fn ready(&self) -> usize {
        self.queues.iter().filter(|(key, queue)| !queue.is_empty() && !self.busy.contains(*key)).count()
    }
}

fn lane(key: Option<u8>, number: u64) -> String {
    key.map_or_else(|| format!("alone {number}"), |key| format!("key {key}"))
}

proptest! {
    #[test]
    fn what_may_run_is_handed_out_at_once_and_in_the_order_of_its_key(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let (mut window, now) = (window(false, false), Instant::now());
        let mut reference = Reference::default();
        let mut running: Vec<Job> = Vec::new();
        let mut lanes: Vec<String> = Vec::new();
        for step in steps {
            match step {
                Step::Arrive(keys) => {
                    let room = window.limits(Input::Main).messages;
                    let mut deliveries = Vec::new();
                    for key in keys.into_iter().take(room) {
                        let number = lanes.len() as u64;
                        let mut message = Message::new("t", "x").with_id(number.to_string());
                        if let Some(key) = key {
                            message = message.with_key(vec![key]);
                        }
                        deliveries.push(Delivery::new(message, Token::new(PartitionId(0), Epoch(0), number)));
                        lanes.push(lane(key, number));
                        reference.queues.entry(lane(key, number)).or_default().push_back(number);
                    }
                    window.arrive(Input::Main, &mut deliveries, now);
                }
                Step::Take(max, ahead) => {
                    let expected = max.min(CONCURRENCY - running.len()).min(reference.ready());
                    let mut jobs = VecDeque::new();
                    let granted = window.take((max, ahead), now, &mut jobs);
                    prop_assert_eq!(granted, expected, "of {} ready keys", reference.ready());
                    let started = begin(&mut jobs, granted);
                    window.put_back(&mut jobs, now);
                    for job in started {
                        let number: u64 = job.item.message.id.parse().unwrap();
                        let lane = lanes[usize::try_from(number).unwrap()].clone();
                        let first = reference.queues.get_mut(&lane).and_then(VecDeque::pop_front);
                        prop_assert_eq!(first, Some(number), "out of order in {}", lane);
                        prop_assert!(reference.busy.insert(lane.clone()), "two run of {}", lane);
                        running.push(job);
                    }
                }
                Step::End(which) if !running.is_empty() => {
                    let Job { index, item, .. } = running.remove(which % running.len());
                    let number: usize = item.message.id.parse().unwrap();
                    reference.busy.remove(&lanes[number]);
                    let mut done = vec![Done { index, rest: None, outcome: Ok(()), held: None }];
                    window.finished(&mut done, now);
                    window.free(1);
                    let mut outward = Outward::default();
                    window.take_settlements(Input::Main, now, &mut outward);
                    for tag in outward.tags {
                        window.settled(Input::Main, tag, millstream_core::Settled::Done, now);
                    }
                }
                Step::End(_) => {}
            }
            let left: usize = reference.queues.values().map(VecDeque::len).sum();
            prop_assert_eq!(window.in_flight(), left + running.len());
        }
    }
}
