//! What can go wrong on a platform.

use portolan_block::BlockError;
use std::time::Duration;

/// Why a driver could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The platform refused the credentials.
    #[error("the platform refused the credentials")]
    Auth,
    /// The platform has no such thing.
    #[error("the platform has no {what} '{id}'")]
    NotFound {
        /// `virtual machine`, `datastore`, …
        what: &'static str,
        /// Its native id.
        id: String,
    },
    /// The thing is there already, or is in use.
    #[error("{0}")]
    Conflict(String),
    /// No room left on the target.
    #[error("no space left on {0}")]
    NoSpace(String),
    /// The platform cannot do this at all.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The platform answered with nonsense, or an image is damaged.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The platform did not answer; trying again may help.
    #[error("the platform does not answer: {reason}")]
    Unreachable {
        /// What was seen.
        reason: String,
        /// When to try again, where the platform said so.
        retry_after: Option<Duration>,
    },
    /// A caller with a newer fence has taken over.
    #[error("a newer attempt has taken over")]
    Fenced,
    /// A disk could not be read or written.
    #[error("a disk could not be read or written")]
    Block(#[from] BlockError),
}

impl DriverError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}
