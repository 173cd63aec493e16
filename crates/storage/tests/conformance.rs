//! The in-memory adapter against the suite that every adapter passes.

use portolan_storage::{MemoryStorage, Storage};
use std::sync::Arc;

async fn memory() -> (Arc<dyn Storage>, ()) {
    (Arc::new(MemoryStorage::new()), ())
}

portolan_testkit::storage_conformance!(memory);
