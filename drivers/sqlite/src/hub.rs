//! A file as a process has it open: one for all who open it. Its threads, and how work reaches them.
//!
//! | thread | does | file |
//! |---|---|---|
//! | writer | everything that changes the file, gathered into one transaction after the other | `commit` |
//! | reader | reads ahead for every subscription | `read` |
//! | checkpointer | moves what is committed from the write-ahead log into the file | `checkpoint` |
//!
//! None of them belongs to a runtime: handlers that block every thread of the program stop none of them, so that
//! leases are kept. They end when the last handle is gone and all that was handed over is done.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use foldhash::HashMap;
use millstream_core::{
    ByteString, Error, ErrorKind, Message, Result, Settled, Settlement, StoreId, WriteOutcome,
};
use rusqlite::Connection;
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::handover::{Bell, Queue};
use crate::member::{Member, Topic};
use crate::open::{self, Role};
use crate::retention::Retention;
use crate::wake::Wake;
use crate::{checkpoint, clock, commit, read, retention};

/// What was chosen when the file was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) lease: Duration,
    pub(crate) busy_timeout: Duration,
    pub(crate) retention: Retention,
    pub(crate) max_message: usize,
}

/// A handle on an open file. The threads end with the last one.
pub(crate) struct Hub {
    shared: Arc<Shared>,
}

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) settings: Settings,
    /// Names the process to others, so that they see when it is gone.
    pub(crate) process: String,
    /// Names it to the toolkit: what a handler sends by this connection commits with its acknowledgement.
    pub(crate) store: StoreId,
    members: Mutex<Vec<Arc<Member>>>,
    /// How often members came or went.
    members_version: AtomicU64,
    topics: Mutex<HashMap<ByteString, Arc<Topic>>>,
    /// Connections for single reads: how many may be in use, and those that are not.
    reads: Arc<Semaphore>,
    idle_readers: Mutex<Vec<Connection>>,
    queue: Queue<Request>,
    pub(crate) reader_bell: Bell,
    pub(crate) checkpoint_bell: Bell,
    /// The write-ahead log is large and nearly all of it is moved: the writer is to move the rest.
    pub(crate) log_is_large: AtomicBool,
    /// The disk was full: what the log does not need is to be given back.
    pub(crate) no_room: AtomicBool,
    /// Bytes of messages that wait to be written, in KiB.
    room: Arc<Semaphore>,
    /// Whether other processes have members: they are woken after each commit.
    pub(crate) others: AtomicBool,
    /// How often something was found that is not what was written.
    pub(crate) damaged: AtomicU64,
}

/// Connections for single reads at most. They are kept: to open one reads the whole schema, a table for each topic.
const READERS: usize = 4;

/// Messages that wait to be written, in KiB, at most.
const ROOM: usize = 64 << 10;

/// What a publish holds until it is done, also if nobody waits for that any more.
pub(crate) struct Held {
    pub(crate) _room: OwnedSemaphorePermit,
    /// Closing waits for it.
    pub(crate) _open: OwnedRwLockReadGuard<bool>,
}

/// Something for the writer to do.
pub(crate) enum Request {
    Publish {
        messages: Vec<Message>,
        reply: oneshot::Sender<Result<Vec<WriteOutcome>>>,
        held: Held,
    },
    Settle {
        member: Arc<Member>,
        batch: Vec<Settlement>,
        reply: oneshot::Sender<Vec<Settled>>,
    },
    /// Any work on the connection, in a savepoint of its own.
    Work(Box<dyn Work>),
    /// A member registers, or its share of the slots may have changed.
    Balance {
        member: Arc<Member>,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    /// Messages of parked keys are parked behind them, and what cannot be read any more leaves its park.
    ParkBehind(Arc<Member>),
    /// Deliveries are stored before they happen.
    CountAhead(Arc<Member>),
    /// A member gives everything back and is gone.
    Leave {
        member: Arc<Member>,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    /// Something is not what was written.
    Quarantine {
        topic: i64,
        seq: u64,
        what: String,
    },
}

/// Work whose result waits for the commit.
pub(crate) trait Work: Send {
    /// Does it.
    fn run(&mut self, connection: &Connection) -> Result<()>;
    /// It is durable, or it is not.
    fn end(self: Box<Self>, committed: Result<()>);
}

struct Job<T, F> {
    work: Option<F>,
    done: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T> + Send> Work for Job<T, F> {
    fn run(&mut self, connection: &Connection) -> Result<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(connection)?);
        }
        Ok(())
    }

