//! The locks that threads meet at. Named in one place, so that `schedules/` can build the same sources with locks whose
//! every order it tries.

pub(crate) use std::sync::{Mutex, MutexGuard};
