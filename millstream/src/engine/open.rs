//! Opening a subscription: what can be checked is checked, and refused with the fix, before anything runs.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::admin::TopicSettings;
use millstream_core::erased::{DynAdmin, DynDedupStore, DynLeases, DynSettler, DynWriter};
use millstream_core::{
    ByteString, Capabilities, DeadLetters, Error, ErrorKind, Exclusivity, LeasePlan, Order, Parking, Result,
    SettleMode,
};

use super::clock::Clock;
use super::desk::Desk;
use super::outbound::Route;
use super::pump::{ParkSide, Pump};
use super::settings::TimeSource;
use super::window::{Counts, Input, ParkMode, Rules, Way, Window};
use super::work::Work;
use super::{Engine, Spec, park};
use crate::policy::{DeadLetterTarget, Ordering};

/// Something of each input.
type Inputs<T> = Vec<(Input, T)>;

/// An opened subscription, to be run.
pub(super) struct Parts {
    pub(super) desk: Arc<Desk>,
    pub(super) work: Arc<dyn Work>,
    pub(super) pumps: Vec<Pump>,
    pub(super) settlers: Inputs<Box<dyn DynSettler>>,
    pub(super) leases: Inputs<LeasePlan<Box<dyn DynLeases>>>,
    pub(super) routes: Vec<Route>,
    pub(super) dedup: Option<Arc<dyn DynDedupStore>>,
    pub(super) admin: Option<Arc<dyn DynAdmin>>,
    pub(super) clock: Clock,
}

/// Without a limit of the driver's own: how long a message may stay away.
const LONGEST_REDELIVERY: Duration = Duration::from_secs(12 * 3600);

/// Whether what handlers send commits with the acknowledgement: only what goes to where the reader commits.
fn commits_emits(reader: &Capabilities, writer: Option<&dyn DynWriter>) -> bool {
    reader.atomic_emit.is_some()
        && reader.atomic_emit == writer.and_then(|writer| writer.capabilities().store)
}

pub(super) async fn open(engine: &Engine, spec: Spec) -> Result<Parts> {
    let Spec { info, policy, mut open, work } = spec;
    let capabilities = engine.reader.capabilities();
    policy.check().map_err(|e| e.topic(&*info.topic))?;
    if policy.ordering == Ordering::Sequential {
        if capabilities.order != Order::Total {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("`.sequential()` needs total order, the driver keeps {:?}", capabilities.order),
            )
            .topic(&*info.topic)
            .fix("leave it out: order per key is kept anyway; or use a driver with total order"));
        }
        open.exclusivity = Exclusivity::Exclusive;
    }
    open.max_in_flight = policy.max_in_flight;
    open.max_bytes = policy.memory;

    let park_mode = park_mode(&capabilities, info.group.as_deref(), engine.writer.is_some());
    let dead = DeadLetterRoute::of(engine, &capabilities, &policy.dead_letters, &info.topic)?;
    check_dedup(&policy, &info.topic)?;
    let partitions = ensure_topics(engine, &capabilities, &info.topic, &dead).await?;

    let park_topic = park::topic_of(&info.topic, info.group.as_deref().unwrap_or_default());
    if park_mode == ParkMode::Topic
        && let Some(admin) = &engine.admin
    {
        let settings = partitions.map(TopicSettings::partitions).unwrap_or_default();
        admin.ensure_topic(&park_topic, settings).await?;
    }

    let locate = |e: Error| match &info.group {
        Some(group) => e.topic(&*info.topic).group(group),
        None => e.topic(&*info.topic),
    };
    let main = engine.reader.open(open).await.map_err(locate)?;
    let lease = main.leases.as_ref().map(|plan| plan.duration);
    let clock = match engine.settings.time {
        TimeSource::System => Clock::System,
        TimeSource::Runtime => Clock::runtime(),
        TimeSource::Given(now) => Clock::Given(now),
    };
    let rules = Rules {
        policy: policy.clone(),
        cumulative: capabilities.settle == SettleMode::Cumulative,
        partitions: capabilities.partitions,
        atomic_emit: commits_emits(&capabilities, engine.writer.as_deref()),
        effects: capabilities.effects,
        park: park_mode,
        keyed_redelivery: capabilities.order == Order::Key,
        topic: info.topic.clone(),
        group: info.group.clone(),
        lease,
        clock,
        seed: engine.settings.seed,
    };
    let runners = match policy.ordering {
        Ordering::Sequential => 1,
        Ordering::PerKey => policy
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            .min(policy.concurrency),
    };
    let dedup = policy.dedup.clone();
    let window = Window::new(rules, Counts::new(&info));
    let desk = Arc::new(Desk::new(Arc::clone(&info), policy, runners, window));

    let mut pumps = Vec::new();
    let mut settlers: Inputs<Box<dyn DynSettler>> = vec![(Input::Main, main.settler)];
    let mut leases: Inputs<_> = main.leases.map(|plan| (Input::Main, plan)).into_iter().collect();
    let mut side = None;
    if park_mode == ParkMode::Topic {
        let opened = engine.reader.open(park::request(&desk, Vec::new())).await.map_err(locate)?;
        settlers.push((Input::Park, opened.settler));
        leases.extend(opened.leases.map(|plan| (Input::Park, plan)));
        let wanted = tokio::sync::watch::Sender::new(Vec::new());
        let shared = Arc::new(ParkSide { reader: Arc::clone(&engine.reader), wanted });
        pumps.push(Pump {
            desk: Arc::clone(&desk),
            input: Input::Park,
            source: opened.source,
            marks: false,
            park: Some(Arc::clone(&shared)),
            read_first: Vec::new(),
        });
        side = Some(shared);
    }
    pumps.push(Pump {
        desk: Arc::clone(&desk),
        input: Input::Main,
        source: main.source,
        marks: capabilities.marks && !capabilities.redelivery_count,
        park: side,
        read_first: Vec::new(),
    });

    let route = |way, topic: &ByteString, writer: &Option<Arc<dyn DynWriter>>, native| Route {
        way,
        writer: writer.clone(),
        topic: topic.clone(),
        native,
        settings: engine.settings.clone(),
    };
    let routes = vec![
        route(Way::Emit, &info.topic, &engine.writer, false),
        route(Way::Dead, &dead.topic, &dead.writer, dead.native),
        route(Way::Park, &park_topic, &engine.writer, false),
    ];
    Ok(Parts { desk, work, pumps, settlers, leases, routes, dedup, admin: engine.admin.clone(), clock })
}

