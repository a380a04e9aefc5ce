//! A group's progress and park that say anything, under checksums that are right: the group is refused, or gives
//! messages that are there, each once; nothing breaks and nothing hangs.

use std::collections::HashSet;

use millstream::ErrorKind;
use millstream::core::{Admin as _, OpenRequest};
use millstream_sqlite::rusqlite::{self, params};

use super::sqlite::{Checksum, Place, promptly, take_all};
use super::{Target, wait_for_real};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("sqlite_slot", run, seeds);

const MESSAGES: usize = 8;
const SLOTS: u64 = 64;
/// The group `g` is the file's first.
const GROUP: i64 = 1;

fn run(data: &[u8]) {
    thread_local!(static PLACE: Place = {
        let place = Place::new(MESSAGES);
        // Makes the group.
        wait_for_real(take_all(&place.store, request())).expect("read");
        place
    });
    PLACE.with(|place| {
        reset(&place.connection).expect("stored");
        let mut input = Input::new(data);
        while !input.is_empty() {
            let forged = if input.byte().is_multiple_of(2) { slot } else { parked };
            // A row that the table itself refuses is none.
            let _ = forged(&place.connection, &mut input);
        }
        wait_for_real(async {
            let _ = promptly(place.store.admin().groups("t")).await;
            match take_all(&place.store, request()).await {
                Ok(came) => {
                    let ids: HashSet<_> = came.iter().map(|message| &*message.id).collect();
                    assert_eq!(ids.len(), came.len(), "one came twice");
                    assert!(came.iter().all(|m| m.id.parse().is_ok_and(|n: usize| n < MESSAGES)));
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}"),
            }
        });
    });
}

fn request() -> OpenRequest {
    OpenRequest::new("t").group("g")
}

/// As if nobody had read anything.
fn reset(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN; DELETE FROM millstream_parked; DELETE FROM millstream_member")?;
    for slot in 0..SLOTS {
        connection
            .prepare_cached("INSERT OR REPLACE INTO millstream_slot VALUES(?1, ?2, NULL, 0, 0, x'', 0, ?3)")?
            .execute(params![GROUP, slot, progress(slot, 0, 0, &[])])?;
    }
    connection.execute_batch("COMMIT")
}

fn progress(slot: u64, front: i64, parked: i64, holes: &[u8]) -> i64 {
    Checksum::default()
        .fixed(&GROUP.to_le_bytes())
        .fixed(&slot.to_le_bytes())
        .fixed(&front.to_le_bytes())
        .fixed(&parked.to_le_bytes()[..4])
        .fixed(holes)
        .done()
}

fn slot(connection: &rusqlite::Connection, input: &mut Input<'_>) -> rusqlite::Result<usize> {
    let slot = u64::from(input.byte()) % SLOTS;
    let (front, parked) = (input.number().cast_signed(), i64::from(input.byte()));
    let holes = input.bytes();
    connection
        .prepare_cached("UPDATE millstream_slot SET front = ?3, holes = ?4, parked = ?5, crc = ?6 WHERE grp = ?1 AND slot = ?2")?
        .execute(params![GROUP, slot, front, holes, parked, progress(slot, front, parked, holes)])
}

fn parked(connection: &rusqlite::Connection, input: &mut Input<'_>) -> rusqlite::Result<usize> {
    let seq = input.number().cast_signed();
    let slot = u64::from(input.byte());
    let parts = input.byte();
    let key = (parts & 1 != 0).then(|| input.bytes());
    let due = (parts & 2 != 0).then(|| input.number().cast_signed());
    let first_failure = (parts & 4 != 0).then(|| input.number().cast_signed());
    let (attempts, deliveries) = (u32::from(input.byte()), u32::from(input.byte()));
    let error = input.text();
    let wait = due.map(|_| input.number().cast_signed());
    let time = |time: Option<i64>| {
        let mut bytes = vec![u8::from(time.is_some())];
        bytes.extend(time.unwrap_or_default().to_le_bytes());
        bytes
    };
    let crc = Checksum::default()
        .fixed(&GROUP.to_le_bytes())
        .fixed(&seq.to_le_bytes())
        .fixed(&slot.to_le_bytes())
        .fixed(&time(due))
        .fixed(&time(wait))
        .fixed(&time(first_failure))
        .fixed(&attempts.to_le_bytes())
        .fixed(&deliveries.to_le_bytes())
        .part(key)
        .fixed(error.as_bytes())
        .done();
    connection
        .prepare_cached("INSERT INTO millstream_parked VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)")?
        .execute(params![GROUP, seq, slot, key, due, wait, attempts, deliveries, first_failure, error, crc])
}

fn seeds() -> Vec<Vec<u8>> {
    let slot = |slot: u8, front: u64, parked: u8, holes: &[(u64, u32)]| {
        let holes: Vec<u8> =
            holes.iter().flat_map(|(seq, n)| [&seq.to_le_bytes()[..], &n.to_le_bytes()].concat()).collect();
        Seed::new().byte(0).byte(slot).number(front).byte(parked).bytes(holes)
    };
    // The slot of each message's key.
    let of = |n: usize| (crc32fast::hash(format!("k{}", n % 5).as_bytes()) % 64) as u8;
    let park = |seed: Seed, seq: u64, due: u64| {
        seed.byte(1)
            .number(seq)
            .byte(of(seq as usize - 1))
            .byte(7)
            .bytes(format!("k{}", (seq - 1) % 5))
            .number(due)
            .number(5)
            .byte(2)
            .byte(1)
            .bytes("it failed")
            .number(due)
    };
    vec![
        Vec::new(),
        slot(of(0), 8, 0, &[(1, 1)]).done(),
        slot(of(0), 8, 0, &[(1, u32::MAX)]).done(),
        slot(of(1), 8, 0, &[(7, 1), (2, 3), (7, 2)]).done(),
        slot(of(2), u64::MAX >> 1, 0, &[(1, 1), (u64::MAX, u32::MAX)]).done(),
        park(slot(of(0), 8, 1, &[]), 1, 0).done(),
        park(slot(of(0), 8, 1, &[(1, 1), (6, 0)]), 1, u64::MAX >> 1).done(),
        park(slot(of(3), 2, 2, &[]), 4, 1).done(),
    ]
}
