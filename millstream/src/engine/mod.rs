//! The engine: the only place that knows about concurrency, order, retries and shutdown.

mod backoff;
mod clock;
mod desk;
mod faults;
mod gauges;
mod health;
mod leases;
mod open;
mod outbound;
mod park;
mod pump;
mod reserving;
mod running;
mod settings;
mod settling;
mod slots;
mod suspicion;
#[cfg(test)]
mod tests;
mod window;
mod woken;
mod work;

use std::sync::Arc;

use millstream_core::erased::{DynAdmin, DynReader, DynWriter};
use millstream_core::{OpenRequest, Result};

pub use health::{Health, SubscriptionHealth};
pub(crate) use running::Running;
pub use running::{Control, Report, SubscriptionReport};
pub use settings::{LeaseRenewal, Settings, TimeSource};
pub(crate) use work::{Work, work};

use crate::Policy;
use crate::context::SubscriptionInfo;

/// What the engine works on.
pub(crate) struct Engine {
    pub(crate) reader: Arc<dyn DynReader>,
    /// For emitted messages, dead letters and parks; none if the scheduler was made of a reader alone.
    pub(crate) writer: Option<Arc<dyn DynWriter>>,
    pub(crate) admin: Option<Arc<dyn DynAdmin>>,
    pub(crate) settings: Settings,
}

/// A subscription, ready to run: what the builders make and the scheduler takes.
pub(crate) struct Spec {
    /// What handlers see of it.
    pub(crate) info: Arc<SubscriptionInfo>,
    /// What to do with its messages.
    pub(crate) policy: Policy,
    /// What to open.
    pub(crate) open: OpenRequest,
    /// The handler with its layers, erased.
    pub(crate) work: Arc<dyn Work>,
}

/// Checks everything that can be checked, opens all subscriptions and starts their tasks.
pub(crate) async fn start(engine: Engine, specs: Vec<Spec>) -> Result<Running> {
    running::start(engine, specs).await
}
