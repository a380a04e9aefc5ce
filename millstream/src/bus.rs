//! The bus: publisher, scheduler and registry in one.

use std::fmt;
use std::sync::Arc;

use millstream_core::erased::DynAdmin;
use millstream_core::{ByteString, Connection, Event, Message, Reader, Result, WriteReport, Writer};

use crate::subscription::Subscribable;
use crate::{
    DeadLetters, Drivers, EventRegistry, PublishOptions, Publisher, Report, Running, Scheduler, Settings,
};

/// Publisher, scheduler and registry: what most programs use. `S` is the state that handlers take from.
///
/// Publish through it before it runs, through [`publisher`](Self::publisher) at any time.
#[must_use = "subscriptions do nothing before the bus is started"]
pub struct Bus<S = ()> {
    publisher: Publisher,
    admin: Option<Arc<dyn DynAdmin>>,
    scheduler: Scheduler<S>,
}

impl Bus {
    /// A bus on any writer and reader: they need not be of one driver.
    pub fn new(writer: impl Writer, reader: impl Reader) -> Self {
        Self::from_connection(Connection::new(reader, writer))
    }

    /// A bus on what a driver connected.
    pub fn from_connection(connection: Connection) -> Self {
        let registry = EventRegistry::new();
        let publisher = Publisher::from_dyn(connection.writer, registry.clone());
        let scheduler = Scheduler::from_dyn(connection.reader, registry)
            .with_publisher(publisher.clone())
            .with_dyn_admin(connection.admin.clone());
        Self { publisher, admin: connection.admin, scheduler }
    }

    /// Connects by a URL, whose scheme chooses the driver: `memory://`, …
    ///
    /// # Errors
    /// As [`Drivers::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(&Drivers::built_in(), url).await
    }

    /// The same with drivers of your choice.
    ///
    /// # Errors
    /// As [`Drivers::connect`].
    pub async fn connect_with(drivers: &Drivers, url: &str) -> Result<Self> {
        Ok(Self::from_connection(drivers.connect(url).await?))
    }
}

impl<S> Bus<S> {
    /// Sets what concerns all subscriptions: drain time, the program's name, …
    pub fn settings(mut self, settings: Settings) -> Self {
        self.scheduler = self.scheduler.settings(settings);
        self
    }

