//! Single bits flip in a file that has messages, groups with progress, parked messages and dead letters; or it is cut off,
//! a page is zeroed, or two pages trade places. Whoever opens it then gets an error, a report that names what is damaged,
//! or what was written: never a wrong byte, and nothing is missing without a word.

use std::collections::BTreeMap;
use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use millstream::sqlite::{SqliteStore, check, rusqlite};
use millstream::{End, ErrorKind, Message, Position};
use millstream_core::admin::Admin as _;
use millstream_core::{
    Delivery, OpenRequest, Opened, Park, ParkNote, Read, ReadLimits, Reader as _, Settlement, Settler as _,
    Source as _, Verdict, Writer as _,
};

use tokio::task::JoinHandle;

use super::Scale;
use crate::report::Row;
use crate::{Result, scratch};

const TOPICS: [&str; 2] = ["orders", "payments"];
/// The group that reads on.
const GROUP: &str = "billing";
/// The one that has read all.
const DONE: &str = "audit";
const MESSAGES: usize = 250;
/// How many of them that group settles before the file is broken; it parks one in ten.
const SETTLED: usize = 160;
/// How many of them it is owed then.
const OWED: usize = MESSAGES - SETTLED + SETTLED / 10;
/// Nothing more comes if nothing came for so long: in a first look, which many files get at the same time. It is longer
/// than the driver's own look-out for others.
const SILENCE: Duration = Duration::from_millis(400);
/// The same in the look that decides, which each file gets for itself in which the first found something wrong: on a
/// machine with much to do 400 ms prove nothing.
const LONG_SILENCE: Duration = Duration::from_secs(5);
/// Damaged files that are looked at together: much of a look is waiting for what does not come.
const TOGETHER: usize = 24;
/// SQLite's, as the driver makes files.
const PAGE: usize = 4_096;
/// How long a look into a damaged file may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a flip ended.
#[derive(Debug)]
enum Ending {
    /// Everything is what was written.
    Identical,
    /// Something was refused with an error.
    Refused,
    /// What is missing is named.
    Named,
    /// Something is wrong, and nobody says so.
    Wrong(String),
}

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut random = Rng::with_seed(seed);
    let folder = scratch::folder("flip")?;
    let original = folder.path().join("original.db");
    runtime.block_on(build(&original, &mut random))?;
    let bytes = fs::read(&original)?;
    // A look changes the file: it works on a copy, as all do.
    let expected = runtime.block_on(look_at(&bytes, folder.path(), 0, LONG_SILENCE))?;
    if let Some(error) = expected.errors.first() {
        return Err(format!("the file without a flip cannot be read: {error}").into());
    }
    let expected = Arc::new(expected);
    let panics = count_panics();
    let mut row = Row { messages: (MESSAGES * TOPICS.len()) as u64, ..Row::default() };
    row.acknowledged = row.messages;
    let damages = Damage::some(scale, bytes.len(), &mut random);
    let mut counts = Counts::default();
    let look = |damage: &Damage, number: usize, silence: Duration| {
        let (damaged, folder, expected) =
            (damage.done_to(&bytes), folder.path().to_owned(), Arc::clone(&expected));
        runtime.spawn(async move { judged(&damaged, &folder, number, silence, &expected).await })
    };
    let ended = |look: JoinHandle<Ending>| {
        runtime.block_on(look).unwrap_or_else(|panicked| Ending::Wrong(panicked.to_string()))
    };
    for (turn, damages) in damages.chunks(TOGETHER).enumerate() {
        let before = panics.load(Ordering::Acquire);
        let looks: Vec<_> = damages.iter().map(|damage| look(damage, turn, SILENCE)).collect();
        for (damage, first) in damages.iter().zip(looks) {
            row.faults += 1;
            let mut ending = ended(first);
            if matches!(ending, Ending::Wrong(_)) {
                ending = ended(look(damage, turn, LONG_SILENCE));
            }
            if let Ending::Wrong(what) = &ending {
                row.lost += 1;
                row.problems.push(format!("{}: {what}", damage.told(&bytes)));
            }
            counts.add(damage, &ending);
        }
        let panicked = panics.load(Ordering::Acquire) - before;
        if panicked > 0 {
            row.problems.push(format!("{panicked} panics among {damages:?}"));
        }
    }
    drop(panic::take_hook());
    row.figures = counts.figures();
    row.detail = format!("{} bytes", bytes.len());
    Ok(row)
}

