//! The thread that polls a subscription's client, all the time: it takes the group's changes, asks where partitions
//! start, and lets go of them when the scheduler has answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use bytestring::ByteString;
use millstream_core::{Error, Start};
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Message as _, Offset, TopicPartitionList};

use crate::awake::Awake;
use crate::cluster::Cluster;
use crate::ears::Ears;
use crate::member::{Client, Member, New};
use crate::{errors, positions, wire};

/// How long a poll waits: an answer of the scheduler's, which cannot wake it, is seen after that.
const TICK: Duration = Duration::from_millis(20);

/// How long to wait before the brokers are asked again where partitions start.
const AGAIN: Duration = Duration::from_millis(200);

/// How often handlers that are told where a partition ends are told anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long leaving may take.
pub(crate) const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// Takes what the client calls back with.
pub(crate) struct Listener {
    member: Arc<Member>,
    ears: Ears,
}

impl Listener {
    pub(crate) fn new(member: Arc<Member>, ears: Ears) -> Self {
        Self { member, ears }
    }
}

impl ClientContext for Listener {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.ears.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.ears.hear(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.ears.token()
    }
}

impl ConsumerContext for Listener {
    fn rebalance(&self, client: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let member = &self.member;
        let partitions: Vec<i32> = list.elements().iter().map(TopicPartitionListElem::partition).collect();
        tracing::debug!(topic = %member.topic, ?event, ?partitions, "the group changes");
        match event {
            // Assigned by the loop below, which may ask the brokers first.
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => member.lock().given = Some(list.clone()),
            _ if client.assignment_lost() || member.closing.load(Ordering::Acquire) => {
                member.lost(&partitions);
                release(client, list);
            }
            _ => {
                if member.revoking(&partitions, list.clone()) {
                    release(client, list);
                }
            }
        }
    }
}

fn cooperative(client: &Client) -> bool {
    matches!(client.rebalance_protocol(), RebalanceProtocol::Cooperative)
}

/// Gives partitions back to the group.
fn release(client: &Client, list: &TopicPartitionList) {
    let released = if cooperative(client) { client.incremental_unassign(list) } else { client.unassign() };
    if let Err(error) = released {
        tracing::warn!(%error, "partitions could not be given back");
    }
}

/// Polls until the member leaves.
pub(crate) fn run(client: Arc<Client>, member: &Arc<Member>, cluster: &Cluster) {
    let now = Instant::now();
    let mut thread = Thread { client, member, cluster, has: Vec::new(), not_before: now, looked: now };
    while !member.closing.load(Ordering::Acquire) {
        match thread.client.poll(TICK) {
            Some(Ok(record)) => {
                let (partition, offset) = (record.partition(), record.offset());
                let message = wire::message(&record, &member.topic, &mut BytesMut::new());
                member.strayed(partition, offset, message);
            }
            Some(Err(error)) => thread.failed(&error),
            None => {}
        }
        if member.awake.as_ref().is_some_and(Awake::see) {
            // Whoever waits for messages asked in vain meanwhile.
            member.bell.notify_one();
        }
        thread.let_go();
        if Instant::now() >= thread.not_before {
            thread.assign();
            thread.follow();
        }
        thread.look();
    }
    thread.leave();
}

struct Thread<'a> {
    client: Arc<Client>,
    member: &'a Arc<Member>,
    cluster: &'a Cluster,
    /// Of a manual assignment: what the client has.
    has: Vec<i32>,
    not_before: Instant,
    /// When the ends of the partitions were asked for.
    looked: Instant,
}

