//! What this process has changed, for its own caches.

use crate::sql::Dialect;
use portolan_storage::{ChangeLog, ChangedIds, Changes, Kind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// What [`portolan_storage::Views::changes`] is answered from.
#[derive(Debug)]
pub(crate) enum Feed {
    /// This is the only process that writes.
    Own(Mutex<ChangeLog>),
    /// Others write too, so that nothing is known; the revisions count the questions.
    Shared(AtomicU64),
}

impl Feed {
    pub(crate) fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Sqlite => Self::Own(Mutex::default()),
            _ => Self::Shared(AtomicU64::new(1)),
        }
    }

    pub(crate) fn changes(&self, kind: Kind, since: Option<u64>) -> Changes {
        match self {
            // A note is whole or not begun, whatever panicked.
            Self::Own(log) => log.lock().unwrap_or_else(PoisonError::into_inner).changes(kind, since),
            Self::Shared(next) => Changes { revision: next.fetch_add(1, Ordering::Relaxed), what: ChangedIds::Unknown },
        }
    }

    /// Whether anything is to be noted.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// A transaction that touched these objects has been committed, or may have been.
    pub(crate) fn note(&self, touched: Vec<(Kind, Uuid)>) {
        if let Self::Own(log) = self {
            log.lock().unwrap_or_else(PoisonError::into_inner).note(touched);
        }
    }
}
