//! Dead letters: messages that could not be handled, kept with why.
//!
//! A dead letter is its message, byte for byte, with `millstream-dl-*` headers beside its own. `build` makes one,
//! [`DeadLetter`] reads one, [`DeadLetters`] lists, redrives and discards those of a topic.

mod build;
mod letter;

use std::fmt;
use std::sync::Arc;

use millstream_core::erased::DynAdmin;
use millstream_core::{Admin, ByteString, Error, ErrorKind, Limits, Result};

pub(crate) use build::{Dying, host, topic_of};
pub use letter::DeadLetter;

use crate::Publisher;

/// How many letters one call to the broker brings.
const PAGE: usize = 100;

/// The dead letters of a topic. [`Bus::dead_letters`](crate::Bus::dead_letters) makes one.
///
/// ```
/// # async fn example(bus: millstream::Bus) -> millstream::Result<()> {
/// let letters = bus.dead_letters("orders");
/// for letter in letters.list(None, 50).await? {
///     println!("{:?}: {:?}", letter.message.id, letter.error);
/// }
/// // The database is back: try again what failed for it.
/// letters.redrive_where(|letter| letter.class.as_deref() == Some("exhausted")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    topic: ByteString,
    admin: Option<Arc<dyn DynAdmin>>,
    publisher: Publisher,
}

impl DeadLetters {
    pub(crate) fn new(
        topic: impl Into<ByteString>,
        admin: Option<Arc<dyn DynAdmin>>,
        publisher: Publisher,
    ) -> Self {
        Self { topic: topic.into(), admin, publisher }
    }

    /// The letters of the same topic that lie elsewhere, such as in an object store that
    /// [`dead_letter_to`](crate::Subscribe::dead_letter_to) named. They are read and removed there, and redriven to the
    /// broker as before.
    ///
    /// ```
    /// # async fn example(bus: millstream::Bus, store: impl millstream::core::Admin) -> millstream::Result<()> {
    /// let letters = bus.dead_letters("orders").stored_in(store);
    /// letters.redrive_all().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stored_in(self, admin: impl Admin) -> Self {
        self.stored_in_dyn(Arc::new(admin))
    }

    /// The same for an administration that is erased already, such as that of a [`Connection`](crate::Connection).
    #[must_use]
    pub fn stored_in_dyn(mut self, admin: Arc<dyn DynAdmin>) -> Self {
        self.admin = Some(admin);
        self
    }

    /// The topic whose letters these are.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    fn admin(&self) -> Result<&dyn DynAdmin> {
        self.admin.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this driver cannot list dead letters")
                .topic(&*self.topic)
                .fix(format!(
                    "subscribe a handler of `Message` to {:?} and read it with `DeadLetter::parse`",
                    &*topic_of(&self.topic)
                ))
        })
    }

    /// A page of them, oldest first: at most `limit`, behind the letter `after`.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) on a driver that cannot list them, else what the driver says.
    pub async fn list(&self, after: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>> {
        let stored = self.admin()?.dead_letters(&self.topic, after, limit).await?;
        let letters = stored
            .into_iter()
            .map(|stored| DeadLetter { id: Some(stored.id), ..DeadLetter::parse(stored.message) });
        Ok(letters.collect())
    }

    /// One of them; none if it is gone.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn read(&self, id: u64) -> Result<Option<DeadLetter>> {
        let page = self.list(id.checked_sub(1), 1).await?;
        Ok(page.into_iter().find(|letter| letter.id == Some(id)))
    }

    /// Sends one back to the group that could not handle it, with the same id, and removes it once that is
    /// confirmed. The other groups of the topic acknowledge it as skipped. Says whether it was there.
    ///
    /// If removing fails, it was sent and is still there: redriving it again sends it again, with the same id.
    ///
    /// # Errors
    /// As [`list`](Self::list) and as [`Publisher::publish_message`]; it is not removed then.
    pub async fn redrive(&self, id: u64) -> Result<bool> {
        let Some(letter) = self.read(id).await? else { return Ok(false) };
        self.send_back(id, &letter).await?;
        Ok(true)
    }

    /// Redrives those that are there now and of which `wanted` says so; gives how many. Letters that die again
    /// meanwhile are left alone. It ends at the first error: what was redriven until then stays so.
    ///
    /// # Errors
    /// As [`redrive`](Self::redrive).
    pub async fn redrive_where(&self, wanted: impl FnMut(&DeadLetter) -> bool + Send) -> Result<usize> {
        self.each(wanted, Deed::Redrive).await
    }

    /// Redrives all that are there now; gives how many.
    ///
    /// # Errors
    /// As [`redrive`](Self::redrive).
    pub async fn redrive_all(&self) -> Result<usize> {
        self.redrive_where(|_| true).await
    }

    /// Removes one for good; says whether it was there.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn discard(&self, id: u64) -> Result<bool> {
        self.admin()?.remove_dead_letter(&self.topic, id).await
    }

    /// Removes for good those that are there now and of which `wanted` says so; gives how many.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn discard_where(&self, wanted: impl FnMut(&DeadLetter) -> bool + Send) -> Result<usize> {
        self.each(wanted, Deed::Discard).await
    }

    async fn each(&self, mut wanted: impl FnMut(&DeadLetter) -> bool + Send, deed: Deed) -> Result<usize> {
        // Ids ascend: what dies while this runs lies behind the last one there is now.
        let Some(last) = self.last_id().await? else { return Ok(0) };
        let (mut after, mut done) = (None, 0);
        while after < Some(last) {
            let page = self.list(after, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for letter in page {
                let Some(id) = letter.id.filter(|id| *id <= last) else { return Ok(done) };
                after = Some(id);
                if !wanted(&letter) {
                    continue;
                }
                match deed {
                    Deed::Redrive => self.send_back(id, &letter).await?,
                    Deed::Discard => drop(self.discard(id).await?),
                }
                done += 1;
            }
        }
        Ok(done)
    }

    async fn last_id(&self) -> Result<Option<u64>> {
        let mut last = None;
        loop {
            let page = self.list(last, PAGE).await?;
            match page.last() {
                Some(letter) => last = letter.id,
                None => return Ok(last),
            }
        }
    }

    /// Sends, and removes only once that is confirmed.
    async fn send_back(&self, id: u64, letter: &DeadLetter) -> Result<()> {
        let mut message = letter.redriven();
        if letter.topic.is_none() {
            // A letter of another program: back to where it is asked for.
            message.topic = self.topic.clone();
        }
        self.publisher.clone().with_limits(unlimited()).publish_message(message).await?;
        self.discard(id).await?;
        Ok(())
    }
}

/// The broker took the message once, and its two headers of a redrive are ours: the publisher's limits would only keep
/// it among the dead. What the driver cannot take is refused all the same.
fn unlimited() -> Limits {
    let mut limits = Limits::default();
    for limit in [
        &mut limits.payload,
        &mut limits.headers,
        &mut limits.header_name,
        &mut limits.header_bytes,
        &mut limits.topic,
        &mut limits.key,
        &mut limits.id,
    ] {
        *limit = usize::MAX;
    }
    limits
}

/// What is done with each.
#[derive(Clone, Copy)]
enum Deed {
    Redrive,
    Discard,
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("topic", &self.topic).finish_non_exhaustive()
    }
}
