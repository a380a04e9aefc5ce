//! Given a bus on memory, programs as users write them.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use std::sync::{Arc, Mutex};

use common::{UserCreated, ada, memory_bus, until};
use millstream::{
    Attempt, Batch, Bus, Bytes, Context, Deliveries, Drivers, ErrorKind, Extension, Failure, FromContext,
    FromRef, Handler, Headers, Key, Layer, Message, MessageId, Origin, Outcome, Position, PublishOptions,
    Publisher, Retry, State, Subscribe, Topic, Units, names,
};

/// What handlers saw.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
    async fn wait_for(&self, count: usize) -> Vec<String> {
        until(|| self.0.lock().unwrap().len() >= count).await;
        self.all()
    }
}

async fn welcome(user: UserCreated, State(seen): State<Seen>) -> Outcome {
    seen.add(user.display_name);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_event_reaches_its_handler_with_the_buss_state() {
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish(&ada()).await.unwrap();
    let running = bus.with_state(seen.clone()).subscribe(welcome.group("mail")).start().await.unwrap();
    assert_eq!(seen.wait_for(1).await, ["Ada"]);
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_bare_function_and_a_closure_are_handlers() {
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish(&ada()).await.unwrap();
    let here = seen.clone();
    let running = bus
        .with_state(seen.clone())
        .subscribe(welcome)
        .subscribe(
            (move |user: UserCreated| {
                let seen = here.clone();
                async move { seen.add(user.user_id) }
            })
            .group("closure"),
        )
        .start()
        .await
        .unwrap();
    let mut all = seen.wait_for(2).await;
    all.sort();
    assert_eq!(all, ["1", "Ada"]);
    running.shutdown().await;
}

/// Extractors of one's own are made like those there are.
struct Pair<A, B>(A, B);

impl<S, A: FromContext<S>, B: FromContext<S>> FromContext<S> for Pair<A, B> {
    fn from_context(context: &mut Context, state: &S) -> Result<Self, Failure> {
        Ok(Self(A::from_context(context, state)?, B::from_context(context, state)?))
    }
}

#[tokio::test(start_paused = true)]
async fn extractors_give_the_parts_of_a_message() {
    #[expect(clippy::too_many_arguments, reason = "as many as there can be")]
    async fn parts(
        message: Message,
        Pair(Key(key), MessageId(id)): Pair<Key, MessageId>,
        Topic(topic): Topic,
        headers: Headers,
        Pair(Attempt(attempt), Deliveries(deliveries)): Pair<Attempt, Deliveries>,
        Pair(origin, position): Pair<Origin, Option<Position>>,
        tenant: Option<Extension<u8>>,
        State(seen): State<Seen>,
    ) -> Outcome {
        assert_eq!(message.topic, topic);
        assert_eq!(origin.position, position);
        assert!(tenant.is_none() && deliveries <= 1);
        seen.add(format!("{id} {} {attempt} {:?}", key.escape_ascii(), headers.get_str("tenant")));
        Ok(())
    }
    let seen = Seen::default();
    let bus = memory_bus().await;
    let options = PublishOptions::new().id("order-7").key("k").header("tenant", "acme");
    bus.publish_with(&ada(), options).await.unwrap();
    let running =
        bus.with_state(seen.clone()).subscribe_to("user.created", parts.group("g")).start().await.unwrap();
    assert_eq!(seen.wait_for(1).await, ["order-7 k 1 Some(\"acme\")"]);
    running.shutdown().await;
}

#[derive(Clone)]
struct App {
    seen: Seen,
}

impl FromRef<App> for Seen {
    fn from_ref(app: &App) -> Self {
        app.seen.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_state_is_taken_by_from_ref() {
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish(&ada()).await.unwrap();
    let running =
        bus.with_state(App { seen: seen.clone() }).subscribe(welcome.group("mail")).start().await.unwrap();
    assert_eq!(seen.wait_for(1).await, ["Ada"]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_gets_several_in_order() {
    async fn store(users: Batch<UserCreated>, State(seen): State<Seen>) -> Outcome {
        seen.add(users.iter().map(|u| u.display_name.clone()).collect::<Vec<_>>().join(","));
        Ok(())
    }
    let seen = Seen::default();
    let bus = memory_bus().await;
    let users: Vec<_> =
        (0..3).map(|i| UserCreated { user_id: "1".into(), display_name: i.to_string() }).collect();
    bus.publish_all(&users).await.unwrap().into_result().unwrap();
    let running =
        bus.with_state(seen.clone()).subscribe(store.group("db").batch(10, 50.ms())).start().await.unwrap();
    until(|| seen.all().iter().map(|s| s.split(',').count()).sum::<usize>() == 3).await;
    assert_eq!(seen.all().join(","), "0,1,2");
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_and_tombstones_are_handled() {
    async fn raw(bytes: Bytes, State(seen): State<Seen>) {
        seen.add(format!("{bytes:?}"));
    }
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish_message(Message::new("raw", "abc")).await.unwrap();
    bus.publish_message(Message::tombstone("raw")).await.unwrap();
    let running = bus.with_state(seen.clone()).subscribe_to("raw", raw.group("g")).start().await.unwrap();
    let mut all = seen.wait_for(2).await;
    all.sort();
    assert_eq!(all, ["b\"\"", "b\"abc\""]);
    running.shutdown().await;
}

struct Named(&'static str);

struct NamedHandler<H> {
    inner: H,
    name: &'static str,
}

impl<H: Handler> Layer<H> for Named {
    type Handler = NamedHandler<H>;
    fn layer(self, inner: H) -> NamedHandler<H> {
        NamedHandler { inner, name: self.0 }
    }
}

impl<H: Handler> Handler for NamedHandler<H> {
    async fn call(&self, context: &mut Context) -> Outcome {
        let outer = context.extensions().get::<String>().cloned().unwrap_or_default();
        context.extensions_mut().insert(format!("{outer}>{}", self.name));
        self.inner.call(context).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_layer_added_is_the_outermost_and_hands_values_in() {
    async fn path(_: UserCreated, Extension(path): Extension<String>, State(seen): State<Seen>) -> Outcome {
        seen.add(path);
        Ok(())
    }
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish(&ada()).await.unwrap();
    let running = bus
        .with_state(seen.clone())
        .subscribe(path.group("g").layer(Named("first")).layer(Named("last")))
        .start()
        .await
        .unwrap();
    assert_eq!(seen.wait_for(1).await, [">last>first"]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_publishes_leaves_with_its_success_and_continues_the_trace() {
    async fn relay(user: UserCreated, publisher: Publisher, Attempt(attempt): Attempt) -> Outcome {
        publisher.publish_to("welcomed", &user).await?;
        if attempt == 1 { Err(Failure::retry("once more")) } else { Ok(()) }
    }
    async fn collect(message: Message, State(seen): State<Seen>) -> Outcome {
        seen.add(message.headers.get_str(names::TRACEPARENT).unwrap_or("none"));
        Ok(())
    }
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish_with(&ada(), PublishOptions::new().header(names::TRACEPARENT, "00-a-b-01")).await.unwrap();
    let running = bus
        .with_state(seen.clone())
        .subscribe(relay.group("relay").retry(Retry::fixed(1.ms())))
        .subscribe_to("welcomed", collect.group("collect"))
        .start()
        .await
        .unwrap();
    seen.wait_for(1).await;
    let report = running.shutdown().await;
    assert_eq!(seen.all(), ["00-a-b-01"], "the failed attempt published nothing");
    assert_eq!(report.subscriptions[0].emitted, 1);
}

#[tokio::test(start_paused = true)]
async fn publish_now_does_not_wait_for_success() {
    async fn fails(user: UserCreated, publisher: Publisher) -> Outcome {
        let note = Note { text: user.display_name };
        publisher.publish_now(&note).await?;
        publisher.now().publish_all([&note]).await?.into_result()?;
        Err(Failure::unrecoverable("no"))
    }
    async fn collect(note: Note, State(seen): State<Seen>) -> Outcome {
        seen.add(note.text);
        Ok(())
    }
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish(&ada()).await.unwrap();
    let running = bus
        .with_state(seen.clone())
        .subscribe(fails.group("g"))
        .subscribe(collect.group("g"))
        .start()
        .await
        .unwrap();
    assert_eq!(seen.wait_for(2).await, ["Ada", "Ada"]);
    running.shutdown().await;
}

#[derive(millstream::Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "notes")]
struct Note {
    text: String,
}

#[tokio::test(start_paused = true)]
async fn publishing_after_the_shutdown_is_refused() {
    let bus = memory_bus().await;
    let publisher = bus.publisher().clone();
    let running = bus.with_state(Seen::default()).subscribe(welcome.group("mail")).start().await.unwrap();
    running.shutdown().await;
    assert_eq!(publisher.publish(&ada()).await.unwrap_err().kind(), ErrorKind::BusIsShutdown);
}

#[tokio::test(start_paused = true)]
async fn run_until_ends_with_its_future_and_reports() {
    let seen = Seen::default();
    let bus = memory_bus().await;
    bus.publish(&ada()).await.unwrap();
    let stop = seen.clone();
    let report = bus
        .with_state(seen)
        .subscribe(welcome.group("mail"))
        .run_until(async move { stop.wait_for(1).await })
        .await
        .unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.subscriptions[0].handled, 1);
    assert_eq!(report.subscriptions[0].handler, "welcome");
}

#[tokio::test]
async fn a_start_without_subscriptions_is_refused() {
    let error = memory_bus().await.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSubscriberRegistered);
}

#[tokio::test]
async fn two_equal_subscriptions_are_refused_with_topic_and_group() {
    let bus = memory_bus().await.with_state(Seen::default());
    let error =
        bus.subscribe(welcome.group("mail")).subscribe(welcome.group("mail")).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.context().topic.as_deref(), Some("user.created"));
    assert_eq!(error.context().group.as_deref(), Some("mail"));
}

#[tokio::test]
async fn another_name_makes_two_subscriptions_of_one_handler() {
    let bus = memory_bus().await.with_state(Seen::default());
    let _both = bus
        .try_subscribe(welcome.group("mail"))
        .unwrap()
        .try_subscribe(welcome.group("mail").named("other"))
        .unwrap();
}

#[tokio::test]
async fn a_topic_that_contradicts_the_registry_is_refused() {
    let bus = memory_bus().await.with_state(Seen::default());
    bus.registry().register::<UserCreated>("users").unwrap();
    let error = bus.try_subscribe_to("elsewhere", welcome.group("mail")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("\"users\""), "{error}");
}

#[tokio::test]
async fn a_raw_handler_needs_a_topic() {
    async fn raw(_: Message) -> Outcome {
        Ok(())
    }
    let error = memory_bus().await.try_subscribe(raw.group("g")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventNotFound);
    assert!(error.to_string().contains("subscribe_to"), "{error}");
}

#[tokio::test]
async fn batches_for_a_handler_of_single_messages_are_refused() {
    let bus = memory_bus().await.with_state(Seen::default());
    let error = bus.try_subscribe(welcome.group("mail").batch(10, 1.ms())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("Batch"), "{error}");
}

#[tokio::test]
async fn limits_that_contradict_each_other_are_refused() {
    let bus = memory_bus().await.with_state(Seen::default());
    let error = bus.try_subscribe(welcome.group("mail").concurrency(100).max_in_flight(10)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_eq!(error.context().topic.as_deref(), Some("user.created"));
}

#[tokio::test]
async fn an_unknown_scheme_lists_those_there_are() {
    let error = Bus::connect("carrier-pigeon://roof").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownScheme);
    assert!(error.to_string().contains("memory://"), "{error}");
}

#[tokio::test]
async fn a_driver_that_is_turned_off_names_its_feature() {
    let error = Drivers::new().connect("memory://").await.unwrap_err();
    assert!(error.to_string().contains("features = [\"memory\"]"), "{error}");
}

#[tokio::test]
async fn a_driver_of_ones_own_serves_its_scheme() {
    use millstream::core::{Connection, Driver};
    fn driver() -> Driver {
        Driver::new(&["my"], |_| {
            Box::pin(async {
                let memory = Drivers::built_in().connect("memory://").await?;
                let _: &Connection = &memory;
                Ok(memory)
            })
        })
    }
    let drivers = Drivers::built_in().with(driver());
    assert!(drivers.schemes().contains(&"my"), "{:?}", drivers.schemes());
    Bus::connect_with(&drivers, "my://x").await.unwrap().publish(&ada()).await.unwrap();
}

/// The memory driver, as if its groups outlived the process.
struct Durable(millstream_memory::MemoryReader);

impl millstream::Reader for Durable {
    type Source = millstream_memory::MemorySource;
    type Settler = millstream_memory::MemorySettler;
    type Leases = millstream::core::NoLeases;
    fn capabilities(&self) -> millstream::core::Capabilities {
        let mut can = millstream::Reader::capabilities(&self.0);
        can.group_required = true;
        can
    }
    async fn open(
        &self,
        request: millstream::core::OpenRequest,
    ) -> millstream::Result<millstream::core::Opened<Self::Source, Self::Settler, Self::Leases>> {
        self.0.open(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_durable_driver_needs_a_group_and_says_how_to_name_it() {
    let broker = millstream_memory::MemoryBroker::new();
    let seen = Seen::default();
    let bus = || Bus::new(broker.writer(), Durable(broker.reader())).with_state(seen.clone());
    let error = bus().subscribe(welcome).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains(".group("), "{error}");
    let _fine = bus().try_subscribe(welcome.group("mail")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn publisher_and_scheduler_stand_alone() {
    let broker = millstream_memory::MemoryBroker::new();
    let registry = millstream::EventRegistry::new();
    let publisher = Publisher::new(broker.writer(), registry.clone());
    publisher.publish(&ada()).await.unwrap();
    let seen = Seen::default();
    let running = millstream::Scheduler::new(broker.reader(), registry)
        .with_writer(broker.writer())
        .with_state(seen.clone())
        .subscribe(welcome.group("mail"))
        .start()
        .await
        .unwrap();
    assert_eq!(seen.wait_for(1).await, ["Ada"]);
    running.shutdown().await;
    publisher.publish(&ada()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_group_the_handlers_name_is_one_where_progress_ends_with_the_process() {
    async fn count(_: Message) -> Outcome {
        Ok(())
    }
    let bus = Bus::connect("memory://no-group").await.unwrap();
    let publisher = bus.publisher().clone();
    let running = bus.subscribe_to("clicks", count).start().await.unwrap();
    publisher.publish_message(Message::new("clicks", "1")).await.unwrap();
    while running.control().counts()[0].handled < 1 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(running.control().counts()[0].group.as_deref(), Some("count"));
    assert!(running.shutdown().await.is_clean());
}
