//! Dead letters: messages that could not be handled, kept with why.
//!
//! A dead letter is its message, byte for byte, with `millstream-dl-*` headers beside its own.

mod build;

pub(crate) use build::{Dying, host, topic_of};
