//! The group's park of a topic, where the driver has none: `<topic>.<group>.park`, with the same partitions.
//!
//! A parked message is the message itself with its history in `millstream-park-*` headers. Before a partition
//! of the topic is dispatched, the same partition of its park is read to its end, so that every key with
//! messages there is known: newer ones of such a key queue up behind them.

use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use foldhash::{HashMap, HashSet};
use millstream_core::erased::DynReader;
use millstream_core::{
    Assignment, ByteString, Delivery, End, Headers, Message, OpenRequest, PartitionId, Position, Read,
    ReadLimits, Result, Start, names,
};
use tokio::time::Instant;

use super::clock::Clock;
use super::desk::Desk;
use super::window::{History, LaneId, ParkLoad, Window};

/// The longest error text that travels with a parked message.
const ERROR_LIMIT: usize = 1 << 10;

pub(super) fn topic_of(topic: &str, group: &str) -> ByteString {
    format!("{topic}.{group}.park").into()
}

/// The message for the park.
pub(super) fn park(load: &ParkLoad, park_topic: &ByteString) -> Message {
    let ParkLoad { message, origin, attempts, due, history } = load;
    let mut message = Message::clone(message);
    message.topic = park_topic.clone();
    // It waits here by its own header: the broker must not hold it back on top of that.
    message.deliver_at = None;
    let headers = &mut message.headers;
    let time = |at: SystemTime| humantime::format_rfc3339_millis(at).to_string();
    headers.insert(names::PARK_ATTEMPTS, attempts.to_string());
    headers.insert(names::PARK_PARTITION, origin.partition.to_string());
    if let Some(position) = origin.position {
        headers.insert(names::PARK_POSITION, position.to_string());
    }
    if let Some((due, wait)) = due {
        headers.insert(names::PARK_DUE, time(*due));
        headers.insert(names::PARK_WAIT, format!("{}ms", wait.as_millis()));
    }
    if let Some(first) = history.first_failure {
        headers.insert(names::PARK_FIRST_FAILURE, time(first));
        headers.insert(names::PARK_ERROR, crate::text::cut(&history.error, ERROR_LIMIT).to_owned());
    }
    message
}

/// What a parked message's headers said.
#[derive(Debug, Default)]
pub(super) struct Unparked {
    pub(super) attempts: u32,
    /// Where it lies in the topic.
    pub(super) position: Option<Position>,
    pub(super) due: Option<Instant>,
    pub(super) history: Option<History>,
}

/// Makes a parked message what it was; gives what its headers said. What cannot be read counts as not said.
pub(super) fn unpark(message: &mut Message, topic: &ByteString, clock: Clock) -> Unparked {
    let headers = &message.headers;
    let time = |name| headers.get_str(name).and_then(|t| humantime::parse_rfc3339(t).ok());
    let first_failure = time(names::PARK_FIRST_FAILURE);
    let unparked = Unparked {
        attempts: headers.get_str(names::PARK_ATTEMPTS).and_then(|a| a.parse().ok()).unwrap_or(0),
        position: position_of(message),
        due: due(headers, clock),
        history: first_failure.map(|first| History {
            first_failure: Some(first),
            last_failure: Some(first),
            error: headers.get_str(names::PARK_ERROR).unwrap_or_default().to_owned(),
            error_type: String::new(),
        }),
    };
    message.headers.remove_prefix(names::PARK_PREFIX);
    message.topic = topic.clone();
    unparked
}

/// When it may come. Whoever parked it may have had a wrong clock: nobody waits longer than was meant then.
fn due(headers: &Headers, clock: Clock) -> Option<Instant> {
    let at = humantime::parse_rfc3339(headers.get_str(names::PARK_DUE)?).ok()?;
    let wait = headers.get_str(names::PARK_WAIT).and_then(|wait| humantime::parse_duration(wait).ok());
    Some(Instant::now() + clock.until(at).min(wait.unwrap_or(Duration::MAX)))
}

fn position_of(message: &Message) -> Option<Position> {
    message.headers.get_str(names::PARK_POSITION).and_then(|p| p.parse().ok()).map(Position)
}

/// A place in a topic, for the order of what is parked. What has none, such as a redriven dead letter, counts as the
/// oldest: it keeps nothing in the park once it is through.
pub(super) fn place_of(position: Option<Position>) -> Position {
    position.unwrap_or(Position(0))
}

/// How a subscription's park is opened.
pub(super) fn request(desk: &Desk, partitions: Vec<PartitionId>) -> OpenRequest {
    let group = desk.info.group.clone().unwrap_or_default();
    let mut request = OpenRequest::new(topic_of(&desk.info.topic, &group)).group(group);
    request.assignment = Assignment::Manual(partitions);
    request.max_in_flight = desk.policy.max_in_flight;
    request.max_bytes = desk.policy.memory;
    request
}

