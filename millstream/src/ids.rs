//! Message ids: UUIDv7 by default, and what else may make them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use fastrand::Rng;
use millstream_core::{BoxError, ByteString, Error, ErrorKind, Result};

use crate::uuid_v7;

/// Makes the ids of messages. Cloning shares its state.
///
/// An id is unique to its message and stays with it through redeliveries, retries and redrives: deduplication
/// goes by it.
///
/// ```
/// use millstream::IdFactory;
/// assert_eq!(IdFactory::uuid_v7().next_id()?.len(), 36);
///
/// let orders = IdFactory::from_fn(|| Ok("order-7"));
/// assert_eq!(orders.next_id()?, "order-7");
/// # Ok::<(), millstream::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct IdFactory {
    kind: Kind,
}

#[derive(Clone, Default)]
enum Kind {
    #[default]
    UuidV7,
    UuidV4,
    #[cfg(feature = "ksuid")]
    Ksuid,
    #[cfg(feature = "ulid")]
    Ulid(Arc<Mutex<ulid::Ulid>>),
    Seeded(Arc<Mutex<Seeded>>),
    Custom(Arc<dyn Fn() -> Result<ByteString, BoxError> + Send + Sync>),
}

impl IdFactory {
    /// UUIDs of version 7, the default: they sort by time, strictly within the process.
    #[must_use]
    pub fn uuid_v7() -> Self {
        Self { kind: Kind::UuidV7 }
    }

    /// UUIDs of version 4: random, and the cheapest.
    #[must_use]
    pub fn uuid_v4() -> Self {
        Self { kind: Kind::UuidV4 }
    }

    /// KSUIDs: 27 letters that sort by second.
    #[cfg(feature = "ksuid")]
    #[must_use]
    pub fn ksuid() -> Self {
        Self { kind: Kind::Ksuid }
    }

    /// ULIDs: 26 letters that sort by time, strictly within this factory and its clones.
    #[cfg(feature = "ulid")]
    #[must_use]
    pub fn ulid() -> Self {
        Self { kind: Kind::Ulid(Arc::new(Mutex::new(ulid::Ulid::nil()))) }
    }

    /// UUIDs of version 7 that repeat from run to run: for tests. Their time starts in 2020 and goes on by a
    /// millisecond an id.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { kind: Kind::Seeded(Arc::new(Mutex::new(Seeded::new(seed)))) }
    }

    /// Ids of your own making. An error becomes an [`IdFactory`](ErrorKind::IdFactory) error of the publish, and
    /// nothing is sent; so does an empty id.
    pub fn from_fn<F, I>(make: F) -> Self
    where
        F: Fn() -> Result<I, BoxError> + Send + Sync + 'static,
        I: Into<ByteString>,
    {
        Self { kind: Kind::Custom(Arc::new(move || make().map(Into::into))) }
    }

    /// The next id.
    ///
    /// # Errors
    /// [`ErrorKind::IdFactory`].
    pub fn next_id(&self) -> Result<ByteString> {
        let mut text = BytesMut::with_capacity(uuid::fmt::Hyphenated::LENGTH);
        self.append_to(&mut text)?;
        ByteString::try_from(text).map_err(|e| failed("is not UTF-8").source(e))
    }

    /// Appends the next id, so that a publisher pays no allocation for it.
    pub(crate) fn append_to(&self, out: &mut BytesMut) -> Result<()> {
        match &self.kind {
            Kind::UuidV7 => append_uuid(
                uuid_v7::next().map_err(|e| failed("got no random bits of the system").source(e))?,
                out,
            ),
            Kind::UuidV4 => append_uuid(uuid::Uuid::new_v4(), out),
            #[cfg(feature = "ksuid")]
            Kind::Ksuid => {
                use svix_ksuid::KsuidLike as _;
                out.extend_from_slice(svix_ksuid::Ksuid::now(None).to_string().as_bytes());
            }
            #[cfg(feature = "ulid")]
            Kind::Ulid(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                *last = next_ulid(*last);
                out.extend_from_slice(last.array_to_str(&mut [0; ulid::ULID_LEN]).as_bytes());
            }
            Kind::Seeded(seeded) => {
                append_uuid(seeded.lock().unwrap_or_else(PoisonError::into_inner).next_uuid(), out);
            }
            Kind::Custom(make) => {
                let id = make().map_err(|e| failed("failed").source(e))?;
                if id.is_empty() {
                    return Err(failed("gave an empty id"));
                }
                out.extend_from_slice(id.as_bytes());
            }
        }
        Ok(())
    }
}

