//! Locks of the harness.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic of another thread shows where that thread is joined.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
