//! The codecs that come with Millstream: JSON, and behind features MessagePack and CBOR.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use bytestring::ByteString;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BuiltinCodec, Codec};
use crate::{Error, ErrorKind, Result};

/// The codecs of this crate by name, so that events call them without erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    Json,
    #[cfg(feature = "msgpack")]
    MsgPack,
    #[cfg(feature = "cbor")]
    Cbor,
}

impl Builtin {
    pub(super) const ALL: &[Self] = &[
        Self::Json,
        #[cfg(feature = "msgpack")]
        Self::MsgPack,
        #[cfg(feature = "cbor")]
        Self::Cbor,
    ];

    pub(super) fn boxed(self) -> Arc<dyn Codec> {
        match self {
            Self::Json => Arc::new(Json),
            #[cfg(feature = "msgpack")]
            Self::MsgPack => Arc::new(MsgPack),
            #[cfg(feature = "cbor")]
            Self::Cbor => Arc::new(Cbor),
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            #[cfg(feature = "msgpack")]
            Self::MsgPack => "application/msgpack",
            #[cfg(feature = "cbor")]
            Self::Cbor => "application/cbor",
        }
    }

    /// Other names under which the same bytes are sent.
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["text/json"],
            #[cfg(feature = "msgpack")]
            Self::MsgPack => &["application/x-msgpack", "application/vnd.msgpack"],
            #[cfg(feature = "cbor")]
            Self::Cbor => &[],
        }
    }

    fn reads(self, content_type: &str) -> bool {
        content_type.eq_ignore_ascii_case(self.content_type())
            || self.aliases().iter().any(|a| content_type.eq_ignore_ascii_case(a))
    }

    pub(crate) fn encode<T: Serialize>(self, value: &T, out: &mut BytesMut) -> Result<()> {
        let failed = |e: crate::BoxError| {
            Error::new(ErrorKind::Encode, format!("the value does not encode as {}", self.content_type()))
                .source(e)
        };
        match self {
            Self::Json => serde_json::to_writer(Out(out), value).map_err(|e| failed(e.into())),
            #[cfg(feature = "msgpack")]
            Self::MsgPack => {
                // Named fields, as the other languages' libraries write structs.
                rmp_serde::encode::write_named(&mut Out(out), value).map_err(|e| failed(e.into()))
            }
            #[cfg(feature = "cbor")]
            Self::Cbor => cbor4ii::serde::to_writer(Out(out), value).map_err(|e| failed(e.into())),
        }
    }

    pub(crate) fn decode<T: DeserializeOwned>(self, data: &[u8]) -> Result<T> {
        match self {
            // Checked once for all its strings, text decodes faster than bytes. JSON that is not UTF-8 is refused by
            // the parser, which says where.
            Self::Json => match std::str::from_utf8(data) {
                Ok(text) => serde_json::from_str(text),
                Err(_) => serde_json::from_slice(data),
            }
            .map_err(|e| self.undecodable(e)),
            #[cfg(feature = "msgpack")]
            Self::MsgPack => {
                let mut rest = data;
                let value = rmp_serde::from_read(&mut rest).map_err(|e| self.undecodable(e))?;
                self.at_end(rest)?;
                Ok(value)
            }
            #[cfg(feature = "cbor")]
            Self::Cbor => {
                let mut cbor =
                    cbor4ii::serde::Deserializer::new(cbor4ii::core::utils::SliceReader::new(data));
                let value = T::deserialize(&mut cbor).map_err(|e| self.undecodable(e))?;
                self.cbor_at_end(cbor)?;
                Ok(value)
            }
        }
    }

    fn undecodable(self, error: impl Into<crate::BoxError>) -> Error {
        Error::new(ErrorKind::Decode, format!("the payload is not such a value in {}", self.content_type()))
            .source(error)
    }

    #[cfg(any(feature = "msgpack", feature = "cbor"))]
    fn at_end(self, rest: &[u8]) -> Result<()> {
        if rest.is_empty() {
            return Ok(());
        }
        Err(self.undecodable("bytes are left over behind the value"))
    }

    #[cfg(feature = "cbor")]
    fn cbor_at_end(
        self,
        cbor: cbor4ii::serde::Deserializer<cbor4ii::core::utils::SliceReader<'_>>,
    ) -> Result<()> {
        use cbor4ii::core::dec::Read as _;
        let mut rest = cbor.into_inner();
        let left = rest.fill(1).map_err(|e| self.undecodable(e))?;
        self.at_end(left.as_ref())
    }

    fn decode_erased(
        self,
        data: &[u8],
        visit: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> erased_serde::Result<()>,
    ) -> Result<()> {
        match self {
            Self::Json => {
                let mut json = serde_json::Deserializer::from_slice(data);
                visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut json))
                    .map_err(|e| self.undecodable(e))?;
                json.end().map_err(|e| self.undecodable(e))
            }
            #[cfg(feature = "msgpack")]
            Self::MsgPack => {
                let mut rest = data;
                let mut msgpack = rmp_serde::Deserializer::new(&mut rest);
                visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut msgpack))
                    .map_err(|e| self.undecodable(e))?;
                self.at_end(rest)
            }
            #[cfg(feature = "cbor")]
            Self::Cbor => {
                let mut cbor =
                    cbor4ii::serde::Deserializer::new(cbor4ii::core::utils::SliceReader::new(data));
                visit(&mut <dyn erased_serde::Deserializer<'_>>::erase(&mut cbor))
                    .map_err(|e| self.undecodable(e))?;
                self.cbor_at_end(cbor)
            }
        }
    }
}

/// Writes into a buffer. Encoders write a few bytes at a time: what takes all of them at once takes half as long as the
/// loop that asks how many were taken.
struct Out<'a>(&'a mut BytesMut);

impl io::Write for Out<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! builtin_codec {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default)]
        pub struct $name;

        impl Codec for $name {
            fn content_type(&self) -> ByteString {
                ByteString::from_static(Builtin::$name.content_type())
            }
            fn reads(&self, content_type: &str) -> bool {
                Builtin::$name.reads(content_type)
            }
            fn encode(&self, value: &dyn erased_serde::Serialize, out: &mut BytesMut) -> Result<()> {
                Builtin::$name.encode(&value, out)
            }
            fn decode(
                &self,
                data: &[u8],
                visit: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> erased_serde::Result<()>,
            ) -> Result<()> {
                Builtin::$name.decode_erased(data, visit)
            }
            fn builtin(&self) -> Option<BuiltinCodec> {
                Some(BuiltinCodec(Builtin::$name))
            }
        }
    };
}

builtin_codec! {
    /// JSON by `serde_json`. Content type `application/json`.
    Json
}
#[cfg(feature = "msgpack")]
builtin_codec! {
    /// MessagePack by `rmp-serde`, structs as maps with names. Content type `application/msgpack`.
    MsgPack
}
#[cfg(feature = "cbor")]
builtin_codec! {
    /// CBOR by `cbor4ii`. Content type `application/cbor`.
    Cbor
}
