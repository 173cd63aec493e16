//! Decoded objects of one kind by their unique keys, kept in the process.

use crate::changes::ChangedIds;
use crate::error::StoreError;
use crate::ext::{StorageExt, Stored};
use crate::record::Record;
use crate::store::Storage;
use portolan_model::Scope;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many keys are remembered: it begins anew after that.
const MOST: usize = 256;

/// Remembers the objects of one kind that were found by a unique key, until anything of the kind changes: for what is
/// asked for with every request and hardly ever changes. Where the store cannot tell what has changed, it reads each
/// time.
///
/// An answer has whatever was applied before it was asked for. What is not found is not remembered.
pub struct KeyCache<R: Record> {
    storage: Arc<dyn Storage>,
    known: Mutex<Known<R>>,
}

struct Known<R: Record> {
    /// Nothing before the first question.
    revision: Option<u64>,
    by_key: HashMap<String, Arc<Stored<R>>>,
}

impl<R: Record> KeyCache<R> {
    /// Over a store. Reads nothing yet.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, known: Mutex::new(Known { revision: None, by_key: HashMap::new() }) }
    }

    /// The object that holds a unique key, as [`StorageExt::find_by_key`] finds it.
    ///
    /// # Errors
    /// What reading it comes to.
    pub async fn find(&self, scope: Scope, key: &str) -> Result<Option<Arc<Stored<R>>>, StoreError> {
        let visible = |found: &Arc<Stored<R>>| R::KIND.visible(scope, found.tenant());
        // Asked before anything is read, see `Views::changes`.
        let revision = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let changes = self.storage.changes(R::KIND, known.revision);
            let unchanged = matches!(&changes.what, ChangedIds::Ids(ids) if ids.is_empty());
            if !unchanged {
                known.by_key.clear();
            }
            known.revision = Some(changes.revision);
            if let Some(found) = known.by_key.get(key) {
                return Ok(Some(Arc::clone(found)).filter(visible));
            }
            changes.revision
        };
        let found = self.storage.find_by_key::<R>(Scope::All, key).await?.map(Arc::new);
        if let Some(found) = &found {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody who asked later may have been told of a change that this has not seen.
            if known.revision == Some(revision) {
                if known.by_key.len() >= MOST {
                    known.by_key.clear();
                }
                known.by_key.insert(key.to_owned(), Arc::clone(found));
            }
        }
        Ok(found.filter(visible))
    }
}
