//! What drivers keep, in Portolan's store.

use async_trait::async_trait;
use portolan_driver::{CloudError, CloudErrorKind, DriverState, StateChange, StateEntry};
use portolan_model::query::Filter;
use portolan_model::{Clock, PlatformId, Scope};
use portolan_storage::{
    Change, DriverDocument, Kind, Put, Query, Require, Setting, Storage, StorageExt, StoreError, UnitOfWork,
};
use std::sync::Arc;

/// The documents of one platform's driver, in the store.
pub struct StoredDriverState {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    platform: PlatformId,
}

impl StoredDriverState {
    /// Those of `platform`.
    pub fn new(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>, platform: PlatformId) -> Self {
        Self { storage, clock, platform }
    }

    fn document(&self, key: String, value: serde_json::Value) -> DriverDocument {
        let id = Setting::id_of(&format!("driver_state:{}:{key}", self.platform));
        DriverDocument { id, platform: self.platform, key, value }
    }
}

#[async_trait]
impl DriverState for StoredDriverState {
    async fn all(&self) -> Result<Arc<Vec<Arc<StateEntry>>>, CloudError> {
        let query = Query::matching(Filter::eq("platform", self.platform.uuid()));
        let rows = self.storage.list_of::<DriverDocument>(Scope::All, query).await.map_err(failed)?.items;
        let mut entries: Vec<Arc<StateEntry>> = rows
            .into_iter()
            .map(|row| Arc::new(StateEntry { key: row.value.key, version: row.version, value: row.value.value }))
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Arc::new(entries))
    }

    async fn write(&self, changes: Vec<StateChange>) -> Result<bool, CloudError> {
        let mut unit = UnitOfWork::new();
        for change in changes {
            let (StateChange::Put { key, .. } | StateChange::Delete { key, .. }) = &change;
            if key.is_empty() || key.len() > 200 || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(CloudError::new(CloudErrorKind::Invalid, "a document's key must be plain"));
            }
            match change {
                StateChange::Put { key, expected, value } => {
                    let document = self.document(key, value);
                    unit.require.push(Require::Version(Kind::DriverState, document.id.uuid(), expected));
                    unit.change.push(Change::Put(Put::of(&document)));
                }
                StateChange::Delete { key, expected } => {
                    let id = self.document(key, serde_json::Value::Null).id.uuid();
                    unit.require.push(Require::Version(Kind::DriverState, id, expected));
                    unit.change.push(Change::Delete(Kind::DriverState, id));
                }
            }
        }
        match self.storage.apply(self.clock.now(), Scope::All, unit).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict(_)) => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }
}

fn failed(e: StoreError) -> CloudError {
    tracing::warn!(error = &e as &dyn std::error::Error, "a driver's documents cannot be had");
    CloudError::new(CloudErrorKind::Unreachable, "the store of the driver's documents failed")
}
