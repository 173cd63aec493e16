//! What can go wrong in backup and restore.

use portolan_driver::DriverError;
use portolan_model::caller::Denied;
use portolan_repository::RepoError;
use portolan_storage::{Conflict, Kind, StoreError};
use portolan_tasks::TaskError;
use uuid::Uuid;

/// Why a use case could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// The caller lacks a privilege.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is no such object, or not for this caller.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// What it would be.
        kind: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// The object's state, or another object, stands against it.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Not yet: what it waits for is on its way.
    #[error("{0}")]
    Later(String),
    /// The platform said no.
    #[error("{0}")]
    Driver(#[from] DriverError),
    /// The repository said no.
    #[error("{0}")]
    Repository(#[from] RepoError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// The store of tasks failed.
    #[error("the store failed")]
    Tasks(#[source] TaskError),
}

impl From<StoreError> for ProtectError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NotFound { kind, id } => Self::NotFound { kind: kind.table(), id },
            StoreError::UnknownField { kind, field } => Self::Invalid(format!("{kind} has no field '{field}'")),
            StoreError::Conflict(c @ (Conflict::Taken { .. } | Conflict::InUse { .. })) => {
                Self::Conflict(c.to_string())
            }
            StoreError::Tasks(e) => e.into(),
            other => Self::Store(other),
        }
    }
}

impl From<TaskError> for ProtectError {
    fn from(e: TaskError) -> Self {
        match e {
            TaskError::NotFound(id) => Self::NotFound { kind: "task", id: id.uuid() },
            TaskError::Conflict { .. } => Self::Conflict(e.to_string()),
            TaskError::UnknownField(_) => Self::Invalid(e.to_string()),
            other => Self::Tasks(other),
        }
    }
}

impl ProtectError {
    /// No such object of that kind.
    pub(crate) fn not_found(kind: Kind, id: Uuid) -> Self {
        Self::NotFound { kind: kind.table(), id }
    }
}
