//! Between the engine and the broker: every call takes its time, may be cut off, and is written down.
//!
//! A planted bug sits below: what is written down is what the engine was told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytestring::ByteString;
use millstream_core::{
    Capabilities, Delivery, Epoch, Error, ErrorKind, LeasePlan, Leases, Message, OpenRequest, Opened,
    PartitionId, Read, ReadLimits, Reader, Result, Settled, Settlement, Settler, Source, TokenId,
    WriteOutcome, WriteReport, Writer, WriterCapabilities, names,
};
use millstream_testkit::ledger::{Ending, Record, digest};
use millstream_testkit::sim::{MemberId, SimReader, SimWriter};
use tokio::time::{Instant, sleep, sleep_until};

use crate::book::{Case, Open};
use crate::link::{Link, Passage};
use crate::phase::{Active, Phase};
use crate::planted::{BuggyLeases, BuggyReader, BuggySettler, BuggySource, BuggyWriter};
use crate::world::World;

/// What the parts of one process's driver share.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) world: Arc<World>,
    pub(crate) link: Arc<Link>,
    /// The process, for traces.
    pub(crate) name: ByteString,
    /// Who it is at the broker.
    pub(crate) members: Arc<Mutex<Vec<(MemberId, u64)>>>,
}

impl Wire {
    pub(crate) fn reader(&self, inner: SimReader) -> WireReader {
        WireReader { inner: BuggyReader::new(inner, self.world.plan.defect), wire: self.clone() }
    }

    pub(crate) fn writer(&self, inner: SimWriter) -> WireWriter {
        WireWriter { inner: BuggyWriter::new(inner, self.world.plan.defect), wire: self.clone() }
    }

    fn latency(&self) -> Duration {
        let longest = self.world.plan.latency;
        Duration::from_micros(self.world.draw(|random| random.u64(0..=longest)))
    }

    /// Waits as long as a call takes.
    async fn travel(&self) {
        self.link.travel(self.latency()).await;
    }

    fn unreachable(&self, topic: &str) -> Error {
        Error::new(ErrorKind::Unavailable, "the broker cannot be reached").topic(topic)
    }
}

#[derive(Debug)]
pub(crate) struct WireReader {
    inner: BuggyReader,
    wire: Wire,
}

/// One opened subscription.
#[derive(Debug)]
struct Seat {
    wire: Wire,
    member: u64,
    group: &'static str,
    topic: ByteString,
    /// It reads the park.
    park: bool,
}

impl Reader for WireReader {
    type Source = WireSource;
    type Settler = WireSettler;
    type Leases = WireLeases;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<WireSource, WireSettler, WireLeases>> {
        let world = &self.wire.world;
        self.wire.travel().await;
        if self.wire.link.passage().await != Passage::Free {
            return Err(self.wire.unreachable(&request.topic));
        }
        let topic = request.topic.clone();
        let group = world.group(request.group.as_deref().unwrap_or_default());
        let opened = self.inner.open(request).await?;
        let member = world.next_member();
        let seat =
            Arc::new(Seat { wire: self.wire.clone(), member, group, park: topic.ends_with(".park"), topic });
        world.trace.add(format_args!("{} opens {} for {group}: member {member}", self.wire.name, seat.topic));
        self.wire.members.lock().expect("no panics").push((opened.source.member(), member));
        let source = WireSource { inner: Some(opened.source), seat: Arc::clone(&seat), fetched: None };
        let mut wired = Opened::new(source, WireSettler { inner: opened.settler, seat });
        wired.leases = opened.leases.map(|plan| LeasePlan {
            duration: plan.duration,
            leases: WireLeases { inner: plan.leases, wire: self.wire.clone() },
        });
        Ok(wired)
    }
}

#[derive(Debug)]
pub(crate) struct WireSource {
    /// There until it is dropped.
    inner: Option<BuggySource>,
    seat: Arc<Seat>,
    /// When the fetch that is under way arrives: a read that is cut goes on where it was.
    fetched: Option<Instant>,
}

impl WireSource {
    async fn fetch(&mut self) {
        let wire = &self.seat.wire;
        if self.fetched.is_none() {
            self.fetched = Some(Instant::now() + wire.latency() + wire.link.slowness());
        }
        let _reading = wire.world.activity.enter([Phase::Reading]);
        if let Some(at) = self.fetched {
            sleep_until(at).await;
        }
    }