    /// Changes how it publishes, here and in handlers: codecs, ids, limits. The codecs decode, too.
    ///
    /// ```
    /// # async fn example() -> millstream::Result<()> {
    /// use millstream::{Bus, IdFactory};
    /// let bus = Bus::connect("memory://").await?.configure_publisher(|p| p.with_ids(IdFactory::uuid_v4()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn configure_publisher(mut self, configure: impl FnOnce(Publisher) -> Publisher) -> Self {
        self.publisher = configure(self.publisher);
        self.scheduler = self.scheduler.with_publisher(self.publisher.clone());
        self
    }

    /// Gives the handlers subscribed from here on this state. Those before keep theirs.
    pub fn with_state<T: Clone + Send + Sync + 'static>(self, state: T) -> Bus<T> {
        Bus { publisher: self.publisher, admin: self.admin, scheduler: self.scheduler.with_state(state) }
    }

    /// Publishes; cloning it is cheap, and it goes on working while the bus runs.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Which event goes to which topic.
    #[must_use]
    pub fn registry(&self) -> &EventRegistry {
        self.publisher.registry()
    }

    /// The dead letters of a topic, where the driver can list them.
    #[must_use]
    pub fn dead_letters(&self, topic: impl Into<ByteString>) -> DeadLetters {
        DeadLetters::new(topic, self.admin.clone(), self.publisher.clone())
    }

    /// Looks into the broker, where the driver can.
    #[must_use]
    pub fn admin(&self) -> Option<&Arc<dyn DynAdmin>> {
        self.admin.as_ref()
    }

    /// As [`Publisher::publish`].
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub fn publish<E: Event>(&self, event: &E) -> impl Future<Output = Result<()>> + Send {
        self.publisher.publish(event)
    }

    /// As [`Publisher::publish_to`].
    ///
    /// # Errors
    /// As [`Publisher::publish_to`].
    pub fn publish_to<E: Event>(
        &self,
        topic: impl Into<ByteString>,
        event: &E,
    ) -> impl Future<Output = Result<()>> + Send {
        self.publisher.publish_to(topic, event)
    }

    /// As [`Publisher::publish_with`].
    ///
    /// # Errors
    /// As [`Publisher::publish_with`].
    pub fn publish_with<E: Event>(
        &self,
        event: &E,
        options: PublishOptions,
    ) -> impl Future<Output = Result<()>> + Send {
        self.publisher.publish_with(event, options)
    }

    /// As [`Publisher::publish_all`].
    ///
    /// # Errors
    /// As [`Publisher::publish_all`].
    pub fn publish_all<'a, E: Event>(
        &self,
        events: impl IntoIterator<Item = &'a E>,
    ) -> impl Future<Output = Result<WriteReport>> + Send {
        self.publisher.publish_all(events)
    }

    /// As [`Publisher::publish_message`].
    ///
    /// # Errors
    /// As [`Publisher::publish_message`].
    pub fn publish_message(&self, message: Message) -> impl Future<Output = Result<()>> + Send {
        self.publisher.publish_message(message)
    }

    /// As [`Publisher::publish_messages`].
    ///
    /// # Errors
    /// As [`Publisher::publish_messages`].
    pub fn publish_messages(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> impl Future<Output = Result<WriteReport>> + Send {
        self.publisher.publish_messages(messages)
    }

    /// As [`Scheduler::subscribe`].
    pub fn subscribe<A, M>(mut self, handler: impl Subscribable<S, A, M>) -> Self
    where
        S: Clone,
    {
        self.scheduler = self.scheduler.subscribe(handler);
        self
    }

    /// As [`Scheduler::subscribe_to`].
    pub fn subscribe_to<A, M>(
        mut self,
        topic: impl Into<ByteString>,
        handler: impl Subscribable<S, A, M>,
    ) -> Self
    where
        S: Clone,
    {
        self.scheduler = self.scheduler.subscribe_to(topic, handler);
        self
    }

    /// As [`Scheduler::try_subscribe`].
    ///
    /// # Errors
    /// As [`Scheduler::try_subscribe`].
    pub fn try_subscribe<A, M>(mut self, handler: impl Subscribable<S, A, M>) -> Result<Self>
    where
        S: Clone,
    {
        self.scheduler = self.scheduler.try_subscribe(handler)?;
        Ok(self)
    }

    /// As [`Scheduler::try_subscribe_to`].
    ///
    /// # Errors
    /// As [`Scheduler::try_subscribe_to`].
    pub fn try_subscribe_to<A, M>(
        mut self,
        topic: impl Into<ByteString>,
        handler: impl Subscribable<S, A, M>,
    ) -> Result<Self>
    where
        S: Clone,
    {
        self.scheduler = self.scheduler.try_subscribe_to(topic, handler)?;
        Ok(self)
    }

    /// Starts all subscriptions. [`Running::shutdown`] ends them and closes the writer.
    ///
    /// # Errors
    /// As [`Scheduler::start`].
    pub async fn start(self) -> Result<Running> {
        Ok(Running::new(self.scheduler.launch().await?).closing(self.publisher))
    }

    /// Starts, runs until `stop` is ready or every subscription came to its end, and shuts down.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn run_until(self, stop: impl Future) -> Result<Report> {
        let running = self.start().await?;
        tokio::select! {
            _ = stop => {}
            () = running.ended() => {}
        }
        Ok(running.shutdown().await)
    }

    /// Starts, and runs until SIGINT or SIGTERM; then shuts down in order. A second signal ends it at once: what
    /// runs is abandoned, and delivered again.
    ///
    /// # Errors
    /// As [`start`](Self::start), and [`Io`](crate::ErrorKind::Io) if signals cannot be watched.
    pub async fn run(self) -> Result<()> {
        let mut signals = crate::signals::Signals::watch()?;
        let running = self.start().await?;
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "shutting down; a second signal ends it now"),
            () = running.ended() => {}
        }
        let control = running.control();
        let mut shutdown = std::pin::pin!(running.shutdown());
        let report = tokio::select! {
            report = &mut shutdown => report,
            name = signals.next() => {
                tracing::warn!(signal = name, "ending now: what runs is abandoned");
                control.abort();
                shutdown.await
            }
        };
        log(&report);
        Ok(())
    }

    /// Closes a bus that was not started: waits until all that was published is confirmed, and closes the writer.
    ///
    /// # Errors
    /// If something is not confirmed.
    pub async fn close(self) -> Result<()> {
        self.publisher.close().await
    }
}

fn log(report: &Report) {
    for one in &report.subscriptions {
        let group = one.group.as_deref();
        if report.is_clean() {
            tracing::info!(topic = one.topic, group, handler = one.handler, handled = one.handled, "ended");
        } else {
            tracing::warn!(
                topic = one.topic,
                group,
                handler = one.handler,
                handled = one.handled,
                abandoned = one.abandoned,
                errors = ?one.errors,
                "ended with something left: it is delivered again"
            );
        }
    }
}

impl<S> fmt::Debug for Bus<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("publisher", &self.publisher).field("scheduler", &self.scheduler).finish()
    }
}