fn failed(what: &str) -> Error {
    Error::new(ErrorKind::IdFactory, format!("the id factory {what}"))
        .fix("give the message an id, or mend the factory")
}

/// As `uuid` writes it, in a third of the time: two digits at a time.
fn append_uuid(id: uuid::Uuid, out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const PAIRS: [[u8; 2]; 256] = {
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
            byte += 1;
        }
        pairs
    };
    /// Where the digits of each byte are.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; uuid::fmt::Hyphenated::LENGTH];
    for (byte, at) in id.as_bytes().iter().zip(PLACES) {
        text[at..at + 2].copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
    out.extend_from_slice(&text);
}

/// A new ULID above the last one, also when the clock stands still or steps back.
#[cfg(feature = "ulid")]
fn next_ulid(last: ulid::Ulid) -> ulid::Ulid {
    let next = ulid::Ulid::generate();
    if next.timestamp_ms() > last.timestamp_ms() {
        return next;
    }
    // Past the last of a millisecond it goes on in the next one: still above.
    last.increment().unwrap_or_else(|above| above)
}

struct Seeded {
    rng: Rng,
    millis: u64,
}

impl Seeded {
    /// 2020-01-01T00:00:00Z.
    const START: u64 = 1_577_836_800_000;

    fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), millis: Self::START }
    }

    fn next_uuid(&mut self) -> uuid::Uuid {
        let mut random = [0; 10];
        self.rng.fill(&mut random);
        self.millis += 1;
        uuid::Builder::from_unix_timestamp_millis(self.millis, &random).into_uuid()
    }
}

impl fmt::Debug for IdFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.kind {
            Kind::UuidV7 => "UuidV7",
            Kind::UuidV4 => "UuidV4",
            #[cfg(feature = "ksuid")]
            Kind::Ksuid => "Ksuid",
            #[cfg(feature = "ulid")]
            Kind::Ulid(_) => "Ulid",
            Kind::Seeded(_) => "Seeded",
            Kind::Custom(_) => "Custom",
        };
        write!(f, "IdFactory({name})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn many(factory: &IdFactory, count: usize) -> Vec<ByteString> {
        (0..count).map(|_| factory.next_id().unwrap()).collect()
    }

    #[test]
    fn uuids_of_version_7_grow_strictly() {
        let ids = many(&IdFactory::uuid_v7(), 10_000);
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn an_id_is_written_as_its_uuid_is() {
        let mut rng = Rng::with_seed(7);
        for _ in 0..1_000 {
            let id = uuid::Uuid::from_u128(rng.u128(..));
            let mut text = BytesMut::new();
            append_uuid(id, &mut text);
            assert_eq!(text, id.hyphenated().to_string());
        }
    }

    #[test]
    fn uuids_of_version_4_are_unique_and_say_their_version() {
        let ids = many(&IdFactory::uuid_v4(), 1_000);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1_000);
        assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id).unwrap().get_version_num() == 4));
    }

    #[cfg(feature = "ulid")]
    #[test]
    fn ulids_grow_strictly() {
        let ids = many(&IdFactory::ulid(), 10_000);
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.len() == 26));
    }

    #[cfg(feature = "ksuid")]
    #[test]
    fn ksuids_are_unique_and_have_27_letters() {
        let ids = many(&IdFactory::ksuid(), 1_000);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 27));
    }

    #[test]
    fn a_seed_repeats_its_ids() {
        assert_eq!(many(&IdFactory::seeded(7), 5), many(&IdFactory::seeded(7), 5));
        assert_ne!(many(&IdFactory::seeded(7), 5), many(&IdFactory::seeded(8), 5));
    }

    #[test]
    fn a_closure_that_fails_is_an_id_factory_error_with_its_source() {
        let factory = IdFactory::from_fn(|| Err::<String, _>("the counter is down".into()));
        let error = factory.next_id().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IdFactory);
        assert_eq!(error.source_ref().unwrap().to_string(), "the counter is down");
    }

    #[test]
    fn an_empty_id_is_refused() {
        let error = IdFactory::from_fn(|| Ok("")).next_id().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IdFactory);
    }
}
