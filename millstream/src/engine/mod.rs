//! The engine: the only place that knows about concurrency, order, retries and shutdown.

mod health;
mod running;
mod settings;

use std::sync::Arc;

use millstream_core::erased::{DynAdmin, DynReader, DynWriter};
use millstream_core::{OpenRequest, Result};

pub use health::{Health, SubscriptionHealth};
pub use running::{Control, Report, Running, SubscriptionReport};
pub use settings::{LeaseRenewal, Settings};

use crate::context::SubscriptionInfo;
use crate::{Handler, Policy};

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

/// A handler's run loop, erased: one box a loop, none a message.
pub(crate) trait Work: Send + Sync + 'static {}

/// Erases a handler.
pub(crate) fn work<H: Handler>(handler: H) -> Arc<dyn Work> {
    Arc::new(Loop { handler })
}

struct Loop<H> {
    handler: H,
}

impl<H: Handler> Work for Loop<H> {}

/// Checks everything that can be checked, opens all subscriptions and starts their tasks.
pub(crate) async fn start(engine: Engine, specs: Vec<Spec>) -> Result<Running> {
    running::start(engine, specs).await
}
