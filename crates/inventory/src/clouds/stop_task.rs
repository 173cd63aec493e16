//! The task that destroys a node.

use super::known::{ROUNDS, failure, raced, store_failure};
use super::stop::{StopOutput, StopPayload};
use super::task_failure;
use crate::service::Inventory;
use async_trait::async_trait;
use portolan_driver::CloudErrorKind;
use portolan_model::query::Filter;
use portolan_model::{Assignment, Scope, task_kind};
use portolan_storage::{Query, Require, StorageExt, StoreError, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Outcome, TaskContext, TaskFailure};

pub(super) struct StopHandler {
    inventory: Inventory,
}

impl StopHandler {
    pub(super) fn new(inventory: Inventory) -> Self {
        Self { inventory }
    }
}

#[async_trait]
impl Handler for StopHandler {
    fn kind(&self) -> &'static str {
        task_kind::NODE_STOP
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        destroy(&self.inventory, ctx, &payload(ctx)?, "node.stopped").await
    }
}

pub(super) fn payload(ctx: &TaskContext) -> Result<StopPayload, TaskFailure> {
    serde_json::from_value(ctx.task().new.payload.clone())
        .map_err(|e| TaskFailure::fatal(format!("the task's payload cannot be read: {e}")))
}

/// Destroys the node, then writes in one unit that its machine is gone, that nobody holds it any more, and that the
/// task has ended. A node that is gone already counts as destroyed: an earlier attempt may have done it.
pub(super) async fn destroy(
    inventory: &Inventory,
    ctx: &TaskContext,
    payload: &StopPayload,
    event: &str,
) -> Result<Done, TaskFailure> {
    let driver = inventory.cloud_driver(payload.cloud).map_err(failure)?;
    let destroyed = ctx.unless_stopped(async {
        match driver.destroy_node(&payload.node).await {
            Ok(()) => Ok(()),
            Err(e) if e.kind == CloudErrorKind::NotFound => Ok(()),
            Err(e) => Err(task_failure(&e)),
        }
    });
    destroyed.await?;
    for _ in 0..ROUNDS {
        let unit = UnitOfWork::new().require(Require::TaskHeld(ctx.held()));
        let unit = inventory.forget_node_in(unit, payload.cloud, &payload.node).await.map_err(store_failure)?;
        let unit = free_in(inventory, ctx, payload, unit).await.map_err(store_failure)?;
        let new = &ctx.task().new;
        let output = serde_json::to_value(StopOutput { node: payload.node.id.clone() })
            .map_err(|e| TaskFailure::fatal(e.to_string()))?;
        let subject = new.links.vm.map_or(new.id.uuid(), |vm| vm.uuid());
        let data = serde_json::json!({ "platform": payload.cloud, "node": payload.node.id });
        let unit = unit.event_by(&new.origin.name, event, new.tenant, subject, data).finish(Finish {
            held: ctx.held(),
            outcome: Outcome::Succeeded { output },
            next: Vec::new(),
        });
        match inventory.storage.apply_all(ctx.now(), unit).await {
            Ok(_) => return Ok(Done::Settled),
            Err(e) if raced(&e) => {}
            Err(e) => return Err(store_failure(e)),
        }
    }
    Err(TaskFailure::transient("others change the machine all the time"))
}

/// Adds that nobody holds the node any more.
async fn free_in(
    inventory: &Inventory,
    ctx: &TaskContext,
    payload: &StopPayload,
    unit: UnitOfWork,
) -> Result<UnitOfWork, StoreError> {
    if let Some(id) = payload.assignment {
        return Ok(unit.delete::<Assignment>(id));
    }
    let Some(vm) = ctx.task().new.links.vm else { return Ok(unit) };
    let query = Query::matching(Filter::eq("vm", vm.uuid()));
    let held = inventory.storage.list_of::<Assignment>(Scope::All, query).await?.items;
    Ok(held.iter().fold(unit, |unit, a| unit.delete::<Assignment>(a.id)))
}
