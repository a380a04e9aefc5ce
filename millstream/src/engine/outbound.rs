//! What must be written, confirmed, before a message is settled: handlers' own messages, dead letters, parked
//! messages, and what the deduplication store is told.
//!
//! A failed write is tried again, alone, until it succeeds: never by running the handler again, and never by
//! acknowledging without it. A lane's writes keep their order: while one waits for its next try, those of its
//! lane behind it wait too.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use millstream_core::erased::DynWriter;
use millstream_core::{ByteString, Error, ErrorKind, Message, Result, WriteOutcome};
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::desk::{Desk, Phase};
use super::faults::Place;
use super::park;
use super::reserving::copies;
use super::settings::Settings;
use super::window::{DeadLoad, DedupStep, Load, Outgoing, Way};
use crate::dead_letters::{Dying, host};

/// Where one way leads.
pub(super) struct Route {
    pub(super) way: Way,
    pub(super) writer: Option<Arc<dyn DynWriter>>,
    /// For dead letters and parks.
    pub(super) topic: ByteString,
    /// The driver stores dead letters itself.
    pub(super) native: bool,
    pub(super) settings: Settings,
}

/// Something on its way out.
struct Trip {
    out: Outgoing,
    /// What is not yet written; none left: written.
    left: Vec<Message>,
    packed: bool,
    not_before: Option<Instant>,
    backoff: Backoff,
}

