//! What can go wrong in the inventory.

use portolan_driver::{CloudError, DriverError};
use portolan_model::TaskId;
use portolan_model::caller::Denied;
use portolan_storage::{Conflict, Kind, StoreError};
use portolan_tasks::TaskError;
use uuid::Uuid;

/// Why the inventory could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The caller lacks a privilege.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is no such object, or not for this caller.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// What it would be.
        kind: Kind,
        /// Its id.
        id: Uuid,
    },
    /// Something else has that name, or uses it.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The cloud has no such thing, or not for this caller.
    #[error("there is no {what} '{id}'")]
    Unknown {
        /// `cloud`, `image`, `size`, `node`.
        what: &'static str,
        /// What it was asked for by.
        id: String,
    },
    /// The cloud has it no more: what Portolan knew of it has been put right.
    #[error("the {what} '{id}' is gone")]
    Gone {
        /// `node`.
        what: &'static str,
        /// The provider's id.
        id: String,
    },
    /// The thing is in no state for this; the text is fit for the one who asked.
    #[error("{0}")]
    Refused(String),
    /// The work was done and did not succeed.
    #[error("{0}")]
    Failed(String),
    /// The time to wait is over, and the task goes on: an equal request waits for the same one.
    #[error("the work goes on as task {0}")]
    StillRunning(TaskId),
    /// The cloud said no.
    #[error("the cloud failed")]
    Cloud(#[from] CloudError),
    /// The platform said no.
    #[error("the platform cannot be listed")]
    Driver(#[from] DriverError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// The store of tasks failed.
    #[error("the store failed")]
    Tasks(#[source] TaskError),
}

impl From<StoreError> for InventoryError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NotFound { kind, id } => Self::NotFound { kind, id },
            StoreError::UnknownField { kind, field } => Self::Invalid(format!("{kind} has no field '{field}'")),
            StoreError::Conflict(c @ (Conflict::Taken { .. } | Conflict::InUse { .. })) => {
                Self::Conflict(c.to_string())
            }
            other => Self::Store(other),
        }
    }
}

impl From<TaskError> for InventoryError {
    fn from(e: TaskError) -> Self {
        Self::Tasks(e)
    }
}
