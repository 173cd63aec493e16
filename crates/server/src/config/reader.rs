//! Reading checked values by their keys.

use super::error::ConfigError;
use super::keys::find;
use super::settings::{Entry, Origin, Settings};
use super::value::{Kind, Value};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads values that were checked when they were put.
pub(super) struct Reader<'a>(pub(super) &'a Settings);

impl Reader<'_> {
    fn value(&self, path: &str) -> Option<Value> {
        self.0.entry(path)?.value
    }

    pub(super) fn text(&self, path: &str) -> Option<String> {
        match self.value(path) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Absolute, so that a changed working directory changes nothing.
    pub(super) fn path(&self, path: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(text) = self.text(path) else { return Ok(None) };
        match std::path::absolute(Path::new(&text)) {
            Ok(path) => Ok(Some(path)),
            Err(e) => Err(self.refuse(path, &e.to_string())),
        }
    }

    /// A value of any kind as the text that drivers take; a path is absolute.
    pub(super) fn setting(&self, path: &str) -> Result<Option<String>, ConfigError> {
        Ok(match self.value(path) {
            Some(Value::Text(_)) if find(path).is_some_and(|key| key.kind == Kind::Path) => {
                self.path(path)?.map(|path| path.display().to_string())
            }
            Some(Value::Text(text)) => Some(text),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::Flag(flag)) => Some(flag.to_string()),
            _ => None,
        })
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        match self.value(path) {
            Some(Value::Number(n)) => Some(n),
            _ => None,
        }
    }

    pub(super) fn flag(&self, path: &str) -> bool {
        self.value(path) == Some(Value::Flag(true))
    }

    pub(super) fn span(&self, path: &str) -> Duration {
        match self.value(path) {
            Some(Value::Span(span)) => span,
            _ => Duration::ZERO,
        }
    }

    pub(super) fn list(&self, path: &str) -> Vec<String> {
        match self.value(path) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }

    /// A listener's addresses; none when it is off.
    pub(super) fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        if !self.flag(&format!("{listener}.enabled")) {
            return Vec::new();
        }
        self.list(&format!("{listener}.addresses")).iter().filter_map(|a| a.parse().ok()).collect()
    }

    pub(super) fn refuse(&self, path: &str, reason: &str) -> ConfigError {
        let entry = self.0.entry(path);
        ConfigError::Value {
            key: path.to_owned(),
            value: entry.as_ref().and_then(Entry::shown).unwrap_or_default().to_string(),
            origin: entry.map_or(Origin::Default, |e| e.origin),
            reason: reason.to_owned(),
        }
    }
}