    fn end(self: Box<Self>, committed: Result<()>) {
        let Self { done, reply, .. } = *self;
        let answer = committed.and_then(|()| {
            done.ok_or_else(|| Error::new(ErrorKind::Internal, "work was said to be done and was not"))
        });
        // Whoever asked may be gone.
        let _ = reply.send(answer);
    }
}

/// The files that this process has open.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Hub>>>> = LazyLock::new(Mutex::default);

impl Hub {
    /// The process's own handle on a file, opened if it is not.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) if it is open with other settings; as [`open`](Self::open).
    pub(crate) fn shared_or_open(path: &Path, settings: &Settings) -> Result<Arc<Self>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, hub| hub.strong_count() > 0);
        if let Some(hub) = open.get(path).and_then(Weak::upgrade) {
            if hub.shared.settings != *settings {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("{} is open in this process with other settings", path.display()),
                )
                .fix("give all who open it the same parameters"));
            }
            return Ok(hub);
        }
        let hub = Arc::new(Self::open(path, settings.clone())?);
        open.insert(path.to_owned(), Arc::downgrade(&hub));
        Ok(hub)
    }

    /// Opens a file that is there, and starts the threads.
    ///
    /// # Errors
    /// As SQLite and the operating system have them.
    pub(crate) fn open(path: &Path, settings: Settings) -> Result<Self> {
        retention::begin();
        let writer = open::connect(path, Role::Writer, settings.busy_timeout)?;
        open::new_boot(&writer)?;
        open::sync_names(path)?;
        let reader = open::connect(path, Role::Reader, settings.busy_timeout)?;
        let checkpointer = open::connect(path, Role::Checkpointer, settings.busy_timeout)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            settings,
            process: clock::this_process(),
            store: StoreId::unique(),
            members: Mutex::default(),
            members_version: AtomicU64::new(1),
            topics: Mutex::default(),
            reads: Arc::new(Semaphore::new(READERS)),
            idle_readers: Mutex::default(),
            queue: Queue::default(),
            reader_bell: Bell::default(),
            checkpoint_bell: Bell::default(),
            log_is_large: AtomicBool::new(false),
            no_room: AtomicBool::new(false),
            room: Arc::new(Semaphore::new(ROOM)),
            others: AtomicBool::new(true),
            damaged: AtomicU64::new(0),
        });
        let wake = Wake::open(&shared)?;
        let identity = open::Identity::of(path)?;
        let at = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).map(drop).map_err(|e| {
                Error::new(ErrorKind::Io, "a thread could not be started")
                    .fix("raise the limit of threads or memory")
                    .source(e)
            })
        };
        let hub = Self { shared };
        let [one, two, three] = std::array::from_fn(|_| Arc::clone(&hub.shared));
        // Linux keeps 15 bytes of a name.
        at("ms-sqlite-write", Box::new(move || commit::run(one, writer, identity, &wake)))?;
        at("ms-sqlite-read", Box::new(move || read::run(&two, reader)))?;
        at("ms-sqlite-check", Box::new(move || checkpoint::run(&three, checkpointer)))?;
        Ok(hub)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Does work in the next commit, in a savepoint of its own; comes back when it is durable.
    ///
    /// # Errors
    /// The work's own, after which nothing of it is left; or those of the commit.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.hand_over(work).await.unwrap_or_else(|_| Err(gone()))
    }

    /// The same, started at once; its answer comes later, or is not waited for.
    pub(crate) fn hand_over<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T>> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Request::Work(Box::new(Job { work: Some(work), done: None, reply })));
        answer
    }

    /// Reads on a connection that nobody else uses, off the runtime, in one read transaction.
    ///
    /// # Errors
    /// The work's own; as SQLite has them.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let turn = Arc::clone(&shared.reads).acquire_owned().await.map_err(|_| gone())?;
        let reading = tokio::task::spawn_blocking(move || {
            // Until it ends, also if nobody waits for it any more.
            let _turn = turn;
            let connection = match shared.idle_reader() {
                Some(connection) => connection,
                None => open::connect(&shared.path, Role::Reader, shared.settings.busy_timeout)?,
            };
            let done = open::begin_read(&connection)
                .map_err(|e| crate::errors::sqlite("the file cannot be read", e))
                .and_then(|transaction| work(&transaction))?;
            shared.keep_reader(connection);
            Ok(done)
        });
        reading.await.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Internal, "reading the file did not come to an end").source(e))
        })
    }

    /// Waits until these messages may be handed over.
    pub(crate) async fn room(&self, messages: &[Message]) -> Result<OwnedSemaphorePermit> {
        let bytes: usize = messages.iter().map(|m| m.size().div_ceil(1024) + 1).sum();
        let room = u32::try_from(bytes.min(ROOM)).unwrap_or(ROOM as u32);
        Arc::clone(&self.shared.room).acquire_many_owned(room).await.map_err(|_| gone())
    }

    /// Publishes in the next commit.
    pub(crate) async fn publish(&self, messages: Vec<Message>, held: Held) -> Result<Vec<WriteOutcome>> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Request::Publish { messages, reply, held });
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.shut();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The writing thread is gone: it never goes before the last handle, unless it panicked.
pub(crate) fn gone() -> Error {
    Error::new(ErrorKind::Internal, "the thread that writes the file is gone")
        .fix("restart the program, and report this with its log")
}

