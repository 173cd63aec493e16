//! The task that destroys a node which its user gave back.

use super::stop_task::{destroy, payload};
use crate::service::Inventory;
use async_trait::async_trait;
use portolan_model::task_kind;
use portolan_tasks::{Done, Handler, TaskContext, TaskFailure};

pub(super) struct ReleaseHandler {
    inventory: Inventory,
}

impl ReleaseHandler {
    pub(super) fn new(inventory: Inventory) -> Self {
        Self { inventory }
    }
}

#[async_trait]
impl Handler for ReleaseHandler {
    fn kind(&self) -> &'static str {
        task_kind::NODE_RELEASE
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        destroy(&self.inventory, ctx, &payload(ctx)?, "node.released").await
    }
}
