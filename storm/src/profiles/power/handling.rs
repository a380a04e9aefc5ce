//! What is published to a file whose power is cut, and what its groups do with it. The id decides it all, so that who
//! looks at what is left knows what was, and goes on with it in the same way.

use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use millstream::Message;
use millstream::sqlite::{SqlEffect, SqliteDedupStore};
use millstream_core::{
    DedupKey, DedupStore as _, Delivery, Park, ParkNote, Reservation, Reserve, Settlement, Token, Verdict,
};

use crate::Result;

pub(crate) const TOPIC: &str = "orders";
/// Events that the handlers of [`Group::Effects`] publish with their acknowledgements.
pub(crate) const FOLLOWED: &str = "orders.followed";
/// Where a handler's effect is a row.
pub(crate) const EFFECTS: &str =
    "CREATE TABLE IF NOT EXISTS effects(grp TEXT NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL)";

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Group {
    /// Each message has an effect, and some emit an event.
    Effects,
    /// Each id has one effect, also if it was published twice.
    Once,
    /// Acknowledges and no more.
    Plain,
    /// Reads what was emitted.
    After,
}

impl Group {
    pub(crate) const ALL: [Self; 4] = [Self::Effects, Self::Once, Self::Plain, Self::After];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Effects => "effects",
            Self::Once => "once",
            Self::Plain => "plain",
            Self::After => "after",
        }
    }

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.name() == name)
    }

    pub(crate) fn topic(self) -> &'static str {
        if self == Self::After { FOLLOWED } else { TOPIC }
    }
}

/// The message of an id. Its key is one of its publisher's.
pub(crate) fn message(id: &str) -> Message {
    let size = hash(id, 0) % 3_000;
    let mut data = id.as_bytes().to_vec();
    data.extend((0..size).map(|n| (hash(id, 1).rotate_left((n % 64) as u32) & 0xff) as u8));
    let publisher = id.split('-').next().unwrap_or(id);
    let key = format!("{publisher}/{}", hash(id, 2) % 6);
    Message::new(TOPIC, data)
        .with_id(id.to_owned())
        .with_key(key)
        .with_content_type("application/octet-stream")
        .with_header("size", size.to_string())
}

/// What is emitted with the acknowledgement of a message in [`Group::Effects`].
pub(crate) fn followed(id: &str, seq: u64) -> Message {
    Message::new(FOLLOWED, id.to_owned()).with_id(followed_id(id, seq))
}

pub(crate) fn followed_id(id: &str, seq: u64) -> String {
    format!("f/{id}/{seq}")
}

pub(crate) fn is_followed(id: &str) -> bool {
    hash(id, 3).is_multiple_of(4)
}

/// How a message ends in a group.
pub(crate) fn is_dead(group: Group, id: &str) -> bool {
    matches!(group, Group::Effects | Group::Plain) && hash(id, 4) % 100 < 4
}

/// Whether it is parked first.
fn is_parked(group: Group, id: &str) -> bool {
    matches!(group, Group::Effects | Group::Plain) && (4..12).contains(&(hash(id, 4) % 100))
}

fn hash(id: &str, about: u8) -> u64 {
    let mut hash = DefaultHasher::new();
    hash.write_u8(about);
    hash.write(id.as_bytes());
    hash.finish()
}

/// Whether some messages are parked first: not by who only wants to see the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parks {
    Some,
    None,
}

/// A delivery as it is to be settled.
#[derive(Debug)]
pub(crate) struct Handled {
    pub(crate) seq: u64,
    /// For good: acknowledged or a dead letter.
    pub(crate) ends: bool,
    pub(crate) settlement: Settlement,
    /// To be released if it comes to nothing.
    pub(crate) reserved: Option<Reservation>,
}

/// Handles deliveries: what each comes to is not yet settled.
///
/// # Errors
/// Of the deduplication store.
pub(crate) async fn handle(
    group: Group,
    deliveries: Vec<Delivery>,
    dedup: &SqliteDedupStore,
    parks: Parks,
) -> Result<Vec<Handled>> {
    let mut handled = Vec::with_capacity(deliveries.len());
    for Delivery { message, token, position, parked, .. } in deliveries {
        let (seq, id) = (position.map_or(0, |position| position.0), message.id.to_string());
        if parks == Parks::Some && parked.is_none() && is_parked(group, &id) {
            let note = ParkNote { attempts: 1, first_failure: None, error: "not now".into() };
            let park = Park { after: Some(Duration::from_millis(10)), note };
            let settlement = Settlement::new(token, Verdict::Park(Box::new(park)));
            handled.push(Handled { seq, ends: false, settlement, reserved: None });
            continue;
        }
        if is_dead(group, &id) {
            let letter = message.with_header("millstream-dl-error", "no such customer");
            let settlement = Settlement::new(token, Verdict::Dead(Box::new(letter)));
            handled.push(Handled { seq, ends: true, settlement, reserved: None });
            continue;
        }
        handled.push(acknowledge(group, seq, id, token, dedup).await?);
    }
    Ok(handled)
}

async fn acknowledge(
    group: Group,
    seq: u64,
    id: String,
    token: Token,
    dedup: &SqliteDedupStore,
) -> Result<Handled> {
    let mut settlement = Settlement::ack(token);
    let mut reserved = None;
    if group == Group::Once {
        let key = DedupKey { group: group.name().into(), id: id.clone().into() };
        match dedup.reserve(vec![key], Duration::from_secs(60)).await?.pop() {
            Some(Reserve::Reserved(reservation)) => {
                settlement.effects.extend(dedup.confirm_as_effect(&reservation));
                reserved = Some(reservation);
            }
            Some(Reserve::Duplicate) => {
                return Ok(Handled { seq, ends: true, settlement, reserved: None });
            }
            // Another copy of it is under way.
            _ => {
                settlement.verdict = Verdict::Release;
                return Ok(Handled { seq, ends: false, settlement, reserved: None });
            }
        }
    }
    if group == Group::Effects && is_followed(&id) {
        settlement.emit.push(followed(&id, seq));
    }
    if group != Group::Plain {
        let row = (group.name(), i64::try_from(seq)?, id);
        let effect = SqlEffect::statement("INSERT INTO effects VALUES(?1, ?2, ?3)", row)?;
        settlement.effects.push(effect.into_effect());
    }
    Ok(Handled { seq, ends: true, settlement, reserved })
}
