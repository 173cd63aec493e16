//! Names that are valid from the moment they exist.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A display name: 1 to 255 characters, no control characters, no blanks at either end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was left after trimming.
    #[error("a name must not be empty")]
    Empty,
    /// More than 255 characters.
    #[error("a name must not be longer than 255 characters")]
    TooLong,
    /// A control character, such as a line break.
    #[error("a name must not contain control characters")]
    Control,
}

impl Name {
    /// Checks and trims `text`.
    pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
        let text = text.as_ref().trim();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.chars().count() > 255 {
            return Err(NameError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::Control);
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes a valid name out of anything a platform reports: control characters become `?`, overlong text is
    /// cut, and an empty one becomes `fallback`.
    pub fn lossy(text: &str, fallback: &str) -> Self {
        let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(255).collect();
        let clean = clean.trim();
        Self(if clean.is_empty() { fallback.to_owned() } else { clean.to_owned() })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