/// How this driver parks for this subscription.
fn park_mode(capabilities: &Capabilities, group: Option<&str>, writer: bool) -> ParkMode {
    match capabilities.parking {
        // Without a group there is nobody's progress to keep: what waits, waits here.
        _ if group.is_none() => ParkMode::None,
        Parking::Native => ParkMode::Native,
        Parking::None if capabilities.partitions && writer => ParkMode::Topic,
        Parking::None => match capabilities.retry_after {
            Some(longest) => ParkMode::Redeliver(longest.min(LONGEST_REDELIVERY)),
            None => ParkMode::None,
        },
    }
}

/// Where dead letters go.
struct DeadLetterRoute {
    topic: ByteString,
    writer: Option<Arc<dyn DynWriter>>,
    /// The driver stores them itself.
    native: bool,
}

impl DeadLetterRoute {
    fn of(
        engine: &Engine,
        capabilities: &Capabilities,
        target: &DeadLetterTarget,
        topic: &str,
    ) -> Result<Self> {
        let dlq = crate::dead_letters::topic_of(topic);
        let own = || {
            engine.writer.clone().map(Some).ok_or_else(|| {
                Error::new(ErrorKind::InvalidConfig, "there is nowhere to write dead letters").topic(topic).fix(
                    "give the scheduler a writer, or say `.dead_letter_to(writer)` or `.discard_failures()`",
                )
            })
        };
        let (topic, writer, native) = match target {
            DeadLetterTarget::Default if capabilities.dead_letters == DeadLetters::Native => {
                (dlq, None, true)
            }
            DeadLetterTarget::Default => (dlq, own()?, false),
            DeadLetterTarget::Topic(name) => (name.clone(), own()?, false),
            DeadLetterTarget::Writer(writer) => (dlq, Some(Arc::clone(writer)), false),
            DeadLetterTarget::Discard => (dlq, None, false),
        };
        Ok(Self { topic, writer, native })
    }

    /// Whether they go to a topic of this broker.
    fn is_ours(&self, engine: &Engine) -> bool {
        match (&self.writer, &engine.writer) {
            (Some(target), Some(own)) => Arc::ptr_eq(target, own),
            _ => false,
        }
    }
}

/// A reservation that ends while its handler may still run is none.
fn check_dedup(policy: &crate::Policy, topic: &str) -> Result<()> {
    let Some(limit) = policy.timeout.filter(|_| policy.dedup.is_some()) else { return Ok(()) };
    if limit < policy.dedup_lease {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidConfig,
        format!("the timeout {limit:?} is not below the deduplication lease {:?}", policy.dedup_lease),
    )
    .topic(topic)
    .fix("raise the lease: a reservation that ends while its handler runs lets a copy run beside it"))
}

/// Makes sure that the topic and the dead-letter topic are there; the topic's partitions, where they count.
async fn ensure_topics(
    engine: &Engine,
    capabilities: &Capabilities,
    topic: &ByteString,
    dead: &DeadLetterRoute,
) -> Result<Option<u32>> {
    let Some(admin) = &engine.admin else { return Ok(None) };
    admin.ensure_topic(topic, TopicSettings::default()).await?;
    if dead.is_ours(engine) {
        admin.ensure_topic(&dead.topic, TopicSettings::default()).await?;
    }
    if !capabilities.partitions {
        return Ok(None);
    }
    Ok(admin.topic(topic).await?.map(|topic| topic.partitions))
}