    fn arrived(&self, read: &Read, deliveries: &[Delivery]) {
        let Seat { wire, member, group, topic, park } = &*self.seat;
        let (world, name) = (&wire.world, &wire.name);
        match read {
            Read::Deliveries => {}
            Read::Assigned(news) => {
                let news: Vec<_> = news.iter().map(|a| (a.partition, a.epoch)).collect();
                world.trace.add(format_args!("{name} is assigned {topic} {news:?}"));
                let (dropped, behind) = world.book().reassigned(*member, group, *park, &news);
                dropped.iter().for_each(|case| world.may_come_again(case));
                world.gap_moves(&behind);
            }
            Read::Revoking(asked) => {
                let partitions: Vec<u32> = asked.partitions.iter().map(|(p, _)| p.0).collect();
                world.trace.add(format_args!("{name} is asked back {topic} {partitions:?}"));
            }
            Read::Lost(lost) => {
                let partitions: Vec<PartitionId> = lost.partitions.iter().map(|(p, _)| *p).collect();
                world.trace.add(format_args!("{name} lost {topic} {partitions:?}"));
                let lost = world.book().lose(*member, &partitions);
                lost.iter().for_each(|case| world.may_come_again(case));
            }
            _ => world.trace.add(format_args!("{name} reads {read:?} of {topic}")),
        }
        if deliveries.is_empty() {
            return;
        }
        let disturbed = world.is_disturbed();
        for delivery in deliveries {
            let open = Open { case: (*group, delivery.message.id.clone()), parked: *park };
            let outdated = *park && world.book().is_outdated(group, true, delivery.token.id());
            if outdated || (disturbed && world.book().is_open(&open)) {
                // The broker gave it away while somebody had it, or thinks so.
                world.may_come_again(&open.case);
            }
            let mut book = world.book();
            if *park {
                // Its write may have had no answer; here it is.
                book.parked.insert(open.case.clone());
            }
            book.hold(*member, delivery.token.id(), open);
        }
        let ids: Vec<&str> = deliveries.iter().map(|d| &*d.message.id).collect();
        world.trace.add(format_args!("{name} reads {topic} for {group}: {}", ids.join(" ")));
    }
}

impl Source for WireSource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        let seat = Arc::clone(&self.seat);
        let (wire, world) = (&seat.wire, &seat.wire.world);
        loop {
            if wire.link.passage().await == Passage::Refused {
                return Err(wire.unreachable(&seat.topic));
            }
            wire.link.up().await;
            self.fetch().await;
            if world.reads_are_cut() {
                // The longer it takes, the likelier the pump has something better to do.
                let cut = CutRead { world, done: false };
                sleep(Duration::from_millis(world.draw(|random| random.u64(1..40)))).await;
                cut.done();
            }
            let before = into.len();
            let Some(inner) = &mut self.inner else { return Ok(Read::End) };
            tokio::select! {
                biased;
                read = inner.read(into, limits) => {
                    self.fetched = None;
                    if let Ok(read) = &read {
                        self.arrived(read, &into[before..]);
                    }
                    return read;
                }
                () = wire.link.down() => {}
            }
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        self.inner.iter_mut().for_each(|inner| inner.pause(partitions));
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        self.inner.iter_mut().for_each(|inner| inner.resume(partitions));
    }

    fn assign(&mut self, partitions: Vec<PartitionId>) {
        let Seat { wire, topic, .. } = &*self.seat;
        let numbers: Vec<u32> = partitions.iter().map(|p| p.0).collect();
        wire.world.trace.add(format_args!("{} assigns itself {topic} {numbers:?}", wire.name));
        self.inner.iter_mut().for_each(|inner| inner.assign(partitions.clone()));
    }

    async fn close(mut self) -> Result<()> {
        let wire = &self.seat.wire;
        wire.travel().await;
        wire.link.passage().await;
        if wire.world.is_cumulative() {
            let behind = wire.world.book().behind_a_gap(self.seat.member);
            wire.world.gap_moves(&behind);
        }
        wire.world.book().forget(self.seat.member);
        wire.world.trace.add(format_args!("{} closes {}", wire.name, self.seat.topic));
        match self.inner.take() {
            Some(inner) => inner.close().await,
            None => Ok(()),
        }
    }
}

impl Drop for WireSource {
    fn drop(&mut self) {
        // Of a dead process the broker learns later.
        if let Some(inner) = self.inner.take().filter(|_| self.seat.wire.link.is_dead()) {
            self.seat.wire.world.bury(inner);
        }
    }
}

/// Says so if a read was cut while it took its time.
struct CutRead<'a> {
    world: &'a World,
    done: bool,
}

