//! Every async function of the contract, dropped at every poll, on any driver and any deduplication store.
//!
//! What holds whatever was dropped: nothing acknowledged is lost, nothing delivered and not acknowledged is lost,
//! nothing comes twice without a cause, what promises to be whole is whole, no member, lease or reservation stays
//! behind, and the same works afterwards. A future that was never polled has done nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::admin::{GroupInfo, TopicSettings};
use millstream_core::erased::{DynAdmin, DynDedupStore, DynLeases, DynSettler, DynSource};
use millstream_core::{
    Assigned, BoxFuture, Capabilities, Connection, DeadLetters, DedupKey, Delivery, ErrorKind, Exclusivity,
    LeasePlan, Message, OpenRequest, Order, Park, ParkNote, Parking, Read, ReadLimits, Reservation, Reserve,
    SettleMode, Settled, Settlement, Start, TokenId, Verdict, WriteOutcome,
};
use tokio::time::{Instant, sleep, timeout};

use super::{Cut, Tally, at_every_poll};
use crate::conformance::Harness;

type Checked<T = ()> = Result<T, String>;

/// The functions of the contract that [`check`] has cases for, as [`public`](super::public) names them.
pub const FUNCTIONS: &[&str] = &[
    "Writer::write",
    "Writer::check",
    "Writer::close",
    "Reader::open",
    "Source::read",
    "Source::close",
    "Settler::settle",
    "Settler::mark",
    "Settler::close",
    "Leases::connect",
    "Leases::extend",
    "Admin::ensure_topic",
    "Admin::topics",
    "Admin::topic",
    "Admin::groups",
    "Admin::group",
    "Admin::seek",
    "Admin::purge",
    "Admin::dead_letters",
    "Admin::remove_dead_letter",
    "Admin::diagnose",
];

/// The functions that [`check_store`] has cases for.
pub const STORE_FUNCTIONS: &[&str] =
    &["DedupStore::reserve", "DedupStore::confirm", "DedupStore::release", "DedupStore::contains"];

/// What came of the cases, by function.
#[derive(Debug, Default)]
#[must_use = "a report that nobody reads proves nothing"]
pub struct Report {
    /// How much was tried of each function.
    pub functions: Vec<(&'static str, Tally)>,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Report {
    /// All functions together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        self.functions.iter().for_each(|(_, tally)| total.add(*tally));
        total
    }

    /// The failures as an error.
    ///
    /// # Errors
    /// If there is one.
    pub fn into_result(self) -> Result<Tally, String> {
        if self.failures.is_empty() { Ok(self.total()) } else { Err(self.failures.join("\n")) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (function, tally) in &self.functions {
            writeln!(f, "{function:<28}{tally}")?;
        }
        write!(f, "{:<28}{}", "all", self.total())
    }
}

/// Drops the functions of a driver at every poll, with so many variations. A harness is made anew for each function
/// and seed.
///
/// # Panics
/// If no runtime can be made.
pub fn check<H: Harness>(make: impl Fn() -> H, seeds: u64) -> Report {
    check_some(make, seeds, |_| true)
}

/// The same for the functions that `wanted` picks.
///
/// # Panics
/// If no runtime can be made.
pub fn check_some<H: Harness>(make: impl Fn() -> H, seeds: u64, wanted: impl Fn(&str) -> bool) -> Report {
    let mut report = Report::default();
    for function in FUNCTIONS.iter().filter(|function| wanted(function)) {
        let mut tally = Tally::default();
        for seed in 0..seeds {
            let harness: Arc<dyn Harness> = Arc::new(make());
            match sweep(function, &harness, seed) {
                Ok(tried) => tally.add(tried),
                Err(what) => report.failures.push(format!("{function}, seed {seed}: {what}")),
            }
        }
        report.functions.push((function, tally));
    }
    report
}

fn sweep(function: &'static str, harness: &Arc<dyn Harness>, seed: u64) -> Checked<Tally> {
    let scale = harness.scale();
    let case = async |cut: &Cut| {
        let ground = Ground::new(harness, function, seed).await?;
        let limited = timeout(scale.case, run(function, &ground, cut)).await;
        limited.unwrap_or_else(|_| Err(format!("it did not end within {:?}", scale.case)))
    };
    runtime(scale.paused_clock).block_on(at_every_poll(case))
}

fn runtime(paused: bool) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build();
    runtime.expect("the runtime starts")
}

