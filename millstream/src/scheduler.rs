//! The scheduler: subscriptions on a reader.
//!
//! It collects subscriptions, checks what can be checked without the broker, and hands them to the engine.

use std::fmt;
use std::sync::Arc;

use millstream_core::erased::{DynAdmin, DynReader};
use millstream_core::{
    Admin, ByteString, DedupScope, Durability, End, Error, ErrorKind, OpenRequest, Reader, Result, Writer,
};

use crate::context::SubscriptionInfo;
use crate::engine::{self, Engine, Spec};
use crate::subscription::{Prepared, Subscribable};
use crate::{EventRegistry, Publisher, Running, Settings};

/// Runs subscriptions on a [`Reader`]. A [`Bus`](crate::Bus) holds one; it also stands alone, to read without
/// publishing or to publish elsewhere.
///
/// `S` is the state that [`State`](crate::State) takes from.
///
/// ```no_run
/// # use millstream::{Bytes, EventRegistry, Outcome, Scheduler, Subscribe};
/// # async fn example(reader: impl millstream::core::Reader, writer: impl millstream::core::Writer) -> millstream::Result<()> {
/// async fn count(_: Bytes) -> Outcome { Ok(()) }
///
/// let running = Scheduler::new(reader, EventRegistry::new())
///     .with_writer(writer)
///     .subscribe_to("clicks", count.group("counter"))
///     .start()
///     .await?;
/// running.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "a scheduler does nothing before it is started"]
pub struct Scheduler<S = ()> {
    reader: Arc<dyn DynReader>,
    admin: Option<Arc<dyn DynAdmin>>,
    publisher: Publisher,
    settings: Settings,
    state: S,
    subscriptions: Vec<Prepared>,
    topics: Vec<ByteString>,
    /// What the plain forms of subscribing put off to the start.
    errors: Vec<Error>,
}

impl Scheduler {
    /// A scheduler on this reader, without a writer: handlers cannot publish, and dead letters need a writer of
    /// their own, `.discard_failures()`, or a driver that stores them itself.
    pub fn new(reader: impl Reader, registry: EventRegistry) -> Self {
        Self::from_dyn(Arc::new(reader), registry)
    }

    /// The same for a reader that is erased already.
    pub fn from_dyn(reader: Arc<dyn DynReader>, registry: EventRegistry) -> Self {
        Self {
            reader,
            admin: None,
            publisher: Publisher::without_writer(registry),
            settings: Settings::default(),
            state: (),
            subscriptions: Vec::new(),
            topics: Vec::new(),
            errors: Vec::new(),
        }
    }
}

impl<S> Scheduler<S> {
    /// Writes what handlers publish, dead letters and parked messages with this writer.
    pub fn with_writer(self, writer: impl Writer) -> Self {
        let publisher = Publisher::new(writer, self.registry().clone());
        self.with_publisher(publisher)
    }

    /// The same with a publisher's writer; handlers publish with its codecs, ids and limits, and messages are
    /// decoded with its codecs. Set it before subscribing.
    pub fn with_publisher(mut self, publisher: Publisher) -> Self {
        self.publisher = publisher;
        self
    }

    /// Makes topics and looks after them through this.
    pub fn with_admin(self, admin: impl Admin) -> Self {
        self.with_dyn_admin(Some(Arc::new(admin)))
    }

    pub(crate) fn with_dyn_admin(mut self, admin: Option<Arc<dyn DynAdmin>>) -> Self {
        self.admin = admin;
        self
    }