pub(super) async fn run(desk: Arc<Desk>, route: Route) {
    let mut fresh: Vec<Outgoing> = Vec::new();
    let mut trips: Vec<Trip> = Vec::new();
    loop {
        let now = Instant::now();
        desk.with(now, |window| window.take_outgoing(route.way, &mut fresh));
        trips.extend(fresh.drain(..).map(|out| Trip {
            out,
            left: Vec::new(),
            packed: false,
            not_before: None,
            backoff: Backoff::default(),
        }));
        if route.way == Way::Park {
            desk.with(now, |window| {
                let outdated: Vec<Trip> =
                    trips.extract_if(.., |trip| window.is_outdated(&trip.out)).collect();
                outdated.into_iter().for_each(|trip| window.stays(trip.out, now));
            });
        }
        let mut going = go(&mut trips, now);
        if going.is_empty() {
            let next = trips.iter().filter_map(|t| t.not_before).min();
            tokio::select! {
                biased;
                () = desk.outbound_bells[route.way as usize].notified() => {}
                () = until(next) => {}
                () = desk.reached(Phase::Aborted) => return,
            }
            continue;
        }
        check(&desk, &route, &mut going).await;
        write(&desk, &route, &mut going).await;
        dedup(&desk, &mut going).await;
        // What has still to be tried again goes back to its place at the front.
        let (still, gone): (Vec<_>, Vec<_>) = going.into_iter().partition(|t| t.not_before.is_some());
        desk.with(Instant::now(), |window| {
            for trip in gone {
                if let (Load::Emit(messages), true) = (&trip.out.load, trip.left.is_empty()) {
                    window.counts.emit(messages.len() as u64);
                }
                window.left(trip.out, Instant::now());
            }
        });
        trips.splice(0..0, still);
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What may go now: one of each lane, and none behind one of its lane that must wait.
fn go(trips: &mut Vec<Trip>, now: Instant) -> Vec<Trip> {
    let mut lanes = HashSet::new();
    let mut going = Vec::new();
    let mut staying = Vec::with_capacity(trips.len());
    for mut trip in trips.drain(..) {
        let first = trip.out.lane.is_none_or(|lane| lanes.insert(lane));
        if first && trip.not_before.is_none_or(|at| at <= now) {
            trip.not_before = None;
            going.push(trip);
        } else {
            staying.push(trip);
        }
    }
    *trips = staying;
    going
}

/// Asks about what will commit with a position. What is refused for good must show before that: a position that cannot be
/// committed holds up all behind it.
async fn check(desk: &Desk, route: &Route, going: &mut Vec<Trip>) {
    let Some(writer) = &route.writer else { return };
    let mut refused: Vec<(usize, Error)> = Vec::new();
    let mut worked = true;
    for (i, trip) in going.iter_mut().enumerate() {
        let Load::Ride(messages) = &trip.out.load else { continue };
        let outcomes = outcomes(writer.check(messages).await, messages.len());
        match outcomes.into_iter().find_map(|outcome| outcome.into_result().err()) {
            None => {}
            Some(error) if is_refusal(&error) => refused.push((i, error)),
            Some(error) => {
                worked = false;
                failed(desk, route.way, trip, error);
            }
        }
    }
    if worked && going.iter().any(|trip| matches!(trip.out.load, Load::Ride(_))) {
        works(desk, route.way);
    }
    refuse(desk, going, refused);
}

/// Writes what is to be written. A trip whose `not_before` is set afterwards failed and is tried again.
async fn write(desk: &Desk, route: &Route, going: &mut Vec<Trip>) {
    let max = route.writer.as_ref().and_then(|w| w.capabilities().max_message).unwrap_or(usize::MAX);
    let mut kept = Vec::with_capacity(going.len());
    for mut trip in going.drain(..) {
        if !trip.packed {
            trip.packed = true;
            match &trip.out.load {
                Load::Nothing | Load::Ride(_) => {}
                Load::Emit(messages) => trip.left.clone_from(messages),
                Load::Park(load) => trip.left.push(park::park(load, &route.topic)),
                Load::Dead(load) => {
                    let letter = dead_letter(desk, route, load, max);
                    if route.native {
                        let reservation = match trip.out.dedup {
                            DedupStep::Confirm(mut reservations) | DedupStep::Release(mut reservations) => {
                                reservations.pop()
                            }
                        };
                        desk.with(Instant::now(), |window| {
                            window.left_as_dead(trip.out.index, Box::new(letter), reservation);
                        });
                        continue;
                    }
                    trip.left.push(letter);
                }
            }
        }
        kept.push(trip);
    }
    *going = kept;
    if going.iter().all(|t| t.left.is_empty()) {
        return;
    }
    let Some(writer) = &route.writer else {
        // Start refuses this; a message is kept rather than lost all the same.
        for trip in going.iter_mut().filter(|t| !t.left.is_empty()) {
            failed(desk, route.way, trip, "there is no writer");
        }
        return;
    };
    let size = writer.capabilities().max_batch.max(1);
    let flat: Vec<(usize, Message)> = going
        .iter_mut()
        .enumerate()
        .flat_map(|(i, trip)| std::mem::take(&mut trip.left).into_iter().map(move |m| (i, m)))
        .collect();
    let mut refused: BTreeMap<usize, Error> = BTreeMap::new();
    let mut worked = true;
    for chunk in flat.chunks(size) {
        let batch: Vec<Message> = chunk.iter().map(|(_, m)| m.clone()).collect();
        for ((i, message), outcome) in chunk.iter().zip(outcomes(writer.write(batch).await, chunk.len())) {
            match outcome {
                WriteOutcome::Written(_) => {}
                WriteOutcome::Failed(error) if route.way == Way::Emit && is_refusal(&error) => {
                    refused.entry(*i).or_insert(error);
                }
                other => {
                    worked = false;
                    going[*i].left.push(message.clone());
                    let why = match other {
                        WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) => error.to_string(),
                        // What a later version of the contract adds is not success.
                        _ => "an outcome that is not known here".to_owned(),
                    };
                    failed(desk, route.way, &mut going[*i], why);
                }
            }
        }
    }
    if worked {
        works(desk, route.way);
    }
    refuse(desk, going, refused);
    if route.way == Way::Dead {
        let done = going.iter().filter(|t| t.left.is_empty()).count() as u64;
        desk.with(Instant::now(), |window| window.counts.dead(done));
    }
}

fn works(desk: &Desk, way: Way) {
    if desk.faults.clear(place(way)) {
        tracing::info!(topic = %desk.info.topic, ?way, "writing works again");
    }
}

/// Takes out those whose handlers sent what will never be taken, by their places in ascending order.
fn refuse(
    desk: &Desk,
    going: &mut Vec<Trip>,
    refused: impl IntoIterator<Item = (usize, Error), IntoIter: DoubleEndedIterator>,
) {
    for (i, error) in refused.into_iter().rev() {
        let trip = going.remove(i);
        tracing::error!(topic = %desk.info.topic, handler = %desk.info.handler, %error,
            "what a handler sent is refused for good: its message is dead-lettered");
        desk.with(Instant::now(), |window| {
            window.unsendable(trip.out.index, &trip.out.rest, &error, Instant::now());
        });
    }
}

/// Whether it is this message that the broker will never take, and not the broker that is unwell.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::TooLarge | ErrorKind::InvalidMessage | ErrorKind::EmptyMessage | ErrorKind::Unsupported
    )
}

