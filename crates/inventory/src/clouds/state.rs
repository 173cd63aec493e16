//! What drivers keep, in Portolan's store.

use async_trait::async_trait;
use portolan_driver::{CloudError, CloudErrorKind, DriverState, StateChange, StateEntry};
use portolan_model::query::Filter;
use portolan_model::{Clock, EventId, PlatformId, Scope};
use portolan_storage::{
    CachedList, Change, DriverDocument, Kind, KindCache, Put, Require, Setting, Storage, StoreError, Stored, UnitOfWork,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The documents of one platform's driver, in the store. What has not changed is not read again.
pub struct StoredDriverState {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    platform: PlatformId,
    cache: KindCache<DriverDocument>,
    shown: Mutex<Shown>,
}

/// The documents as they were last shown to the driver.
#[derive(Default)]
struct Shown {
    of: CachedList<DriverDocument>,
    by_id: BTreeMap<EventId, (Arc<Stored<DriverDocument>>, Arc<StateEntry>)>,
    list: Arc<Vec<Arc<StateEntry>>>,
}

impl Shown {
    /// Takes over a newer list; a document that is the same stays the same entry.
    fn update(&mut self, rows: CachedList<DriverDocument>) -> Arc<Vec<Arc<StateEntry>>> {
        if !Arc::ptr_eq(&self.of, &rows) {
            let mut old = std::mem::take(&mut self.by_id);
            for row in rows.iter() {
                let kept = old.remove(&row.id).filter(|(was, _)| Arc::ptr_eq(was, row)).map(|(_, entry)| entry);
                let entry = kept.unwrap_or_else(|| {
                    let DriverDocument { key, value, .. } = row.value.clone();
                    Arc::new(StateEntry { key, version: row.version, value })
                });
                self.by_id.insert(row.id, (Arc::clone(row), entry));
            }
            let mut list: Vec<Arc<StateEntry>> = self.by_id.values().map(|(_, entry)| Arc::clone(entry)).collect();
            list.sort_by(|a, b| a.key.cmp(&b.key));
            (self.of, self.list) = (rows, Arc::new(list));
        }
        Arc::clone(&self.list)
    }
}

impl StoredDriverState {
    /// Those of `platform`.
    pub fn new(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>, platform: PlatformId) -> Self {
        let cache = KindCache::matching(Arc::clone(&storage), Filter::eq("platform", platform.uuid()));
        Self { storage, clock, platform, cache, shown: Mutex::default() }
    }

    fn document(&self, key: String, value: serde_json::Value) -> DriverDocument {
        let id = Setting::id_of(&format!("driver_state:{}:{key}", self.platform));
        DriverDocument { id, platform: self.platform, key, value }
    }
}

#[async_trait]
impl DriverState for StoredDriverState {
    async fn all(&self) -> Result<Arc<Vec<Arc<StateEntry>>>, CloudError> {
        let rows = self.cache.all().await.map_err(failed)?;
        Ok(self.shown.lock().unwrap_or_else(PoisonError::into_inner).update(rows))
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
