//! Decoded objects of one kind, kept in the process.

use crate::changes::ChangedIds;
use crate::error::StoreError;
use crate::ext::{Query, StorageExt, Stored};
use crate::record::Record;
use crate::store::Storage;
use portolan_model::query::Filter;
use portolan_model::{Scope, TypedId};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Ids that are read at once.
const AT_ONCE: usize = 512;

/// The objects of a kind that match a filter, as a list.
pub type CachedList<R> = Arc<Vec<Arc<Stored<R>>>>;

/// Keeps the objects of one kind, decoded, and reads only what has changed since it was last asked. Where the store
/// cannot tell, it reads them all each time.
///
/// An answer has whatever was applied before it was asked for. It is no snapshot: of two objects that one unit
/// writes *while* it reads, it may have one as before and one as after; the next answer has both. Sees every tenant's
/// objects, so it is for what decides about scopes itself.
pub struct KindCache<R: Record> {
    storage: Arc<dyn Storage>,
    filter: Filter,
    state: Mutex<State<R>>,
}

struct State<R: Record> {
    /// Nothing before the first read.
    revision: Option<u64>,
    items: BTreeMap<Uuid, Arc<Stored<R>>>,
    list: CachedList<R>,
}

impl<R: Record + PartialEq> KindCache<R> {
    /// Of all objects of the kind. Reads nothing yet.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self::matching(storage, Filter::All)
    }

    /// Of the objects that match `filter`. Reads nothing yet.
    pub fn matching(storage: Arc<dyn Storage>, filter: Filter) -> Self {
        let state = State { revision: None, items: BTreeMap::new(), list: Arc::default() };
        Self { storage, filter, state: Mutex::new(state) }
    }

    /// All of them, in the order of their ids. The same list, and the same objects in it, while nothing changed.
    ///
    /// # Errors
    /// What reading them comes to; the next call tries again.
    pub async fn all(&self) -> Result<CachedList<R>, StoreError> {
        let mut state = self.state.lock().await;
        // Asked before anything is read, see `Views::changes`. The state changes only once everything has been read,
        // so that a call which fails or is dropped half-way leaves the old revision with the old objects.
        let changes = self.storage.changes(R::KIND, state.revision);
        let changed = match &changes.what {
            ChangedIds::Ids(ids) => {
                let mut read = Vec::new();
                for ids in ids.chunks(AT_ONCE) {
                    read.extend(self.read(self.filter.clone().and(Filter::any("id", ids.iter().copied()))).await?);
                }
                state.replace(ids, read)
            }
            ChangedIds::Unknown => {
                let read = self.read(self.filter.clone()).await?;
                let ids: Vec<Uuid> = state.items.keys().copied().collect();
                state.replace(&ids, read)
            }
        };
        state.revision = Some(changes.revision);
        if changed {
            state.list = Arc::new(state.items.values().cloned().collect());
        }
        Ok(state.list.clone())
    }

    async fn read(&self, filter: Filter) -> Result<Vec<Stored<R>>, StoreError> {
        Ok(self.storage.list_of::<R>(Scope::All, Query::matching(filter)).await?.items)
    }
}

impl<R: Record + PartialEq> State<R> {
    /// Puts what was `read` in the place of the objects `ids`; says whether that made a difference. What is the same
    /// as before stays the same object in memory.
    fn replace(&mut self, ids: &[Uuid], read: Vec<Stored<R>>) -> bool {
        let mut read: BTreeMap<Uuid, Stored<R>> = read.into_iter().map(|s| (s.value.id().uuid(), s)).collect();
        let mut changed = false;
        for id in ids {
            if !read.contains_key(id) {
                changed |= self.items.remove(id).is_some();
            }
        }
        // One that was removed and made again has the same version: only its content tells.
        read.retain(|id, stored| self.items.get(id).is_none_or(|old| **old != *stored));
        changed |= !read.is_empty();
        self.items.extend(read.into_iter().map(|(id, stored)| (id, Arc::new(stored))));
        changed
    }
}
