//! Publishing: events in, messages out to a writer.
//!
//! A [`Publisher`] gives a message its id, its bytes, its headers and its time, refuses what no driver should
//! see, and splits what a writer takes in parts. It holds no queue and repeats nothing: what it says of a
//! message is what became of it.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use metrics::{Counter, counter};
use millstream_core::erased::DynWriter;
use millstream_core::event::Format as _;
use millstream_core::{
    ByteString, Codecs, Error, ErrorKind, Event, Headers, Limits, Message, Result, WriteNow, WriteOutcome,
    WriteReport, Writer, WriterCapabilities, names,
};
use tracing::{Instrument, Span};

use crate::context::{Context, Held};
use crate::{EventRegistry, IdFactory};

/// Publishes events and messages to a [`Writer`]. Cloning shares the writer.
///
/// As an extractor of a handler it holds what is published until the handler succeeds, and it leaves with the
/// acknowledgement: a failed attempt publishes nothing. [`publish_now`](Self::publish_now) does not wait. Code
/// that takes a `Publisher` works with both.
///
/// A publish whose future is dropped may have been written. One that ends with
/// [`Unknown`](ErrorKind::Unknown) may have been too: make the message with [`message`](Self::message) and
/// publish that again with [`publish_message`](Self::publish_message), so that its id stays the same.
///
/// A publish that waits for room keeps its place: one that is kept and no longer polled, as after a `select!` on `&mut`
/// of it, holds up those behind it. Await it, drop it, or let a task of its own run it.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    /// In a handler: what leaves with its success. Without, everything leaves at once.
    held: Option<Arc<Held>>,
    trace: Trace,
}

/// The trace context of the message that is being handled.
#[derive(Clone, Default)]
struct Trace {
    parent: Option<Bytes>,
    state: Option<Bytes>,
}

#[derive(Clone)]
struct Shared {
    writer: Option<Arc<dyn DynWriter>>,
    capabilities: WriterCapabilities,
    registry: EventRegistry,
    codecs: Codecs,
    ids: IdFactory,
    limits: Limits,
    clock: fn() -> SystemTime,
    closed: Arc<AtomicBool>,
    published: Counter,
}

/// What goes with one event beside itself.
///
/// ```
/// use millstream::PublishOptions;
/// let options = PublishOptions::new().id("order-7-paid").key("customer-1").header("tenant", "acme");
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PublishOptions {
    /// The message's id. Default: the id factory makes one.
    pub id: Option<ByteString>,
    /// The routing key. Default: the event's.
    pub key: Option<Bytes>,
    /// Headers beside the event's; they replace those of the same name.
    pub headers: Headers,
    /// Not delivered before this time. Default: at once.
    pub deliver_at: Option<SystemTime>,
}

impl PublishOptions {
    /// None of them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the id: publishing again with the same one can be recognised as a duplicate.
    #[must_use]
    pub fn id(mut self, id: impl Into<ByteString>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the routing key instead of the event's.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets the time before which it is not delivered. A writer that cannot delay refuses it.
    #[must_use]
    pub fn deliver_at(mut self, at: SystemTime) -> Self {
        self.deliver_at = Some(at);
        self
    }

    /// Puts them in place of what an event says.
    fn apply(&self, id: &mut ByteString, key: &mut Option<Bytes>, headers: &mut Headers) {
        if let Some(own) = &self.id {
            id.clone_from(own);
        }
        if let Some(own) = &self.key {
            *key = Some(own.clone());
        }
        for (name, value) in self.headers.iter() {
            headers.remove(name);
            match value {
                Some(value) => headers.append(name.clone(), value.clone()),
                None => headers.append_null(name.clone()),
            }
        }
    }
}

impl Publisher {
    /// A publisher to this writer: JSON, UUIDv7, the default limits.
    pub fn new(writer: impl Writer, registry: EventRegistry) -> Self {
        Self::from_dyn(Arc::new(writer), registry)
    }

