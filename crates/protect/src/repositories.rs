//! The repositories of one process.

use crate::error::ProtectError;
use portolan_model::BackupDestinationId;
use portolan_repository::BackupRepository;
use portolan_storage::Kind;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The opened repositories that this process can reach, by destination.
#[derive(Default)]
pub struct Repositories(RwLock<BTreeMap<BackupDestinationId, Arc<dyn BackupRepository>>>);

impl Repositories {
    /// Adds a repository, in place of the one that was there.
    pub fn insert(&self, destination: BackupDestinationId, repository: Arc<dyn BackupRepository>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(destination, repository);
    }

    /// Takes a repository out.
    pub fn remove(&self, destination: BackupDestinationId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&destination);
    }

    /// The repository of a destination; `NotFound` when this process has none.
    pub fn get(&self, destination: BackupDestinationId) -> Result<Arc<dyn BackupRepository>, ProtectError> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&destination).cloned().ok_or_else(|| ProtectError::not_found(Kind::Destination, destination.uuid()))
    }

    /// The destinations that are open here.
    pub fn destinations(&self) -> Vec<BackupDestinationId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}
