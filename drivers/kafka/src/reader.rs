//! Opening a subscription.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{
    Assignment, Capabilities, DeadLetters, Durability, End, Error, ErrorKind, Exclusivity, NoLeases,
    OpenRequest, Opened, Order, Parking, PartitionId, Reader, Result, SettleMode, Start, Starts,
};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::Consumer as _;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::arguments::{self, Metadata};
use crate::awake::Awake;
use crate::cluster::Cluster;
use crate::member::{Client, Member, New, number};
use crate::poll::{self, Listener};
use crate::positions::{self, Place};
use crate::settings::Transactions;
use crate::settler::KafkaSettler;
use crate::source::KafkaSource;
use crate::{errors, wire};

/// Reads from a cluster. Cloning shares it.
#[derive(Debug, Clone)]
pub struct KafkaReader {
    cluster: Arc<Cluster>,
}

impl KafkaReader {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    /// What is asked for, or why it cannot be had.
    fn check(request: &OpenRequest) -> Result<()> {
        wire::check_topic(&request.topic)?;
        if request.exclusivity == Exclusivity::Exclusive {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "Kafka keeps order in a partition, not in a topic",
            )
            .fix("leave out `.sequential()`: order per key is kept anyway"));
        }
        Ok(())
    }

    /// Where partitions stand for a request, asked before there is a client of its own.
    async fn places(&self, request: &OpenRequest, partitions: Vec<i32>) -> Result<BTreeMap<i32, Place>> {
        let (topic, start) = (request.topic.clone(), request.start);
        let asked = match &request.group {
            Some(group) => {
                let asker = self.cluster.group(group)?;
                spawn_blocking(move || positions::ask(&asker, &topic, &partitions, start, true)).await
            }
            None => {
                let ask = move |asker: &crate::cluster::Asker| {
                    positions::ask(asker, &topic, &partitions, start, false)
                };
                Ok(self.cluster.ask(ask).await)
            }
        };
        asked.map_err(|e| errors::broken(&e))?
    }

    /// The same, while coordinators load and leaders are elected.
    async fn places_soon(&self, request: &OpenRequest, partitions: &[i32]) -> Result<BTreeMap<i32, Place>> {
        let until = tokio::time::Instant::now() + crate::settings::ANSWER_WITHIN;
        loop {
            match self.places(request, partitions.to_vec()).await {
                Err(error) if error.is_retryable() && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => return other,
            }
        }
    }

    async fn open_checked(
        &self,
        request: &OpenRequest,
        metadata: Option<Metadata>,
    ) -> Result<Opened<KafkaSource, KafkaSettler, NoLeases>> {
        let count = self.cluster.topic(&request.topic).await?.partitions;
        let all: Vec<i32> = (0..count).map(|p| number(PartitionId(p))).collect();
        let chosen: Option<Vec<i32>> = match &request.assignment {
            Assignment::Manual(partitions) => Some(partitions.iter().copied().map(number).collect()),
            // Nobody to share with.
            Assignment::Group => request.group.is_none().then(|| all.clone()),
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this driver does not know such an assignment",
                )
                .fix("let the group share the partitions, or name them"));
            }
        };
        if let Some(absent) = chosen.iter().flatten().find(|p| !all.contains(p)) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no partition {absent}"))
                .fix(format!("the topic has {count}, from 0 on")));
        }
        let read = chosen.as_deref().unwrap_or(&all);
        let (mut ends, mut places) = (None, None);
        if request.end != End::Never {
            let asked = self.places_soon(request, read).await?;
            let end = |place: &Place| match request.end {
                End::Position(at) => i64::try_from(at.0).unwrap_or(i64::MAX).min(place.end),
                _ => place.end,
            };
            ends = Some(asked.iter().map(|(p, place)| (*p, end(place))).collect::<BTreeMap<_, _>>());
            places = Some(asked);
        } else if request.start == Start::Latest {
            places = Some(self.places_soon(request, read).await?);
        }
        // Each of its partitions ends where it starts: that needs no client. Most parks are like that.
        let nothing = chosen.is_some()
            && matches!((&ends, &places), (Some(ends), Some(places))
                if !places.is_empty() && places.iter().all(|(p, place)| place.start >= ends[p]));
        let mut member = Member::new(
            request.topic.clone(),
            request.group.clone(),
            request.start,
            chosen.is_some(),
            ends,
            self.cluster.settings.revoke_within,
        );
        member.metadata = metadata;
        member.awake = chosen.is_none().then(|| Awake::with_lease(self.cluster.settings.lease));
        if let (Start::Latest, Some(places)) = (request.start, &places) {
            // From now on is now, not when the group has given us partitions.
            member.from = places.iter().map(|(p, place)| (*p, place.end)).collect();
        }
        let member = Arc::new(member);
        let settler = KafkaSettler::new(Arc::clone(&member), Arc::clone(&self.cluster));
        if nothing {
            let new = places.unwrap_or_default().into_iter();
            member.assigned(new.map(|(partition, place)| New { partition, place, queue: None }).collect());
            return Ok(Opened::new(KafkaSource::new(member, None), settler));
        }
        let left = self.start(&member, chosen, request)?;
        Ok(Opened::new(KafkaSource::new(member, Some(left)), settler))
    }

    /// Starts the client and the thread that polls it.
    fn start(
        &self,
        member: &Arc<Member>,
        chosen: Option<Vec<i32>>,
        request: &OpenRequest,
    ) -> Result<oneshot::Receiver<()>> {
        let settings = &self.cluster.settings;
        let count = chosen.as_ref().map_or(1, Vec::len);
        // A member may be given every partition: its queues must fit all the same, so they are made small.
        let shared = if chosen.is_none() { self.partitions_of(&request.topic) } else { count };
        // Without a group there still has to be a name; nothing is ever committed or joined under it.
        let group = match &request.group {
            Some(group) => group.to_string(),
            None => format!("millstream-browse-{:016x}", fastrand::u64(..)),
        };
        let mut config = settings.consumer(&group, shared, request.max_bytes, member.ends.is_some());
        if let Some(instance) = settings.instance.as_ref().filter(|_| chosen.is_none()) {
            // One process may have several subscriptions of one group.
            config.set("group.instance.id", format!("{instance}.{}", request.topic));
        }
        let client = Client::from_config_and_context(
            &config,
            Listener::new(Arc::clone(member), self.cluster.ears.for_another()),
        );
        let client =
            Arc::new(client.map_err(|e| errors::settings(&e, "the settings of the consumer were refused"))?);
        // It is set once, here.
        let _ = member.client.set(Arc::downgrade(&client));
        match (chosen, &request.group) {
            (None, Some(group)) => {
                client
                    .subscribe(&[&request.topic])
                    .map_err(|e| errors::of(&e, "the topic cannot be subscribed"))?;
                self.cluster.joined(group, member);
            }
            (chosen, _) => member.lock().wanted = chosen,
        }
        let (told, left) = oneshot::channel();
        let (member, cluster) = (Arc::clone(member), Arc::clone(&self.cluster));
        std::thread::Builder::new()
            .name("millstream-kafka".to_owned())
            .spawn(move || {
                poll::run(client, &member, &cluster);
                // Nobody may wait for it.
                let _ = told.send(());
            })
            .map_err(|e| {
                Error::new(ErrorKind::Io, "a thread could not be started").source(e).fix("allow more threads")
            })?;
        Ok(left)
    }

    fn partitions_of(&self, topic: &str) -> usize {
        self.cluster.known(topic).map_or(1, |topic| topic.partitions as usize)
    }
}

impl Reader for KafkaReader {
    type Source = KafkaSource;
    type Settler = KafkaSettler;
    type Leases = NoLeases;

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::minimal();
        can.order = Order::Partition;
        can.settle = SettleMode::Cumulative;
        can.partitions = true;
        can.groups = true;
        can.group_required = true;
        can.browse = true;
        can.starts = Starts::ALL;
        can.durability = Durability::Server;
        can.parking = Parking::None;
        can.dead_letters = DeadLetters::Topic;
        can.marks = true;
        if self.cluster.settings.transactions == Transactions::Handlers {
            can.atomic_emit = Some(self.cluster.store);
        }
        can
    }

    async fn open(&self, mut request: OpenRequest) -> Result<Opened<KafkaSource, KafkaSettler, NoLeases>> {
        let (topic, group) = (request.topic.clone(), request.group.clone());
        let locate = |error: Error| {
            let error = error.topic(&*topic);
            match &group {
                Some(group) => error.group(&**group),
                None => error,
            }
        };
        let metadata = arguments::apply(&mut request, &self.cluster.settings.client_id).map_err(locate)?;
        Self::check(&request).map_err(locate)?;
        self.open_checked(&request, metadata).await.map_err(locate)
    }
}
