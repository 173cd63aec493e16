//! The tasks of the in-memory adapter against the suite that every store of tasks passes.

use portolan_storage::MemoryStorage;
use portolan_tasks::TaskStore;
use std::sync::Arc;

async fn memory() -> Arc<dyn TaskStore> {
    Arc::new(MemoryStorage::new())
}

portolan_testkit::task_store_conformance!(memory);
