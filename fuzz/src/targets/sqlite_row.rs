//! Rows that say anything, under checksums that are right: a message that can be one is given as it was written, and
//! nothing else is ever given.

use millstream::core::{Admin as _, End, OpenRequest};
use millstream::{ByteString, Bytes, Headers, Message};
use millstream_sqlite::rusqlite::params;

use super::message::hostile;
use super::sqlite::{Checksum, Place, promptly, take_all};
use super::{Target, wait_for_real};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("sqlite_row", run, seeds);

const LOG: u8 = 1;
const DEAD: u8 = 3;

/// A message's columns.
struct Row<'a> {
    time: i64,
    id: &'a [u8],
    key: Option<&'a [u8]>,
    content_type: &'a [u8],
    headers: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
    /// Whether its checksum is right.
    fits: bool,
}

impl<'a> Row<'a> {
    fn of(input: &mut Input<'a>) -> Self {
        let parts = input.byte();
        let mut part = |flag: u8| (parts & flag != 0).then(|| input.bytes());
        let (key, headers, data) = (part(1), part(2), part(4));
        let fits = parts & 8 == 0;
        Self {
            time: input.number().cast_signed(),
            id: input.bytes(),
            content_type: input.bytes(),
            key,
            headers,
            data,
            fits,
        }
    }

    fn crc(&self, table: u8, number: i64, name: Option<&[u8]>) -> i64 {
        let crc = Checksum::default()
            .fixed(&[table])
            .fixed(&1i64.to_le_bytes())
            .fixed(&number.to_le_bytes())
            .fixed(&self.time.to_le_bytes())
            .part(Some(self.id))
            .part(self.key)
            .part(Some(self.content_type))
            .part(self.headers)
            .part(self.data);
        let crc = if name.is_some() { crc.part(name) } else { crc };
        crc.done() ^ i64::from(!self.fits)
    }

    /// The message that it is, if it is one.
    fn message(&self, topic: &str) -> Option<Message> {
        let text = |bytes| std::str::from_utf8(bytes).ok().map(ByteString::from);
        let mut message =
            Message::tombstone(topic).with_id(text(self.id)?).with_content_type(text(self.content_type)?);
        message.key = self.key.map(Bytes::copy_from_slice);
        message.data = self.data.map(Bytes::copy_from_slice);
        message.headers = headers(self.headers.unwrap_or_default())?;
        message.time = Input::new(&self.time.to_le_bytes()).time();
        self.fits.then_some(message)
    }
}

/// Headers as the driver stores them: the lengths of name and value, then both.
fn headers(mut bytes: &[u8]) -> Option<Headers> {
    let mut headers = Headers::new();
    while !bytes.is_empty() {
        let (lengths, rest) = bytes.split_at_checked(8)?;
        let name = u32::from_le_bytes(lengths[..4].try_into().ok()?);
        let value = u32::from_le_bytes(lengths[4..].try_into().ok()?);
        let (name, rest) = rest.split_at_checked(name as usize)?;
        let name = std::str::from_utf8(name).ok()?;
        bytes = if value == u32::MAX {
            headers.append_null(name);
            rest
        } else {
            let (value, rest) = rest.split_at_checked(value as usize)?;
            headers.append(name, Bytes::copy_from_slice(value));
            rest
        };
    }
    Some(headers)
}

fn run(data: &[u8]) {
    thread_local!(static PLACE: Place = Place::new(1));
    let mut input = Input::new(data);
    let is_letter = input.byte().is_multiple_of(2);
    let row = Row::of(&mut input);
    PLACE.with(|place| if is_letter { dead(place, &row, input.bytes()) } else { logged(place, &row) });
}

fn dead(place: &Place, row: &Row<'_>, name: &[u8]) {
    place
        .connection
        .prepare_cached(
            "INSERT OR REPLACE INTO millstream_dead VALUES(1, 1, NULL, NULL, 0, NULL, NULL, NULL, \
             CAST(?1 AS TEXT), ?2, CAST(?3 AS TEXT), ?4, CAST(?5 AS TEXT), ?6, ?7, ?8)",
        )
        .and_then(|mut insert| {
            let crc = row.crc(DEAD, 1, Some(name));
            insert.execute(params![
                name,
                row.time,
                row.id,
                row.key,
                row.content_type,
                row.headers,
                row.data,
                crc
            ])
        })
        .expect("stored");
    let letters = wait_for_real(promptly(place.store.admin().dead_letters("t", None, 10))).expect("listed");
    let letters: Vec<_> = letters.into_iter().map(|letter| letter.message).collect();
    let expected = std::str::from_utf8(name).ok().and_then(|name| row.message(name));
    assert_eq!(letters, Vec::from_iter(expected));
}

fn logged(place: &Place, row: &Row<'_>) {
    place
        .connection
        .prepare_cached(
            "UPDATE millstream_log_1 SET time = ?1, id = CAST(?2 AS TEXT), key = ?3, ct = CAST(?4 AS TEXT), \
             headers = ?5, data = ?6, crc = ?7 WHERE seq = 1",
        )
        .and_then(|mut update| {
            let crc = row.crc(LOG, 1, None);
            update.execute(params![row.time, row.id, row.key, row.content_type, row.headers, row.data, crc])
        })
        .expect("stored");
    let came = wait_for_real(take_all(&place.store, OpenRequest::new("t").end(End::Latest))).expect("read");
    assert_eq!(came, Vec::from_iter(row.message("t")));
}

fn seeds() -> Vec<Vec<u8>> {
    let stored = |message: &Message| {
        let mut headers = Vec::new();
        for (name, value) in message.headers.iter() {
            headers.extend((name.len() as u32).to_le_bytes());
            headers.extend(value.map_or(u32::MAX, |v| v.len() as u32).to_le_bytes());
            headers.extend(name.as_bytes());
            headers.extend(value.map_or(&[][..], |v| v));
        }
        headers
    };
    let mut all = Vec::new();
    for (message, n) in hostile().iter().zip(0u8..) {
        let parts = u8::from(message.key.is_some()) | 2 | if message.data.is_some() { 4 } else { 0 };
        let mut seed = Seed::new().byte(n % 2).byte(parts);
        seed = message.key.iter().fold(seed, Seed::bytes).bytes(stored(message));
        seed = message.data.iter().fold(seed, Seed::bytes).time(message.time);
        all.push(seed.bytes(&*message.id).bytes(&*message.content_type).bytes("t.dlq").done());
    }
    all.push(Seed::new().byte(0).byte(8).number(0).bytes("1").bytes("").bytes("t").done());
    all
}
