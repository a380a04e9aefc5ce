//! Yields what the partitions' queues hold, and what the polling thread has to tell.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_core::{Delivery, Error, ErrorKind, PartitionId, Read, ReadLimits, Result, Source};
use tokio::sync::oneshot;

use crate::member::Member;
use crate::poll::LEAVE_WITHIN;

/// Yields the deliveries of one subscription. Dropping it leaves the group.
#[derive(Debug)]
pub struct KafkaSource {
    member: Arc<Member>,
    /// Ends when the thread has left the group; none where nothing is polled.
    left: Option<oneshot::Receiver<()>>,
}

impl KafkaSource {
    pub(crate) fn new(member: Arc<Member>, left: Option<oneshot::Receiver<()>>) -> Self {
        Self { member, left }
    }
}

impl Source for KafkaSource {
    async fn read(&mut self, into: &mut Vec<Delivery>, limits: ReadLimits) -> Result<Read> {
        let member = &*self.member;
        loop {
            // A bell that rings before it is waited for is kept.
            if let Some(read) = member.turn(into, limits)? {
                return Ok(read);
            }
            member.bell.notified().await;
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        self.member.pause(partitions, true);
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        self.member.pause(partitions, false);
    }

    fn assign(&mut self, partitions: Vec<PartitionId>) {
        self.member.choose(&partitions);
    }

    async fn close(mut self) -> Result<()> {
        self.member.closing.store(true, Ordering::Release);
        let Some(left) = self.left.take() else { return Ok(()) };
        // The thread's end closes the channel as well as its word.
        if tokio::time::timeout(LEAVE_WITHIN * 2, left).await.is_ok() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Timeout, format!("leaving took longer than {:?}", LEAVE_WITHIN * 2))
            .topic(&*self.member.topic)
            .fix("look whether the brokers run; the group goes on without this member after its lease"))
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.member.closing.store(true, Ordering::Release);
    }
}
