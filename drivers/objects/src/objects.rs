//! A connection in code, and how it is told what it shall do.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Connection, Result};

use crate::places::Place;
use crate::reader::NoReader;
use crate::store::Store;
use crate::{ObjectsAdmin, ObjectsWriter};

/// A connection to a place of objects. Cloning shares it.
///
/// As the place of dead letters:
///
/// ```no_run
/// # use millstream::{Bus, Message, Outcome, Subscribe};
/// # async fn charge(_: Message) -> Outcome { Ok(()) }
/// # async fn example() -> millstream::Result<()> {
/// use millstream_objects::{Folder, Objects};
///
/// let letters = Objects::builder(Folder::new("/mnt/letters")).open().await?;
/// let bus = Bus::connect("sqlite://app.db").await?;
/// bus.subscribe_to("orders", charge.group("billing").dead_letter_to(letters.writer())).run().await?;
/// # Ok(())
/// # }
/// ```
///
/// and later, back to the broker: `bus.dead_letters("orders").stored_in(letters.admin()).redrive_all()`.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<Store>,
    writer: ObjectsWriter,
}

impl Objects {
    /// Starts to describe a connection to this place: a [`Folder`](crate::Folder), or a bucket of a cloud.
    pub fn builder(place: impl Into<Place>) -> ObjectsBuilder {
        ObjectsBuilder { place: place.into(), prefix: String::new(), settings: Settings::default() }
    }

    /// Writes.
    #[must_use]
    pub fn writer(&self) -> ObjectsWriter {
        self.writer.clone()
    }

    /// Looks at dead letters.
    #[must_use]
    pub fn admin(&self) -> ObjectsAdmin {
        ObjectsAdmin::new(Arc::clone(&self.store))
    }

    /// Both, as a driver gives them for a URL, with a reader that refuses.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(NoReader::new(), self.writer()).with_admin(self.admin())
    }
}

/// What lies in one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Per {
    /// One message.
    #[default]
    Message,
    /// The messages of a write, those of a topic and a day together: for archives, cheaper and quicker by the number of
    /// messages. Dead letters lie alone all the same, so that each can be redriven and removed by itself.
    Batch,
}

/// What was described.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) per: Per,
    pub(crate) write_within: Duration,
    pub(crate) max_message: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { per: Per::default(), write_within: Duration::from_secs(15), max_message: 64 << 20 }
    }
}

/// Describes a connection. The defaults are those of [`driver`](crate::driver()).
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it opens"]
pub struct ObjectsBuilder {
    place: Place,
    prefix: String,
    pub(crate) settings: Settings,
}

impl ObjectsBuilder {
    /// What the name of every object begins with, such as `shop/letters`. Default: nothing.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// What lies in one object. Default: one message.
    pub fn object_per(mut self, per: Per) -> Self {
        self.settings.per = per;
        self
    }

    /// How long a write is tried before its outcome is unknown, and how long anything else may take. Default 15 s: three
    /// requests of 5 s each, where one finds no answer.
    pub fn write_within(mut self, within: Duration) -> Self {
        self.settings.write_within = within;
        self
    }

    /// Bytes of a message at most, as [`Message::size`](millstream_core::Message::size) counts. Default 64 MiB.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.settings.max_message = bytes;
        self
    }

    /// Opens the place, and asks whether it is there: a folder is made if that is wanted, a bucket never is.
    ///
    /// # Errors
    /// [`NotFound`](millstream_core::ErrorKind::NotFound) if it is not there,
    /// [`Denied`](millstream_core::ErrorKind::Denied) for wrong credentials,
    /// [`InvalidConfig`](millstream_core::ErrorKind::InvalidConfig) for a prefix that is none or a place that cannot be as
    /// it is described, [`Unavailable`](millstream_core::ErrorKind::Unavailable) or
    /// [`Timeout`](millstream_core::ErrorKind::Timeout) if the store does not answer.
    pub async fn open(self) -> Result<Objects> {
        let Self { place, prefix, settings } = self;
        let store = Arc::new(Store::open(&place, &prefix, settings.write_within).await?);
        let writer = ObjectsWriter::new(Arc::clone(&store), settings);
        Ok(Objects { store, writer })
    }
}
