//! The pump: reads a source, feeds the window, follows the assignment, fires what is due, and leads the
//! subscription through its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_core::erased::{DynReader, DynSource};
use millstream_core::{Assigned, Delivery, Epoch, PartitionId, Position, Read, ReadLimits, Result, Revoking};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::desk::{Desk, Phase};
use super::faults::Place;
use super::park::{self, Holdings};
use super::window::{Input, SOON, Way, Window};

/// How long a window that is full may stand still before crowded lanes are parked.
const STANDSTILL: Duration = Duration::from_millis(100);

/// How often is looked whether writes to the park have ended. Only a partition that was taken away while some were
/// under way waits for them.
const STILL_PARKING: Duration = Duration::from_millis(10);

/// A partition under an assignment.
type Owned = (PartitionId, Epoch);

/// Reads one input of a subscription.
pub(super) struct Pump {
    pub(super) desk: Arc<Desk>,
    pub(super) input: Input,
    pub(super) source: Box<dyn DynSource>,
    /// Whether notes come with assignments.
    pub(super) marks: bool,
    /// For the topic: the park to be read before a partition is dispatched.
    pub(super) park: Option<Arc<ParkSide>>,
    /// Partitions whose park is read once the topic was read up to there.
    pub(super) read_first: Vec<(PartitionId, Epoch, Position)>,
}

/// Partitions that are asked back.
struct Asked {
    event: Revoking,
    /// When it is waited for what runs and no longer for what is owed.
    hurry: Option<Instant>,
}

impl Asked {
    fn next(&self) -> Instant {
        self.hurry.map_or(self.event.deadline, |at| at.min(self.event.deadline))
    }
}

/// How the topic's pump leads the park's.
pub(super) struct ParkSide {
    pub(super) reader: Arc<dyn DynReader>,
    /// The partitions whose park is to be read.
    pub(super) wanted: watch::Sender<Vec<PartitionId>>,
}

/// Reading the park of a partition before it is dispatched.
type Scans = JoinSet<(Assigned, Result<Holdings>)>;

impl Pump {
    /// Runs until the subscription is drained or aborted. Gives back the source, to be closed.
    pub(super) async fn run(mut self) -> Box<dyn DynSource> {
        let desk = Arc::clone(&self.desk);
        let mut deliveries: Vec<Delivery> = Vec::new();
        let mut revoking: Vec<Asked> = Vec::new();
        let mut owned: Vec<Owned> = Vec::new();
        let mut scans: Scans = JoinSet::new();
        let mut wanted = self.park_wanted();
        let mut backoff = Backoff::default();
        let mut not_before: Option<Instant> = None;
        let mut full_since: Option<Instant> = None;
        let mut at_end = false;
        let mut closed = false;
        let mut hurry: Option<Instant> = None;
        let mut failed = false;
        loop {
            let now = Instant::now();
            match desk.phase() {
                Phase::Aborted | Phase::Closing => break,
                Phase::Draining if !closed && self.input == Input::Main => {
                    closed = true;
                    hurry = Some(now + SOON);
                    desk.with(now, |window| {
                        window.close(now);
                        window.clear_marks(None);
                    });
                }
                Phase::Running | Phase::Draining => {}
            }
            self.answer(&mut revoking, &mut owned, now);
            if hurry.is_some_and(|at| at <= now) {
                hurry = None;
                desk.with(now, |window| window.hurry_all(now));
            }
            let mut standstill = false;
            let (flow, limits, timer, done) = desk.with(now, |window| {
                if self.input == Input::Main {
                    window.fire(now);
                }
                let flow = window.flow(self.input, now);
                let limits = window.limits(self.input);
                standstill = limits == ReadLimits::NOTHING && window.can_park();
                let timer = if self.input == Input::Main { window.next_timer(now) } else { None };
                let drained = closed && window.is_drained() && window.is_marked();
                (flow, limits, timer, drained || window.is_at_end())
            });
            self.source.pause(&flow.stop);
            self.source.resume(&flow.go_on);
            if done && self.input == Input::Main {
                desk.ended.store(at_end, Ordering::Release);
                break;
            }
            full_since = full_since.filter(|_| standstill).or(standstill.then_some(now));
            let tick = full_since.filter(|_| self.input == Input::Main).map(|since| since + STANDSTILL);
            let answer = revoking.iter().map(Asked::next).min();
            let wake = [timer, tick, not_before, hurry, answer];
            let reads = not_before.is_none() && !at_end && !failed;
            let phase = desk.phase();
            tokio::select! {
                biased;
                () = desk.pump_bells[self.input as usize].notified() => {}
                () = desk.left(phase) => {}
                Some(Ok(scanned)) = scans.join_next(), if !scans.is_empty() => {
                    self.scanned(scanned, &owned, &mut scans);
                }
                () = changed(&mut wanted) => self.follow(&mut wanted, &mut owned),
                read = self.source.read(&mut deliveries, limits), if reads => match read {
                    Ok(read) => {
                        backoff.reset();
                        desk.faults.clear(Place::Reading);
                        match read {
                            Read::Deliveries => {}
                            Read::Assigned(assigned) => self.assigned(&assigned, &mut owned, &mut scans),
                            Read::Revoking(event) => {
                                self.stop(&event.partitions);
                                revoking.push(Asked { event, hurry: Some(Instant::now() + SOON) });
                            }
                            Read::Lost(lost) => self.lost(&lost.partitions, &mut owned),
                            Read::End => {
                                at_end = true;
                                // Nothing more is to come before their parks.
                                for (partition, ..) in std::mem::take(&mut self.read_first) {
                                    self.read_park(partition);
                                }
                                desk.with(now, Window::reached_end);
                            }
                            // What a later version of the contract adds is not understood here.
                            _ => tracing::error!(topic = %desk.info.topic, "the driver sent an unknown event"),
                        }
                    }
                    Err(error) => {
                        desk.faults.set(Place::Reading, &error);
                        if error.is_retryable() {
                            let wait = backoff.next();
                            tracing::warn!(topic = %desk.info.topic, %error, ?wait, "reading failed");
                            not_before = Some(Instant::now() + wait);
                        } else {
                            tracing::error!(topic = %desk.info.topic, %error,
                                "reading failed for good: the subscription stands still");
                            failed = true;
                        }
                    }
                },
                () = earliest(wake) => {
                    let now = Instant::now();
                    not_before = not_before.filter(|at| *at > now);
                    if tick.is_some_and(|at| at <= now) {
                        desk.with(now, |window| window.relieve(now));
                        full_since = Some(now);
                    }
                }
            }
            if !deliveries.is_empty() {
                let now = Instant::now();
                let reached = self.reached(&deliveries);
                desk.with(now, |window| window.arrive(self.input, &mut deliveries, now));
                reached.into_iter().for_each(|partition| self.read_park(partition));
            }
        }
        self.source
    }