    /// The same for a writer that is erased already, such as a [`Connection`](millstream_core::Connection)'s.
    #[must_use]
    pub fn from_dyn(writer: Arc<dyn DynWriter>, registry: EventRegistry) -> Self {
        let capabilities = writer.capabilities();
        Self::build(Some(writer), capabilities, registry)
    }

    /// What handlers get whose scheduler has no writer: every publish says so.
    pub(crate) fn without_writer(registry: EventRegistry) -> Self {
        Self::build(None, WriterCapabilities::minimal(), registry)
    }

    fn build(
        writer: Option<Arc<dyn DynWriter>>,
        capabilities: WriterCapabilities,
        registry: EventRegistry,
    ) -> Self {
        let shared = Shared {
            writer,
            capabilities,
            registry,
            codecs: Codecs::built_in().clone(),
            ids: IdFactory::default(),
            limits: Limits::default(),
            clock: SystemTime::now,
            closed: Arc::default(),
            published: counter!("millstream_published_total"),
        };
        Self { shared: Arc::new(shared), held: None, trace: Trace::default() }
    }

    /// Encodes with these codecs' default. Clones made before keep theirs, here and with all settings below.
    #[must_use]
    pub fn with_codecs(mut self, codecs: Codecs) -> Self {
        Arc::make_mut(&mut self.shared).codecs = codecs;
        self
    }

    /// Makes ids with this factory.
    #[must_use]
    pub fn with_ids(mut self, ids: IdFactory) -> Self {
        Arc::make_mut(&mut self.shared).ids = ids;
        self
    }

    /// Holds messages to these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        Arc::make_mut(&mut self.shared).limits = limits;
        self
    }

