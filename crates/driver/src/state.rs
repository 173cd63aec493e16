//! What a driver keeps through Portolan: for platforms that have no memory of their own.

use crate::cloud::{CloudError, CloudErrorKind};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A driver's own documents, kept durably by whoever runs it. Each has a key and a version; a write names the
/// versions that it was decided on, so that two processes that drive the same platform cannot undo each other's work.
#[async_trait]
pub trait DriverState: Send + Sync {
    /// Every document, in the order of keys, as of now.
    async fn all(&self) -> Result<Arc<Vec<Arc<StateEntry>>>, CloudError>;

    /// Writes all of it durably, or nothing. `false` when a version was another one: read again and decide anew.
    async fn write(&self, changes: Vec<StateChange>) -> Result<bool, CloudError>;
}

/// A document.
#[derive(Debug, Clone, PartialEq)]
pub struct StateEntry {
    /// Its key: 1 to 200 printable ASCII characters.
    pub key: String,
    /// Its version, from 1, rising with every write.
    pub version: i64,
    /// What it says.
    pub value: serde_json::Value,
}

/// A write.
#[derive(Debug, Clone, PartialEq)]
pub enum StateChange {
    /// Writes a document.
    Put {
        /// Its key.
        key: String,
        /// The version that it has; 0 when it is new.
        expected: i64,
        /// What it will say.
        value: serde_json::Value,
    },
    /// Removes a document.
    Delete {
        /// Its key.
        key: String,
        /// The version that it has.
        expected: i64,
    },
}

/// Documents in memory, for embedding and tests. Nothing survives the process; clones share what is in it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDriverState(Arc<Mutex<BTreeMap<String, Arc<StateEntry>>>>);

#[async_trait]
impl DriverState for MemoryDriverState {
    async fn all(&self) -> Result<Arc<Vec<Arc<StateEntry>>>, CloudError> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::new(entries.values().cloned().collect()))
    }

    async fn write(&self, changes: Vec<StateChange>) -> Result<bool, CloudError> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            let (StateChange::Put { key, expected, .. } | StateChange::Delete { key, expected }) = change;
            if key.is_empty() || key.len() > 200 || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(CloudError::new(CloudErrorKind::Invalid, "a document's key must be plain"));
            }
            if entries.get(key).map_or(0, |e| e.version) != *expected {
                return Ok(false);
            }
        }
        for change in changes {
            match change {
                StateChange::Put { key, expected, value } => {
                    entries.insert(key.clone(), Arc::new(StateEntry { key, version: expected + 1, value }));
                }
                StateChange::Delete { key, .. } => {
                    entries.remove(&key);
                }
            }
        }
        Ok(true)
    }
}