// ---- Damage --------------------------------------------------------------------------------------------------

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// One bit flips.
    Bit(usize),
    /// It ends after so many bytes.
    CutOff(usize),
    /// A page is all zeroes.
    Zeroed(usize),
    /// Two pages trade places.
    Swapped(usize, usize),
}

impl Damage {
    /// What is done at this scale, bits first.
    fn some(scale: Scale, size: usize, random: &mut Rng) -> Vec<Self> {
        let mut all: Vec<_> =
            (0..scale.of(20_000, 240)).map(|_| Self::Bit(random.usize(0..size * 8))).collect();
        let pages = size / PAGE;
        all.extend((0..scale.of(2_000, 60)).map(|number| match number % 3 {
            0 => Self::CutOff(random.usize(0..size)),
            1 => Self::Zeroed(random.usize(0..pages)),
            _ => {
                let one = random.usize(0..pages);
                Self::Swapped(one, (one + random.usize(1..pages)) % pages)
            }
        }));
        all
    }

    fn done_to(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let page = |page: usize| page * PAGE..(page + 1) * PAGE;
        match self {
            Self::Bit(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
            Self::CutOff(size) => bytes.truncate(size),
            Self::Zeroed(number) => bytes[page(number)].fill(0),
            Self::Swapped(one, other) => {
                let first = bytes[page(one)].to_vec();
                bytes.copy_within(page(other), one * PAGE);
                bytes[page(other)].copy_from_slice(&first);
            }
        }
        bytes
    }

    /// For whoever looks into it.
    fn told(self, bytes: &[u8]) -> String {
        let Self::Bit(bit) = self else { return format!("{self:?}") };
        let around = &bytes[(bit / 8).saturating_sub(12)..bytes.len().min(bit / 8 + 12)];
        format!("bit {} of byte {}, amid {}", bit % 8, bit / 8, around.escape_ascii())
    }
}

/// How many of each kind ended how.
#[derive(Debug, Default)]
struct Counts {
    /// Bits first, then the rest: those that changed nothing that is read, were refused, cost what a report names, or
    /// were wrong without a word.
    ended: [[u64; 4]; 2],
}

impl Counts {
    fn add(&mut self, damage: &Damage, ending: &Ending) {
        let kind = usize::from(!matches!(damage, Damage::Bit(_)));
        let how = match ending {
            Ending::Identical => 0,
            Ending::Refused => 1,
            Ending::Named => 2,
            Ending::Wrong(_) => 3,
        };
        self.ended[kind][how] += 1;
    }

    fn figures(&self) -> BTreeMap<&'static str, u64> {
        const NAMES: [[&str; 4]; 2] = [
            ["bits_harmless", "bits_refused", "bits_reported", "bits_wrong"],
            ["pages_harmless", "pages_refused", "pages_reported", "pages_wrong"],
        ];
        NAMES.iter().flatten().copied().zip(self.ended.iter().flatten().copied()).collect()
    }
}

/// Counts panics, and keeps them from stderr.
fn count_panics() -> Arc<AtomicU64> {
    let panics = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&panics);
    panic::set_hook(Box::new(move |_| {
        counter.fetch_add(1, Ordering::AcqRel);
    }));
    panics
}

// ---- The file ------------------------------------------------------------------------------------------------