    /// Takes the time of messages from this clock. Default: the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> SystemTime) -> Self {
        Arc::make_mut(&mut self.shared).clock = clock;
        self
    }

    /// The registry that says which topic an event goes to.
    #[must_use]
    pub fn registry(&self) -> &EventRegistry {
        &self.shared.registry
    }

    /// The codecs it encodes with.
    #[must_use]
    pub fn codecs(&self) -> &Codecs {
        &self.shared.codecs
    }

    /// The limits it holds messages to.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// What its writer can do.
    #[must_use]
    pub fn capabilities(&self) -> &WriterCapabilities {
        &self.shared.capabilities
    }

    pub(crate) fn writer(&self) -> Option<&Arc<dyn DynWriter>> {
        self.shared.writer.as_ref()
    }

    // ---- Publishing --------------------------------------------------------------------------------------

    // Messages are made when these are called, before the future is first polled: so the future keeps nothing of
    // what it was given, and is `Send` whatever that was.

    /// Publishes an event to its topic. `Ok`: the writer confirmed it, or, in a handler, it is held.
    ///
    /// # Errors
    /// [`EventNotFound`](ErrorKind::EventNotFound) without a topic; [`Encode`](ErrorKind::Encode);
    /// [`IdFactory`](ErrorKind::IdFactory); what [`Limits::check`] says; [`TooLarge`](ErrorKind::TooLarge) for
    /// more than the writer takes; [`BusIsShutdown`](ErrorKind::BusIsShutdown); else what the writer says.
    pub fn publish<E: Event>(&self, event: &E) -> impl Future<Output = Result<()>> + Send {
        self.send_one(self.shared.registry.topic_of::<E>().and_then(|topic| self.make(topic, event, None)))
    }

    /// Publishes an event to this topic, whatever the registry says.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_to<E: Event>(
        &self,
        topic: impl Into<ByteString>,
        event: &E,
    ) -> impl Future<Output = Result<()>> + Send {
        self.send_one(self.make(topic.into(), event, None))
    }

    /// Publishes an event with an id, a key, headers or a time of delivery of your choice.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`Unsupported`](ErrorKind::Unsupported) for a time of delivery that
    /// the writer cannot wait for.
    pub fn publish_with<E: Event>(
        &self,
        event: &E,
        options: PublishOptions,
    ) -> impl Future<Output = Result<()>> + Send {
        let topic = self.shared.registry.topic_of::<E>();
        self.send_one(topic.and_then(|topic| self.make(topic, event, Some(options))))
    }

    /// Publishes events; says of each what became of it, in order. Nothing is written if one of them is refused
    /// before it reaches the writer.
    ///
    /// Behind one that failed and may be tried again, nothing more is sent: publishing those that were not
    /// written once more keeps their order. In a handler all are held, and the report says `Written` of each.
    ///
    /// # Errors
    /// [`EmptyMessage`](ErrorKind::EmptyMessage) for no events, else as [`publish`](Self::publish): then nothing
    /// was written.
    pub fn publish_all<'a, E: Event>(
        &self,
        events: impl IntoIterator<Item = &'a E>,
    ) -> impl Future<Output = Result<WriteReport>> + Send {
        let messages = self.shared.registry.topic_of::<E>().and_then(|topic| {
            events
                .into_iter()
                .map(|event| self.make(topic.clone(), event, None).map(Arc::unwrap_or_clone))
                .collect::<Result<Vec<_>>>()
        });
        self.send(messages)
    }

    /// Publishes a message as it is; only what it lacks is added: an id, a time, the trace context.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with).
    pub fn publish_message(&self, message: Message) -> impl Future<Output = Result<()>> + Send {
        self.send_one(self.completed(message).map(Arc::new))
    }

    /// Publishes messages of any topics; says of each what became of it. As [`publish_all`](Self::publish_all).
    ///
    /// # Errors
    /// As [`publish_all`](Self::publish_all).
    pub fn publish_messages(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> impl Future<Output = Result<WriteReport>> + Send {
        self.send(messages.into_iter().map(|message| self.completed(message)).collect())
    }

    /// In a handler: publishes at once, whether the handler succeeds or not. Elsewhere the same as
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_now<E: Event>(&self, event: &E) -> impl Future<Output = Result<()>> + Send {
        let message = self.shared.registry.topic_of::<E>().and_then(|topic| self.make(topic, event, None));
        async move { self.write_one(message?).await }
    }

    /// In a handler: a publisher that holds nothing, for the other ways to publish at once. It continues the
    /// message's trace all the same.
    #[must_use]
    pub fn now(&self) -> Self {
        Self { held: None, ..self.clone() }
    }

    /// The message an event would be published as, with its id: to publish later, or again.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), but for what the writer says.
    pub fn message<E: Event>(&self, event: &E) -> Result<Message> {
        self.make(self.shared.registry.topic_of::<E>()?, event, None).map(Arc::unwrap_or_clone)
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with), but for what the writer says.
    pub fn message_with<E: Event>(&self, event: &E, options: PublishOptions) -> Result<Message> {
        self.make(self.shared.registry.topic_of::<E>()?, event, Some(options)).map(Arc::unwrap_or_clone)
    }

    // ---- Ending ------------------------------------------------------------------------------------------

    /// Refuses what comes from now on with [`BusIsShutdown`](ErrorKind::BusIsShutdown), waits until all that was
    /// handed over is confirmed, and closes the writer. Concerns all clones. Closing twice is fine.
    ///
    /// # Errors
    /// If something handed over is not confirmed.
    pub async fn close(&self) -> Result<()> {
        self.refuse();
        match &self.shared.writer {
            Some(writer) => writer.close().await,
            None => Ok(()),
        }
    }

    /// Refuses what comes from now on.
    pub(crate) fn refuse(&self) {
        self.shared.closed.store(true, Ordering::Release);
    }

    // ---- In a handler ------------------------------------------------------------------------------------

    /// The publisher that a handler gets: holds until its success, and continues the message's trace.
    pub(crate) fn held_in(context: &mut Context) -> Self {
        let headers = &context.message().headers;
        let trace = Trace {
            parent: headers.get(names::TRACEPARENT).cloned(),
            state: headers.get(names::TRACESTATE).cloned(),
        };
        let held = Arc::clone(context.held());
        let shared = Arc::clone(&context.subscription.publisher.shared);
        Self { shared, held: Some(held), trace }
    }

    // ---- Making messages ---------------------------------------------------------------------------------

    /// Behind a pointer from the start: it goes through several futures, and each would copy it.
    fn make<E: Event>(
        &self,
        topic: ByteString,
        event: &E,
        options: Option<PublishOptions>,
    ) -> Result<Arc<Message>> {
        let parts = Buffer::fill(|buffer| self.encode(event, options.as_ref(), buffer))
            .map_err(|error| error.topic(&*topic))?;
        let mut headers = Headers::new();
        if let Some(name) = E::TYPE {
            headers.append(ByteString::from_static(names::TYPE), Bytes::from_static(name.as_bytes()));
        }
        if let Some(version) = E::VERSION {
            headers.append(ByteString::from_static(names::VERSION), version.to_string());
        }
        event.headers(&mut headers);
        let mut id = ByteString::try_from(parts.id).map_err(|e| {
            Error::new(ErrorKind::IdFactory, "the id factory gave an id that is not UTF-8").source(e)
        })?;
        let (mut key, mut deliver_at) = (parts.key, None);
        if let Some(options) = options {
            options.apply(&mut id, &mut key, &mut headers);
            deliver_at = options.deliver_at;
        }
        if id.is_empty() {
            id = self.shared.ids.next_id().map_err(|e| e.topic(&*topic))?;
        }
        self.continue_trace(&mut headers);
        let message = Arc::new(Message {
            id,
            topic,
            key,
            headers,
            content_type: parts.content_type,
            data: Some(parts.data),
            time: (self.shared.clock)(),
            deliver_at,
        });
        self.check(&message)?;
        Ok(message)
    }

    /// Appends payload, id and key to the buffer: one allocation for all three, or none.
    fn encode<E: Event>(
        &self,
        event: &E,
        options: Option<&PublishOptions>,
        buffer: &mut BytesMut,
    ) -> Result<Lengths> {
        let content_type = E::Format::encode(event, &self.shared.codecs, buffer)?;
        let data = buffer.len();
        if options.is_none_or(|options| options.id.is_none()) {
            self.shared.ids.append_to(buffer)?;
        }
        let id = buffer.len() - data;
        let key = if options.is_none_or(|options| options.key.is_none()) { event.key() } else { None };
        if let Some(key) = &key {
            buffer.extend_from_slice(key);
        }
        Ok(Lengths { content_type, data, id, keyed: key.is_some() })
    }

    /// Adds what a message lacks, and refuses what must not go out.
    fn complete(&self, message: &mut Message) -> Result<()> {
        if message.id.is_empty() {
            message.id = self.shared.ids.next_id().map_err(|e| message.locate(e))?;
        }
        if message.time == SystemTime::UNIX_EPOCH {
            message.time = (self.shared.clock)();
        }
        self.continue_trace(&mut message.headers);
        self.check(message)
    }

    /// Adds the trace context of the message that is being handled, unless there is one.
    fn continue_trace(&self, headers: &mut Headers) {
        if let Some(parent) = &self.trace.parent
            && !headers.contains(names::TRACEPARENT)
        {
            headers.append(ByteString::from_static(names::TRACEPARENT), parent.clone());
            if let Some(state) = &self.trace.state {
                headers.insert(ByteString::from_static(names::TRACESTATE), state.clone());
            }
        }
    }

    fn completed(&self, mut message: Message) -> Result<Message> {
        self.complete(&mut message)?;
        Ok(message)
    }

    fn check(&self, message: &Message) -> Result<()> {
        self.shared.limits.check(message)?;
        if let Some(limit) = self.shared.capabilities.max_message
            && message.size() > limit
        {
            return Err(message.locate(
                Error::new(
                    ErrorKind::TooLarge,
                    format!("the message has {} bytes, the driver takes {limit}", message.size()),
                )
                .fix("send less: keep large payloads elsewhere and send where they are"),
            ));
        }
        match message.deliver_at {
            Some(at) => self.check_delay(message, at),
            None => Ok(()),
        }
    }

    fn check_delay(&self, message: &Message, at: SystemTime) -> Result<()> {
        let Some(longest) = self.shared.capabilities.delay else {
            return Err(message.locate(
                Error::new(ErrorKind::Unsupported, "the driver cannot deliver at a later time")
                    .fix("leave `deliver_at` out, or use a driver with delayed delivery"),
            ));
        };
        let longest = longest.min(self.shared.limits.delay);
        // A time that has passed is no delay.
        let ahead = at.duration_since((self.shared.clock)()).unwrap_or_default();
        if ahead > longest {
            return Err(message.locate(
                Error::new(
                    ErrorKind::Unsupported,
                    format!("`deliver_at` is {ahead:?} ahead, the longest delay is {longest:?}"),
                )
                .fix("deliver it sooner, or keep it and publish it later"),
            ));
        }
        Ok(())
    }

    // ---- Sending -----------------------------------------------------------------------------------------

    async fn send_one(&self, message: Result<Arc<Message>>) -> Result<()> {
        let message = message?;
        match &self.held {
            None => self.write_one(message).await,
            Some(held) => self.hold(held, [Arc::unwrap_or_clone(message)]),
        }
    }

    async fn send(&self, messages: Result<Vec<Message>>) -> Result<WriteReport> {
        let messages = messages?;
        if messages.is_empty() {
            return Err(Error::new(
                ErrorKind::EmptyMessage,
                "there is nothing to publish: the batch is empty",
            )
            .fix("publish at least one event, or do not call"));
        }
        match &self.held {
            None => self.write(messages).await,
            Some(held) => {
                let count = messages.len();
                self.hold(held, messages)?;
                Ok(WriteReport::all_written(count))
            }
        }
    }

    fn hold(&self, held: &Held, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        self.open()?;
        held.publish(messages)
    }

    fn open(&self) -> Result<&Arc<dyn DynWriter>> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::BusIsShutdown, "the bus was shut down")
                .fix("publish before the shutdown, or start a new bus"));
        }
        self.shared.writer.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this scheduler was made of a reader alone: it cannot publish")
                .fix("give it a writer with `Scheduler::with_writer`, or use a `Bus`")
        })
    }

    async fn write_one(&self, message: Arc<Message>) -> Result<()> {
        let message = {
            let writer = self.open()?;
            let _entered = send_span(std::slice::from_ref(&*message)).entered();
            match writer.write_now(message) {
                WriteNow::Done(outcome) => {
                    self.shared.published.increment(u64::from(outcome.is_written()));
                    return outcome.into_result();
                }
                WriteNow::Later(message) => message,
            }
        };
        self.write(vec![Arc::unwrap_or_clone(message)]).await?.into_result()
    }

    async fn write(&self, messages: Vec<Message>) -> Result<WriteReport> {
        let writer = self.open()?;
        let max = self.shared.capabilities.max_batch.max(1);
        let span = send_span(&messages);
        let report = if messages.len() <= max {
            writer.write(messages).instrument(span).await?
        } else {
            write_in_parts(&**writer, messages, max).instrument(span).await?
        };
        self.shared.published.increment(report.written() as u64);
        Ok(report)
    }
}

