//! Opening a subscription on a queue.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_core::{
    Assignment, Capabilities, DeadLetters, Durability, End, Error, ErrorKind, Exclusivity, OpenRequest,
    Opened, Order, Parking, Reader, Result, SettleMode, Start,
};

use crate::aws::Purpose;
use crate::sqs::client::Sqs;
use crate::sqs::leases::SqsLeases;
use crate::sqs::names::Queues;
use crate::sqs::pump::Pump;
use crate::sqs::queues::{Known, Queue};
use crate::sqs::settings::LONGEST_RETRY;
use crate::sqs::settler::SqsSettler;
use crate::sqs::shelf::Shelf;
use crate::sqs::source::SqsSource;

/// Reads from queues. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SqsReader {
    known: Arc<Known>,
}

impl SqsReader {
    pub(crate) fn new(known: Arc<Known>) -> Self {
        Self { known }
    }
}

/// What a queue can do, whoever fills it.
pub(crate) fn capabilities(known: &Known) -> Capabilities {
    let mut can = Capabilities::minimal();
    can.order = match known.settings.queues {
        Queues::Standard => Order::None,
        Queues::Fifo => Order::Key,
    };
    can.settle = SettleMode::Individual;
    can.group_required = true;
    can.starts.earliest = true;
    can.durability = Durability::Replicated;
    can.redelivery_count = true;
    can.retry_after = Some(LONGEST_RETRY);
    can.parking = Parking::None;
    can.dead_letters = DeadLetters::Topic;
    can.lease = Some(known.settings.lease);
    can
}

/// Where a group's messages start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starting {
    /// With what is in the queue.
    WithTheQueue,
    /// With what is published once its queue is subscribed: the newest, for a group that is new.
    #[cfg(feature = "sns")]
    WithTheSubscription,
}

/// What is asked for, or why it cannot be had.
pub(crate) fn check(request: &OpenRequest, starting: Starting) -> Result<ByteString> {
    request.args.only(&[])?;
    let unsupported = |what: &str, fix: &str| Err(Error::new(ErrorKind::Unsupported, what).fix(fix));
    if request.exclusivity == Exclusivity::Exclusive {
        return unsupported(
            "SQS keeps order in a group of messages, not in a queue",
            "leave out `.sequential()`: with queues=fifo in the URL order per key is kept",
        );
    }
    if request.assignment != Assignment::Group {
        return unsupported("a queue has no partitions", "let the members share it");
    }
    if request.end != End::Never {
        return unsupported("a queue has no end", "read it, and stop when nothing comes any more");
    }
    let starts = match request.start {
        Start::Earliest => true,
        Start::Latest => starting != Starting::WithTheQueue,
        _ => false,
    };
    if !starts {
        return unsupported(
            "a queue has no places to start at: what is in it comes",
            "leave the start out; `millstream purge` throws away what is there",
        );
    }
    match &request.group {
        Some(group) => Ok(group.clone()),
        None => unsupported(
            "a queue cannot be read without a trace: whoever receives a message hides it from the others",
            "name a group",
        ),
    }
}

/// Starts to read a queue.
pub(crate) fn start(
    known: &Arc<Known>,
    queue: Arc<Queue>,
    group: &ByteString,
    request: &OpenRequest,
) -> Result<Opened<SqsSource, SqsSettler, SqsLeases>> {
    let settings = &known.settings;
    let shelf = Shelf::new(settings.lease, request.max_in_flight, request.max_bytes, queue.limit);
    let shelf = Arc::new(shelf);
    known.read_by(&queue, group, &shelf)?;
    let pump = Pump {
        shelf: Arc::clone(&shelf),
        queue: Arc::clone(&queue),
        topic: request.topic.clone(),
        polls: Sqs::new(&known.aws, Purpose::Polls(settings.wait)),
        calls: known.calls.clone(),
        wait: settings.wait,
    };
    let pumping = known.aws.io().spawn(pump.run());
    let settler = SqsSettler::new(Arc::clone(known), Arc::clone(&queue), Arc::clone(&shelf));
    let leases = SqsLeases::new(known.aws.clone(), queue, Arc::clone(&shelf));
    Ok(Opened::new(SqsSource::new(shelf, pumping), settler).with_leases(settings.lease, leases))
}

impl Reader for SqsReader {
    type Source = SqsSource;
    type Settler = SqsSettler;
    type Leases = SqsLeases;

    fn capabilities(&self) -> Capabilities {
        capabilities(&self.known)
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<SqsSource, SqsSettler, SqsLeases>> {
        let (topic, group) = (request.topic.clone(), request.group.clone());
        let locate = |error: Error| {
            let error = error.topic(&*topic);
            match &group {
                Some(group) => error.group(&**group),
                None => error,
            }
        };
        let name = check(&request, Starting::WithTheQueue).map_err(locate)?;
        let known = Arc::clone(&self.known);
        let of = topic.clone();
        let queue = self.known.aws.io().run(async move { known.queue(&of).await }).await;
        let queue = queue.and_then(|found| found).map_err(locate)?;
        start(&self.known, queue, &name, &request).map_err(locate)
    }
}
