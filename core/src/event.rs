//! Typed facts, and how their bytes are made.
//!
//! An [`Event`] says where it goes; its [`Format`] says how it becomes bytes. `#[derive(Event)]` writes just
//! the impl that is shown here:
//!
//! ```
//! use std::borrow::Cow;
//! use millstream_core::{Event, event::Serde};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct UserCreated { user_id: String }
//!
//! impl Event for UserCreated {
//!     type Format = Serde;
//!     const TOPIC: Option<&'static str> = Some("user.created");
//!     fn key(&self) -> Option<Cow<'_, [u8]>> {
//!         Some(Cow::Borrowed(self.user_id.as_bytes()))
//!     }
//! }
//! ```

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::Codecs;
use crate::{Error, ErrorKind, Headers, Result};

/// A typed fact: a topic, an optional routing key, optional headers.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "add `#[derive(Event)]` and `#[event(topic = \"…\")]` to `{Self}`, or implement `millstream::Event` for it"
)]
pub trait Event: Sized + Send + Sync + 'static {
    /// How it becomes bytes: [`Serde`], [`Raw`], or with the feature `protobuf` `Protobuf`.
    type Format: Format<Self>;

    /// The topic, unless the registry says another. With neither, publishing is an
    /// [`EventNotFound`](ErrorKind::EventNotFound).
    const TOPIC: Option<&'static str> = None;

    /// A name that travels in the header `millstream-type`, so that one topic can carry several types.
    const TYPE: Option<&'static str> = None;

    /// The version of the type, in the header `millstream-version`.
    const VERSION: Option<u32> = None;

    /// Events of one key are handled in order. `None` or empty: unkeyed, handled in parallel.
    fn key(&self) -> Option<Cow<'_, [u8]>> {
        None
    }

    /// Adds the event's own headers.
    fn headers(&self, headers: &mut Headers) {
        let _ = headers;
    }
}

/// How events of type `E` become bytes and come back.
///
/// Three are given; a type with a format of its own implements this for a marker type.
#[diagnostic::on_unimplemented(
    message = "`{E}` cannot be encoded as `{Self}`",
    note = "the format `Serde` needs `#[derive(Serialize, Deserialize)]`, `Protobuf` needs `prost::Message`, `Raw` needs `AsRef<[u8]>` and `From<Bytes>`"
)]
pub trait Format<E>: 'static {
    /// Appends the event's bytes to `out`; says their content type.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`].
    fn encode(event: &E, codecs: &Codecs, out: &mut BytesMut) -> Result<ByteString>;

    /// Makes an event from bytes. An empty content type means that the sender did not say: the default codec.
    /// `data` is `None` for a tombstone.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`].
    fn decode(data: Option<&Bytes>, content_type: &str, codecs: &Codecs) -> Result<E>;
}

/// Events that are `Serialize + DeserializeOwned`, in the codec that the publisher or the message names.
#[derive(Debug, Clone, Copy)]
pub struct Serde;

impl<E: Serialize + DeserializeOwned> Format<E> for Serde {
    fn encode(event: &E, codecs: &Codecs, out: &mut BytesMut) -> Result<ByteString> {
        let codec = codecs.default_codec();
        // The built-in codecs are called by their own type: erasing costs more than encoding a small struct.
        match codec.builtin() {
            Some(builtin) => builtin.encode(event, out)?,
            None => codec.encode(&event as &dyn erased_serde::Serialize, out)?,
        }
        Ok(codec.content_type())
    }

    fn decode(data: Option<&Bytes>, content_type: &str, codecs: &Codecs) -> Result<E> {
        let data = data.map_or(&[][..], |d| d);
        let codec = codecs.for_content_type(content_type)?;
        match codec.builtin() {
            Some(builtin) => builtin.decode(data),
            None => {
                let mut value = None;
                codec.decode(data, &mut |deserializer| {
                    value = Some(erased_serde::deserialize(deserializer)?);
                    Ok(())
                })?;
                value.ok_or_else(|| {
                    Error::new(ErrorKind::Decode, format!("the codec for {content_type:?} gave no value"))
                })
            }
        }
    }
}

/// Events that are bytes already: `AsRef<[u8]>` and `From<Bytes>`. Content type `application/octet-stream`.
#[derive(Debug, Clone, Copy)]
pub struct Raw;

/// The content type of raw bytes.
pub const OCTET_STREAM: &str = "application/octet-stream";

impl<E: AsRef<[u8]> + From<Bytes>> Format<E> for Raw {
    fn encode(event: &E, _: &Codecs, out: &mut BytesMut) -> Result<ByteString> {
        out.extend_from_slice(event.as_ref());
        Ok(ByteString::from_static(OCTET_STREAM))
    }

    fn decode(data: Option<&Bytes>, _: &str, _: &Codecs) -> Result<E> {
        Ok(E::from(data.cloned().unwrap_or_default()))
    }
}

/// Events that are `prost::Message`s. Content type `application/x-google-protobuf`.
#[cfg(feature = "protobuf")]
#[derive(Debug, Clone, Copy)]
pub struct Protobuf;

#[cfg(feature = "protobuf")]
impl<E: prost::Message + Default> Format<E> for Protobuf {
    fn encode(event: &E, _: &Codecs, out: &mut BytesMut) -> Result<ByteString> {
        event
            .encode(out)
            .map_err(|e| Error::new(ErrorKind::Encode, "the event does not encode as protobuf").source(e))?;
        Ok(ByteString::from_static(crate::codec::protobuf::CONTENT_TYPE))
    }

    fn decode(data: Option<&Bytes>, content_type: &str, _: &Codecs) -> Result<E> {
        crate::codec::protobuf::accept(content_type)?;
        E::decode(data.map_or(&[][..], |d| d))
            .map_err(|e| Error::new(ErrorKind::Decode, "the payload is not this protobuf message").source(e))
    }
}
