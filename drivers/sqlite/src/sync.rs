//! The locks that threads hand work over with. Named in one place, so that `schedules/` can build the same sources with
//! locks whose every order it tries.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
