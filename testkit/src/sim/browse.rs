//! Reading without a group: cursors of the reader's own, and no trace.

use std::collections::BTreeMap;

use millstream_core::{
    Assigned, Delivery, Epoch, OpenRequest, PartitionId, Position, Read, ReadLimits, Token,
};

use super::coordinator::Turn;
use super::store::Topic;

#[derive(Debug)]
struct Cursor {
    epoch: u32,
    next: u64,
    announced: bool,
    paused: bool,
}

/// What one groupless reader knows.
#[derive(Debug)]
pub(super) struct Browse {
    request: OpenRequest,
    /// Whether assignments are told.
    partitioned: bool,
    cursors: BTreeMap<u32, Cursor>,
    ends: Vec<Option<u64>>,
    epochs: u32,
    next: u32,
}

impl Browse {
    pub(super) fn new(
        request: OpenRequest,
        topic: &Topic,
        partitioned: bool,
        partitions: Option<Vec<PartitionId>>,
    ) -> Self {
        let ends = topic.logs.iter().map(|log| log.resolve_end(request.end)).collect();
        let mut browse = Self { request, partitioned, cursors: BTreeMap::new(), ends, epochs: 0, next: 0 };
        let all = || (0..topic.logs.len() as u32).map(PartitionId).collect();
        browse.assign(&partitions.unwrap_or_else(all), topic);
        browse
    }

    pub(super) fn assign(&mut self, partitions: &[PartitionId], topic: &Topic) {
        self.cursors.retain(|p, _| partitions.contains(&PartitionId(*p)));
        self.epochs += 1;
        for p in partitions {
            if let Some(log) = topic.logs.get(p.0 as usize)
                && !self.cursors.contains_key(&p.0)
            {
                let next = log.resolve(self.request.start);
                let cursor = Cursor { epoch: self.epochs, next, announced: !self.partitioned, paused: false };
                self.cursors.insert(p.0, cursor);
            }
        }
    }

    pub(super) fn pause(&mut self, partitions: &[PartitionId], paused: bool) {
        for p in partitions {
            if let Some(cursor) = self.cursors.get_mut(&p.0) {
                cursor.paused = paused;
            }
        }
    }

    pub(super) fn take(&mut self, limits: ReadLimits, topic: &Topic) -> Turn {
        let mut news = Vec::new();
        for (&p, cursor) in self.cursors.iter_mut().filter(|(_, c)| !c.announced) {
            cursor.announced = true;
            let mut assigned = Assigned::new(PartitionId(p), Epoch(cursor.epoch));
            assigned.start = Some(Position(cursor.next));
            assigned.end = Some(Position(topic.logs[p as usize].end()));
            news.push(assigned);
        }
        if !news.is_empty() {
            return Turn::Ready(Read::Assigned(news), Vec::new());
        }
        let deliveries = self.fetch(limits, topic);
        if !deliveries.is_empty() {
            return Turn::Ready(Read::Deliveries, deliveries);
        }
        let ended =
            |(p, cursor): (&u32, &Cursor)| self.ends[*p as usize].is_some_and(|end| cursor.next >= end);
        if !self.cursors.is_empty() && self.cursors.iter().all(ended) {
            return Turn::Ready(Read::End, Vec::new());
        }
        Turn::Wait(None)
    }

    fn fetch(&mut self, limits: ReadLimits, topic: &Topic) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let (mut bytes, mut idle) = (limits.bytes, 0);
        while deliveries.len() < limits.messages && idle < self.cursors.len() {
            let next = self.cursors.range(self.next..).next().or_else(|| self.cursors.first_key_value());
            let Some((&p, _)) = next else { break };
            self.next = p + 1;
            let Some(cursor) = self.cursors.get_mut(&p) else { break };
            let log = &topic.logs[p as usize];
            cursor.next = cursor.next.max(log.start());
            let open = !cursor.paused && self.ends[p as usize].is_none_or(|end| cursor.next < end);
            let Some(message) = log.get(cursor.next).filter(|_| open) else {
                idle += 1;
                continue;
            };
            if !deliveries.is_empty() && message.size() > bytes {
                break;
            }
            idle = 0;
            bytes = bytes.saturating_sub(message.size());
            let token = Token::new(PartitionId(p), Epoch(cursor.epoch), cursor.next);
            deliveries.push(Delivery::new(message.clone(), token).at(Position(cursor.next)));
            cursor.next += 1;
        }
        deliveries
    }
}