impl Thread<'_> {
    fn topic(&self) -> &ByteString {
        &self.member.topic
    }

    /// What a poll came back with instead of a message.
    fn failed(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        match error {
            KafkaError::MessageConsumptionFatal(code) => {
                self.member.fail(self.locate(errors::of_code(*code, "the client cannot go on")));
            }
            // Such as a token that has expired, while our own function gives no other.
            KafkaError::MessageConsumption(Code::Authentication)
                if !self.client.context().ears.is_refused_for_good() =>
            {
                tracing::debug!(topic = %self.topic(), %error, "the login failed, and will be tried again");
            }
            KafkaError::MessageConsumption(
                Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::Authentication
                | Code::InconsistentGroupProtocol
                | Code::UnsupportedVersion
                | Code::UnsupportedAssignor
                | Code::UnreleasedInstanceId,
            ) => {
                let code = code.unwrap_or(Code::Fail);
                let error = errors::of_code(code, "the group cannot be joined or read");
                self.member.fail(self.locate(self.cluster.ears.explain(error)));
            }
            // The client tries again by itself, and told its reason to the callback.
            _ => tracing::debug!(topic = %self.topic(), %error, "polling"),
        }
    }

    fn locate(&self, error: Error) -> Error {
        let error = error.topic(&**self.topic());
        match &self.member.group {
            Some(group) => error.group(&**group),
            None => error,
        }
    }

    /// Lets go of what was asked back.
    fn let_go(&self) {
        let lost = self.client.assignment_lost();
        for asked in self.member.let_go(lost) {
            release(&self.client, &asked.list);
        }
    }

    /// Takes what the group gave.
    fn assign(&mut self) {
        let Some(given) = self.member.lock().given.clone() else { return };
        let partitions: Vec<i32> = given.elements().iter().map(TopicPartitionListElem::partition).collect();
        let Some((new, list)) = self.prepare(&partitions) else { return };
        self.member.lock().given = None;
        let assigned = if cooperative(&self.client) {
            self.client.incremental_assign(&list)
        } else {
            self.client.assign(&list)
        };
        match assigned {
            Ok(()) => self.own(new),
            Err(error) => tracing::error!(topic = %self.topic(), %error, "partitions could not be taken"),
        }
    }

    /// Takes what the caller chose.
    fn follow(&mut self) {
        let Some(wanted) = self.member.lock().wanted.take() else { return };
        let missing = self.member.missing(&wanted);
        let gone: Vec<i32> =
            self.has.iter().copied().filter(|p| !wanted.contains(p) || missing.contains(p)).collect();
        if !gone.is_empty() {
            if let Err(error) = self.client.incremental_unassign(&positions::list(self.topic(), &gone)) {
                tracing::warn!(topic = %self.topic(), %error, "partitions could not be left");
            }
            self.has.retain(|p| !gone.contains(p));
        }
        if missing.is_empty() {
            return;
        }
        let Some((new, list)) = self.prepare(&missing) else {
            // Again later, unless it chose anew meanwhile.
            self.member.lock().wanted.get_or_insert(wanted);
            return;
        };
        match self.client.incremental_assign(&list) {
            Ok(()) => {
                self.has.extend(&missing);
                self.own(new);
                // What was given up while this was under way is no more wanted.
                let newer = self.member.lock().wanted.clone();
                if let Some(newer) = newer {
                    self.member.choose(
                        &newer
                            .iter()
                            .map(|p| millstream_core::PartitionId(p.unsigned_abs()))
                            .collect::<Vec<_>>(),
                    );
                }
            }
            Err(error) => tracing::error!(topic = %self.topic(), %error, "partitions could not be taken"),
        }
    }

    /// Asks where the partitions end now and then, if handlers are told.
    fn look(&mut self) {
        if self.member.metadata.is_none() || self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        let partitions = self.member.partitions();
        match positions::ask(&self.client, self.topic(), &partitions, Start::Latest, false) {
            Ok(places) => self.member.ending(&places),
            Err(error) => {
                tracing::debug!(topic = %self.topic(), %error, "where the partitions end is not known");
            }
        }
    }

    /// Asks where partitions start, and splits off their queues: before they are assigned, so that nothing of them comes
    /// by the common one.
    fn prepare(&mut self, partitions: &[i32]) -> Option<(Vec<New>, TopicPartitionList)> {
        let (topic, of_group) = (self.topic().clone(), self.member.group.is_some());
        let places = match positions::ask(&self.client, &topic, partitions, self.member.start, of_group) {
            Ok(places) => places,
            Err(error) => {
                tracing::warn!(%topic, %error, "where the partitions start is not known yet");
                self.not_before = Instant::now() + AGAIN;
                return None;
            }
        };
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut new = Vec::with_capacity(partitions.len());
        for (partition, mut place) in places {
            if let (None, Some(from)) = (place.committed, self.member.from.get(&partition)) {
                place.start = place.low.max(*from);
            }
            let Some(mut queue) = self.client.split_partition_queue(&topic, partition) else { continue };
            let bell = Arc::clone(&self.member.bell);
            queue.set_nonempty_callback(move || bell.notify_one());
            if let Err(error) = list.add_partition_offset(&topic, partition, Offset::Offset(place.start)) {
                tracing::error!(%topic, partition, %error, "a partition cannot be read");
                continue;
            }
            new.push(New { partition, place, queue: Some(queue) });
        }
        Some((new, list))
    }

    fn own(&self, new: Vec<New>) {
        let grouped = self.member.group.is_some();
        let fresh: Vec<_> = new
            .iter()
            .filter(|new| grouped && new.place.committed.is_none())
            .map(|new| (new.partition, new.place.start, None))
            .collect();
        self.member.begin(self.cluster, &fresh);
        self.member.assigned(new);
    }

    /// Leaves the group.
    fn leave(self) {
        let mut left = self.member.leave();
        for asked in std::mem::take(&mut left.asked) {
            release(&self.client, &asked.list);
        }
        if left.given.take().is_some() {
            // The group waits for it.
            let none = TopicPartitionList::new();
            let taken = if cooperative(&self.client) {
                self.client.incremental_assign(&none)
            } else {
                self.client.unassign()
            };
            if let Err(error) = taken {
                tracing::debug!(topic = %self.topic(), %error, "leaving");
            }
        }
        // The queues, which hold the client.
        drop(left);
        let until = Instant::now() + LEAVE_WITHIN;
        if let Err(error) = self.client.close_queue() {
            tracing::warn!(topic = %self.topic(), %error, "leaving the group failed");
            return;
        }
        while !self.client.closed() && Instant::now() < until {
            let _ = self.client.poll(TICK);
        }
    }
}