impl CutRead<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for CutRead<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.world.read_was_cut();
        }
    }
}

#[derive(Debug)]
pub(crate) struct WireSettler {
    inner: BuggySettler,
    seat: Arc<Seat>,
}

/// What is known of a settlement before it is sent.
#[derive(Debug)]
struct Sent {
    tokens: Vec<TokenId>,
    /// What it settles: after a death nobody else remembers.
    cases: Vec<Case>,
    ending: Ending,
    /// Ids of the messages that commit with it.
    emits: Vec<ByteString>,
    letter: Option<(Case, u64)>,
}

impl Sent {
    fn of(settlement: &Settlement, seat: &Seat) -> Self {
        let world = &seat.wire.world;
        let group = seat.group;
        let others = settlement.others().iter().map(millstream_core::Token::id);
        let letter = match &settlement.verdict {
            millstream_core::Verdict::Dead(letter) => Some(((group, letter.id.clone()), digest(letter))),
            _ => None,
        };
        let tokens: Vec<TokenId> = std::iter::once(settlement.token.id()).chain(others).collect();
        let book = world.book();
        let all = |token: &TokenId| match world.is_cumulative() {
            true => book.up_to(seat.member, *token),
            false => vec![*token],
        };
        let cases =
            tokens.iter().flat_map(all).filter_map(|token| book.case_of(seat.member, token)).collect();
        drop(book);
        Self {
            tokens,
            cases,
            ending: Ending::from(&settlement.verdict),
            emits: settlement.emit().iter().map(|message| message.id.clone()).collect(),
            letter,
        }
    }
}

/// Settlements on their way: if nobody hears of them any more, they are in doubt.
struct OnTheWay<'a> {
    seat: &'a Seat,
    sent: Vec<Sent>,
    /// What the settlements are doing.
    _active: Active,
}

impl OnTheWay<'_> {
    fn answered(mut self, outcomes: &[Settled]) {
        for (sent, outcome) in std::mem::take(&mut self.sent).into_iter().zip(outcomes) {
            self.seat.answered(&sent, Some(outcome));
        }
    }
}

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        for sent in std::mem::take(&mut self.sent) {
            self.seat.answered(&sent, None);
        }
    }
}

impl Seat {
    /// Writes down what became of a settlement; without an answer, that nobody knows.
    fn answered(&self, sent: &Sent, outcome: Option<&Settled>) {
        let (world, group) = (&self.wire.world, self.group);
        world.trace.add(format_args!(
            "{} settles {} for {group} {:?} {:?}: {}",
            self.wire.name,
            self.topic,
            sent.ending,
            sent.tokens.iter().map(|t| (t.partition.0, t.id)).collect::<Vec<_>>(),
            outcome.map_or("no answer", name_of),
        ));
        if !matches!(outcome, Some(Settled::Failed { .. })) {
            world.effects_committed();
        }
        let cumulative = world.is_cumulative();
        match outcome {
            Some(Settled::Failed { .. }) => {}
            // Undone: its handler runs again.
            Some(Settled::EffectsFailed(_)) => {
                let cases: Vec<Case> = sent
                    .tokens
                    .iter()
                    .filter_map(|token| world.book().case_of(self.member, *token))
                    .collect();
                cases.iter().for_each(|case| world.given_back(case));
            }
            Some(Settled::Done) => {
                sent.emits.iter().for_each(|id| world.acked(id));
                if let Some((case, digest)) = &sent.letter {
                    world.dead_lettered(case.clone(), *digest);
                }
                let mut ended = Vec::new();
                for token in &sent.tokens {
                    let tokens =
                        if cumulative { world.book().up_to(self.member, *token) } else { vec![*token] };
                    ended.extend(tokens.into_iter().filter_map(|token| self.ended(token, sent.ending)));
                }
                // The answer may come after the partition was taken away.
                for case in sent.cases.iter().filter(|case| !ended.contains(case)) {
                    if matches!(sent.ending, Ending::Ack | Ending::Dead) {
                        let id = case.1.clone();
                        world.ledger.write(Record::settled(id, group, sent.ending, &Settled::Done));
                    }
                }
            }
            // Lost, unknown, never answered, and what a later version of the contract adds.
            _ => {
                let lost = matches!(outcome, Some(Settled::Lost));
                for id in sent.emits.iter().filter(|_| !lost) {
                    world.ledger.write(Record::MaybeWritten { id: id.clone() });
                }
                for token in &sent.tokens {
                    world.book().release(self.member, *token);
                }
                for case in &sent.cases {
                    if !lost {
                        world.in_doubt(case, sent.letter.is_some());
                    }
                    world.may_come_again(case);
                }
                if outcome.is_some() {
                    world.book().too_late += 1;
                }
            }
        }
    }

