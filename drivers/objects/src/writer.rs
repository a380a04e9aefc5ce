//! Writing: each message an object, or several in one, put where there is none and confirmed.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use millstream_core::{
    ByteString, Error, ErrorKind, Message, Result, WriteOutcome, WriteReport, Writer, WriterCapabilities,
};
use object_store::path::Path;
use sha2::{Digest as _, Sha256};
use tokio::sync::RwLock;

use crate::identity::{self, Identity};
use crate::names::{Holds, Number};
use crate::objects::{Per, Settings};
use crate::store::{AT_ONCE, Put, Store};
use crate::wire;

/// Names that are tried, one beside the other, where others are taken: messages of one millisecond share four million.
const NAMES: usize = 16;

const MILLIS_OF_A_DAY: u64 = 24 * 3600 * 1000;

/// Stores messages as objects. Cloning shares it.
///
/// Objects have no order but that of their names: by time, to the millisecond.
#[derive(Debug, Clone)]
pub struct ObjectsWriter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    settings: Settings,
    /// Writes hold it while they run; closing waits for them, and makes it false.
    is_open: RwLock<bool>,
}

/// An object on its way.
struct Object {
    topic: ByteString,
    millis: u64,
    lines: Vec<u8>,
    identities: Vec<Identity>,
    /// Of its messages in their batch.
    places: Vec<usize>,
    /// Whether more may come in.
    is_shared: bool,
}

impl ObjectsWriter {
    pub(crate) fn new(store: Arc<Store>, settings: Settings) -> Self {
        Self { inner: Arc::new(Inner { store, settings, is_open: RwLock::new(true) }) }
    }
}

impl Inner {
    /// The line of a message.
    ///
    /// # Errors
    /// Of the message alone: it is too large, or belongs elsewhere.
    fn line(&self, message: &Message) -> Result<Vec<u8>> {
        self.store.names.topic(&message.topic)?;
        if identity::is_redriven(message) {
            return Err(message.locate(
                Error::new(ErrorKind::Unsupported, "nobody reads what is redriven to an object store").fix(
                    "name the broker that it goes back to: `DeadLetters::stored_in`, or `--to` on the command line",
                ),
            ));
        }
        let (size, most) = (message.size(), self.settings.max_message);
        if size > most {
            let what = format!("the message has {size} bytes, the limit is {most}");
            return Err(message.locate(
                Error::new(ErrorKind::TooLarge, what).fix("send less, or raise max_message in the URL"),
            ));
        }
        wire::encode(message)
    }

    /// Divides a batch into objects; those that cannot be written are told at once.
    fn objects(&self, batch: &[Message], outcomes: &mut [Option<WriteOutcome>]) -> Vec<Object> {
        let mut objects: Vec<Object> = Vec::new();
        for (place, message) in batch.iter().enumerate() {
            let line = match self.line(message) {
                Ok(line) => line,
                Err(error) => {
                    outcomes[place] = Some(WriteOutcome::Failed(error));
                    continue;
                }
            };
            let identity = identity::of(message, &line);
            let millis = identity::millis(identity::time(message));
            // Each dead letter is removed by itself one day.
            let is_shared = self.settings.per == Per::Batch && !identity::is_dead_letter(message);
            let day = millis / MILLIS_OF_A_DAY;
            let same = |object: &&mut Object| {
                object.is_shared && object.topic == message.topic && object.millis / MILLIS_OF_A_DAY == day
            };
            match objects.iter_mut().find(same).filter(|_| is_shared) {
                Some(object) => {
                    object.lines.extend_from_slice(&line);
                    object.identities.push(identity);
                    object.places.push(place);
                }
                None => objects.push(Object {
                    topic: message.topic.clone(),
                    millis,
                    lines: line,
                    identities: vec![identity],
                    places: vec![place],
                    is_shared,
                }),
            }
        }
        objects
    }

