//! What can go wrong with what operators register.

use portolan_access::AccessError;
use portolan_driver::DriverError;
use portolan_inventory::InventoryError;
use portolan_model::caller::Denied;
use portolan_protect::ProtectError;
use portolan_repository::RepoError;
use portolan_storage::StoreError;
use portolan_tasks::TaskError;

/// Why an operator's wish could not be met.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The caller lacks a privilege, or is bound to a tenant where all of Portolan is concerned.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is no such thing, or not for this caller.
    #[error("there is no {what} '{name}'")]
    NotFound {
        /// `platform`, `destination`, `task`, …
        what: &'static str,
        /// What it was called.
        name: String,
    },
    /// What is there stands against it.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The platform did not do what it was asked.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The destination did not do what it was asked.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// It took too long.
    #[error("there was no answer within {0} seconds")]
    TimedOut(u64),
    /// Accounts or secrets failed.
    #[error("access failed")]
    Access(#[source] AccessError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// The store of tasks failed.
    #[error("the store failed")]
    Tasks(#[source] TaskError),
}

impl RegistryError {
    pub(crate) fn missing(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound { what, name: name.to_string() }
    }

    /// A failure of what makes a driver or a store: settings that contradict it are the fault of who gave them.
    pub(crate) fn of_settings(self) -> Self {
        match self {
            Self::Driver(DriverError::Conflict(text)) | Self::Repository(RepoError::Conflict(text)) => {
                Self::Invalid(text)
            }
            other => other,
        }
    }

    /// A word for programs, for what failed outside of Portolan: `AUTH`, `UNREACHABLE`, `TIMEOUT`, `WRONG_KEY`, …
    pub fn code(&self) -> &'static str {
        match self {
            Self::Driver(e) => match e {
                DriverError::Auth => "AUTH",
                DriverError::NotFound { .. } => "NOT_FOUND",
                DriverError::Conflict(_) | DriverError::Fenced => "CONFLICT",
                DriverError::NoSpace(_) => "NO_SPACE",
                DriverError::Unsupported(_) => "UNSUPPORTED",
                DriverError::Malformed(_) | DriverError::Block(_) => "MALFORMED",
                DriverError::Unreachable { .. } => "UNREACHABLE",
            },
            Self::Repository(e) => match e {
                RepoError::WrongKey => "WRONG_KEY",
                RepoError::NotFound { .. } => "NOT_FOUND",
                RepoError::NoSpace => "NO_SPACE",
                RepoError::Unsupported(_) | RepoError::TooNew { .. } => "UNSUPPORTED",
                RepoError::Corrupt { .. } => "DAMAGED",
                RepoError::Store { .. } => "UNREACHABLE",
                _ => "CONFLICT",
            },
            Self::TimedOut(_) => "TIMEOUT",
            Self::Invalid(_) => "VALIDATION_FAILED",
            Self::Conflict(_) => "CONFLICT",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::Denied(_) => "FORBIDDEN",
            Self::Access(_) | Self::Store(_) | Self::Tasks(_) => "INTERNAL",
        }
    }

    /// Whether it failed outside of Portolan, at a platform or a destination.
    pub fn is_outside(&self) -> bool {
        matches!(self, Self::Driver(_) | Self::Repository(_) | Self::TimedOut(_))
    }

    /// What happened, with its causes, in one line.
    pub fn one_line(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        text
    }
}

impl From<StoreError> for RegistryError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::NotFound { kind, id } => Self::missing(kind.table(), id),
            StoreError::Conflict(c) => Self::Conflict(c.to_string()),
            StoreError::Tasks(e) => e.into(),
            other => Self::Store(other),
        }
    }
}

impl From<TaskError> for RegistryError {
    fn from(e: TaskError) -> Self {
        match e {
            TaskError::NotFound(id) => Self::missing("task", id),
            TaskError::Conflict { .. } => Self::Conflict(e.to_string()),
            TaskError::UnknownField(_) => Self::Invalid(e.to_string()),
            other => Self::Tasks(other),
        }
    }
}

impl From<AccessError> for RegistryError {
    fn from(e: AccessError) -> Self {
        match e {
            AccessError::Denied(d) => Self::Denied(d),
            AccessError::Conflict(text) => Self::Conflict(text),
            AccessError::Invalid(text) => Self::Invalid(text),
            AccessError::Store(e) => e.into(),
            other => Self::Access(other),
        }
    }
}

impl From<ProtectError> for RegistryError {
    fn from(e: ProtectError) -> Self {
        match e {
            ProtectError::Denied(d) => Self::Denied(d),
            ProtectError::NotFound { kind, id } => Self::missing(kind, id),
            ProtectError::Conflict(text) | ProtectError::Later(text) => Self::Conflict(text),
            ProtectError::Invalid(text) => Self::Invalid(text),
            ProtectError::Driver(e) => Self::Driver(e),
            ProtectError::Repository(e) => Self::Repository(e),
            ProtectError::Store(e) => Self::Store(e),
            ProtectError::Tasks(e) => Self::Tasks(e),
        }
    }
}

impl From<InventoryError> for RegistryError {
    fn from(e: InventoryError) -> Self {
        crate::facade::as_protect(e).into()
    }
}