    /// The broker did not do these, and nobody is told so.
    fn forgotten(&self, tokens: &[TokenId]) {
        let world = &self.wire.world;
        world.control.forget(&self.topic, world.broker_group(self.group), tokens);
    }

    /// A delivery was settled, confirmed.
    fn ended(&self, token: TokenId, ending: Ending) -> Option<Case> {
        let world = &self.wire.world;
        let mut book = world.book();
        let open = book.release(self.member, token)?;
        if !matches!(ending, Ending::Ack | Ending::Dead) {
            return Some(open.case);
        }
        let early = !book.may_end(&open);
        // Its copy in the park is still to come, whatever became of it meanwhile.
        let ending = if !open.parked && book.parked.contains(&open.case) { Ending::Park } else { ending };
        drop(book);
        if early {
            world.breach(format!("{} was acknowledged in {} before its end", open.case.1, open.case.0));
        }
        let id = open.case.1.clone();
        world.ledger.write(Record::settled(id, self.group, ending, &Settled::Done));
        Some(open.case)
    }
}

fn name_of(outcome: &Settled) -> &'static str {
    match outcome {
        Settled::Done => "done",
        Settled::Lost => "lost",
        Settled::Failed { .. } => "failed",
        Settled::EffectsFailed(_) => "effects failed",
        _ => "unknown",
    }
}

impl Settler for WireSettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        let seat = Arc::clone(&self.seat);
        let wire = &seat.wire;
        let sent: Vec<Sent> = batch.iter().map(|settlement| Sent::of(settlement, &seat)).collect();
        let mut phases = vec![Phase::Settling];
        phases.extend(sent.iter().filter_map(|sent| match sent.ending {
            Ending::Park | Ending::Retry => Some(Phase::Parking),
            Ending::Dead => Some(Phase::DeadLettering),
            _ => None,
        }));
        let on_the_way = OnTheWay { seat: &seat, sent, _active: wire.world.activity.enter(phases) };
        wire.travel().await;
        let unknown = |_| Settled::Unknown(wire.unreachable(&seat.topic));
        let count = batch.len();
        let tokens: Vec<TokenId> = batch.iter().map(|settlement| settlement.token.id()).collect();
        let outcomes = match wire.link.passage().await {
            Passage::Free => self.inner.settle(batch).await,
            Passage::Refused => batch
                .into_iter()
                .map(|settlement| Settled::Failed {
                    error: wire.unreachable(&seat.topic),
                    settlement: Box::new(settlement),
                })
                .collect(),
            // Such a driver finds out how it ended before it says anything.
            Passage::Silent if wire.world.plan.commits_emits() => {
                let arrives = wire.world.draw(fastrand::Rng::bool);
                let outcomes = match arrives {
                    true => self.inner.settle(batch).await,
                    false => batch
                        .into_iter()
                        .map(|settlement| Settled::Failed {
                            error: wire.unreachable(&seat.topic),
                            settlement: Box::new(settlement),
                        })
                        .collect(),
                };
                wire.link.healed_in_time().await;
                outcomes
            }
            Passage::Silent if wire.world.draw(fastrand::Rng::bool) => {
                // It arrives; its answer comes once the link is healed, or never.
                let outcomes = self.inner.settle(batch).await;
                if wire.link.healed_in_time().await {
                    outcomes
                } else {
                    let undone = tokens.iter().zip(&outcomes).filter(|(_, outcome)| !outcome.is_done());
                    seat.forgotten(&undone.map(|(token, _)| *token).collect::<Vec<_>>());
                    (0..count).map(unknown).collect()
                }
            }
            Passage::Silent if wire.link.healed_in_time().await => self.inner.settle(batch).await,
            Passage::Silent => {
                seat.forgotten(&tokens);
                (0..count).map(unknown).collect()
            }
        };
        on_the_way.answered(&outcomes);
        outcomes
    }

    async fn mark(&mut self, partition: PartitionId, epoch: Epoch, note: String) -> Result<()> {
        let Seat { wire, topic, .. } = &*self.seat;
        wire.travel().await;
        if wire.link.passage().await != Passage::Free {
            return Err(wire.unreachable(topic));
        }
        wire.world.trace.add(format_args!("{} marks {topic} {partition}: {note:?}", wire.name));
        self.inner.mark(partition, epoch, note).await
    }

    async fn close(self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
pub(crate) struct WireLeases {
    inner: BuggyLeases,
    wire: Wire,
}

impl Leases for WireLeases {
    async fn connect(&mut self) -> Result<()> {
        match self.wire.link.passage().await {
            Passage::Free => self.inner.connect().await,
            _ => Err(self.wire.unreachable("")),
        }
    }

    async fn extend(&mut self, held: &[TokenId]) -> Result<Vec<bool>> {
        self.wire.travel().await;
        match self.wire.link.passage().await {
            Passage::Free => self.inner.extend(held).await,
            _ => Err(self.wire.unreachable("")),
        }
    }
}

#[derive(Debug)]
pub(crate) struct WireWriter {
    inner: BuggyWriter,
    wire: Wire,
}

/// Messages on their way: those that nobody hears of any more may have been written.
struct Writing<'a> {
    wire: &'a Wire,
    messages: Vec<Message>,
    _active: Active,
}

