//! The reading side: a source and a settler that share one membership of a group.

use std::sync::Arc;

use millstream_core::{
    Assignment, Capabilities, DeadLetters, Delivery, Durability, End, Epoch, Error, ErrorKind, Exclusivity,
    NoLeases, OpenRequest, Opened, Order, Parking, PartitionId, Read, ReadLimits, Reader, Result, SettleMode,
    Settled, Settlement, Settler, Source, Start, Starts,
};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::hub::{Hub, Request, gone};
use crate::member::{Bounds, Group, Member, Phase, Taken};
use crate::row::nanos;
use crate::topics;

/// Opens subscriptions on a file. Cloning shares it.
///
/// A topic that does not exist is made. A request without a group browses: it reads what the file holds, settles for
/// itself alone, and leaves no trace.
#[derive(Debug, Clone)]
pub struct SqliteReader {
    hub: Arc<Hub>,
}

impl SqliteReader {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

/// What opening finds in the file.
struct Found {
    topic: i64,
    group: Option<i64>,
    last: u64,
    /// Where browsing starts.
    start: u64,
    end: Option<u64>,
}

fn find(connection: &Connection, request: &OpenRequest) -> Result<Found> {
    let (topic, _) = topics::ensure(connection, &request.topic)?;
    let last = topics::last(connection, topic)?;
    let start = || match request.start {
        Start::Latest => Ok(last + 1),
        Start::Position(position) => Ok(position.0.clamp(1, last + 1)),
        Start::Time(time) => topics::at_time(connection, topic, nanos(time)),
        _ => topics::first(connection, topic),
    };
    let end = match request.end {
        End::Latest => Some(last + 1),
        End::Position(position) => Some(position.0),
        _ => None,
    };
    let (group, start) = match &request.group {
        Some(name) => (Some(topics::ensure_group(connection, topic, name, start)?), 0),
        None => (None, start()?),
    };
    Ok(Found { topic, group, last, start, end })
}

impl Reader for SqliteReader {
    type Source = SqliteSource;
    type Settler = SqliteSettler;
    type Leases = NoLeases;

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::minimal();
        can.order = Order::Total;
        can.settle = SettleMode::Individual;
        can.groups = true;
        can.group_required = true;
        can.browse = true;
        can.starts = Starts::ALL;
        can.durability = Durability::Disk;
        can.redelivery_count = true;
        can.parking = Parking::Native;
        can.dead_letters = DeadLetters::Native;
        can.atomic_emit = Some(self.hub.shared().store);
        can.effects = true;
        can
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<SqliteSource, SqliteSettler, NoLeases>> {
        let located = |error: Error| match &request.group {
            Some(group) => error.topic(&*request.topic).group(&**group),
            None => error.topic(&*request.topic),
        };
        request.args.only(&[]).map_err(located)?;
        if let Assignment::Manual(_) = request.assignment {
            return Err(located(
                Error::new(ErrorKind::Unsupported, "the sqlite driver has no partitions to assign")
                    .fix("subscribe without naming partitions"),
            ));
        }
        let wanted = request.clone();
        let found = self.hub.write(move |connection| find(connection, &wanted)).await.map_err(located)?;
        let shared = self.hub.shared();
        let topic = shared.topic(found.topic, &request.topic, found.last);
        let group = request.group.clone().zip(found.group).map(|(name, id)| Group { id, name });
        let bounds = Bounds { messages: request.max_in_flight.max(1), bytes: request.max_bytes.max(1) };
        let exclusive = request.exclusivity == Exclusivity::Exclusive;
        let member = Arc::new(Member::new(topic, group, exclusive, bounds, found.end));
        // From here on it leaves if it is dropped, also by a caller that does not wait.
        let membership = Arc::new(Membership { hub: Arc::clone(&self.hub), member });
        if membership.member.group.is_some() {
            let (reply, answer) = oneshot::channel();
            let member = Arc::clone(&membership.member);
            shared.send(Request::Balance { member, reply: Some(reply) });
            answer.await.unwrap_or_else(|_| Err(gone())).map_err(located)?;
        } else {
            membership.member.browse_from(found.start.saturating_sub(1));
        }
        shared.add_member(&membership.member);
        shared.reader_bell.ring_from_outside();
        let source = SqliteSource { membership: Arc::clone(&membership), closed: false };
        Ok(Opened::new(source, SqliteSettler { membership }))
    }
}

/// A subscription's place in its group, left when its source and settler are gone.
#[derive(Debug)]
struct Membership {
    hub: Arc<Hub>,
    member: Arc<Member>,
}

impl Membership {
    fn leave(&self, reply: Option<oneshot::Sender<Result<()>>>) {
        self.hub.shared().send(Request::Leave { member: Arc::clone(&self.member), reply });
    }

