//! Committing positions together with what handlers sent: in one transaction, or neither.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use millstream_core::{Message, Result};
use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;

use crate::cluster::Cluster;
use crate::errors;
use crate::member::{Client, Finished, Member};
use crate::positions;
use crate::settings::ANSWER_WITHIN;
use crate::transactor::{Emitted, Ended, Positions, Transactor};

/// What a handler sent: with the offset of its message in which partition, and how many partitions its topic has.
pub(crate) type Emit = ((i32, u32), i64, Message, u32);

/// What is to be there together.
pub(crate) struct Together {
    /// The last finished message of each partition.
    pub(crate) finished: Finished,
    pub(crate) emitted: Vec<Emit>,
    /// How the last transaction ended is not known.
    pub(crate) doubtful: bool,
}

/// What became of it.
pub(crate) struct Happened {
    /// What of the finished was still ours.
    pub(crate) ours: Finished,
    /// What had been committed before, by position: nothing that it came with was written.
    pub(crate) stale: BTreeSet<((i32, u32), i64)>,
    pub(crate) ended: Ended,
}

impl Member {
    /// Commits positions and messages together. Blocks.
    ///
    /// The gate is held all the while, as for every commit. After a doubtful transaction the brokers are asked first how
    /// far the group is: what that transaction did after all is not done again.
    pub(crate) fn transact(
        &self,
        cluster: &Cluster,
        transactor: &Mutex<Transactor>,
        together: &Together,
    ) -> Happened {
        let _gate = self.gate();
        let (ours, mut positions) = self.ours(&together.finished);
        if ours.is_empty() {
            return Happened { ours, stale: BTreeSet::new(), ended: Ended::Committed };
        }
        let stale = self.stale(&together.emitted);
        let mut transactor = transactor.lock().unwrap_or_else(PoisonError::into_inner);
        let ran = self.as_committer(cluster, |client| {
            let mut before = Finished::new();
            if together.doubtful {
                match transactor.ready().and_then(|()| self.before(client, &ours)) {
                    Ok(known) => before = known,
                    Err(error) => return Ok(Ended::Aborted(error)),
                }
            }
            let is_open = |part: &(i32, u32), offset: i64| {
                ours.contains_key(part) && before.get(part).is_none_or(|last| offset > *last)
            };
            let emitted: Vec<Emitted<'_>> = together
                .emitted
                .iter()
                .filter(|(part, offset, ..)| is_open(part, *offset) && !stale.contains(&(*part, *offset)))
                .map(|(.., message, partitions)| (message, *partitions))
                .collect();
            positions.retain(|(p, next, _)| ours.keys().any(|part| part.0 == *p && is_open(part, *next - 1)));
            if positions.is_empty() {
                return Ok(Ended::Committed);
            }
            let Some(group) = client.group_metadata() else {
                return Ok(Ended::Aborted(errors::of_code(
                    Code::UnknownMemberId,
                    "the group does not know us",
                )));
            };
            let list = self.list(&positions)?;
            Ok(transactor.run(&emitted, Some(&Positions { list, group })))
        });
        let ended = ran.unwrap_or_else(|e| Ended::Aborted(errors::of(&e, "the position was not committed")));
        if matches!(ended, Ended::Committed) {
            self.committed(&ours);
        }
        Happened { ours, stale, ended }
    }

    /// The last message that the group has committed of each of these partitions, once no transaction is open on it.
    fn before(&self, client: &Client, ours: &Finished) -> Result<Finished> {
        let failed = |e| errors::of(&e, "how far the group is cannot be asked for");
        let partitions: Vec<i32> = ours.keys().map(|(p, _)| *p).collect();
        let list = positions::list(&self.topic, &partitions);
        let committed = client.committed_offsets(list, ANSWER_WITHIN).map_err(failed)?;
        let mut before = Finished::new();
        for element in committed.elements() {
            element.error().map_err(failed)?;
            let Offset::Offset(offset) = element.offset() else { continue };
            before.extend(
                ours.keys().filter(|(p, _)| *p == element.partition()).map(|part| (*part, offset - 1)),
            );
        }
        Ok(before)
    }
}
