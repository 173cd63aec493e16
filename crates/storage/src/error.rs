//! What can go wrong in a store.

use crate::kind::Kind;
use portolan_model::TaskId;
use portolan_tasks::TaskError;
use uuid::Uuid;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object, or not in this scope.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// What it would be.
        kind: Kind,
        /// Its id.
        id: Uuid,
    },
    /// A precondition failed; nothing was written.
    #[error("{0}")]
    Conflict(Conflict),
    /// A field that the kind does not declare.
    #[error("{kind} has no field '{field}'")]
    UnknownField {
        /// The kind.
        kind: Kind,
        /// The field.
        field: String,
    },
    /// A stored document is not what this version can read.
    #[error("the stored {kind} {id} cannot be read")]
    Corrupt {
        /// What it is.
        kind: Kind,
        /// Its id.
        id: Uuid,
        /// What serde said.
        #[source]
        source: serde_json::Error,
    },
    /// The schema was written by a newer version.
    #[error("the database has schema {found}, this program knows {known}: start the newer version again")]
    TooNew {
        /// What the database says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// The disk under the store is full.
    #[error("no space left for the database")]
    NoSpace,
    /// The store does not answer; trying again may help.
    #[error("the database does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store said something that it never should.
    #[error("the database failed")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The tasks in the unit could not be written.
    #[error("the tasks could not be written")]
    Tasks(#[source] TaskError),
}

/// The precondition that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// The object has changed, or is gone, since it was read.
    Version {
        /// What it is.
        kind: Kind,
        /// Its id.
        id: Uuid,
        /// The version that was expected; 0 for "not there yet".
        expected: i64,
        /// The version found; 0 for "not there".
        found: i64,
    },
    /// Another object holds the unique key.
    Taken {
        /// The key, `account:login:admin`.
        key: String,
        /// The holder.
        holder: Uuid,
    },
    /// The task is no longer held under that fence.
    TaskLost(TaskId),
    /// Other objects refer to it.
    InUse {
        /// What it is.
        kind: Kind,
        /// Its id.
        id: Uuid,
        /// How many do.
        by: u64,
    },
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version { kind, id, .. } => write!(f, "{kind} {id} was changed by somebody else"),
            Self::Taken { key, .. } => write!(f, "'{key}' is taken"),
            Self::TaskLost(id) => write!(f, "the task {id} is no longer held"),
            Self::InUse { kind, id, by } => write!(f, "{kind} {id} is in use by {by} others"),
        }
    }
}

impl StoreError {
    /// Wraps what an adapter's library said.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// Whether the unit can be decided anew on fresh data.
    pub fn is_version_conflict(&self) -> bool {
        matches!(self, Self::Conflict(Conflict::Version { .. }))
    }
}
