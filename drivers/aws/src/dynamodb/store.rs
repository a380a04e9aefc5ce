//! The store: reserve, confirm, release, each a conditional change of an item.

use std::time::Duration;

use millstream_core::{
    DedupKey, DedupScope, DedupStore, Effect, Error, ErrorKind, Reservation, Reserve, Result,
};
use tokio::sync::oneshot;

use super::client::{Table, Told};
use super::item::{self, Deed, State, Step};
use crate::aws::Aws;
use crate::create::Create;

/// Remembers in a table of DynamoDB which messages were handled: every host that uses the table knows it. Cloning shares
/// it.
///
/// An id that was handled is remembered for the window. A reservation ends with its lease. Leases are compared by the
/// clocks of those who ask: these may differ by much less than a lease. Items that the Go toolkit wrote to the same table
/// count as handled.
///
/// It is a store beside the database: a process that dies between its effect and the confirmation has the effect twice.
///
/// ```no_run
/// # async fn example() -> millstream_core::Result<()> {
/// use std::time::Duration;
/// use millstream_aws::{Aws, DynamoDedupStore};
///
/// let aws = Aws::builder().connect().await?;
/// let week = Duration::from_secs(7 * 24 * 3600);
/// let store = DynamoDedupStore::builder(&aws, "handled-messages", week).open().await?;
/// // bus.subscribe(send_welcome_email.group("welcome-email").deduplicate(store))
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DynamoDedupStore {
    table: Table,
}

/// Describes a store.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it opens"]
pub struct DynamoDedupStoreBuilder {
    table: Table,
    create: Create,
}

impl DynamoDedupStoreBuilder {
    /// What happens to a table that is not there. Default: it is made, paid by request, with its time to live turned on.
    pub fn create(mut self, create: Create) -> Self {
        self.create = create;
        self
    }

    /// Looks for the table, and makes it if that is wanted.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if it is not there, [`InvalidConfig`](ErrorKind::InvalidConfig) if its key is
    /// another, [`Denied`](ErrorKind::Denied) for lack of rights, else if DynamoDB cannot be asked.
    pub async fn open(self) -> Result<DynamoDedupStore> {
        let Self { table, create } = self;
        if table.window < Duration::from_secs(1) {
            return Err(Error::new(ErrorKind::InvalidConfig, "the window is shorter than a second")
                .fix("remember ids for as long as a message may come again, redriven ones too"));
        }
        let store = DynamoDedupStore { table };
        store.ensure(create).await?;
        Ok(store)
    }
}

impl DynamoDedupStore {
    /// Starts to describe a store in this table, which remembers a handled id for `window`.
    pub fn builder(aws: &Aws, table: impl Into<String>, window: Duration) -> DynamoDedupStoreBuilder {
        DynamoDedupStoreBuilder { table: Table::new(aws, table.into(), window), create: Create::default() }
    }

    /// Sees that the table is there, and makes it if it is not; says whether it was made now. It has the partition key
    /// `worker_id` and the sort key `message_id`, both strings, and forgets by `expiration_time`.
    ///
    /// # Errors
    /// As [`open`](DynamoDedupStoreBuilder::open).
    pub async fn ensure_table(&self) -> Result<bool> {
        self.ensure(Create::Missing).await
    }

    async fn ensure(&self, create: Create) -> Result<bool> {
        let table = self.table.clone();
        self.table.on_io(Box::pin(async move { table.ensure(create).await })).await?
    }
}

/// Reserves what is free; what was reserved when an error came is given back.
async fn reserve(table: &Table, keys: Vec<DedupKey>, lease: Duration) -> Result<Vec<Reserve>> {
    let deed = Deed::Reserve { lease };
    let steps: Vec<_> = keys.into_iter().map(|key| Step { key, owner: fastrand::u64(1..), deed }).collect();
    let told = table.take(&steps, "the id cannot be reserved").await;
    let now = item::now();
    let mut answers = Vec::with_capacity(steps.len());
    let mut failed = None;
    for (Step { key, owner, .. }, told) in steps.into_iter().zip(told) {
        let reserved = |key| Reserve::Reserved(Reservation { key, owner });
        answers.push(match told {
            Ok(Told::Done) => reserved(key),
            Ok(Told::Held(item)) => match item::state(item.as_ref(), now) {
                State::Handled => Reserve::Duplicate,
                // Its own trace, of an attempt whose answer was lost.
                State::Reserved { owner: Some(holder), .. } if holder == owner => reserved(key),
                State::Reserved { left, .. } => Reserve::Busy(left.max(Duration::from_millis(1))),
                // It has ended since.
                State::Free => Reserve::Busy(Duration::from_millis(1)),
            },
            Err(error) => {
                failed.get_or_insert(error);
                // Perhaps it is reserved all the same.
                reserved(key)
            }
        });
    }
    match failed {
        None => Ok(answers),
        Some(error) => {
            give_back(table, answers).await;
            Err(error)
        }
    }
}

/// Gives back what nobody will run. If that fails, the leases free it.
async fn give_back(table: &Table, answers: Vec<Reserve>) {
    let reserved = answers.into_iter().filter_map(|answer| match answer {
        Reserve::Reserved(reservation) => Some(reservation),
        _ => None,
    });
    if let Err(error) = release(table, reserved.collect()).await {
        tracing::debug!(table = table.name, %error, "reservations are left to their leases");
    }
}

async fn release(table: &Table, failed: Vec<Reservation>) -> Result<()> {
    let steps: Vec<_> = failed.iter().map(|one| step(one, Deed::Release)).collect();
    table.take(&steps, "the id cannot be given back").await.into_iter().try_for_each(|told| told.map(drop))
}

fn step(reservation: &Reservation, deed: Deed) -> Step {
    Step { key: reservation.key.clone(), owner: reservation.owner, deed }
}

impl DedupStore for DynamoDedupStore {
    fn scope(&self) -> DedupScope {
        DedupScope::Cluster
    }

    fn window(&self) -> Option<Duration> {
        Some(self.table.window)
    }

    async fn reserve(&self, keys: Vec<DedupKey>, lease: Duration) -> Result<Vec<Reserve>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (told, tells) = oneshot::channel();
        let table = self.table.clone();
        let reserving = self.table.on_io(async move {
            // Whoever asked may not wait any more: then nobody would give it back.
            if let Err(Ok(unheard)) = told.send(reserve(&table, keys, lease).await) {
                give_back(&table, unheard).await;
            }
        });
        reserving.await?;
        tells
            .await
            .map_err(|_| Error::new(ErrorKind::Internal, "a reservation was not answered").fix("report it"))?
    }

    async fn confirm(&self, done: &[Reservation]) -> Result<Vec<bool>> {
        let steps: Vec<_> = done.iter().map(|one| step(one, Deed::Confirm)).collect();
        let table = self.table.clone();
        let told = self.table.on_io(async move { table.take(&steps, "the id cannot be confirmed").await });
        told.await?.into_iter().map(|told| told.map(|told| matches!(told, Told::Done))).collect()
    }

    async fn release(&self, failed: Vec<Reservation>) -> Result<()> {
        let table = self.table.clone();
        self.table.on_io(async move { release(&table, failed).await }).await?
    }

    async fn contains(&self, key: &DedupKey) -> Result<bool> {
        let (table, key) = (self.table.clone(), key.clone());
        let item = self.table.on_io(async move { table.read(&key).await }).await??;
        Ok(item::state(item.as_ref(), item::now()) == State::Handled)
    }

    fn confirm_as_effect(&self, _: &Reservation) -> Option<Effect> {
        None
    }
}