    fn park_wanted(&self) -> Option<watch::Receiver<Vec<PartitionId>>> {
        self.park.as_ref().filter(|_| self.input == Input::Park).map(|side| side.wanted.subscribe())
    }

    // ---- The assignment ----------------------------------------------------------------------------------

    fn assigned(&mut self, assigned: &[Assigned], owned: &mut Vec<Owned>, scans: &mut Scans) {
        let now = Instant::now();
        let desk = &self.desk;
        desk.with(now, |window| window.assigned(self.input, assigned, self.marks, now));
        for one in assigned {
            owned.retain(|(p, _)| *p != one.partition);
            self.read_first.retain(|(p, ..)| *p != one.partition);
            owned.push((one.partition, one.epoch));
            if self.input == Input::Main && self.park.is_some() {
                // Not dispatched before its park is known.
                self.source.pause(&[one.partition]);
                self.scan(one.clone(), Duration::ZERO, scans);
            }
        }
    }

    fn scan(&self, assigned: Assigned, after: Duration, scans: &mut Scans) {
        let Some(side) = &self.park else { return };
        let (reader, desk) = (Arc::clone(&side.reader), Arc::clone(&self.desk));
        scans.spawn(async move {
            tokio::time::sleep(after).await;
            // What was being parked under an earlier assignment is there by then, or will not be.
            while desk.with(Instant::now(), |window| window.is_parking(assigned.partition)) {
                desk.outbound_bells[Way::Park as usize].notify_one();
                tokio::time::sleep(STILL_PARKING).await;
            }
            let held = park::scan(&*reader, &desk, assigned.partition, assigned.start).await;
            (assigned, held)
        });
    }

    fn scanned(
        &mut self,
        (assigned, held): (Assigned, Result<Holdings>),
        owned: &[Owned],
        scans: &mut Scans,
    ) {
        let (partition, epoch) = (assigned.partition, assigned.epoch);
        if !owned.contains(&(partition, epoch)) {
            return;
        }
        match held {
            Ok(Holdings { keys, read_first, again }) => {
                self.desk.faults.clear(Place::Park);
                self.desk.with(Instant::now(), |window| window.parked_before(partition, &keys, again));
                match read_first {
                    Some(place) => self.read_first.push((partition, epoch, place)),
                    None => self.read_park(partition),
                }
                self.source.resume(&[partition]);
            }
            Err(error) => {
                if self.desk.faults.set(Place::Park, &error) {
                    tracing::error!(topic = %self.desk.info.topic, %partition, %error,
                        "the park cannot be read: the partition is not dispatched yet");
                }
                self.scan(assigned, Duration::from_secs(1), scans);
            }
        }
    }