    /// Sets what concerns all subscriptions.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Gives the handlers subscribed from here on this state. Those before keep theirs.
    pub fn with_state<T: Clone + Send + Sync + 'static>(self, state: T) -> Scheduler<T> {
        Scheduler {
            reader: self.reader,
            admin: self.admin,
            publisher: self.publisher,
            settings: self.settings,
            state,
            subscriptions: self.subscriptions,
            topics: self.topics,
            errors: self.errors,
        }
    }

    /// The registry that says which topic an event is read from.
    #[must_use]
    pub fn registry(&self) -> &EventRegistry {
        self.publisher.registry()
    }

    /// Subscribes a handler to the topic of its event: the registered one, else the event's own. A mistake is
    /// reported by [`start`](Self::start).
    pub fn subscribe<A, M>(self, handler: impl Subscribable<S, A, M>) -> Self
    where
        S: Clone,
    {
        self.later(None, handler)
    }

    /// Subscribes a handler to this topic, and registers its event with it. A mistake is reported by
    /// [`start`](Self::start).
    pub fn subscribe_to<A, M>(self, topic: impl Into<ByteString>, handler: impl Subscribable<S, A, M>) -> Self
    where
        S: Clone,
    {
        self.later(Some(topic.into()), handler)
    }

    /// As [`subscribe`](Self::subscribe), and reports a mistake at once.
    ///
    /// # Errors
    /// [`EventNotFound`](ErrorKind::EventNotFound) without a topic, [`Conflict`](ErrorKind::Conflict) if topic,
    /// group and name are another subscription's, [`InvalidConfig`](ErrorKind::InvalidConfig) for options that
    /// contradict the handler, the driver or each other.
    pub fn try_subscribe<A, M>(mut self, handler: impl Subscribable<S, A, M>) -> Result<Self>
    where
        S: Clone,
    {
        let prepared = handler.prepare(self.state.clone());
        self.add(None, prepared)?;
        Ok(self)
    }

    /// As [`subscribe_to`](Self::subscribe_to), and reports a mistake at once.
    ///
    /// # Errors
    /// As [`try_subscribe`](Self::try_subscribe), and [`Conflict`](ErrorKind::Conflict) if the registry says
    /// another topic.
    pub fn try_subscribe_to<A, M>(
        mut self,
        topic: impl Into<ByteString>,
        handler: impl Subscribable<S, A, M>,
    ) -> Result<Self>
    where
        S: Clone,
    {
        let prepared = handler.prepare(self.state.clone());
        self.add(Some(topic.into()), prepared)?;
        Ok(self)
    }

    fn later<A, M>(mut self, topic: Option<ByteString>, handler: impl Subscribable<S, A, M>) -> Self
    where
        S: Clone,
    {
        let prepared = handler.prepare(self.state.clone());
        if let Err(error) = self.add(topic, prepared) {
            self.errors.push(error);
        }
        self
    }

    /// Checks a subscription against the registry, the driver and the others, and keeps it.
    fn add(&mut self, topic: Option<ByteString>, mut prepared: Prepared) -> Result<()> {
        let topic = match topic {
            Some(topic) => {
                self.publisher.limits().check_topic(&topic)?;
                (prepared.register)(self.registry(), &topic)?;
                topic
            }
            None => (prepared.own_topic)(self.registry())?,
        };
        let capabilities = self.reader.capabilities();
        if prepared.options.group.is_none()
            && capabilities.groups
            && !capabilities.group_required
            && prepared.options.end == End::Never
        {
            // Its progress ends with the process, so a name that moves on a rename does no harm; without a group
            // nobody would ever be done with a message, and the topic would fill up. With an end it is a replay,
            // which leaves no trace.
            prepared.options.group = Some(prepared.name.clone());
        }
        let locate = |error: Error| match &prepared.options.group {
            Some(group) => error.topic(&*topic).group(group),
            None => error.topic(&*topic),
        };
        if prepared.options.group.is_none() && capabilities.group_required {
            return Err(locate(
                Error::new(
                    ErrorKind::InvalidConfig,
                    format!(
                        "the handler `{}` has no group, and this driver keeps progress by it",
                        prepared.name
                    ),
                )
                .fix("name one that stays when code is renamed: `handler.group(\"…\")`"),
            ));
        }
        if prepared.options.group.as_deref() == Some("") {
            return Err(locate(
                Error::new(ErrorKind::InvalidConfig, "the group's name is empty")
                    .fix("name one, or leave it out"),
            ));
        }
        let twin = self.subscriptions.iter().zip(&self.topics).find(|(other, at)| {
            **at == topic && other.options.group == prepared.options.group && other.name == prepared.name
        });
        if twin.is_some() {
            return Err(locate(
                Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "the handler `{}` is subscribed twice with the same topic and group",
                        prepared.name
                    ),
                )
                .fix("remove one, raise `.concurrency(…)` instead, or give it another group or `.named(…)`"),
            ));
        }
        prepared.options.policy.check().map_err(locate)?;
        let located = prepared.settle_batch();
        if let Err(error) = located {
            return Err(error.topic(&*topic));
        }
        self.warn_of_narrow_dedup(&topic, &prepared);
        self.topics.push(topic);
        self.subscriptions.push(prepared);
        Ok(())
    }

    fn warn_of_narrow_dedup(&self, topic: &str, prepared: &Prepared) {
        let Some(store) = &prepared.options.policy.dedup else { return };
        // A broker whose messages outlive this process can have other members of the group elsewhere.
        let wider = self.reader.capabilities().durability != Durability::Process;
        if store.scope() == DedupScope::Process && wider {
            tracing::warn!(
                topic,
                group = prepared.options.group.as_deref(),
                handler = %prepared.name,
                "the deduplication store is this process's alone: duplicates that reach another member of the \
                 group, or come after a restart, are not recognised"
            );
        }
    }

    /// Checks, opens all subscriptions and starts them.
    ///
    /// # Errors
    /// The first mistake that subscribing put off; [`NoSubscriberRegistered`](ErrorKind::NoSubscriberRegistered)
    /// without a subscription; what the driver refuses.
    pub async fn start(self) -> Result<Running> {
        self.launch().await.map(Running::new)
    }

    pub(crate) async fn launch(self) -> Result<engine::Running> {
        let mut errors = self.errors.into_iter();
        if let Some(first) = errors.next() {
            for other in errors {
                tracing::error!(error = %other, "this subscription is wrong, too");
            }
            return Err(first);
        }
        if self.subscriptions.is_empty() {
            return Err(Error::new(ErrorKind::NoSubscriberRegistered, "there is no subscription to start")
                .fix("call `.subscribe(handler)` first"));
        }
        let specs = self
            .subscriptions
            .into_iter()
            .zip(self.topics)
            .map(|(prepared, topic)| spec(prepared, topic, &self.publisher))
            .collect();
        let engine = Engine {
            reader: self.reader,
            writer: self.publisher.writer().cloned(),
            admin: self.admin,
            settings: self.settings,
        };
        engine::start(engine, specs).await
    }
}

fn spec(prepared: Prepared, topic: ByteString, publisher: &Publisher) -> Spec {
    let options = prepared.options;
    let info = SubscriptionInfo {
        topic: topic.clone(),
        group: options.group.clone(),
        handler: prepared.name,
        max_attempts: options.policy.retry.max_attempts(),
        codecs: publisher.codecs().clone(),
        other_types: options.policy.other_types,
        publisher: publisher.clone(),
    };
    let mut open = OpenRequest::new(topic).start(options.start).end(options.end);
    open.group = options.group;
    open.args = options.args;
    Spec { info: Arc::new(info), policy: options.policy, open, work: prepared.work }
}

impl<S> fmt::Debug for Scheduler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("settings", &self.settings)
            .field("subscriptions", &self.subscriptions)
            .finish_non_exhaustive()
    }
}