    /// Leaves, and waits until others can have what was given back.
    async fn leave_and_wait(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.leave(Some(reply));
        answer.await.unwrap_or_else(|_| Err(gone())).map_err(|e| self.member.locate(e))
    }

    fn is_left(&self) -> bool {
        self.member.lock().phase == Phase::Left
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if !self.is_left() {
            self.leave(None);
        }
    }
}

/// Yields the deliveries of one subscription.
///
/// Dropped without [`close`](Source::close), it gives back at once all that it yielded and nobody settled; closed, it
/// leaves that to the settler.
#[derive(Debug)]
pub struct SqliteSource {
    membership: Arc<Membership>,
    closed: bool,
}

impl Source for SqliteSource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        // A reader that always finds something must let other tasks run, too.
        tokio::task::consume_budget().await;
        let member = &self.membership.member;
        loop {
            let news = member.news.notified();
            // What is taken is in `into` before the next await: nothing can be cancelled in between.
            match member.take(limits, into) {
                Taken::Some { wants } => {
                    if wants {
                        member.set_changed();
                        self.membership.hub.shared().reader_bell.ring();
                    }
                    return Ok(Read::Deliveries);
                }
                Taken::End => return Ok(Read::End),
                Taken::Failed => {
                    if let Some(error) = member.lock().failure.take() {
                        member.set_changed();
                        self.membership.hub.shared().reader_bell.ring();
                        return Err(error);
                    }
                }
                Taken::Nothing => news.await,
            }
        }
    }

    fn pause(&mut self, _: &[PartitionId]) {}

    fn resume(&mut self, _: &[PartitionId]) {}

    fn assign(&mut self, _: Vec<PartitionId>) {}

    async fn close(mut self) -> Result<()> {
        self.closed = true;
        let member = &self.membership.member;
        let settler_is_gone = {
            let mut state = member.lock();
            let gone = state.phase != Phase::Open;
            if !gone {
                state.phase = Phase::Settling;
            }
            gone
        };
        if settler_is_gone || member.group.is_none() {
            self.membership.leave_and_wait().await
        } else {
            Ok(())
        }
    }
}

impl Drop for SqliteSource {
    fn drop(&mut self) {
        if !self.closed && !self.membership.is_left() {
            self.membership.leave(None);
        }
    }
}

/// Takes the verdicts of one subscription. Closed or dropped, it gives back what is unsettled.
#[derive(Debug)]
pub struct SqliteSettler {
    membership: Arc<Membership>,
}

impl Settler for SqliteSettler {
    async fn settle(&mut self, batch: Vec<Settlement>) -> Vec<Settled> {
        if batch.is_empty() {
            return Vec::new();
        }
        let (reply, answer) = oneshot::channel();
        let member = Arc::clone(&self.membership.member);
        let count = batch.len();
        self.membership.hub.shared().send(Request::Settle { member, batch, reply });
        answer.await.unwrap_or_else(|_| (0..count).map(|_| Settled::Unknown(gone())).collect())
    }

    async fn mark(&mut self, _: PartitionId, _: Epoch, _: String) -> Result<()> {
        Err(self.membership.member.locate(
            Error::new(ErrorKind::Unsupported, "the sqlite driver stores no marks: it counts deliveries")
                .fix("look at its capabilities first"),
        ))
    }

    async fn close(self) -> Result<()> {
        // Who only browses may have no use for a settler.
        if self.membership.member.group.is_none() {
            return Ok(());
        }
        self.membership.leave_and_wait().await
    }
}

impl Drop for SqliteSettler {
    fn drop(&mut self) {
        if self.membership.member.group.is_some() && !self.membership.is_left() {
            self.membership.leave(None);
        }
    }
}
