//! I8: payload, key and headers arrive byte for byte, also in the dead letter.

use super::scan::{Seen, State};
use super::verdict::{Invariant, Report};
use crate::ledger::Record;

pub(super) fn see(seen: &Seen<'_>, state: &State, report: &mut Report<'_>) {
    let (arrived, place) = match seen.record {
        Record::Delivered { digest, .. } => (digest, "delivered"),
        Record::DeadLettered { digest, .. } => (digest, "dead-lettered"),
        _ => return,
    };
    let Some(message) = state.message(seen).filter(|m| m.intent.is_some()) else { return };
    if *arrived != message.digest {
        let what = format!("{place} with other bytes (payload, key, headers or content type)");
        report.breach(Invariant::Bytes, seen, Some(state), what, &[message.intent]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{handled, judge, message, only, published, strict};
    use super::*;
    use crate::ledger::digest;

    #[test]
    fn other_bytes_than_were_sent_are_a_breach_in_a_delivery_and_in_a_dead_letter() {
        let mut changed = handled("1");
        if let Record::Delivered { digest: d, .. } = &mut changed[0] {
            *d = digest(&message("1", "K"));
        }
        only(&judge([published("1", "k", 1), changed], strict()), Invariant::Bytes);
        let dead = |key| Record::DeadLettered {
            id: "1".into(),
            group: "g".into(),
            digest: digest(&message("1", key).with_header("millstream-dl-error", "why")),
        };
        let run = |key| judge([published("1", "k", 1), handled("1"), vec![dead(key)]], strict());
        only(&run("K"), Invariant::Bytes);
        assert!(run("k").is_ok());
    }
}