    /// Stores an object under the first name that is free, or finds that it was stored before.
    async fn store(&self, object: &Object, lines: &Bytes) -> Put {
        let holds = match object.is_shared {
            true => Holds::Many(object.identities.len()),
            false => Holds::One,
        };
        let mut number = Number::new(object.millis, &object.identity());
        for _ in 0..NAMES {
            let key = match self.store.names.key(&object.topic, number, holds) {
                Ok(key) => key,
                Err(error) => return Put::Refused(error),
            };
            match self.store.put(&key, lines.clone()).await {
                Put::Taken => {}
                told => return told,
            }
            // An answer that was lost, a process that died before it acknowledged, or another message altogether.
            match self.holds(&key, &object.identities).await {
                Ok(true) => return Put::Stored,
                Ok(false) => number = number.beside(),
                Err(error) => return Put::Unknown(error),
            }
        }
        let what = format!("{NAMES} objects of the same millisecond are in its way");
        Put::Refused(
            Error::new(ErrorKind::Full, what).topic(&*object.topic).fix("it is tried again; purge the topic"),
        )
    }

    /// Whether an object holds these messages, whatever else is said of them.
    async fn holds(&self, key: &Path, identities: &[Identity]) -> Result<bool> {
        let Some(bytes) = self.store.get(key).await? else {
            return Err(Error::new(ErrorKind::Unknown, format!("the object {key} was there and is gone"))
                .fix("nothing: it is written again"));
        };
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        Ok(lines
            .map(|line| wire::decode(line).map(|message| identity::of(&message, line)).ok())
            .eq(identities.iter().map(|identity| Some(*identity))))
    }
}

impl Object {
    fn identity(&self) -> Identity {
        match &*self.identities {
            [one] => *one,
            all => Sha256::digest(all.concat()).into(),
        }
    }
}

impl Writer for ObjectsWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = self.inner.store.durability;
        can.max_message = Some(self.inner.settings.max_message);
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let inner = &*self.inner;
        let is_open = inner.is_open.read().await;
        if !*is_open {
            return Err(
                Error::new(ErrorKind::BusIsShutdown, "the writer is closed").fix("open the place anew")
            );
        }
        let mut outcomes: Vec<Option<WriteOutcome>> = batch.iter().map(|_| None).collect();
        let objects = inner.objects(&batch, &mut outcomes);
        let mut stored = stream::iter(objects)
            .map(|mut object| async move {
                let lines = Bytes::from(std::mem::take(&mut object.lines));
                let told = inner.store(&object, &lines).await;
                (object.places, told)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((places, told)) = stored.next().await {
            for place in places {
                outcomes[place] = Some(outcome(&batch[place], &told));
            }
        }
        Ok(WriteReport::each(outcomes.into_iter().map(|told| told.unwrap_or_else(unheard)).collect()))
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        let outcome = |message| match self.inner.line(message) {
            Ok(_) => WriteOutcome::Written(None),
            Err(error) => WriteOutcome::Failed(error),
        };
        Ok(WriteReport::each(batch.iter().map(outcome).collect()))
    }

    async fn close(&self) -> Result<()> {
        *self.inner.is_open.write().await = false;
        Ok(())
    }
}

/// What became of one of the messages of an object.
fn outcome(message: &Message, told: &Put) -> WriteOutcome {
    let again = |error: &Error| {
        let context = error.context();
        let told = Error::new(error.kind(), context.message.clone());
        message.locate(match &context.fix {
            Some(fix) => told.fix(fix),
            None => told,
        })
    };
    match told {
        Put::Stored => WriteOutcome::Written(None),
        Put::Refused(error) => WriteOutcome::Failed(again(error)),
        Put::Unknown(error) => WriteOutcome::Unknown(again(error)),
        Put::Taken => unheard(),
    }
}

fn unheard() -> WriteOutcome {
    WriteOutcome::Unknown(
        Error::new(ErrorKind::Internal, "nobody said what became of the message").fix("write it again"),
    )
}