impl Shared {
    /// Hands something to the writer.
    pub(crate) fn send(&self, request: Request) {
        self.queue.push(request);
    }

    /// Waits until there are `count` things to do, at most so long, and takes what there is; `None` when there is
    /// nothing and never will be.
    pub(crate) fn next_requests(&self, count: usize, wait: Duration) -> Option<VecDeque<Request>> {
        self.queue.take(count, wait)
    }

    /// How many wait to be done.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Hands back what had no place in a transaction: it goes first in the next.
    pub(crate) fn put_back(&self, requests: VecDeque<Request>) {
        self.queue.put_back(requests);
    }

    fn idle_reader(&self) -> Option<Connection> {
        self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn keep_reader(&self, connection: Connection) {
        self.idle_readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    fn shut(&self) {
        self.queue.shut();
        self.reader_bell.shut();
        self.checkpoint_bell.shut();
    }

    /// A topic as this process knows it.
    pub(crate) fn topic(&self, id: i64, name: &ByteString, last: u64) -> Arc<Topic> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = topics
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Topic { id, name: name.clone(), last: AtomicU64::new(0) }));
        topic.last.fetch_max(last, Ordering::AcqRel);
        Arc::clone(topic)
    }

    /// Numbers up to here are committed.
    pub(crate) fn committed(&self, name: &ByteString, last: u64) {
        if let Some(topic) = self.topics.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            topic.last.fetch_max(last, Ordering::AcqRel);
        }
    }

    pub(crate) fn has_members(&self) -> bool {
        !self.members.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The members, if some came or went since this version.
    pub(crate) fn members_since(&self, version: &mut u64) -> Option<Vec<Arc<Member>>> {
        let now = self.members_version.load(Ordering::Acquire);
        (std::mem::replace(version, now) != now).then(|| self.members())
    }

    pub(crate) fn add_member(&self, member: &Arc<Member>) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(member));
        self.members_version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn remove_member(&self, member: &Arc<Member>) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).retain(|m| !Arc::ptr_eq(m, member));
        self.members_version.fetch_add(1, Ordering::Release);
    }
}
