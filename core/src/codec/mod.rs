//! Codecs: values to bytes and back, chosen by content type at run time.
//!
//! A publisher encodes with one codec; a message is decoded by its own content type, whatever the reader's
//! default is. JSON is always there; MessagePack, CBOR and Protobuf come with the features `msgpack`, `cbor`
//! and `protobuf`. A codec of your own implements [`Codec`] and is added to a [`Codecs`]:
//!
//! ```
//! use bytes::BytesMut;
//! use bytestring::ByteString;
//! use millstream_core::{Codec, Codecs, Result, Error, ErrorKind};
//!
//! #[derive(Debug)]
//! struct PrettyJson;
//!
//! impl Codec for PrettyJson {
//!     fn content_type(&self) -> ByteString {
//!         ByteString::from_static("application/vnd.pretty+json")
//!     }
//!     fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut BytesMut) -> Result<()> {
//!         let text = serde_json::to_vec_pretty(value)
//!             .map_err(|e| Error::new(ErrorKind::Encode, "not JSON").source(e))?;
//!         out.extend_from_slice(&text);
//!         Ok(())
//!     }
//!     fn decode(
//!         &self,
//!         data: &[u8],
//!         visit: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> erased_serde::Result<()>,
//!     ) -> Result<()> {
//!         let mut json = serde_json::Deserializer::from_slice(data);
//!         visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))
//!             .map_err(|e| Error::new(ErrorKind::Decode, "not JSON").source(e))
//!     }
//! }
//!
//! let codecs = Codecs::new(PrettyJson);
//! assert_eq!(codecs.default_codec().content_type(), "application/vnd.pretty+json");
//! ```

mod builtin;
#[cfg(feature = "protobuf")]
pub(crate) mod protobuf;

use std::fmt;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use bytestring::ByteString;

pub(crate) use builtin::Builtin;
#[cfg(feature = "cbor")]
pub use builtin::Cbor;
pub use builtin::Json;
#[cfg(feature = "msgpack")]
pub use builtin::MsgPack;

use crate::{Error, ErrorKind, Result};

/// Turns `serde` values into bytes and back.
///
/// It must be deterministic only in that what it encodes it also decodes. It must never panic on input: it
/// meets bytes from strangers.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// The content type it writes, such as `application/json`.
    fn content_type(&self) -> ByteString;

    /// Whether it reads this content type; by default just its own. Parameters (`; charset=utf-8`) are cut
    /// off and letters are compared without case before this is asked.
    fn reads(&self, content_type: &str) -> bool {
        self.content_type().eq_ignore_ascii_case(content_type)
    }

    /// Appends the value's bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`].
    fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut BytesMut) -> Result<()>;

    /// Makes a deserializer over the bytes and hands it to `visit`, once. Bytes left over are an error.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`].
    fn decode(
        &self,
        data: &[u8],
        visit: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> erased_serde::Result<()>,
    ) -> Result<()>;

    /// The codec of this crate that this is, if it is one: those are called without erasure.
    #[doc(hidden)]
    fn builtin(&self) -> Option<BuiltinCodec> {
        None
    }
}

/// Names a codec of this crate. Only this crate can make one.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct BuiltinCodec(Builtin);

impl std::ops::Deref for BuiltinCodec {
    type Target = Builtin;
    fn deref(&self) -> &Builtin {
        &self.0
    }
}

/// A default codec and all that can be read.
///
/// Cloning shares the codecs.
#[derive(Clone)]
pub struct Codecs {
    // The default is the first.
    codecs: Arc<[Arc<dyn Codec>]>,
}

impl Codecs {
    /// `default` for writing and for messages that do not say what they are; it and all built-in ones for
    /// reading.
    #[must_use]
    pub fn new(default: impl Codec) -> Self {
        let mut codecs: Vec<Arc<dyn Codec>> = vec![Arc::new(default)];
        codecs.extend(Builtin::ALL.iter().map(|b| b.boxed()));
        Self { codecs: codecs.into() }
    }

    /// JSON by default, all built-in ones for reading.
    #[must_use]
    pub fn built_in() -> &'static Self {
        static BUILT_IN: LazyLock<Codecs> = LazyLock::new(|| Codecs::new(Json));
        &BUILT_IN
    }

    /// Adds a codec for reading, before all others but the default.
    #[must_use]
    pub fn with(self, codec: impl Codec) -> Self {
        let mut codecs = self.codecs.to_vec();
        codecs.insert(1, Arc::new(codec));
        Self { codecs: codecs.into() }
    }

    /// The codec that writes.
    #[must_use]
    pub fn default_codec(&self) -> &dyn Codec {
        &*self.codecs[0]
    }

    /// The codec that reads this content type. An empty one is the default codec; so is
    /// `application/octet-stream`, which senders without a better word write.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] if there is none, with those there are.
    pub fn for_content_type(&self, content_type: &str) -> Result<&dyn Codec> {
        let default = &self.codecs[0];
        // Nearly every message names the default's own type: no parsing for that.
        if content_type.is_empty() || default.reads(content_type) {
            return Ok(&**default);
        }
        let bare = bare(content_type);
        if bare.is_empty() || bare.eq_ignore_ascii_case(crate::event::OCTET_STREAM) {
            return Ok(&**default);
        }
        self.codecs.iter().find(|c| c.reads(bare)).map(|c| &**c).ok_or_else(|| {
            let known: Vec<_> = self.codecs.iter().map(|c| c.content_type().to_string()).collect();
            Error::new(ErrorKind::Decode, format!("no codec reads the content type {content_type:?}")).fix(
                format!(
                    "add one with `Codecs::with`, or turn its feature on; there are: {}",
                    known.join(", ")
                ),
            )
        })
    }
}

/// A content type without its parameters.
fn bare(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

impl Default for Codecs {
    fn default() -> Self {
        Self::built_in().clone()
    }
}

impl fmt::Debug for Codecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.codecs.iter().map(|c| c.content_type())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_with_parameters_is_read_by_its_codec() {
        let codecs = Codecs::built_in();
        let codec = codecs.for_content_type("Application/JSON; charset=utf-8").unwrap();
        assert_eq!(codec.content_type(), "application/json");
    }

    #[test]
    fn a_number_of_many_digits_comes_back_from_json_as_it_was() {
        for number in [8.888888e35, 0.1 + 0.2, 1.0 / 3.0, f64::MAX, f64::MIN_POSITIVE] {
            let mut text = BytesMut::new();
            Builtin::Json.encode(&number, &mut text).unwrap();
            assert_eq!(Builtin::Json.decode::<f64>(&text).unwrap(), number);
        }
    }

    #[test]
    fn an_unknown_content_type_names_those_there_are() {
        let error = Codecs::built_in().for_content_type("text/x-unknown").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(error.to_string().contains("application/json"), "{error}");
    }
}