impl Writing<'_> {
    fn answered(mut self, outcomes: &[WriteOutcome]) {
        let mut outcomes = outcomes.iter();
        for message in std::mem::take(&mut self.messages) {
            self.wire.written(&message, outcomes.next());
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        for message in std::mem::take(&mut self.messages) {
            self.wire.written(&message, None);
        }
    }
}

fn phase_of(topic: &str) -> Phase {
    match topic {
        topic if topic.ends_with(".park") => Phase::Parking,
        topic if topic.ends_with(".dlq") => Phase::DeadLettering,
        _ => Phase::Publishing,
    }
}

impl Wire {
    /// Writes down what became of a message; without an outcome, that nobody knows.
    fn written(&self, message: &Message, outcome: Option<&WriteOutcome>) {
        let world = &self.world;
        let said = match outcome {
            Some(WriteOutcome::Written(_)) => "written",
            Some(WriteOutcome::Failed(_)) => "failed",
            Some(_) => "unknown",
            None => "no answer",
        };
        world.trace.add(format_args!("{} writes {} to {}: {said}", self.name, message.id, message.topic));
        let phase = phase_of(&message.topic);
        match outcome {
            Some(WriteOutcome::Written(_)) => match phase {
                Phase::Parking => {
                    let group = world.group(message.topic.rsplit('.').nth(1).unwrap_or_default());
                    world.book().parked.insert((group, message.id.clone()));
                }
                Phase::DeadLettering => {
                    let group = world.group(message.headers.get_str(names::DL_GROUP).unwrap_or_default());
                    world.dead_lettered((group, message.id.clone()), digest(message));
                }
                _ => world.acked(&message.id),
            },
            Some(WriteOutcome::Failed(_)) => {}
            _ if phase == Phase::DeadLettering => world.book().letters_in_doubt += 1,
            _ => world.ledger.write(Record::MaybeWritten { id: message.id.clone() }),
        }
    }
}

impl Writer for WireWriter {
    fn capabilities(&self) -> WriterCapabilities {
        self.inner.capabilities()
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        self.inner.check(batch).await
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let wire = &self.wire;
        let phases: Vec<Phase> = batch.iter().map(|message| phase_of(&message.topic)).collect();
        let writing = Writing { wire, messages: batch.clone(), _active: wire.world.activity.enter(phases) };
        wire.travel().await;
        let topic = batch.first().map(|message| message.topic.clone()).unwrap_or_default();
        let count = batch.len();
        let unknown = || (0..count).map(|_| WriteOutcome::Unknown(wire.unreachable(&topic))).collect();
        let report = match wire.link.passage().await {
            Passage::Free => self.inner.write(batch).await,
            Passage::Refused => Err(wire.unreachable(&topic)),
            Passage::Silent if wire.world.draw(fastrand::Rng::bool) => {
                let report = self.inner.write(batch).await;
                if wire.link.healed_in_time().await { report } else { Ok(WriteReport::each(unknown())) }
            }
            Passage::Silent if wire.link.healed_in_time().await => self.inner.write(batch).await,
            Passage::Silent => Ok(WriteReport::each(unknown())),
        };
        match report {
            Ok(report) => {
                let outcomes = report.into_outcomes();
                writing.answered(&outcomes);
                Ok(WriteReport::each(outcomes))
            }
            Err(error) => {
                let failed = || WriteOutcome::Failed(Error::new(error.kind(), "the whole batch was refused"));
                writing.answered(&(0..count).map(|_| failed()).collect::<Vec<_>>());
                Err(error)
            }
        }
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
