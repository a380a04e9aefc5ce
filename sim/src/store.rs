//! A deduplication store that all processes of a world share and that outlives them, as a database does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::{
    DedupKey, DedupScope, DedupStore, Effect, Error, ErrorKind, Reservation, Reserve, Result,
};
use millstream_testkit::sim::{Control, SimEffect};
use tokio::time::{Instant, sleep};

use crate::link::Link;
use crate::planted::Defect;

/// What the store keeps.
#[derive(Debug)]
pub(crate) struct Shelf {
    state: Mutex<State>,
    control: Control,
    defect: Option<Defect>,
}

#[derive(Debug, Default)]
struct State {
    confirmed: BTreeMap<Key, u64>,
    reserved: BTreeMap<Key, Reserved>,
    owners: u64,
    down: bool,
    /// Calls that met it down.
    struck: u64,
}

type Key = (ByteString, ByteString);

#[derive(Debug)]
struct Reserved {
    owner: u64,
    until: Instant,
    since: Instant,
}

impl Shelf {
    pub(crate) fn new(control: Control, defect: Option<Defect>) -> Self {
        Self { state: Mutex::default(), control, defect }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_down(&self, down: Down) {
        self.lock().down = down == Down::Yes;
    }

    pub(crate) fn struck(&self) -> u64 {
        self.lock().struck
    }

    /// Reservations made since then that are still there.
    pub(crate) fn reserved_since(&self, then: Instant) -> usize {
        let left = |(key, reserved): &(&Key, &Reserved)| reserved.since >= then && !self.committed(key);
        self.lock().reserved.iter().filter(left).count()
    }

    /// Whether the broker committed that this was handled.
    fn committed(&self, key: &Key) -> bool {
        self.control.effect_count(&entry_name(key)) > 0
    }

    fn bug(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }
}

/// Whether the store is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    Yes,
    No,
}

/// How a store's entry is called that commits with an acknowledgement.
fn entry_name(key: &Key) -> String {
    format!("entry|{}|{}", key.0, key.1)
}

/// The store as one process reaches it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) link: Arc<Link>,
    /// Whether entries commit with the broker's transactions.
    pub(crate) in_transaction: bool,
}

impl Store {
    async fn reach(&self) -> Result<()> {
        sleep(Duration::from_micros(300)).await;
        // A dead process reaches nothing. Else a cut link does not matter: it leads to the broker.
        if self.link.is_dead() {
            std::future::pending::<()>().await;
        }
        let mut state = self.shelf.lock();
        if state.down {
            state.struck += 1;
            return Err(Error::new(ErrorKind::Unavailable, "the store is down"));
        }
        Ok(())
    }
}

impl DedupStore for Store {
    fn scope(&self) -> DedupScope {
        DedupScope::Cluster
    }

    fn window(&self) -> Option<Duration> {
        None
    }

    async fn reserve(&self, keys: Vec<DedupKey>, lease: Duration) -> Result<Vec<Reserve>> {
        self.reach().await?;
        let (shelf, now) = (&self.shelf, Instant::now());
        let mut answers = Vec::with_capacity(keys.len());
        for wanted in keys {
            let group = if shelf.bug(Defect::StoreMixesGroups) { "all".into() } else { wanted.group.clone() };
            let key = (group, wanted.id.clone());
            let mut state = shelf.lock();
            let known = state.confirmed.contains_key(&key) && !shelf.bug(Defect::StoreForgets);
            if known || shelf.committed(&key) {
                answers.push(Reserve::Duplicate);
                continue;
            }
            let busy =
                state.reserved.get(&key).filter(|reserved| reserved.until > now).map(|r| r.until - now);
            if let Some(wait) = busy.filter(|_| !shelf.bug(Defect::StoreLetsCopiesRun)) {
                answers.push(Reserve::Busy(wait));
                continue;
            }
            state.owners += 1;
            let owner = state.owners;
            if shelf.bug(Defect::StoreConfirmsEarly) {
                state.confirmed.insert(key.clone(), owner);
            }
            state.reserved.insert(key, Reserved { owner, until: now + lease, since: now });
            answers.push(Reserve::Reserved(Reservation { key: wanted, owner }));
        }
        Ok(answers)
    }

    async fn confirm(&self, done: &[Reservation]) -> Result<Vec<bool>> {
        self.reach().await?;
        let mut state = self.shelf.lock();
        let mut told = Vec::with_capacity(done.len());
        for reservation in done {
            let group = if self.shelf.bug(Defect::StoreMixesGroups) {
                "all".into()
            } else {
                reservation.key.group.clone()
            };
            let key = (group, reservation.key.id.clone());
            if let Some(owner) = state.confirmed.get(&key) {
                told.push(*owner == reservation.owner);
                if state.reserved.get(&key).is_some_and(|reserved| reserved.owner == reservation.owner) {
                    state.reserved.remove(&key);
                }
                continue;
            }
            let ours = state.reserved.get(&key).is_some_and(|reserved| reserved.owner == reservation.owner);
            if ours {
                state.reserved.remove(&key);
                state.confirmed.insert(key, reservation.owner);
            }
            told.push(ours);
        }
        Ok(told)
    }

    async fn release(&self, failed: Vec<Reservation>) -> Result<()> {
        self.reach().await?;
        if self.shelf.bug(Defect::StoreNeverReleases) {
            return Ok(());
        }
        let mut state = self.shelf.lock();
        for reservation in failed {
            let key = (reservation.key.group, reservation.key.id);
            if state.reserved.get(&key).is_some_and(|reserved| reserved.owner == reservation.owner) {
                state.reserved.remove(&key);
            }
        }
        Ok(())
    }

    async fn contains(&self, key: &DedupKey) -> Result<bool> {
        let key = (key.group.clone(), key.id.clone());
        Ok(self.shelf.lock().confirmed.contains_key(&key) || self.shelf.committed(&key))
    }

    fn confirm_as_effect(&self, reservation: &Reservation) -> Option<Effect> {
        let key = (reservation.key.group.clone(), reservation.key.id.clone());
        self.in_transaction.then(|| Effect::new(SimEffect::new(entry_name(&key))))
    }
}
