//! Headers: a small ordered list of cheap names and byte values.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

/// The header names that Millstream reserves, and those of the wire formats it speaks.
pub mod names {
    /// All reserved headers start with this.
    pub const PREFIX: &str = "millstream-";
    /// The event's type, when one topic carries several.
    pub const TYPE: &str = "millstream-type";
    /// The version of the event's type, a decimal number.
    pub const VERSION: &str = "millstream-version";
    /// The topic an answer goes to.
    pub const REPLY_TO: &str = "millstream-reply-to";
    /// Ties a message to the conversation it belongs to.
    pub const CORRELATION_ID: &str = "millstream-correlation-id";
    /// The tenant a message belongs to.
    pub const TENANT: &str = "millstream-tenant";
    /// Only this group handles the message; all others acknowledge it as skipped.
    pub const REDRIVE_GROUP: &str = "millstream-redrive-group";

    /// What a parked message carries while it waits in `<topic>.<group>.park`.
    pub const PARK_PREFIX: &str = "millstream-park-";
    /// Runs of the handler used before it was parked.
    pub const PARK_ATTEMPTS: &str = "millstream-park-attempts";
    /// When it may run again, RFC 3339 UTC. Absent: behind its key.
    pub const PARK_DUE: &str = "millstream-park-due";
    /// How long that was when it was parked, such as `1500ms`: nobody waits longer, whatever the clocks say.
    pub const PARK_WAIT: &str = "millstream-park-wait";
    /// When it first failed, RFC 3339 UTC.
    pub const PARK_FIRST_FAILURE: &str = "millstream-park-first-failure";
    /// The last error, as text.
    pub const PARK_ERROR: &str = "millstream-park-error";
    /// The position it had in its topic.
    pub const PARK_POSITION: &str = "millstream-park-position";
    /// The partition it had in its topic.
    pub const PARK_PARTITION: &str = "millstream-park-partition";

    /// What a dead letter carries beside its own headers.
    pub const DL_PREFIX: &str = "millstream-dl-";
    /// The chain of errors, outermost first, a line each; at most 8 KiB.
    pub const DL_ERROR: &str = "millstream-dl-error";
    /// `exhausted`, `unrecoverable`, `decode`, `panic`, `crash-loop` or `timeout`.
    pub const DL_CLASS: &str = "millstream-dl-class";
    /// The type name of the error that ended it.
    pub const DL_ERROR_TYPE: &str = "millstream-dl-error-type";
    /// The topic the message was read from.
    pub const DL_TOPIC: &str = "millstream-dl-topic";
    /// The partition it was read from.
    pub const DL_PARTITION: &str = "millstream-dl-partition";
    /// Its position there.
    pub const DL_OFFSET: &str = "millstream-dl-offset";
    /// Its routing key, so that a target without keys keeps it.
    pub const DL_KEY: &str = "millstream-dl-key";
    /// The group that could not handle it.
    pub const DL_GROUP: &str = "millstream-dl-group";
    /// The handler's name.
    pub const DL_HANDLER: &str = "millstream-dl-handler";
    /// How often the handler ran.
    pub const DL_ATTEMPTS: &str = "millstream-dl-attempts";
    /// How often the broker delivered it, where it counts.
    pub const DL_DELIVERIES: &str = "millstream-dl-deliveries";
    /// First failure, RFC 3339 UTC.
    pub const DL_FIRST_FAILURE: &str = "millstream-dl-first-failure";
    /// Last failure, RFC 3339 UTC.
    pub const DL_LAST_FAILURE: &str = "millstream-dl-last-failure";
    /// The program's name.
    pub const DL_APP: &str = "millstream-dl-app";
    /// The program's version.
    pub const DL_VERSION: &str = "millstream-dl-version";
    /// The host it ran on.
    pub const DL_HOST: &str = "millstream-dl-host";
    /// How often it was redriven before.
    pub const DL_REDRIVE_COUNT: &str = "millstream-dl-redrive-count";

    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace state.
    pub const TRACESTATE: &str = "tracestate";
}

/// An ordered list of headers. Names may repeat, values are bytes or null; both survive every driver.
///
/// A list, because messages carry few headers and every hash map costs more than it saves at that size.
/// Cloning shares names and values.
///
/// ```
/// use millstream_core::Headers;
/// let mut headers = Headers::new();
/// headers.insert("tenant", "acme");
/// headers.append("tag", "a");
/// headers.append("tag", "b");
/// assert_eq!(headers.get_str("tenant"), Some("acme"));
/// assert_eq!(headers.get_str("tag"), Some("b"), "the last one counts, as in Kafka");
/// assert_eq!(headers.len(), 3);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    entries: Vec<(ByteString, Option<Bytes>)>,
}

impl Headers {
    /// No headers. Does not allocate.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// No headers, with room for `capacity`.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity) }
    }

    /// Adds a header behind those there are, also behind one of the same name.
    pub fn append(&mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) {
        self.entries.push((name.into(), Some(value.into())));
    }

    /// Adds a header whose value is null, which is not the same as empty.
    pub fn append_null(&mut self, name: impl Into<ByteString>) {
        self.entries.push((name.into(), None));
    }

    /// Sets a header: replaces all of that name.
    pub fn insert(&mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) {
        let name = name.into();
        self.remove(&name);
        self.append(name, value);
    }

    /// Sets a header unless there is one of that name.
    pub fn insert_if_absent(&mut self, name: impl Into<ByteString>, value: impl Into<Bytes>) {
        let name = name.into();
        if !self.contains(&name) {
            self.append(name, value);
        }
    }

    /// Removes all headers of that name; says how many.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.entries.len();
        self.entries.retain(|(n, _)| n != name);
        before - self.entries.len()
    }

    /// Removes all headers whose name starts so.
    pub fn remove_prefix(&mut self, prefix: &str) {
        self.entries.retain(|(n, _)| !n.starts_with(prefix));
    }

    /// The value of the last header of that name; none if it is absent or null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.entries.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.as_ref())
    }

    /// The same as text; none if it is absent, null or not UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// Whether there is a header of that name, null or not.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.entries.iter().any(|(n, _)| n == name)
    }

    /// All headers in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ByteString, Option<&Bytes>)> + DoubleEndedIterator {
        self.entries.iter().map(|(n, v)| (n, v.as_ref()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn size(&self) -> usize {
        self.entries.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, Bytes::len)).sum()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries.iter().map(|(n, v)| (&**n, v))).finish()
    }
}

impl<N: Into<ByteString>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        let mut headers = Self::new();
        headers.extend(iter);
        headers
    }
}

impl<N: Into<ByteString>, V: Into<Bytes>> Extend<(N, V)> for Headers {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, iter: I) {
        for (name, value) in iter {
            self.append(name, value);
        }
    }
}

impl IntoIterator for Headers {
    type Item = (ByteString, Option<Bytes>);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}
