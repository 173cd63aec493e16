//! What can go wrong with guests.

use crate::qga::QgaError;
use crate::qmp::QmpError;
use portolan_driver::{CloudError, CloudErrorKind, DriverError};
use std::path::{Path, PathBuf};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// A program is missing, too old, or not what it should be.
    #[error("{0}")]
    Program(String),
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
    /// A file or directory could not be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// There is no such thing.
    #[error("there is no {what} '{id}'")]
    NotFound {
        /// `guest`, `image`, `size`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The guest is in no state for this, or in use.
    #[error("{0}")]
    Conflict(String),
    /// Another process owns the guest.
    #[error("the guest '{0}' is owned by another Portolan node")]
    Elsewhere(String),
    /// The wish makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A limit of this host is used up.
    #[error("{0}")]
    Quota(String),
    /// An image is damaged, or is refused for what it names.
    #[error("the image '{image}' is refused: {reason}")]
    Image {
        /// Its file's name.
        image: String,
        /// Why.
        reason: String,
    },
    /// A document of the driver is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// QEMU did not start.
    #[error("QEMU did not start: {0}")]
    Start(String),
    /// The monitor.
    #[error("{0}")]
    Qmp(#[from] QmpError),
    /// The agent.
    #[error("{0}")]
    Qga(#[from] QgaError),
}

impl QemuError {
    /// A failure of a file, with what was tried.
    pub(crate) fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    /// With the cause in the text, for places that keep only that.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::File { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }

    fn is_full(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    }
}

impl From<QemuError> for CloudError {
    fn from(error: QemuError) -> Self {
        use CloudErrorKind as Kind;
        let kind = match &error {
            QemuError::NotFound { what, id } => return Self::not_found(what, id),
            _ if error.is_full() => Kind::Quota,
            QemuError::Conflict(_) | QemuError::Elsewhere(_) => Kind::Conflict,
            QemuError::Invalid(_) | QemuError::Image { .. } | QemuError::Settings(_) => Kind::Invalid,
            QemuError::Quota(_) => Kind::Quota,
            QemuError::Damaged { .. } | QemuError::Qmp(QmpError::Malformed { .. }) => Kind::Malformed,
            QemuError::Qmp(QmpError::Refused { .. }) | QemuError::Qga(QgaError::Refused { .. }) => Kind::Conflict,
            QemuError::Program(_)
            | QemuError::File { .. }
            | QemuError::Start(_)
            | QemuError::Qmp(_)
            | QemuError::Qga(_) => Kind::Unreachable,
        };
        Self::new(kind, error.text())
    }
}

impl From<QemuError> for DriverError {
    fn from(error: QemuError) -> Self {
        match error {
            QemuError::NotFound { what, id } => Self::NotFound { what, id },
            full if full.is_full() => Self::NoSpace(full.text()),
            QemuError::Image { .. } | QemuError::Damaged { .. } => Self::Malformed(error.text()),
            other => CloudError::from(other).into(),
        }
    }
}