/// One outcome a message, also where the whole call failed or the driver reported too few.
fn outcomes(report: Result<millstream_core::WriteReport>, len: usize) -> Vec<WriteOutcome> {
    let mut outcomes = match report {
        Ok(report) => report.into_outcomes(),
        // It concerns all of them, so none of them is to blame, whatever it is.
        Err(error) => {
            let text = error.to_string();
            (0..len).map(|_| WriteOutcome::Failed(Error::new(ErrorKind::Unavailable, text.clone()))).collect()
        }
    };
    outcomes.resize_with(len, || {
        WriteOutcome::Unknown(Error::new(
            ErrorKind::Internal,
            "the driver reported fewer outcomes than it was given messages",
        ))
    });
    outcomes
}

fn failed(desk: &Desk, way: Way, trip: &mut Trip, error: impl std::fmt::Display) {
    let wait = trip.backoff.next();
    trip.not_before = Some(Instant::now() + wait);
    if desk.faults.set(place(way), &error) {
        tracing::error!(topic = %desk.info.topic, handler = %desk.info.handler, ?way, %error, ?wait,
            "a write failed and is tried again; its message stays unacknowledged");
    }
}

fn place(way: Way) -> Place {
    match way {
        Way::Emit => Place::Emit,
        Way::Dead => Place::DeadLetters,
        Way::Park => Place::Park,
    }
}

fn dead_letter(desk: &Desk, route: &Route, load: &DeadLoad, max: usize) -> Message {
    Dying {
        message: &load.message,
        error: &load.history.error,
        error_type: &load.history.error_type,
        class: load.class,
        origin: load.origin,
        topic: &desk.info.topic,
        group: desk.info.group.as_deref(),
        handler: &desk.info.handler,
        attempts: load.attempts,
        deliveries: load.deliveries,
        first_failure: load.history.first_failure,
        last_failure: load.history.last_failure,
        app: &route.settings.app,
        version: &route.settings.version,
        host: host(),
    }
    .into_message(&route.topic, max)
}

/// Tells the deduplication store, for those that are written.
async fn dedup(desk: &Desk, going: &mut [Trip]) {
    let Some(store) = &desk.policy.dedup else { return };
    let mut confirm = Vec::new();
    let mut release = Vec::new();
    for trip in going.iter_mut().filter(|t| t.not_before.is_none()) {
        match &mut trip.out.dedup {
            DedupStep::Confirm(reservations) => confirm.append(reservations),
            DedupStep::Release(reservations) => release.append(reservations),
        }
    }
    if !release.is_empty() {
        let again = copies(&release);
        if let Err(error) = store.release(release).await {
            tracing::debug!(topic = %desk.info.topic, %error, "reservations could not be released; trying again");
            desk.with(Instant::now(), |window| window.release_later(again));
        }
    }
    // An effect is in the world and not yet remembered: ask until it is.
    let mut backoff = Backoff::default();
    while !confirm.is_empty() {
        match store.confirm(&confirm).await {
            Ok(confirmed) => {
                desk.faults.clear(Place::Dedup);
                let lost = confirmed.iter().filter(|c| !**c).count();
                if lost > 0 {
                    tracing::warn!(topic = %desk.info.topic, lost,
                        "reservations had ended before they were confirmed: a copy may have run too");
                }
                return;
            }
            Err(error) => {
                if desk.faults.set(Place::Dedup, &error) {
                    tracing::error!(topic = %desk.info.topic, %error,
                        "handled messages cannot be confirmed as such; trying again before they are settled");
                }
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}
