//! What is wrong with a subscription right now, by place: set when something fails, cleared when it works
//! again. Health reads it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Where something can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    DeadLetters,
    Park,
    Emit,
    Settling,
    Reading,
    Dedup,
    Leases,
    Marks,
    Stuck,
    Task,
}

impl Place {
    /// Whether the subscription cannot do its work while this lasts.
    fn is_red(self) -> bool {
        !matches!(self, Self::Stuck | Self::Leases)
    }

    fn what(self) -> &'static str {
        match self {
            Self::DeadLetters => "the dead-letter target cannot be written",
            Self::Park => "the park cannot be written",
            Self::Emit => "handlers' messages cannot be written",
            Self::Settling => "settlements fail",
            Self::Reading => "the topic cannot be read",
            Self::Dedup => "the deduplication store cannot be asked",
            Self::Leases => "leases cannot be extended",
            Self::Marks => "notes cannot be stored",
            Self::Stuck => "a blocking handler is past its timeout",
            Self::Task => "a task of the scheduler ended",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    now: Mutex<BTreeMap<Place, String>>,
}

impl Faults {
    /// Something is wrong here. Says whether that is news.
    pub(super) fn set(&self, place: Place, why: impl std::fmt::Display) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.insert(place, why.to_string()).is_none()
    }

    /// It works again. Says whether that is news.
    pub(super) fn clear(&self, place: Place) -> bool {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).remove(&place).is_some()
    }

    /// Whether the work can be done, and what is wrong.
    pub(super) fn read(&self) -> (bool, Vec<String>) {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = !now.keys().any(|p| p.is_red());
        (ready, now.iter().map(|(place, why)| format!("{}: {why}", place.what())).collect())
    }

    pub(super) fn has(&self, place: Place) -> bool {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&place)
    }
}
