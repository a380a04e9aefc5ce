//! Putting, listing, reading and removing objects, each within its time, with errors that name the place.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use millstream_core::{Durability, Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload};
use tokio::time::{sleep, timeout};

use crate::errors;
use crate::names::{Holds, Names, Number};
use crate::places::{Opened, Place};

/// Objects that are put, read or removed at the same time.
pub(crate) const AT_ONCE: usize = 16;

/// Waits before a put that nobody answered is tried again.
const PUT_AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// Bytes that a page of messages holds at most, as they lie in objects; one always fits.
const PAGE_BYTES: u64 = 64 << 20;

/// A place, its names, and how long a call may take.
pub(crate) struct Store {
    inner: Arc<dyn ObjectStore>,
    /// As errors call it.
    place: String,
    pub(crate) names: Names,
    pub(crate) durability: Durability,
    sorted: bool,
    within: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("place", &self.place)
            .field("prefix", self.names.prefix())
            .finish_non_exhaustive()
    }
}

/// What became of an object that was put.
pub(crate) enum Put {
    Stored,
    /// There is one of that name, which stays as it is.
    Taken,
    /// It is not there.
    Refused(Error),
    /// Nobody knows.
    Unknown(Error),
}

/// An object in a list.
pub(crate) struct Listed {
    pub(crate) number: Number,
    pub(crate) key: Path,
}

/// What a topic holds.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) messages: u64,
    /// Those of them that lie alone in their object, as dead letters do.
    pub(crate) alone: u64,
}

impl Store {
    /// Opens a place, and asks it whether it is there.
    pub(crate) async fn open(place: &Place, prefix: &str, within: Duration) -> Result<Self> {
        let names = Names::new(prefix)?;
        let Opened { store, durability, sorted } = place.open(within)?;
        let store = Self { inner: store, place: place.to_string(), names, durability, sorted, within };
        let mut any = store.inner.list(Some(store.names.prefix()));
        store.next(&mut any, "the objects cannot be listed").await?;
        drop(any);
        Ok(store)
    }

    async fn in_time<T>(
        &self,
        what: &str,
        call: impl Future<Output = object_store::Result<T>> + Send,
    ) -> Result<object_store::Result<T>> {
        timeout(self.within, call).await.map_err(|_| errors::late(what, &self.place))
    }

    fn failed(&self, error: StoreError, what: &str) -> Error {
        errors::of(error, what, &self.place)
    }

    /// The next of a list; none at its end.
    async fn next<T: Send>(
        &self,
        list: &mut BoxStream<'_, object_store::Result<T>>,
        what: &str,
    ) -> Result<Option<T>> {
        let next = async { list.next().await.transpose() };
        self.in_time(what, next).await?.map_err(|e| self.failed(e, what))
    }

    /// Puts an object where there is none. Dropped, it may still have been put.
    pub(crate) async fn put(&self, key: &Path, bytes: Bytes) -> Put {
        const WHAT: &str = "the message was not stored";
        let mut put = Put::Unknown(errors::late(WHAT, &self.place));
        let tries = async {
            let mut waits = PUT_AGAIN.into_iter();
            loop {
                let options = PutMode::Create.into();
                let answer = self.inner.put_opts(key, PutPayload::from_bytes(bytes.clone()), options).await;
                put = match answer {
                    Ok(_) => Put::Stored,
                    Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Put::Taken,
                    Err(error) if errors::is_refusal(&error) => Put::Refused(self.failed(error, WHAT)),
                    Err(error) => Put::Unknown(self.failed(error, WHAT)),
                };
                // The client repeats what a store refused for the moment, but no put that was not answered: it cannot
                // know that ours may be repeated, since the name says what is in it.
                let (Put::Unknown(_), Some(wait)) = (&put, waits.next()) else { return };
                sleep(wait).await;
            }
        };
        // What was said last says more than that the time is over.
        let _ = timeout(self.within, tries).await;
        put
    }

