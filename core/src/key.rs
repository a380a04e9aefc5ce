//! What can be a routing key or the value of a header: what `#[derive(Event)]` takes out of fields.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

/// A value as the bytes of a routing key or of a header. Text and bytes are themselves, numbers are decimal, `None`
/// is none.
///
/// ```
/// use millstream_core::AsKey;
/// assert_eq!(AsKey::as_key(&42u64).as_deref(), Some(&b"42"[..]));
/// assert_eq!(AsKey::as_key(&None::<String>), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a routing key or a header",
    label = "not text, bytes or a number",
    note = "write an expression, such as `key = self.field.to_string()`, or implement `millstream::AsKey` for `{Self}`"
)]
pub trait AsKey {
    /// The bytes; `None`: no key, no header.
    fn as_key(&self) -> Option<Cow<'_, [u8]>>;
}

macro_rules! borrowed {
    ($($type:ty),*) => {$(
        impl AsKey for $type {
            fn as_key(&self) -> Option<Cow<'_, [u8]>> {
                Some(Cow::Borrowed(self.as_ref()))
            }
        }
    )*};
}

borrowed!(str, String, [u8], Vec<u8>, Bytes);

impl AsKey for ByteString {
    fn as_key(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self.as_bytes()))
    }
}

impl<const N: usize> AsKey for [u8; N] {
    fn as_key(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(self))
    }
}

macro_rules! displayed {
    ($($type:ty),*) => {$(
        impl AsKey for $type {
            fn as_key(&self) -> Option<Cow<'_, [u8]>> {
                Some(Cow::Owned(self.to_string().into_bytes()))
            }
        }
    )*};
}

// No floats: two that are equal need not be written alike.
displayed!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, bool, char);
#[cfg(feature = "uuid")]
displayed!(uuid::Uuid);

impl<T: AsKey> AsKey for Option<T> {
    fn as_key(&self) -> Option<Cow<'_, [u8]>> {
        self.as_ref().and_then(T::as_key)
    }
}

macro_rules! pointers {
    ($($type:ty),*) => {$(
        impl<T: AsKey + ?Sized> AsKey for $type {
            fn as_key(&self) -> Option<Cow<'_, [u8]>> {
                T::as_key(self)
            }
        }
    )*};
}

pointers!(&T, Box<T>, Arc<T>);

impl<T: AsKey + ToOwned + ?Sized> AsKey for Cow<'_, T> {
    fn as_key(&self) -> Option<Cow<'_, [u8]>> {
        T::as_key(self)
    }
}