    /// Has the park of a partition read.
    fn read_park(&self, partition: PartitionId) {
        if let Some(side) = &self.park {
            side.wanted.send_modify(|wanted| wanted.push(partition));
        }
    }

    /// Of which partitions all that had to be read before their park is here now.
    fn reached(&mut self, deliveries: &[Delivery]) -> Vec<PartitionId> {
        if self.read_first.is_empty() {
            return Vec::new();
        }
        let is_here = |(partition, epoch, place): &(PartitionId, Epoch, Position)| {
            deliveries.iter().any(|delivery| {
                let origin = delivery.origin();
                origin.partition == *partition
                    && origin.epoch == *epoch
                    && origin.position.is_some_and(|position| position >= *place)
            })
        };
        self.read_first.extract_if(.., |first| is_here(first)).map(|(partition, ..)| partition).collect()
    }

    /// Partitions are asked back: nothing more of them is started.
    fn stop(&self, partitions: &[Owned]) {
        let now = Instant::now();
        self.desk.with(now, |window| {
            window.revoking(Input::Main, partitions, now);
            window.revoking(Input::Park, &park_of(window, partitions), now);
        });
    }

    /// Answers those revocations of which nothing runs any more; forgets those past their deadline.
    fn answer(&mut self, revoking: &mut Vec<Asked>, owned: &mut Vec<Owned>, now: Instant) {
        let mut i = 0;
        while i < revoking.len() {
            if revoking[i].hurry.is_some_and(|at| at <= now) {
                revoking[i].hurry = None;
                let partitions = &revoking[i].event.partitions;
                self.desk.with(now, |window| window.hurry(self.input, partitions, now));
            }
            let event = &revoking[i].event;
            let (released, marked) = self.desk.with(now, |window| {
                let park = park_of(window, &event.partitions);
                let released = window.is_released(self.input, &event.partitions)
                    && window.is_released(Input::Park, &park);
                if released && window.clear_marks(Some(&event.partitions)) {
                    return (true, false);
                }
                (released, window.is_marked())
            });
            if (released && marked) || event.deadline <= now {
                let Asked { event, .. } = revoking.swap_remove(i);
                if !released {
                    tracing::warn!(topic = %self.desk.info.topic, partitions = ?event.partitions,
                        "partitions were taken before their handlers ended; they run again elsewhere");
                }
                self.lost(&event.partitions, owned);
                event.done();
            } else {
                i += 1;
            }
        }
    }

    fn lost(&mut self, partitions: &[Owned], owned: &mut Vec<Owned>) {
        let now = Instant::now();
        owned.retain(|o| !partitions.contains(o));
        self.read_first.retain(|(partition, epoch, _)| !partitions.contains(&(*partition, *epoch)));
        self.desk.with(now, |window| {
            let park = park_of(window, partitions);
            window.lost(self.input, partitions, now);
            if self.input == Input::Main {
                window.lost(Input::Park, &park, now);
            }
        });
        if let Some(side) = self.park.as_ref().filter(|_| self.input == Input::Main) {
            side.wanted.send_modify(|wanted| {
                wanted.retain(|p| !partitions.iter().any(|(gone, _)| gone == p));
            });
        }
    }

    /// The park's pump reads the partitions that the topic's pump names.
    fn follow(&mut self, wanted: &mut Option<watch::Receiver<Vec<PartitionId>>>, owned: &mut Vec<Owned>) {
        let Some(wanted) = wanted else { return };
        let partitions = wanted.borrow_and_update().clone();
        owned.retain(|(p, _)| partitions.contains(p));
        self.source.assign(partitions);
    }
}

/// The park's share of these partitions, under its own epochs.
fn park_of(window: &Window, partitions: &[Owned]) -> Vec<Owned> {
    partitions.iter().filter_map(|(p, _)| window.epoch_of(Input::Park, *p).map(|e| (*p, e))).collect()
}

async fn changed(wanted: &mut Option<watch::Receiver<Vec<PartitionId>>>) {
    // Without one, or once its sender is gone, nothing changes any more.
    if let Some(wanted) = wanted
        && wanted.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

async fn earliest(times: [Option<Instant>; 5]) {
    match times.into_iter().flatten().min() {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