/// What the park of a partition holds.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Of each key, where the oldest and the newest came from.
    pub(super) keys: HashMap<LaneId, [Position; 2]>,
    /// Messages of the topic up to here may be older than some in the park, and were not handled: the park is not
    /// read before they have been.
    pub(super) read_first: Option<Position>,
    /// Places from where the topic is read on of which the message lies in the park.
    pub(super) again: HashSet<u64>,
}

/// Reads a partition of the park to its end. Nothing is settled. `start`: where the topic is read from.
pub(super) async fn scan(
    reader: &dyn DynReader,
    desk: &Desk,
    partition: PartitionId,
    start: Option<Position>,
) -> Result<Holdings> {
    let mut holdings = Holdings::default();
    let held = request(desk, vec![partition]).end(End::Latest);
    read_to_end(reader, desk, held, |delivery, window| {
        // What has no key may be parked in any partition.
        let from = delivery.message.headers.get_str(names::PARK_PARTITION).and_then(|p| p.parse().ok());
        let position = position_of(&delivery.message);
        if let (Some(start), Some(place)) = (start, position)
            && from == Some(partition.0)
            && place >= start
        {
            holdings.again.insert(place.0);
        }
        if let Some(key) = delivery.message.lane_key() {
            let place = place_of(position);
            let [oldest, newest] = holdings.keys.entry(window.lane_of(key)).or_insert([place; 2]);
            (*oldest, *newest) = (place.min(*oldest), place.max(*newest));
        }
        ControlFlow::Continue(())
    })
    .await?;
    let newest = holdings.keys.values().map(|[_, newest]| *newest).max();
    if let (Some(start), Some(newest)) = (start, newest)
        && start <= newest
    {
        // The one that killed a process, or was slow when it died, while younger ones of its key were parked. What lies
        // there now tells how far to wait: a log may have holes, and a header may name a place that is not there.
        let mut before =
            OpenRequest::new(desk.info.topic.clone()).start(Start::Position(start)).end(End::Latest);
        before.assignment = Assignment::Manual(vec![partition]);
        read_to_end(reader, desk, before, |delivery, _| {
            let place = delivery.position.filter(|place| *place <= newest);
            holdings.read_first = holdings.read_first.max(place);
            if place.is_some_and(|place| place < newest) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })
        .await?;
    }
    Ok(holdings)
}

/// Reads to the end that was asked for, or until enough was seen.
async fn read_to_end(
    reader: &dyn DynReader,
    desk: &Desk,
    request: OpenRequest,
    mut see: impl FnMut(&Delivery, &Window) -> ControlFlow<()>,
) -> Result<()> {
    let mut opened = reader.open(request).await?;
    let mut deliveries: Vec<Delivery> = Vec::new();
    loop {
        let limits = ReadLimits::new(1_000, desk.policy.memory);
        if matches!(opened.source.read(&mut deliveries, limits).await?, Read::End) {
            break;
        }
        let seen = desk.with(Instant::now(), |window| {
            deliveries.drain(..).try_for_each(|delivery| see(&delivery, window))
        });
        if seen.is_break() {
            break;
        }
    }
    opened.settler.close().await?;
    opened.source.close().await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_core::{Epoch, Origin};

    use super::*;

    fn right() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn an_hour_behind() -> SystemTime {
        right() - Duration::from_secs(3_600)
    }

    fn parked(due: Option<(SystemTime, Duration)>) -> Message {
        let message = Arc::new(Message::new("orders", "{}"));
        let origin = Origin { partition: PartitionId(0), epoch: Epoch(1), position: Some(Position(7)) };
        park(
            &ParkLoad { message, origin, attempts: 3, due, history: History::default() },
            &"orders.g.park".into(),
        )
    }

    #[test]
    fn what_is_parked_comes_out_as_it_went_in_after_its_wait() {
        let wait = Duration::from_millis(1_500);
        let mut message = parked(Some((right() + wait, wait)));
        let out = unpark(&mut message, &"orders".into(), Clock::Given(right));
        let left = out.due.unwrap().saturating_duration_since(Instant::now());
        assert!(left <= wait && left > wait / 2, "{left:?}");
        assert_eq!((out.attempts, &*message.topic, message.headers.len()), (3, "orders", 0));
    }

    #[test]
    fn nobody_waits_longer_than_was_meant_since_the_clock_of_whoever_parked_was_ahead() {
        let wait = Duration::from_millis(1_500);
        let mut message = parked(Some((right() + wait, wait)));
        let out = unpark(&mut message, &"orders".into(), Clock::Given(an_hour_behind));
        assert!(out.due.unwrap().saturating_duration_since(Instant::now()) <= wait);
    }
}