/// Makes a file with something of everything.
async fn build(file: &Path, random: &mut Rng) -> Result {
    let store = SqliteStore::builder(file).open().await?;
    let writer = store.writer();
    for topic in TOPICS {
        let messages: Vec<_> = (0..MESSAGES).map(|number| message(topic, number, random)).collect();
        writer.write(messages).await?.into_result()?;
        read_and_settle(&store, topic, DONE, MESSAGES, |_| Verdict::Ack).await?;
        let mut count = 0;
        read_and_settle(&store, topic, GROUP, SETTLED, |delivery| {
            count += 1;
            match count % 10 {
                3 => Verdict::Park(Box::new(Park {
                    after: Some(Duration::ZERO),
                    note: ParkNote {
                        attempts: 2,
                        first_failure: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
                        error: "the bank does not answer".into(),
                    },
                })),
                7 => Verdict::Dead(Box::new(
                    (*delivery.message).clone().with_header("millstream-dl-error", "no such account"),
                )),
                _ => Verdict::Ack,
            }
        })
        .await?;
    }
    writer.close().await?;
    drop(store);
    // All that is in the write-ahead log goes into the file, and the log is empty.
    let connection = rusqlite::Connection::open(file)?;
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        return Err("the file could not be checkpointed: somebody still has it open".into());
    }
    Ok(())
}

fn message(topic: &str, number: usize, random: &mut Rng) -> Message {
    let mut data = vec![0; random.usize(0..400)];
    random.fill(&mut data);
    let mut message = Message::new(topic.to_owned(), data)
        .with_id(format!("{topic}-{number}"))
        .with_content_type("application/octet-stream")
        .with_time(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + number as u64));
    if random.u8(..4) > 0 {
        message = message.with_key(format!("customer-{}", random.u8(..40)));
    }
    if random.bool() {
        message = message.with_header("tenant", "acme").with_header("raw", vec![random.u8(..), 0, 255]);
    }
    message
}

/// Reads so many messages for a group and settles each; what is read beyond is given back by leaving.
async fn read_and_settle(
    store: &SqliteStore,
    topic: &str,
    group: &str,
    count: usize,
    mut verdict: impl FnMut(&Delivery) -> Verdict,
) -> Result {
    let request = OpenRequest::new(topic.to_owned()).group(group.to_owned());
    let Opened { mut source, mut settler, .. } = store.reader().open(request).await?;
    let mut settlements = Vec::new();
    while settlements.len() < count {
        let mut some = Vec::new();
        source.read(&mut some, ReadLimits::new(count - settlements.len(), 1 << 20)).await?;
        settlements.extend(some.into_iter().map(|delivery| {
            let verdict = verdict(&delivery);
            Settlement::new(delivery.token, verdict)
        }));
    }
    // All at once, in the end: what is parked must not come again here.
    if settler.settle(settlements).await.iter().any(|settled| !settled.is_done()) {
        return Err("a message could not be settled".into());
    }
    settler.close().await?;
    source.close().await?;
    Ok(())
}

// ---- A look into it ------------------------------------------------------------------------------------------

/// A message and where it lies.
type Placed = (u64, Message);

/// All that is read of a file.
#[derive(Debug, Default)]
struct Look {
    /// Topics and groups, as the driver counts them.
    overview: Vec<String>,
    browsed: BTreeMap<String, Vec<Placed>>,
    dead: BTreeMap<String, Vec<Placed>>,
    /// What the group gets that reads on, by its place; none twice.
    read_on: BTreeMap<String, Vec<Placed>>,
    /// What the driver says to be damaged: in the check of the whole file before anything else, and in its quarantine
    /// behind everything else.
    reported: Vec<String>,
    errors: Vec<String>,
}

/// How a look at a file with these bytes ends.
async fn judged(bytes: &[u8], folder: &Path, number: usize, silence: Duration, expected: &Look) -> Ending {
    match tokio::time::timeout(PATIENCE, look_at(bytes, folder, number, silence)).await {
        Ok(Ok(look)) => look.compare(expected),
        Ok(Err(_)) => Ending::Refused,
        Err(_) => Ending::Wrong(format!("still not read after {PATIENCE:?}")),
    }
}

/// Puts these bytes into a file and reads all there is.
///
/// An error says that it cannot be opened, or even its quarantine cannot be read.
async fn look_at(bytes: &[u8], folder: &Path, number: usize, silence: Duration) -> Result<Look> {
    let folder = tempfile::Builder::new().prefix(&format!("{number}.")).tempdir_in(folder)?;
    let file = folder.path().join("flipped.db");
    fs::write(&file, bytes)?;
    look(&file, silence).await
}

