//! What drivers keep, in Portolan's store.

use async_trait::async_trait;
use portolan_driver::{CloudError, CloudErrorKind, DriverState, StateChange, StateEntry};
use portolan_model::query::Filter;
use portolan_model::{Clock, PlatformId, Scope};
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
    /// The same in the order of keys.
    list: Arc<Vec<Arc<StateEntry>>>,
}

impl Shown {
    /// Takes over a newer list; a document that is the same stays the same entry. What is looked at are the documents
    /// that changed; of the others only whether they are the same rows.
    fn update(&mut self, rows: CachedList<DriverDocument>) -> Arc<Vec<Arc<StateEntry>>> {
        if !Arc::ptr_eq(&self.of, &rows) {
            let mut list = Vec::with_capacity(rows.len());
            let mut rest = self.list.as_slice();
            for (key, now) in changed(&self.of, &rows) {
                let (before, from) = rest.split_at(rest.partition_point(|entry| entry.key.as_str() < key));
                list.extend_from_slice(before);
                list.extend(now.map(shown));
                rest = from.split_first().filter(|(first, _)| first.key == key).map_or(from, |(_, rest)| rest);
            }
            list.extend_from_slice(rest);
            (self.of, self.list) = (rows, Arc::new(list));
        }
        Arc::clone(&self.list)
    }
}

/// The keys, in order, of documents that are not the same row in both lists, with the row as it is now: nothing for
/// one that is gone. The lists are in the order of ids.
fn changed<'a>(
    old: &'a [Arc<Stored<DriverDocument>>],
    new: &'a [Arc<Stored<DriverDocument>>],
) -> BTreeMap<&'a str, Option<&'a Stored<DriverDocument>>> {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some(was), Some(now)) if Arc::ptr_eq(was, now) => drop((old.next(), new.next())),
            (Some(was), now) if now.is_none_or(|now| was.id <= now.id) => gone.extend(old.next()),
            _ => come.extend(new.next()),
        }
    }
    // What came counts where it is what went, too.
    let gone = gone.into_iter().map(|row| (row.key.as_str(), None));
    gone.chain(come.into_iter().map(|row| (row.key.as_str(), Some(&**row)))).collect()
}

fn shown(row: &Stored<DriverDocument>) -> Arc<StateEntry> {
    let DriverDocument { key, value, .. } = row.value.clone();
    Arc::new(StateEntry { key, version: row.version, value })
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

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_model::EventId;
    use proptest::prelude::*;

    fn row(n: u8, version: i64) -> Arc<Stored<DriverDocument>> {
        // Ids are in another order than keys.
        let id = EventId::from_uuid(uuid::Uuid::from_u128(u128::from(n.reverse_bits())));
        let platform = PlatformId::from_uuid(uuid::Uuid::from_u128(1));
        let value = DriverDocument { id, platform, key: format!("key-{n:03}"), value: serde_json::json!(version) };
        Arc::new(Stored { version, value })
    }

    proptest! {
        /// Whatever was shown before, the entries are those of the rows at hand, and what is the same row is the same
        /// entry.
        #[test]
        fn documents_are_shown_as_if_they_were_the_first(
            rounds in prop::collection::vec(prop::collection::vec((0..12_u8, any::<bool>()), 0..6), 1..10),
        ) {
            let (mut shown, mut version) = (Shown::default(), 0);
            let mut rows = BTreeMap::new();
            let mut before = Vec::<(Arc<Stored<DriverDocument>>, Arc<StateEntry>)>::new();
            for changes in rounds {
                for (n, remove) in changes {
                    version += 1;
                    let row = row(n, version);
                    if remove { drop(rows.remove(&row.id)) } else { drop(rows.insert(row.id, row)) }
                }
                let list = Arc::new(rows.values().cloned().collect::<Vec<_>>());
                let entries = shown.update(Arc::clone(&list));
                prop_assert!(Arc::ptr_eq(&entries, &shown.update(Arc::clone(&list))));
                let mut first: Vec<_> = list.iter().map(|row| super::shown(row)).collect();
                first.sort_by(|a, b| a.key.cmp(&b.key));
                prop_assert_eq!(&*entries, &first);
                let entry_of = |row: &Stored<DriverDocument>| entries.iter().find(|e| e.key == row.key);
                for (row, entry) in &before {
                    if list.iter().any(|now| Arc::ptr_eq(now, row)) {
                        prop_assert!(entry_of(row).is_some_and(|now| Arc::ptr_eq(now, entry)));
                    }
                }
                before = list.iter().map(|row| (row.clone(), entry_of(row).unwrap().clone())).collect();
            }
        }
    }
}