async fn run(function: &str, ground: &Ground, cut: &Cut) -> Checked {
    match function {
        "Writer::write" => write(ground, cut).await,
        "Writer::check" => check_writer(ground, cut).await,
        "Writer::close" => close_writer(ground, cut).await,
        "Reader::open" => open(ground, cut).await,
        "Source::read" => read(ground, cut).await,
        "Source::close" => close_source(ground, cut).await,
        "Settler::settle" => settle(ground, cut).await,
        "Settler::mark" => mark(ground, cut).await,
        "Settler::close" => close_settler(ground, cut).await,
        "Leases::connect" => connect_leases(ground, cut).await,
        "Leases::extend" => extend(ground, cut).await,
        "Admin::ensure_topic" => ensure_topic(ground, cut).await,
        "Admin::topics" => topics(ground, cut).await,
        "Admin::topic" => topic(ground, cut).await,
        "Admin::groups" => groups(ground, cut).await,
        "Admin::group" => group(ground, cut).await,
        "Admin::seek" => seek(ground, cut).await,
        "Admin::purge" => purge(ground, cut).await,
        "Admin::dead_letters" => dead_letters(ground, cut).await,
        "Admin::remove_dead_letter" => remove_dead_letter(ground, cut).await,
        "Admin::diagnose" => diagnose(ground, cut).await,
        other => Err(format!("there is no case for {other}")),
    }
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

fn told(error: &millstream_core::Error) -> String {
    format!("the driver gave an error where none was due: {error:?}")
}

/// What is allowed to come to a group, and what has to.
#[derive(Debug, Default)]
struct Expected {
    must: BTreeSet<String>,
    may: BTreeSet<String>,
}

impl Expected {
    fn must(ids: impl IntoIterator<Item = String>) -> Self {
        Self { must: ids.into_iter().collect(), may: BTreeSet::new() }
    }

    /// What a write came to; dropped after it was polled, it may have been written.
    fn written(&mut self, cut: &Cut, ids: Vec<String>, report: Option<Vec<WriteOutcome>>) {
        match report {
            None if cut.polls() == 0 => {}
            None => self.may.extend(ids),
            Some(outcomes) => {
                for (id, outcome) in ids.into_iter().zip(outcomes) {
                    match outcome {
                        WriteOutcome::Written(_) => drop(self.must.insert(id)),
                        WriteOutcome::Unknown(_) => drop(self.may.insert(id)),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// A topic of its own, and how to use it.
struct Ground {
    harness: Arc<dyn Harness>,
    connection: Connection,
    can: Capabilities,
    topic: ByteString,
    seed: u64,
}

impl Ground {
    async fn new(harness: &Arc<dyn Harness>, function: &str, seed: u64) -> Checked<Self> {
        let connection = harness.connect().await.map_err(|e| told(&e))?;
        let can = connection.reader.capabilities();
        let short: String = function.chars().filter(char::is_ascii_lowercase).collect();
        let topic = ByteString::from(harness.topic(&short));
        let ground = Self { harness: Arc::clone(harness), connection, can, topic, seed };
        ground.make(&ground.topic).await?;
        Ok(ground)
    }

    async fn make(&self, topic: &str) -> Checked {
        let settings = match self.can.partitions {
            true => TopicSettings::partitions(2),
            false => TopicSettings::default(),
        };
        self.admin()?.ensure_topic(topic, settings).await.map(drop).map_err(|e| told(&e))
    }

    fn admin(&self) -> Checked<&dyn DynAdmin> {
        self.connection.admin.as_deref().ok_or_else(|| "the driver has no admin to look with".to_owned())
    }

    fn random(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed)
    }

    fn message(&self, id: String) -> Message {
        let key = id.len() % 2 + usize::from(id.ends_with(['1', '3', '5']));
        Message::new(self.topic.clone(), format!("payload of {id}"))
            .with_id(id)
            .with_key(format!("key {key}"))
    }

    fn messages(&self, ids: &[String]) -> Vec<Message> {
        ids.iter().map(|id| self.message(id.clone())).collect()
    }

    /// Writes through a connection of its own, and wants all confirmed.
    async fn write(&self, ids: &[String]) -> Checked {
        self.write_all(self.messages(ids)).await
    }

    async fn write_all(&self, messages: Vec<Message>) -> Checked {
        let connection = self.harness.connect().await.map_err(|e| told(&e))?;
        let report =
            connection.writer.write(messages).await.and_then(millstream_core::WriteReport::into_result);
        report.map_err(|e| told(&e))
    }

    fn request(&self, group: &str) -> OpenRequest {
        OpenRequest::new(self.topic.clone()).group(group.to_owned())
    }

    async fn join(&self, group: &str) -> Checked<Member> {
        self.open(self.request(group)).await
    }

    async fn open(&self, request: OpenRequest) -> Checked<Member> {
        let group = request.group.clone().unwrap_or_default();
        let opened = self.connection.reader.open(request).await.map_err(|e| told(&e))?;
        let (source, settler, leases) = (opened.source, opened.settler, opened.leases);
        Ok(Member { group, source, settler, leases, assigned: Vec::new() })
    }

    /// The figures of a group; a driver without groups has one for all who read the topic.
    async fn group(&self, group: &str) -> Checked<Option<GroupInfo>> {
        let groups = self.admin()?.groups(&self.topic).await.map_err(|e| told(&e))?;
        Ok(groups.into_iter().find(|info| *info.name == *group || info.name.is_empty()))
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> Checked<bool>) -> Checked {
        let begun = Instant::now();
        let patience = self.patience();
        while !holds().await? {
            ensure!(begun.elapsed() < patience, "{what} within {patience:?}");
            sleep(self.moment()).await;
        }
        Ok(())
    }

    /// How long to wait before looking again. Where leases have to end on a clock that is paused, there is no hurry.
    fn moment(&self) -> Duration {
        let long = self.harness.scale().paused_clock && self.can.lease.is_some();
        if long { Duration::from_secs(1) } else { Duration::from_millis(2) }
    }

    /// What comes again may have to wait for a lease to end.
    fn patience(&self) -> Duration {
        self.harness.scale().patience + self.can.lease.unwrap_or_default()
    }

    async fn no_members(&self, group: &str) -> Checked {
        self.until("a member that is gone still counted", async || {
            Ok(self.group(group).await?.is_none_or(|info| info.members == 0))
        })
        .await
    }

    /// Reads and acknowledges all that a group has left, and checks that it is what was expected. Gives the ids in
    /// their order.
    async fn drain(&self, member: &mut Member, expected: &Expected) -> Checked<Vec<String>> {
        let mut seen = Vec::new();
        let begun = Instant::now();
        loop {
            let wait = timeout(self.moment(), member.read(ReadLimits::new(10, usize::MAX)));
            let some = wait.await.unwrap_or_else(|_| Ok(Vec::new()))?;
            for id in ids(&some) {
                ensure!(!seen.contains(&id), "{id} came twice");
                ensure!(expected.must.contains(&id) || expected.may.contains(&id), "{id} came, and must not");
                seen.push(id);
            }
            if !some.is_empty() {
                member.ack(some).await?;
                continue;
            }
            let missing: Vec<_> = expected.must.iter().filter(|id| !seen.contains(id)).collect();
            let left =
                self.group(&member.group).await?.map_or(0, |info| info.lag + info.in_flight + info.parked);
            if missing.is_empty() && left == 0 {
                return Ok(seen);
            }
            let patience = self.patience();
            ensure!(
                begun.elapsed() < patience,
                "{missing:?} did not come within {patience:?}, and {left} are left; there came {seen:?}"
            );
        }
    }

    /// The same by a member that is new.
    async fn drain_anew(&self, group: &str, expected: &Expected) -> Checked<Vec<String>> {
        let mut member = self.join(group).await?;
        self.drain(&mut member, expected).await
    }
}

struct Member {
    group: ByteString,
    source: Box<dyn DynSource>,
    settler: Box<dyn DynSettler>,
    leases: Option<LeasePlan<Box<dyn DynLeases>>>,
    assigned: Vec<Assigned>,
}

impl Member {
    /// One read; none for what is no delivery.
    async fn read(&mut self, limits: ReadLimits) -> Checked<Vec<Delivery>> {
        let mut into = Vec::new();
        let read = self.source.read(&mut into, limits).await;
        self.heard(read.map_err(|e| told(&e))?);
        Ok(into)
    }

    fn heard(&mut self, read: Read) {
        match read {
            // The cases settle before they read on, or mean to lose it.
            Read::Revoking(revoking) => revoking.done(),
            Read::Assigned(assigned) => self.assigned.extend(assigned),
            _ => {}
        }
    }

    async fn take(&mut self, count: usize) -> Checked<Vec<Delivery>> {
        let mut all = Vec::new();
        let taking = async {
            while all.len() < count {
                all.extend(self.read(ReadLimits::new(count - all.len(), usize::MAX)).await?);
            }
            Checked::Ok(())
        };
        let taken = timeout(Duration::from_secs(30), taking).await;
        taken.map_err(|_| format!("{count} messages did not come"))??;
        Ok(all)
    }

    async fn ack(&mut self, deliveries: Vec<Delivery>) -> Checked {
        let count = deliveries.len();
        let batch = deliveries.into_iter().map(|d| Settlement::ack(d.token)).collect();
        let settled = self.settler.settle(batch).await;
        ensure!(
            settled.len() == count && settled.iter().all(Settled::is_done),
            "acknowledgements ended with {settled:?}"
        );
        Ok(())
    }
}

fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| d.message.id.to_string()).collect()
}

fn named(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{what}-{n}")).collect()
}

// ---- Writing -------------------------------------------------------------------------------------------------

async fn write(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    let (first, after) = (named("cut", ground.random().usize(1..6)), named("after", 2));
    let writer = &ground.connection.writer;

    let report = cut.run(writer.write(ground.messages(&first))).await;

    let report = report.transpose().map_err(|e| told(&e))?.map(millstream_core::WriteReport::into_outcomes);
    let dropped = report.is_none();
    let mut expected = Expected::must(after.clone());
    expected.written(cut, first.clone(), report);
    let later = writer.write(ground.messages(&after)).await;
    later.and_then(millstream_core::WriteReport::into_result).map_err(|e| told(&e))?;
    writer.close().await.map_err(|e| told(&e))?;
    let seen = ground.drain(&mut member, &expected).await?;
    if dropped && writer.capabilities().atomic_batch {
        let there = first.iter().filter(|id| seen.contains(id)).count();
        ensure!(there == 0 || there == first.len(), "{there} of a batch of {} were written", first.len());
    }
    Ok(())
}

async fn check_writer(ground: &Ground, cut: &Cut) -> Checked {
    let batch = named("m", 3);
    let messages = ground.messages(&batch);

    let checked = cut.run(ground.connection.writer.check(&messages)).await;

    let checked = checked.transpose().map_err(|e| told(&e))?;
    ensure!(checked.is_none_or(|report| report.is_all_written()), "nothing speaks against these messages");
    // Asking wrote nothing.
    let later = named("later", 2);
    ground.write(&later).await?;
    ground.drain_anew("g", &Expected::must(later)).await.map(drop)
}

async fn close_writer(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    let batch = named("beside", 3);
    let writing = tokio::spawn({
        let (writer, messages) = (Arc::clone(&ground.connection.writer), ground.messages(&batch));
        async move { writer.write(messages).await }
    });
    tokio::task::yield_now().await;
    let writer = &ground.connection.writer;

    let closed = cut.run(writer.close()).await;

    closed.transpose().map_err(|e| told(&e))?;
    writer.close().await.map_err(|e| format!("closing again: {}", told(&e)))?;
    let report = writing.await.map_err(|e| e.to_string())?;
    let mut expected = Expected::default();
    match report {
        Ok(report) => expected.written(cut, batch, Some(report.into_outcomes())),
        Err(error) => ensure!(error.kind() == ErrorKind::BusIsShutdown, "{}", told(&error)),
    }
    let late = writer.write(ground.messages(&named("late", 1))).await;
    let kind = late.as_ref().err().map(millstream_core::Error::kind);
    ensure!(kind == Some(ErrorKind::BusIsShutdown), "a closed writer answered {late:?}");
    ground.drain(&mut member, &expected).await.map(drop)
}

// ---- Reading -------------------------------------------------------------------------------------------------

async fn open(ground: &Ground, cut: &Cut) -> Checked {
    let opened = cut.run(ground.connection.reader.open(ground.request("g"))).await;

    drop(opened.transpose().map_err(|e| told(&e))?);
    ground.no_members("g").await?;
    let mut request = ground.request("g");
    if ground.can.order == Order::Total {
        // It stands by, or is refused, while there is another.
        request.exclusivity = Exclusivity::Exclusive;
    }
    let mut member = ground.open(request).await?;
    let batch = named("m", 3);
    ground.write(&batch).await?;
    ground.drain(&mut member, &Expected::must(batch)).await.map(drop)
}

async fn read(ground: &Ground, cut: &Cut) -> Checked {
    let mut random = ground.random();
    let mut member = ground.join("g").await?;
    let (before, beside) = (named("before", random.usize(0..4)), named("beside", random.usize(1..4)));
    ground.write(&before).await?;
    let comes_back = before.first().filter(|_| ground.can.retry_after.is_some() && random.bool()).cloned();
    if comes_back.is_some() {
        // So that the read waits for a time, too.
        let first = member.take(1).await?.remove(0);
        let retry = Verdict::Retry { after: Duration::from_millis(2) };
        let settled = member.settler.settle(vec![Settlement::new(first.token, retry)]).await;
        ensure!(settled.iter().all(Settled::is_done), "a retry ended with {settled:?}");
    }
    let limits = ReadLimits::new(random.usize(1..4), usize::MAX);
    let mut into = Vec::new();

    let (dropped, written) =
        tokio::join!(cut.run(member.source.read(&mut into, limits)), ground.write(&beside));

    written?;
    match dropped {
        Some(read) => member.heard(read.map_err(|e| told(&e))?),
        None => ensure!(into.is_empty(), "a read that was dropped had put messages where nobody looks"),
    }
    let mut expected = Expected::must(before.into_iter().chain(beside));
    for id in ids(&into) {
        ensure!(expected.must.remove(&id), "{id} came twice");
    }
    let counted = into.iter().all(|d| d.deliveries <= 1 + u32::from(comes_back.is_some()));
    ensure!(counted, "a delivery was counted that nobody saw: {into:?}");
    member.ack(into).await?;
    ground.drain(&mut member, &expected).await.map(drop)
}

async fn close_source(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    let batch = named("m", 5);
    ground.write(&batch).await?;
    let held = member.take(3).await?;
    let Member { source, settler, .. } = member;
    // The scheduler closes the settler first; a user of the contract may not.
    let mut settler = Some(settler);
    if ground.random().bool()
        && let Some(settler) = settler.take()
    {
        settler.close().await.map_err(|e| told(&e))?;
    }

    let closed = cut.run(source.close()).await;

    closed.transpose().map_err(|e| told(&e))?;
    drop((held, settler));
    ground.no_members("g").await?;
    ground.drain_anew("g", &Expected::must(batch)).await.map(drop)
}

// ---- Settling ------------------------------------------------------------------------------------------------

async fn settle(ground: &Ground, cut: &Cut) -> Checked {
    let mut random = ground.random();
    let (can, admin) = (&ground.can, ground.admin()?);
    let other = ByteString::from(ground.harness.topic("other"));
    ground.make(&other).await?;
    let mut member = ground.join("g").await?;
    let batch = named("m", 6);
    ground.write(&batch).await?;
    let mut deliveries = member.take(batch.len()).await?;
    let rest = deliveries.split_off(4);
    let alone = can.settle == SettleMode::Cumulative;
    let mut expected = Expected::default();
    let mut acked = Vec::new();
    let mut settlements = Vec::new();
    let (mut emits, mut dies) = (None, None);
    for delivery in deliveries {
        let id = delivery.message.id.to_string();
        let mut settlement = Settlement::ack(delivery.token);
        match random.u8(0..6) {
            0 if !alone => settlement.verdict = Verdict::Release,
            1 if !alone && can.retry_after.is_some() => {
                settlement.verdict = Verdict::Retry { after: Duration::from_millis(1) };
            }
            2 if can.parking == Parking::Native => settlement.verdict = Verdict::Park(Box::new(park())),
            3 if can.dead_letters == DeadLetters::Native && dies.is_none() => {
                dies = Some(id.clone());
                let letter = ground.message(format!("letter of {id}"));
                settlement.verdict = Verdict::Dead(Box::new(letter));
            }
            4 if can.atomic_emit.is_some() && emits.is_none() => {
                emits = Some(id.clone());
                settlement.along_mut().emit = vec![Message::new(other.clone(), "emitted").with_id("emitted")];
            }
            _ => {}
        }
        match settlement.verdict {
            Verdict::Ack | Verdict::Dead(_) => acked.push(id),
            _ => drop(expected.must.insert(id)),
        }
        settlements.push(settlement);
    }

    let outcomes = cut.run(member.settler.settle(settlements)).await;

    match outcomes {
        Some(outcomes) => ensure!(outcomes.iter().all(Settled::is_done), "it ended with {outcomes:?}"),
        None if cut.polls() == 0 => expected.must.extend(acked),
        None => expected.may.extend(acked),
    }
    if alone {
        // To settle these would settle those before them.
        expected.must.extend(ids(&rest));
    } else {
        member.ack(rest).await?;
    }
    drop(member);
    ground.no_members("g").await?;
    let seen = ground.drain_anew("g", &expected).await?;
    if let Some(id) = emits {
        let topics = admin.topics().await.map_err(|e| told(&e))?;
        let there = topics.iter().any(|topic| topic.name == other && topic.messages == 1);
        ensure!(there != seen.contains(&id), "{id} was acknowledged, or its message left, without the other");
    }
    if let Some(id) = dies {
        let letters = admin.dead_letters(&ground.topic, None, 10).await.map_err(|e| told(&e))?;
        ensure!(
            (letters.len() == 1) != seen.contains(&id),
            "{id} was acknowledged, or its dead letter stored, without the other"
        );
    }
    Ok(())
}

fn park() -> Park {
    let note = ParkNote { attempts: 1, first_failure: None, error: "down".to_owned() };
    Park { after: Some(Duration::from_millis(1)), note }
}

async fn mark(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    if !ground.can.marks {
        let (partition, epoch) = Default::default();
        let told = cut.run(member.settler.mark(partition, epoch, "note".to_owned())).await;
        ensure!(!matches!(told, Some(Ok(()))), "a driver that has no marks stored one");
        return Ok(());
    }
    while member.assigned.is_empty() {
        member.read(ReadLimits::NOTHING).await?;
    }
    let (partition, epoch) = (member.assigned[0].partition, member.assigned[0].epoch);

    let marked = cut.run(member.settler.mark(partition, epoch, "first".to_owned())).await;

    marked.transpose().map_err(|e| told(&e))?;
    member.settler.mark(partition, epoch, "second".to_owned()).await.map_err(|e| told(&e))?;
    drop(member);
    let mut member = ground.join("g").await?;
    loop {
        member.read(ReadLimits::NOTHING).await?;
        if let Some(again) = member.assigned.iter().find(|a| a.partition == partition) {
            ensure!(again.mark.as_deref() == Some("second"), "the mark is {:?}", again.mark);
            return Ok(());
        }
    }
}

async fn close_settler(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    let batch = named("m", 4);
    ground.write(&batch).await?;
    let mut deliveries = member.take(batch.len()).await?;
    let held = deliveries.split_off(2);
    member.ack(deliveries).await?;
    let Member { source, settler, .. } = member;

    let closed = cut.run(settler.close()).await;

    closed.transpose().map_err(|e| told(&e))?;
    drop(source);
    ground.no_members("g").await?;
    ground.drain_anew("g", &Expected::must(ids(&held))).await.map(drop)
}

// ---- Leases --------------------------------------------------------------------------------------------------

async fn connect_leases(ground: &Ground, cut: &Cut) -> Checked {
    leases(ground, cut, async |cut, leases, _| cut.run(leases.connect()).await.transpose().map(drop)).await
}

async fn extend(ground: &Ground, cut: &Cut) -> Checked {
    leases(ground, cut, async |cut, leases, held| {
        leases.connect().await?;
        cut.run(leases.extend(held)).await.transpose().map(drop)
    })
    .await
}

/// After what is dropped, the leases are connected and extended as ever, and the deliveries are still ours.
async fn leases(
    ground: &Ground,
    cut: &Cut,
    dropped: impl AsyncFnOnce(&Cut, &mut dyn DynLeases, &[TokenId]) -> millstream_core::Result<()>,
) -> Checked {
    let mut member = ground.join("g").await?;
    let Some(mut plan) = member.leases.take() else {
        // Nothing to extend: the contract calls neither.
        let _ = cut.run(std::future::ready(())).await;
        return Ok(());
    };
    let batch = named("m", 2);
    ground.write(&batch).await?;
    let held = member.take(2).await?;
    let tokens: Vec<TokenId> = held.iter().map(|d| d.token.id()).collect();
    dropped(cut, &mut *plan.leases, &tokens).await.map_err(|e| told(&e))?;
    plan.leases.connect().await.map_err(|e| told(&e))?;
    for _ in 0..4 {
        let kept = plan.leases.extend(&tokens).await.map_err(|e| told(&e))?;
        ensure!(kept == [true, true], "the leases were extended as {kept:?}");
        sleep(plan.duration / 2).await;
    }
    member.ack(held).await?;
    ground.drain(&mut member, &Expected::default()).await.map(drop)
}

// ---- Administration ------------------------------------------------------------------------------------------

async fn ensure_topic(ground: &Ground, cut: &Cut) -> Checked {
    let (admin, name) = (ground.admin()?, ground.harness.topic("new"));
    let made = cut.run(admin.ensure_topic(&name, TopicSettings::default())).await;
    let made = made.transpose().map_err(|e| told(&e))?;
    let again = admin.ensure_topic(&name, TopicSettings::default()).await.map_err(|e| told(&e))?;
    ensure!(made.is_none() || made == Some(true) && !again, "a topic was made twice");
    ensure!(cut.polls() > 0 || again, "a topic was made by a future that was never polled");
    let topics = admin.topics().await.map_err(|e| told(&e))?;
    let there = topics.iter().filter(|topic| *topic.name == *name).count();
    ensure!(there == 1, "the topic is there {there} times");
    Ok(())
}

async fn topics(ground: &Ground, cut: &Cut) -> Checked {
    ground.write(&named("m", 2)).await?;
    let admin = ground.admin()?;
    let first = cut.run(admin.topics()).await.transpose().map_err(|e| told(&e))?;
    let again = admin.topics().await.map_err(|e| told(&e))?;
    ensure!(first.is_none_or(|first| first == again), "looking changed what there is");
    Ok(())
}

async fn topic(ground: &Ground, cut: &Cut) -> Checked {
    ground.write(&named("m", 2)).await?;
    let admin = ground.admin()?;
    let first = cut.run(admin.topic(&ground.topic)).await.transpose().map_err(|e| told(&e))?;
    let again = admin.topic(&ground.topic).await.map_err(|e| told(&e))?;
    ensure!(again.is_some(), "the topic is not there");
    ensure!(first.is_none_or(|first| first == again), "looking changed what there is");
    Ok(())
}

async fn group(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    ground.write(&named("m", 2)).await?;
    let held = member.take(2).await?;
    let (admin, name) = (ground.admin()?, ground.group("g").await?.map(|info| info.name));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let _ = cut.run(std::future::ready(())).await;
        return Ok(());
    };
    let first = cut.run(admin.group(&ground.topic, &name)).await;
    drop(first.transpose().map_err(|e| told(&e))?);
    let again = admin.group(&ground.topic, &name).await.map_err(|e| told(&e))?;
    ensure!(again.is_some_and(|info| info.name == name), "the group is not there");
    member.ack(held).await?;
    ground.drain(&mut member, &Expected::default()).await.map(drop)
}

async fn groups(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    ground.write(&named("m", 2)).await?;
    let held = member.take(2).await?;
    let admin = ground.admin()?;
    let first = cut.run(admin.groups(&ground.topic)).await;
    drop(first.transpose().map_err(|e| told(&e))?);
    admin.groups(&ground.topic).await.map_err(|e| told(&e))?;
    member.ack(held).await?;
    ground.drain(&mut member, &Expected::default()).await.map(drop)
}

async fn seek(ground: &Ground, cut: &Cut) -> Checked {
    let mut member = ground.join("g").await?;
    let batch = named("m", 4);
    ground.write(&batch).await?;
    ground.drain(&mut member, &Expected::must(batch.clone())).await?;
    drop(member);
    ground.no_members("g").await?;
    if !ground.can.starts.earliest {
        let _ = cut.run(std::future::ready(())).await;
        return Ok(());
    }
    let admin = ground.admin()?;
    let group = ground.group("g").await?.map(|info| info.name).unwrap_or_default();

    let sought = cut.run(admin.seek(&ground.topic, &group, Start::Earliest)).await;

    sought.transpose().map_err(|e| told(&e))?;
    admin.seek(&ground.topic, &group, Start::Latest).await.map_err(|e| told(&e))?;
    // Where it was sought to first does not count any more.
    let later = named("later", 2);
    ground.write(&later).await?;
    ground.drain_anew("g", &Expected::must(later)).await.map(drop)
}

async fn purge(ground: &Ground, cut: &Cut) -> Checked {
    drop(ground.join("g").await?);
    ground.no_members("g").await?;
    let batch = named("m", 4);
    ground.write(&batch).await?;
    let admin = ground.admin()?;

    let purged = cut.run(admin.purge(&ground.topic)).await.transpose().map_err(|e| told(&e))?;

    let again = admin.purge(&ground.topic).await.map_err(|e| told(&e))?;
    let both = purged.unwrap_or(0) + again;
    ensure!(both == 4 || (purged.is_none() && cut.polls() > 0 && both == 0), "{both} messages were deleted");
    let later = named("later", 2);
    ground.write(&later).await?;
    ground.drain_anew("g", &Expected::must(later)).await.map(drop)
}

/// Makes three dead letters, in the driver's own way; their ids.
async fn bury(ground: &Ground) -> Checked<Vec<u64>> {
    let batch = named("m", 3);
    if ground.can.dead_letters == DeadLetters::Native {
        let mut member = ground.join("g").await?;
        ground.write(&batch).await?;
        let held = member.take(3).await?;
        let dead =
            held.into_iter().map(|d| Settlement::new(d.token, Verdict::Dead(Box::new((*d.message).clone()))));
        let settled = member.settler.settle(dead.collect()).await;
        ensure!(settled.iter().all(Settled::is_done), "dead letters ended with {settled:?}");
    } else {
        let topic = ByteString::from(format!("{}.dlq", ground.topic));
        ground.make(&topic).await?;
        let letters = ground.messages(&batch).into_iter().map(|m| Message { topic: topic.clone(), ..m });
        ground.write_all(letters.collect()).await?;
    }
    letters(ground).await
}

async fn letters(ground: &Ground) -> Checked<Vec<u64>> {
    let letters = ground.admin()?.dead_letters(&ground.topic, None, 10).await.map_err(|e| told(&e))?;
    Ok(letters.into_iter().map(|letter| letter.id).collect())
}

async fn dead_letters(ground: &Ground, cut: &Cut) -> Checked {
    let buried = bury(ground).await?;
    let listed = cut.run(ground.admin()?.dead_letters(&ground.topic, None, 10)).await;
    let listed = listed.transpose().map_err(|e| told(&e))?;
    ensure!(listed.is_none_or(|letters| letters.len() == buried.len()), "the list is not whole");
    ensure!(letters(ground).await? == buried, "looking changed what there is");
    Ok(())
}

async fn remove_dead_letter(ground: &Ground, cut: &Cut) -> Checked {
    let buried = bury(ground).await?;
    let admin = ground.admin()?;
    // A driver that keeps none removes none.
    let (id, exists) = buried.get(1).map_or((1, false), |id| (*id, true));

    let removed = cut.run(admin.remove_dead_letter(&ground.topic, id)).await;

    let removed = removed.transpose().map_err(|e| told(&e))?;
    let again = admin.remove_dead_letter(&ground.topic, id).await.map_err(|e| told(&e))?;
    match removed {
        Some(removed) => ensure!(removed == exists && !again, "removed {removed}, then {again}"),
        None => ensure!(cut.polls() > 0 || again == exists, "a future that was never polled removed it"),
    }
    let left: Vec<u64> = buried.iter().copied().filter(|other| *other != id).collect();
    ensure!(letters(ground).await? == left, "others were removed, or it was not");
    Ok(())
}

async fn diagnose(ground: &Ground, cut: &Cut) -> Checked {
    let batch = named("m", 3);
    ground.write(&batch).await?;
    let admin = ground.admin()?;

    let found = cut.run(admin.diagnose(&ground.topic)).await.transpose().map_err(|e| told(&e))?;

    let again = admin.diagnose(&ground.topic).await.map_err(|e| told(&e))?;
    ensure!(found.is_none_or(|found| found == again), "looking changed what was found");
    ground.drain_anew("g", &Expected::must(batch)).await.map(drop)
}

// ---- Deduplication stores ------------------------------------------------------------------------------------

/// Longer than any test waits: what is free before was not freed by it.
const LEASE: Duration = Duration::from_secs(3_600);

/// How long a reservation that nobody heard of may take to be free again.
const SOON: Duration = Duration::from_secs(10);

/// Drops the functions of a deduplication store at every poll. A store is made anew for each function and seed, by a
/// future that runs on the runtime that uses it; what it gives beside the store is kept until then.
///
/// # Panics
/// If no runtime can be made.
pub fn check_store<K>(
    make: impl Fn() -> BoxFuture<'static, (Arc<dyn DynDedupStore>, K)>,
    seeds: u64,
) -> Report {
    let mut report = Report::default();
    for function in STORE_FUNCTIONS {
        let mut tally = Tally::default();
        for seed in 0..seeds {
            let swept = runtime(false).block_on(async {
                let (store, _kept) = make().await;
                let mut round = 0;
                at_every_poll(async |cut| {
                    round += 1;
                    // Ids of its own for each run.
                    run_store(function, &*store, cut, &format!("{seed}-{round}")).await
                })
                .await
            });
            match swept {
                Ok(tried) => tally.add(tried),
                Err(what) => report.failures.push(format!("{function}, seed {seed}: {what}")),
            }
        }
        report.functions.push((function, tally));
    }
    report
}

async fn run_store(function: &str, store: &dyn DynDedupStore, cut: &Cut, name: &str) -> Checked {
    match function {
        "DedupStore::reserve" => reserve(store, cut, name).await,
        "DedupStore::confirm" => confirm(store, cut, name).await,
        "DedupStore::release" => release(store, cut, name).await,
        "DedupStore::contains" => contains(store, cut, name).await,
        other => Err(format!("there is no case for {other}")),
    }
}

fn keys(name: &str) -> Vec<DedupKey> {
    (0..3).map(|n| DedupKey { group: "g".into(), id: format!("{name}-{n}").into() }).collect()
}

/// Reserves all, waiting for those that are not free yet.
async fn reserved(store: &dyn DynDedupStore, keys: &[DedupKey]) -> Checked<Vec<Reservation>> {
    let begun = Instant::now();
    let mut reservations = Vec::new();
    for key in keys {
        loop {
            let answer = store.reserve(vec![key.clone()], LEASE).await.map_err(|e| told(&e))?.pop();
            match answer {
                Some(Reserve::Reserved(reservation)) => break reservations.push(reservation),
                Some(Reserve::Busy(_)) if begun.elapsed() < SOON => sleep(Duration::from_millis(1)).await,
                other => return Err(format!("{:?} is not free within {SOON:?}: {other:?}", key.id)),
            }
        }
    }
    Ok(reservations)
}

async fn are_handled(store: &dyn DynDedupStore, keys: &[DedupKey]) -> Checked<Vec<bool>> {
    let mut handled = Vec::new();
    for key in keys {
        handled.push(store.contains(key).await.map_err(|e| told(&e))?);
    }
    Ok(handled)
}

async fn reserve(store: &dyn DynDedupStore, cut: &Cut, name: &str) -> Checked {
    let keys = keys(name);

    let answers = cut.run(store.reserve(keys.clone(), LEASE)).await.transpose().map_err(|e| told(&e))?;

    let reservations = match answers {
        Some(answers) => {
            let taken = answers.into_iter().map(|answer| match answer {
                Reserve::Reserved(reservation) => Ok(reservation),
                other => Err(format!("a new id is {other:?}")),
            });
            taken.collect::<Checked<Vec<_>>>()?
        }
        None => reserved(store, &keys).await?,
    };
    let confirmed = store.confirm(&reservations).await.map_err(|e| told(&e))?;
    ensure!(confirmed == [true; 3], "confirmed {confirmed:?}");
    Ok(())
}

async fn confirm(store: &dyn DynDedupStore, cut: &Cut, name: &str) -> Checked {
    let keys = keys(name);
    let reservations = reserved(store, &keys).await?;

    let confirmed = cut.run(store.confirm(&reservations)).await.transpose().map_err(|e| told(&e))?;

    ensure!(confirmed.as_ref().is_none_or(|all| *all == [true; 3]), "confirmed {confirmed:?}");
    if confirmed.is_none() && cut.polls() == 0 {
        ensure!(are_handled(store, &keys).await? == [false; 3], "a future that was never polled confirmed");
    }
    let again = store.confirm(&reservations).await.map_err(|e| told(&e))?;
    ensure!(again == [true; 3], "confirmed again {again:?}");
    ensure!(are_handled(store, &keys).await? == [true; 3], "what was confirmed is not handled");
    let copies = store.reserve(keys, LEASE).await.map_err(|e| told(&e))?;
    ensure!(copies.iter().all(|copy| *copy == Reserve::Duplicate), "copies are {copies:?}");
    Ok(())
}

async fn release(store: &dyn DynDedupStore, cut: &Cut, name: &str) -> Checked {
    let keys = keys(name);
    let reservations = reserved(store, &keys).await?;
    let copies = reservations.iter().map(|one| Reservation { key: one.key.clone(), owner: one.owner });
    let copies: Vec<_> = copies.collect();

    let released = cut.run(store.release(reservations)).await.transpose().map_err(|e| told(&e))?;

    if released.is_none() && cut.polls() == 0 {
        let asked = store.reserve(keys.clone(), LEASE).await.map_err(|e| told(&e))?;
        ensure!(asked.iter().all(|a| matches!(a, Reserve::Busy(_))), "a future never polled released");
    }
    store.release(copies).await.map_err(|e| told(&e))?;
    let again = reserved(store, &keys).await?;
    let confirmed = store.confirm(&again).await.map_err(|e| told(&e))?;
    ensure!(confirmed == [true; 3], "confirmed {confirmed:?}");
    Ok(())
}

async fn contains(store: &dyn DynDedupStore, cut: &Cut, name: &str) -> Checked {
    let keys = keys(name);
    let reservations = reserved(store, &keys).await?;
    store.confirm(&reservations).await.map_err(|e| told(&e))?;
    let there = cut.run(store.contains(&keys[0])).await.transpose().map_err(|e| told(&e))?;
    ensure!(there.is_none_or(|there| there), "what was confirmed is not handled");
    ensure!(are_handled(store, &keys).await? == [true; 3], "looking changed what there is");
    Ok(())
}
