//! What can go wrong with access.

use crate::keys::KeyError;
use portolan_model::caller::Denied;
use portolan_storage::{Conflict, StoreError};
use std::time::Duration;

/// Why access was refused, or a use case of access failed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The credentials or the token prove nobody. Never says which part was wrong.
    #[error("the credentials are not valid")]
    Unauthenticated,
    /// Too many failures from there; even a right password is not looked at before the time is over.
    #[error("too many failed logins, try again later")]
    Throttled {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The caller is known and may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is no such thing, or not for this caller.
    #[error("there is no such {what}")]
    NotFound {
        /// What it would be: `account`, `session`, `tenant`, `secret`.
        what: &'static str,
    },
    /// It contradicts what is there: a name that is taken, a thing in use.
    #[error("{0}")]
    Conflict(String),
    /// The input is not acceptable; the text is fit for the one who sent it.
    #[error("{0}")]
    Invalid(String),
    /// The store was made with a master key, and that key is nowhere to be found.
    #[error(
        "the master key of this installation is missing (looked at {looked_at}): put the key file back from its \
         backup; without it the stored secrets cannot be read"
    )]
    KeyMissing {
        /// Where it was looked for.
        looked_at: String,
    },
    /// A master key was found, and it is not the one that the store was made with.
    #[error(
        "the master key from {found_at} is not the one of this database: point to the right key file, or to the \
         database that belongs to this key"
    )]
    KeyMismatch {
        /// Where the key came from.
        found_at: String,
    },
    /// The master key could not be had.
    #[error("the master key cannot be used")]
    Key(#[source] KeyError),
    /// A stored secret does not open: its row was changed or swapped.
    #[error("the stored secret '{owner}' is damaged")]
    Damaged {
        /// Whose secret it is.
        owner: String,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// Something failed that never should.
    #[error("access failed: {0}")]
    Internal(String),
}

impl From<StoreError> for AccessError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { kind, .. } => Self::NotFound { what: kind.table() },
            StoreError::Conflict(Conflict::Taken { .. }) => Self::Conflict("the name is taken".into()),
            StoreError::Conflict(Conflict::InUse { kind, .. }) => Self::Conflict(format!("the {kind} is in use")),
            other => Self::Store(other),
        }
    }
}

impl From<KeyError> for AccessError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}
