//! A deduplication store against a model: any sequence of steps must be answered as the model answers it.
//!
//! The model is a list of handled ids, oldest first, and a table of reservations. The steps come from the caller, for
//! example from `proptest`, so that a failure shrinks to the few that matter.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use millstream_core::erased::DynDedupStore;
use millstream_core::{DedupKey, Reservation, Reserve};
use tokio::time::Instant;

/// Something that is done to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Asks for these ids at once, each named by a number.
    Reserve {
        /// The ids; one that is named twice meets its own reservation.
        ids: Vec<u8>,
        /// How long.
        lease: Duration,
    },
    /// Confirms the reservation of this number, of all that were ever made; again is fine.
    Confirm(usize),
    /// Gives the reservation of this number back; again does nothing.
    Release(usize),
    /// Looks whether an id was handled.
    Contains(u8),
    /// Lets time pass, on a clock that is paused.
    Time(Duration),
}

/// What bounds a store.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Entries at most, reservations among them; none: no bound.
    pub entries: Option<usize>,
    /// How long a handled id is remembered; none: longer than the steps take.
    pub window: Option<Duration>,
}

/// The store as it is meant to be.
struct Model {
    bounds: Bounds,
    handled: VecDeque<(u8, u64, Instant)>,
    reserved: BTreeMap<u8, (u64, Instant)>,
}

/// What the model says to a wish.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Free,
    Duplicate,
    Busy,
}

impl Model {
    fn forget(&mut self, now: Instant) {
        let Some(window) = self.bounds.window else { return };
        self.handled.retain(|(_, _, at)| *at + window > now);
    }

    fn is_handled(&self, id: u8) -> bool {
        self.handled.iter().any(|(handled, ..)| *handled == id)
    }

    fn reserve(&mut self, id: u8, now: Instant) -> Expected {
        if self.is_handled(id) {
            return Expected::Duplicate;
        }
        match self.reserved.get(&id) {
            Some((_, until)) if *until > now => return Expected::Busy,
            // Its lease is over: it changes hands.
            Some(_) => return Expected::Free,
            None => {}
        }
        let Some(entries) = self.bounds.entries else { return Expected::Free };
        if self.handled.len() + self.reserved.len() >= entries && self.handled.pop_front().is_none() {
            // Nothing but reservations: only those that are over make room.
            self.reserved.retain(|_, (_, until)| *until > now);
            if self.reserved.len() >= entries {
                return Expected::Busy;
            }
        }
        Expected::Free
    }

    fn confirm(&mut self, id: u8, owner: u64, now: Instant) -> bool {
        if let Some((_, by, _)) = self.handled.iter().find(|(handled, ..)| *handled == id) {
            return *by == owner;
        }
        if self.reserved.get(&id).is_none_or(|(by, _)| *by != owner) {
            return false;
        }
        self.reserved.remove(&id);
        self.handled.push_back((id, owner, now));
        true
    }

    fn release(&mut self, id: u8, owner: u64) {
        if self.reserved.get(&id).is_some_and(|(by, _)| *by == owner) {
            self.reserved.remove(&id);
        }
    }
}

fn key(id: u8) -> DedupKey {
    DedupKey { group: "g".into(), id: format!("id {id}").into() }
}

/// Does the steps to a store that is empty, and compares every answer with the model's.
///
/// # Errors
/// The first that differs, or that the store gives.
pub async fn check(store: &dyn DynDedupStore, bounds: Bounds, steps: &[Step]) -> Result<(), String> {
    let mut model = Model { bounds, handled: VecDeque::new(), reserved: BTreeMap::new() };
    let mut made: Vec<(u8, u64)> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let now = Instant::now();
        model.forget(now);
        let told = one(store, &mut model, &mut made, step, now).await;
        told.map_err(|what| format!("step {number}, {step:?}: {what}"))?;
    }
    Ok(())
}

async fn one(
    store: &dyn DynDedupStore,
    model: &mut Model,
    made: &mut Vec<(u8, u64)>,
    step: &Step,
    now: Instant,
) -> Result<(), String> {
    let failed = |error: millstream_core::Error| error.to_string();
    match step {
        Step::Reserve { ids, lease } => {
            let wanted = ids.iter().map(|id| key(*id)).collect();
            let answers = store.reserve(wanted, *lease).await.map_err(failed)?;
            if answers.len() != ids.len() {
                return Err(format!("{} answers", answers.len()));
            }
            for (id, answer) in ids.iter().zip(answers) {
                let expected = model.reserve(*id, now);
                let told = match &answer {
                    Reserve::Reserved(_) => Expected::Free,
                    Reserve::Duplicate => Expected::Duplicate,
                    Reserve::Busy(_) => Expected::Busy,
                };
                if told != expected {
                    return Err(format!("{id} is {answer:?}, and should be {expected:?}"));
                }
                if let Reserve::Reserved(reservation) = answer {
                    if made.iter().any(|(_, owner)| *owner == reservation.owner) {
                        return Err(format!("two reservations share the number {}", reservation.owner));
                    }
                    made.push((*id, reservation.owner));
                    model.reserved.insert(*id, (reservation.owner, now + *lease));
                }
            }
        }
        Step::Confirm(which) if !made.is_empty() => {
            let (id, owner) = made[which % made.len()];
            let told = store.confirm(&[Reservation { key: key(id), owner }]).await.map_err(failed)?;
            let expected = model.confirm(id, owner, now);
            if told != [expected] {
                return Err(format!("confirming {id} gave {told:?}, and should give {expected}"));
            }
        }
        Step::Release(which) if !made.is_empty() => {
            let (id, owner) = made[which % made.len()];
            store.release(vec![Reservation { key: key(id), owner }]).await.map_err(failed)?;
            model.release(id, owner);
        }
        Step::Confirm(_) | Step::Release(_) => {}
        Step::Contains(id) => {
            let (told, expected) = (store.contains(&key(*id)).await.map_err(failed)?, model.is_handled(*id));
            if told != expected {
                return Err(format!("that {id} was handled is said to be {told}"));
            }
        }
        Step::Time(time) => tokio::time::advance(*time).await,
    }
    Ok(())
}