/// The span of a write, with the names of the OpenTelemetry conventions for messaging.
fn send_span(messages: &[Message]) -> Span {
    let first = messages.first();
    tracing::info_span!(
        "send",
        otel.kind = "producer",
        messaging.operation.type = "send",
        messaging.destination.name = first.map(|m| &*m.topic),
        messaging.message.id = first.map(|m| &*m.id),
        messaging.batch.message_count = messages.len(),
    )
}

/// Writes a batch in parts, and stops behind what may be tried again.
async fn write_in_parts(writer: &dyn DynWriter, messages: Vec<Message>, max: usize) -> Result<WriteReport> {
    let total = messages.len();
    let mut messages = messages.into_iter();
    let mut outcomes = Vec::with_capacity(total);
    while outcomes.len() < total {
        let part: Vec<_> = messages.by_ref().take(max).collect();
        let size = part.len();
        match writer.write(part).await {
            // Nothing at all was written yet: one error says it.
            Err(error) if outcomes.is_empty() => return Err(error),
            Err(error) => {
                let kind = error.kind();
                outcomes.push(WriteOutcome::Failed(error));
                fill_not_sent(&mut outcomes, total, kind);
            }
            Ok(report) => {
                debug_assert_eq!(report.len(), size, "a report has an outcome for each message");
                outcomes.extend(report.into_outcomes());
                let again = outcomes[outcomes.len() - size..].iter().find_map(|outcome| match outcome {
                    WriteOutcome::Failed(e) if e.is_retryable() => Some(e.kind()),
                    WriteOutcome::Unknown(e) => Some(e.kind()),
                    _ => None,
                });
                if let Some(kind) = again {
                    fill_not_sent(&mut outcomes, total, kind);
                }
            }
        }
    }
    Ok(WriteReport::each(outcomes))
}

