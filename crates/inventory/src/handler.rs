//! Sync as a durable task.

use crate::error::InventoryError;
use crate::service::{Inventory, SYNC_TASK};
use async_trait::async_trait;
use portolan_driver::DriverError;
use portolan_model::PlatformId;
use portolan_storage::{Conflict, StoreError};
use portolan_tasks::{Done, Handler, TaskContext, TaskFailure};
use serde::Deserialize;

/// Runs the task [`SYNC_TASK`].
pub struct SyncHandler {
    inventory: Inventory,
}

#[derive(Deserialize)]
struct Payload {
    platform: PlatformId,
}

impl SyncHandler {
    /// A handler over this inventory.
    pub fn new(inventory: Inventory) -> Self {
        Self { inventory }
    }
}

#[async_trait]
impl Handler for SyncHandler {
    fn kind(&self) -> &'static str {
        SYNC_TASK
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        let payload: Payload = serde_json::from_value(ctx.task().new.payload.clone())
            .map_err(|e| TaskFailure::fatal(format!("the task's payload cannot be read: {e}")))?;
        match self.inventory.sync_platform(payload.platform, Some(ctx.held())).await {
            Ok(report) => Ok(Done::Output(serde_json::to_value(report).unwrap_or_default())),
            Err(e) => Err(failure(e)),
        }
    }
}

/// What an error means for a task on a hypervisor.
pub(crate) fn failure(error: InventoryError) -> TaskFailure {
    match error {
        InventoryError::Store(StoreError::Conflict(Conflict::TaskLost(_))) => TaskFailure::lost(),
        InventoryError::Driver(e) if e.is_transient() => {
            let retry_after = match &e {
                DriverError::Unreachable { retry_after, .. } => *retry_after,
                _ => None,
            };
            TaskFailure { retry_after, ..TaskFailure::transient(e.to_string()) }
        }
        InventoryError::Store(e) => {
            tracing::warn!(error = &e as &dyn std::error::Error, "the store failed during a task");
            TaskFailure::transient("the store failed")
        }
        InventoryError::Tasks(e) => e.into(),
        InventoryError::Driver(e) => TaskFailure::fatal(e.to_string()),
        other => TaskFailure::fatal(other.to_string()),
    }
}
