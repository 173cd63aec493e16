//! What can be wrong with the configuration.

use super::settings::Origin;
use std::path::PathBuf;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is no TOML.
    #[error("the configuration file {} is not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong there.
        reason: String,
    },
    /// There is no such key.
    #[error("unknown configuration key '{key}' ({origin})")]
    Unknown {
        /// As it was written, in lower case.
        key: String,
        /// Where it was written.
        origin: Origin,
        /// Keys that it may have been meant to be, nearest first.
        near: Vec<String>,
    },
    /// The key cannot have that value.
    #[error("'{key}' cannot be {value} ({origin}): {reason}")]
    Value {
        /// The key.
        key: String,
        /// What it was given; stars for a secret.
        value: String,
        /// Where it was given.
        origin: Origin,
        /// What it can be.
        reason: String,
    },
    /// A key is needed and was not given.
    #[error("'{key}' is missing: {reason}")]
    Missing {
        /// The key.
        key: String,
        /// Why it is needed.
        reason: String,
    },
    /// The library that joins the layers could not.
    #[error("the layers of the configuration cannot be joined")]
    Layers(#[source] config::ConfigError),
}

impl ConfigError {
    /// The error of ours that a layer handed to the library, or the library's own.
    pub(super) fn of_library(error: config::ConfigError) -> Self {
        match error {
            config::ConfigError::Foreign(ours) => match ours.downcast::<Self>() {
                Ok(ours) => *ours,
                Err(other) => Self::Layers(config::ConfigError::Foreign(other)),
            },
            other => Self::Layers(other),
        }
    }

    /// What to do about it, where there is more to say than the error says.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { near, .. } if !near.is_empty() => {
                let near: Vec<String> = near.iter().map(|n| format!("'{n}'")).collect();
                Some(format!("did you mean {}? `portolan config show` lists every key", near.join(" or ")))
            }
            Self::Unknown { .. } => Some("`portolan config show` lists every key".into()),
            _ => None,
        }
    }
}