async fn look(file: &Path, silence: Duration) -> Result<Look> {
    let path = file.to_owned();
    let checked = tokio::task::spawn_blocking(move || check(&path)).await??;
    let mut look = Look::default();
    look.reported.extend(checked.problems.iter().map(|problem| format!("check: {problem}")));
    let store = SqliteStore::builder(file).private().open().await?;
    let admin = store.admin();
    match admin.topics().await {
        Ok(topics) => look.overview.extend(topics.iter().map(|t| format!("{t:?}"))),
        Err(error) => look.failed("topics", &error),
    }
    for topic in TOPICS {
        match admin.groups(topic).await {
            Ok(groups) => look.overview.extend(groups.iter().map(|g| format!("{topic}: {g:?}"))),
            Err(error) => look.failed("groups", &error),
        }
        match browse(&store, topic).await {
            Ok(messages) => drop(look.browsed.insert(topic.to_owned(), messages)),
            Err(error) => look.failed("browsing", &error),
        }
        match admin.dead_letters(topic, None, 10_000).await {
            Ok(letters) => {
                let letters = letters.into_iter().map(|letter| (letter.id, letter.message)).collect();
                look.dead.insert(topic.to_owned(), letters);
            }
            Err(error) => look.failed("dead letters", &error),
        }
        match read_on(&store, topic, silence).await {
            Ok(messages) => drop(look.read_on.insert(topic.to_owned(), messages)),
            Err(error) => look.failed("reading on", &error),
        }
    }
    if let Err(error) = store.writer().close().await {
        look.failed("closing", &error);
    }
    drop(store);
    match quarantine(file) {
        Ok(rows) => look.reported.extend(rows),
        Err(error) => look.errors.push(format!("the quarantine: {error}")),
    }
    Ok(look)
}

/// Reads all there is without a group.
async fn browse(store: &SqliteStore, topic: &str) -> millstream::Result<Vec<Placed>> {
    let request = OpenRequest::new(topic.to_owned()).end(End::Latest);
    let mut source = store.reader().open(request).await?.source;
    let mut all = Vec::new();
    loop {
        let mut some = Vec::new();
        let read = source.read(&mut some, ReadLimits::new(1_000, 8 << 20)).await?;
        all.extend(
            some.into_iter()
                .map(|delivery| (place(delivery.position), Arc::unwrap_or_clone(delivery.message))),
        );
        if matches!(read, Read::End) {
            source.close().await?;
            return Ok(all);
        }
    }
}

/// Reads on for a group and settles what it gets, until it has as much as it is owed or nothing more comes.
async fn read_on(store: &SqliteStore, topic: &str, silence: Duration) -> millstream::Result<Vec<Placed>> {
    let request = OpenRequest::new(topic.to_owned()).group(GROUP);
    let Opened { mut source, mut settler, .. } = store.reader().open(request).await?;
    let mut all = Vec::new();
    while all.len() < OWED {
        let mut some = Vec::new();
        let reading = source.read(&mut some, ReadLimits::new(1_000, 8 << 20));
        match tokio::time::timeout(silence, reading).await {
            Ok(read) => drop(read?),
            Err(_) => break,
        }
        let mut batch = Vec::new();
        for Delivery { message, token, position, .. } in some {
            batch.push(Settlement::ack(token));
            all.push((place(position), Arc::unwrap_or_clone(message)));
        }
        for settled in settler.settle(batch).await {
            if !settled.is_done() {
                let what = format!("an acknowledgement was not confirmed: {settled:?}");
                return Err(millstream::Error::new(ErrorKind::Unknown, what));
            }
        }
    }
    settler.close().await?;
    source.close().await?;
    Ok(all)
}

fn place(position: Option<Position>) -> u64 {
    position.map_or(0, |position| position.0)
}