    /// Reads an object; none if it is gone.
    pub(crate) async fn get(&self, key: &Path) -> Result<Option<Bytes>> {
        const WHAT: &str = "an object cannot be read";
        let get = async { self.inner.get(key).await?.bytes().await };
        match self.in_time(WHAT, get).await? {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error, WHAT)),
        }
    }

    /// Reads several, in their order, without those that are gone.
    pub(crate) async fn get_all(&self, listed: Vec<Listed>) -> Result<Vec<(Listed, Bytes)>> {
        let read = stream::iter(listed).map(|one| async move {
            let bytes = self.get(&one.key).await?;
            Ok(bytes.map(|bytes| (one, bytes)))
        });
        let all: Vec<Result<Option<_>>> = read.buffered(AT_ONCE).collect().await;
        all.into_iter().filter_map(Result::transpose).collect()
    }

    /// Removes an object; says whether it was there.
    pub(crate) async fn remove(&self, key: &Path) -> Result<bool> {
        const WHAT: &str = "an object cannot be removed";
        // Most stores say of what is not there that it is removed.
        let remove = async {
            self.inner.head(key).await?;
            self.inner.delete(key).await
        };
        match self.in_time(WHAT, remove).await? {
            Ok(()) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed(error, WHAT)),
        }
    }

    async fn folders(&self, below: &Path) -> Result<Vec<Path>> {
        const WHAT: &str = "the folders cannot be listed";
        let listed = self.in_time(WHAT, self.inner.list_with_delimiter(Some(below))).await?;
        let mut folders = listed.map_err(|e| self.failed(e, WHAT))?.common_prefixes;
        folders.sort_unstable();
        Ok(folders)
    }

    /// The topics that there are, by the names of their folders.
    pub(crate) async fn topics(&self) -> Result<Vec<String>> {
        let folders = self.folders(self.names.prefix()).await?;
        Ok(folders.iter().filter_map(|folder| self.names.topic_of(folder)).collect())
    }

    /// So many messages at most that lie alone in their objects, oldest first, behind a number.
    pub(crate) async fn page(&self, topic: &str, after: Option<Number>, limit: usize) -> Result<Vec<Listed>> {
        let behind = after.map(|number| self.names.behind(topic, number)).transpose()?;
        let mut page = Vec::new();
        let mut bytes = 0;
        for folder in self.folders(&self.names.topic(topic)?).await? {
            if self.names.day(&folder).is_none() {
                continue;
            }
            let list = match &behind {
                // A folder sorts before what is in it: this one may hold more.
                Some(behind) if behind.prefix_matches(&folder) => {
                    self.inner.list_with_offset(Some(&folder), behind)
                }
                Some(behind) if folder < *behind => continue,
                _ => self.inner.list(Some(&folder)),
            };
            for (number, object) in self.first(topic, list, after, limit - page.len()).await? {
                bytes += object.size;
                if bytes > PAGE_BYTES && !page.is_empty() {
                    return Ok(page);
                }
                page.push(Listed { number, key: object.location });
            }
            if page.len() >= limit {
                break;
            }
        }
        Ok(page)
    }

    /// The first of a list, by their numbers: not every place lists in order.
    async fn first(
        &self,
        topic: &str,
        mut list: BoxStream<'_, object_store::Result<ObjectMeta>>,
        after: Option<Number>,
        limit: usize,
    ) -> Result<BTreeMap<Number, ObjectMeta>> {
        let mut first = BTreeMap::new();
        while let Some(object) = self.next(&mut list, "the objects cannot be listed").await? {
            let Some((number, Holds::One)) = self.parse(topic, &object.location) else { continue };
            if after.is_some_and(|after| number <= after) {
                continue;
            }
            first.insert(number, object);
            if first.len() > limit {
                first.pop_last();
            }
            if self.sorted && first.len() == limit {
                break;
            }
        }
        Ok(first)
    }

    /// What an object of a topic is; none for one that is not ours.
    fn parse(&self, topic: &str, key: &Path) -> Option<(Number, Holds)> {
        let (number, holds) = self.names.parse(key)?;
        // At any other place it is a copy that somebody made.
        (self.names.key(topic, number, holds).ok()? == *key).then_some((number, holds))
    }

    /// Counts what a topic holds, object by object.
    pub(crate) async fn count(&self, topic: &str) -> Result<Count> {
        let folder = self.names.topic(topic)?;
        let mut list = self.inner.list(Some(&folder));
        let mut count = Count::default();
        while let Some(object) = self.next(&mut list, "the objects cannot be counted").await? {
            match self.parse(topic, &object.location) {
                Some((_, Holds::One)) => {
                    count.messages += 1;
                    count.alone += 1;
                }
                Some((_, Holds::Many(messages))) => count.messages += messages as u64,
                None => {}
            }
        }
        Ok(count)
    }

    /// Removes all that a topic holds; says how many messages it were. What is not ours stays.
    pub(crate) async fn purge(&self, topic: &str) -> Result<u64> {
        let folder = self.names.topic(topic)?;
        let mut list = self.inner.list(Some(&folder));
        let mut removed = 0;
        let mut some = Vec::with_capacity(AT_ONCE);
        loop {
            let next = self.next(&mut list, "the objects cannot be listed").await?;
            let is_last = next.is_none();
            some.extend(next.and_then(|object| {
                let (_, holds) = self.parse(topic, &object.location)?;
                Some((object.location, holds))
            }));
            if is_last || some.len() >= AT_ONCE {
                let gone = stream::iter(some.drain(..)).map(|(key, holds)| async move {
                    let messages = match holds {
                        Holds::One => 1,
                        Holds::Many(count) => count as u64,
                    };
                    self.remove(&key).await.map(|was_there| if was_there { messages } else { 0 })
                });
                let gone: Vec<Result<u64>> = gone.buffered(AT_ONCE).collect().await;
                removed += gone.into_iter().sum::<Result<u64>>()?;
            }
            if is_last {
                return Ok(removed);
            }
        }
    }

    /// An error about an object that is not what was written.
    pub(crate) fn damaged(&self, key: &Path, error: Error) -> Error {
        Error::new(ErrorKind::Corrupt, format!("the object {key} is not a message"))
            .fix(format!("look at it with the tools of {}, and remove it or put it right", self.place))
            .source(error)
    }
}
