//! Leases by our own clock, under random schedules: what is settled after its lease ended is lost and never sent, what
//! was extended in time is sent, and an extension counts from when it was asked for, however late its answer comes.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_core::{Delivery, Epoch, Message, PartitionId, Settled, Token, TokenId};
use proptest::prelude::*;
use tokio::time::Instant;

use super::model::{rules, window_of};
use super::*;

const LEASE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
enum Step {
    Arrive(usize),
    Take(usize),
    End(usize),
    Time(u64),
    /// The lease thread asks for all that are held.
    Ask,
    /// The broker answers the oldest question; by bits, which it keeps.
    Extended(u16),
    /// The settler takes what there is, and the broker confirms it.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..5usize).prop_map(Step::Arrive),
        (1..5usize).prop_map(Step::Take),
        any::<usize>().prop_map(Step::End),
        (1..25_000u64).prop_map(Step::Time),
        Just(Step::Ask),
        prop_oneof![Just(u16::MAX), any::<u16>()].prop_map(Step::Extended),
        Just(Step::Settle),
    ]
}

proptest! {
    #[test]
    fn nothing_is_sent_after_its_lease_and_everything_within_it(
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let mut rules = rules(false, false);
        rules.lease = Some(LEASE);
        let (mut window, mut now) = (window_of(rules), Instant::now());
        // Until when each is ours; and those of which the handler ended.
        let mut ours: BTreeMap<TokenId, Instant> = BTreeMap::new();
        let mut ended: BTreeMap<TokenId, Instant> = BTreeMap::new();
        let mut running: Vec<(TokenId, Job)> = Vec::new();
        let mut asked: VecDeque<(Vec<TokenId>, Instant)> = VecDeque::new();
        let (mut number, mut lost) = (0, 0);
        for step in steps {
            match step {
                Step::Arrive(count) => {
                    let room = window.limits(Input::Main).messages.min(count);
                    let mut deliveries = Vec::new();
                    for _ in 0..room {
                        number += 1;
                        let token = Token::new(PartitionId(0), Epoch(0), number);
                        ours.insert(token.id(), now + LEASE);
                        deliveries.push(Delivery::new(Message::new("t", "x").with_id(number.to_string()), token));
                    }
                    window.arrive(Input::Main, &mut deliveries, now);
                }
                Step::Take(max) => {
                    let mut jobs = VecDeque::new();
                    window.take((max, 0), now, &mut jobs);
                    running.extend(jobs.into_iter().map(|job| {
                        let id = job.item.message.id.parse().unwrap();
                        (TokenId { partition: PartitionId(0), epoch: Epoch(0), id }, job)
                    }));
                }
                Step::End(which) if !running.is_empty() => {
                    let (id, Job { index, .. }) = running.remove(which % running.len());
                    ended.insert(id, now);
                    let mut done = vec![Done { index, rest: None, outcome: Ok(()), held: None }];
                    window.finished(&mut done, now);
                    window.free(1);
                }
                Step::End(_) => {}
                Step::Time(ms) => {
                    now += Duration::from_millis(ms);
                    window.fire(now);
                }
                Step::Ask => {
                    let mut held = Vec::new();
                    window.held_tokens(Input::Main, &mut held);
                    held.sort_unstable();
                    // All that are ours are asked for: what waits, what runs, and what waits for the settler.
                    prop_assert!(held.iter().eq(ours.keys()), "asked for {:?} of {:?}", held, ours);
                    asked.push_back((held, now));
                }
                Step::Extended(bits) => {
                    let Some((held, when)) = asked.pop_front() else { continue };
                    let kept: Vec<bool> = (0..held.len()).map(|n| bits >> (n % 16) & 1 == 1).collect();
                    window.extended(&held, &kept, when);
                    for (id, kept) in held.iter().zip(&kept) {
                        if let Some(until) = ours.get_mut(id) {
                            *until = if *kept { when + LEASE } else { when };
                        }
                    }
                }
                Step::Settle => {
                    let before = window.counts.leases_lost;
                    let mut outward = Outward::default();
                    window.take_settlements(Input::Main, now, &mut outward);
                    let mut sent = Vec::new();
                    for (settlement, tag) in outward.settlements.into_iter().zip(outward.tags) {
                        sent.push(settlement.token.id());
                        window.settled(Input::Main, tag, Settled::Done, now);
                    }
                    sent.sort_unstable();
                    let (in_time, late): (Vec<_>, Vec<_>) =
                        std::mem::take(&mut ended).into_keys().partition(|id| ours[id] >= now);
                    prop_assert_eq!(sent, in_time);
                    lost += late.len() as u64;
                    prop_assert_eq!(window.counts.leases_lost - before, late.len() as u64);
                    ours.retain(|id, _| running.iter().any(|(r, _)| r == id) || is_held(&window, *id));
                }
            }
        }
        prop_assert_eq!(window.counts.leases_lost, lost);
    }
}

fn is_held(window: &Window, id: TokenId) -> bool {
    let mut held = Vec::new();
    window.held_tokens(Input::Main, &mut held);
    held.contains(&id)
}