/// What comes behind a failure that may be tried again is not sent, so that trying again keeps the order.
fn fill_not_sent(outcomes: &mut Vec<WriteOutcome>, total: usize, kind: ErrorKind) {
    outcomes.resize_with(total, || {
        WriteOutcome::Failed(Error::new(kind, "not sent, since a message before it in the batch failed"))
    });
}

// ---- Memory --------------------------------------------------------------------------------------------------

/// What lies one behind the other in the buffer.
struct Lengths {
    content_type: ByteString,
    data: usize,
    id: usize,
    keyed: bool,
}

struct Parts {
    content_type: ByteString,
    data: Bytes,
    id: Bytes,
    key: Option<Bytes>,
}

/// Small messages of a thread share blocks of memory: encoding one allocates nothing most of the time.
///
/// A message that is kept keeps its block, so blocks are small, and large messages get memory of their own.
struct Buffer;

impl Buffer {
    const BLOCK: usize = 2 << 10;
    const SMALL: usize = 512;

    fn fill(encode: impl FnOnce(&mut BytesMut) -> Result<Lengths>) -> Result<Parts> {
        thread_local! {
            static BLOCK: Cell<BytesMut> = Cell::new(BytesMut::new());
        }
        // Taken out while it is used: an encoder that publishes itself finds an empty one, not a borrowed one.
        let mut buffer = BLOCK.take();
        if buffer.capacity() < Self::SMALL {
            // Takes the old block again if all its messages are gone.
            buffer.reserve(Self::BLOCK);
        }
        let lengths = encode(&mut buffer).inspect_err(|_| buffer.clear());
        if buffer.len() <= Self::SMALL {
            let bytes = buffer.split();
            BLOCK.set(buffer);
            return Ok(Parts::cut(bytes.freeze(), lengths?));
        }
        let lengths = lengths?;
        let id_and_key = buffer.split_off(lengths.data);
        let mut parts = Parts::cut(Bytes::copy_from_slice(&id_and_key), Lengths { data: 0, ..lengths });
        drop(id_and_key);
        // Exactly as much as it is: encoders double their memory as they go.
        parts.data = Bytes::from(Vec::from(buffer).into_boxed_slice());
        Ok(parts)
    }
}

impl Parts {
    fn cut(mut bytes: Bytes, lengths: Lengths) -> Self {
        Self {
            content_type: lengths.content_type,
            data: bytes.split_to(lengths.data),
            key: lengths.keyed.then(|| bytes.split_off(lengths.id)),
            id: bytes,
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("codecs", &self.shared.codecs)
            .field("ids", &self.shared.ids)
            .field("limits", &self.shared.limits)
            .field("held", &self.held.is_some())
            .finish_non_exhaustive()
    }
}