fn quarantine(file: &Path) -> Result<Vec<String>> {
    let connection = rusqlite::Connection::open(file)?;
    let mut statement = connection.prepare("SELECT topic, seq, what FROM millstream_quarantine")?;
    let rows = statement.query_map([], |row| {
        let (topic, seq, what): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("topic {topic}, number {seq}: {what}"))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Look {
    fn failed(&mut self, what: &str, error: &millstream::Error) {
        self.errors.push(format!("{what}: {error:?}"));
    }

    /// What is to be said of it beside what was written.
    fn compare(&self, expected: &Self) -> Ending {
        let mut missing = Vec::new();
        let parts = [
            ("browsed", &self.browsed, &expected.browsed),
            ("dead letters", &self.dead, &expected.dead),
            ("read on", &self.read_on, &expected.read_on),
        ];
        for (what, got, wanted) in parts {
            for (topic, got) in got {
                let wanted = wanted.get(topic).map_or(&[][..], Vec::as_slice);
                if let Some(wrong) = wrong_in(got, wanted) {
                    return Ending::Wrong(format!("{what} of {topic}: {wrong}"));
                }
                let there: Vec<u64> = got.iter().map(|(at, _)| *at).collect();
                let gone = wanted.iter().filter(|(at, _)| !there.contains(at));
                missing.extend(gone.map(|(at, _)| format!("{what} of {topic}: number {at}")));
            }
        }
        match (missing.first(), self.errors.is_empty(), self.reported.is_empty()) {
            (_, false, _) => Ending::Refused,
            (Some(first), _, true) => {
                Ending::Wrong(format!("{} messages are missing without a word; {first}", missing.len()))
            }
            (_, _, false) => Ending::Named,
            (None, _, true) if self.overview != expected.overview => {
                let differs = self.overview.iter().find(|line| !expected.overview.contains(line));
                Ending::Wrong(format!("the overview differs: {differs:?}, of {:?}", expected.overview))
            }
            (None, _, true) => Ending::Identical,
        }
    }
}

fn differing(right: &Message, wrong: &Message) -> &'static str {
    let parts = [
        ("id", right.id == wrong.id),
        ("topic", right.topic == wrong.topic),
        ("key", right.key == wrong.key),
        ("payload", right.data == wrong.data),
        ("content type", right.content_type == wrong.content_type),
        ("time", right.time == wrong.time),
    ];
    parts.iter().find(|(_, same)| !same).map_or("header", |(part, _)| part)
}

/// What is there and was never written so.
fn wrong_in(got: &[Placed], wanted: &[Placed]) -> Option<String> {
    let written: BTreeMap<u64, &Message> = wanted.iter().map(|(at, message)| (*at, message)).collect();
    let mut seen = Vec::new();
    for (at, message) in got {
        match written.get(at) {
            None => return Some(format!("number {at} came, which should not")),
            Some(right) if *right != message => {
                return Some(format!("number {at} has another {}", differing(right, message)));
            }
            Some(_) if seen.contains(at) => return Some(format!("number {at} came twice")),
            Some(_) => seen.push(*at),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_changes_just_what_it_says() {
        let bytes: Vec<u8> = (0..3 * PAGE).map(|n| (n / PAGE) as u8 + 1).collect();
        let changed = |damage: Damage| {
            let damaged = damage.done_to(&bytes);
            bytes.iter().zip(&damaged).filter(|(a, b)| a != b).count()
        };
        assert_eq!(changed(Damage::Bit(77)), 1);
        assert_eq!(changed(Damage::Zeroed(1)), PAGE);
        assert_eq!(changed(Damage::Swapped(0, 2)), 2 * PAGE);
        assert_eq!(Damage::CutOff(9).done_to(&bytes), bytes[..9]);
    }

    #[test]
    fn the_full_form_has_twenty_thousand_bits_and_two_thousand_others() {
        let all = Damage::some(Scale::Full, 100 * PAGE, &mut Rng::with_seed(1));
        let bits = all.iter().filter(|damage| matches!(damage, Damage::Bit(_))).count();
        assert_eq!((bits, all.len() - bits), (20_000, 2_000));
    }
}
