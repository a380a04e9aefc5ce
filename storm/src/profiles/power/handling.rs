//! What is published to a file whose power is cut, and what its groups do with it. The id decides it all, so that who
//! looks at what is left knows what was, and goes on with it in the same way.

use std::hash::{DefaultHasher, Hasher as _};
use std::time::{Duration, SystemTime};

use millstream::Message;
use millstream::sqlite::{SqlEffect, SqliteDedupStore};
use millstream_core::{
    DedupKey, DedupStore as _, Delivery, Park, ParkNote, Reservation, Reserve, Settlement, Verdict,
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
    let (size, start) = (hash(id, 0) % 3_000, hash(id, 1));
    let mut data = id.as_bytes().to_vec();
    data.extend((0..size).map(|n| (start.wrapping_add(n * n) >> (n % 8)) as u8));
    let publisher = id.split('-').next().unwrap_or(id);
    let key = format!("{publisher}/{}", hash(id, 2) % 6);
    Message::new(TOPIC, data)
        .with_time(SystemTime::now())
        .with_id(id.to_owned())
        .with_key(key)
        .with_content_type("application/octet-stream")
        .with_header("size", size.to_string())
}

/// What is emitted with the acknowledgement of a message in [`Group::Effects`].
pub(crate) fn followed(id: &str, seq: u64) -> Message {
    let message = Message::new(FOLLOWED, id.to_owned()).with_id(followed_id(id, seq));
    message.with_time(SystemTime::now())
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
/// Of the deduplication store: then nothing is reserved, and nothing is handled.
pub(crate) async fn handle(
    group: Group,
    deliveries: Vec<Delivery>,
    dedup: &SqliteDedupStore,
    parks: Parks,
) -> Result<Vec<Handled>> {
    let mut reserved = Vec::new();
    if group == Group::Once {
        let keys = deliveries
            .iter()
            .map(|delivery| DedupKey { group: group.name().into(), id: delivery.message.id.clone() });
        reserved = dedup.reserve(keys.collect(), Duration::from_secs(60)).await?;
    }
    let reserved = reserved.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let handled = deliveries.into_iter().zip(reserved);
    handled.map(|(one, reserve)| Ok(handle_one(group, one, reserve, parks)?.confirmed_by(dedup))).collect()
}

fn handle_one(group: Group, delivery: Delivery, reserve: Option<Reserve>, parks: Parks) -> Result<Handled> {
    let Delivery { message, token, position, parked, .. } = delivery;
    let (seq, id) = (position.map_or(0, |position| position.0), message.id.to_string());
    let mut handled = Handled { seq, ends: true, settlement: Settlement::ack(token), reserved: None };
    let settlement = &mut handled.settlement;
    if parks == Parks::Some && parked.is_none() && is_parked(group, &id) {
        let note = ParkNote { attempts: 1, first_failure: None, error: "not now".into() };
        let park = Park { after: Some(Duration::from_millis(10)), note };
        settlement.verdict = Verdict::Park(Box::new(park));
        handled.ends = false;
        return Ok(handled);
    }
    if is_dead(group, &id) {
        let letter = (*message).clone().with_header("millstream-dl-error", "no such customer");
        settlement.verdict = Verdict::Dead(Box::new(letter));
        return Ok(handled);
    }
    match reserve {
        None => {}
        Some(Reserve::Reserved(reservation)) => handled.reserved = Some(reservation),
        Some(Reserve::Duplicate) => return Ok(handled),
        // Another copy of it is under way.
        Some(Reserve::Busy(_)) => {
            settlement.verdict = Verdict::Release;
            handled.ends = false;
            return Ok(handled);
        }
    }
    if group == Group::Effects && is_followed(&id) {
        settlement.along_mut().emit.push(followed(&id, seq));
    }
    if group != Group::Plain {
        let row = (group.name(), i64::try_from(seq)?, id);
        let effect = SqlEffect::statement("INSERT INTO effects VALUES(?1, ?2, ?3)", row)?;
        settlement.along_mut().effects.push(effect.into_effect());
    }
    Ok(handled)
}

impl Handled {
    /// With the confirmation of what is reserved among its effects.
    fn confirmed_by(mut self, dedup: &SqliteDedupStore) -> Self {
        let confirm = self.reserved.as_ref().and_then(|reservation| dedup.confirm_as_effect(reservation));
        self.settlement.along_mut().effects.extend(confirm);
        self
    }
}
