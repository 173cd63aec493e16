//! The task that makes a node.
//!
//! The node carries the task's id as its token. An attempt that cannot know what became of an earlier call looks for
//! the token first and adopts what it finds, so that a crash, a time-out or a lost answer makes no second node. A
//! task that fails for good undoes: a node of its token that turns up after all is destroyed.

use super::known::{ROUNDS, failure, raced, store_failure};
use super::start::{StartOutput, StartPayload};
use super::task_failure;
use crate::service::Inventory;
use async_trait::async_trait;
use portolan_driver::{Capability, CloudDriver, CloudDriverExt, CloudErrorKind, CloudNode, CreateNode};
use portolan_model::{Platform, Scope, task_kind};
use portolan_storage::{Require, StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Outcome, TaskContext, TaskFailure};
use std::sync::Arc;

/// The step that is recorded before a provider is asked which would make a second node of a second call.
const ASKED: &str = "asked";

pub(super) struct StartHandler {
    inventory: Inventory,
}

impl StartHandler {
    pub(super) fn new(inventory: Inventory) -> Self {
        Self { inventory }
    }

    async fn made(
        &self,
        ctx: &TaskContext,
        driver: &dyn CloudDriver,
        payload: StartPayload,
    ) -> Result<CloudNode, TaskFailure> {
        let token = ctx.task().new.id.to_string();
        if !driver.capabilities().has(Capability::IdempotentCreate) {
            if ctx.recorded(ASKED).is_some() {
                let found =
                    ctx.unless_stopped(async { driver.node_of_token(&token).await.map_err(|e| task_failure(&e)) });
                if let Some(node) = found.await? {
                    tracing::info!(node = node.id, "a node whose answer was lost is adopted");
                    return Ok(node);
                }
            }
            ctx.step(ASKED, || async { Ok(true) }).await?;
        }
        let wish = CreateNode {
            name: payload.name,
            image: payload.image,
            size: payload.size,
            location: None,
            key_pair: payload.key_pair,
            auth: None,
            metadata: payload.metadata,
            token,
        };
        let created = ctx.unless_stopped(async { driver.create_node(&wish).await.map_err(|e| task_failure(&e)) });
        Ok(created.await?.node)
    }

    /// One unit: the machine is known, its tenant's from the first moment, and the task has ended.
    async fn settle(
        &self,
        ctx: &TaskContext,
        driver: &dyn CloudDriver,
        payload: &StartPayload,
        node: CloudNode,
    ) -> Result<Done, TaskFailure> {
        let inventory = &self.inventory;
        let platform = inventory.storage.fetch::<Platform>(Scope::All, payload.cloud).await.map_err(store_failure)?;
        let new = &ctx.task().new;
        for _ in 0..ROUNDS {
            let unit = UnitOfWork::new().require(Require::TaskHeld(ctx.held()));
            let noted = inventory.note_node_in(unit, &platform, &driver.info(), &node, new.tenant).await;
            let (unit, vm) = noted.map_err(store_failure)?;
            let output = StartOutput { node: node.clone(), vm: vm.id };
            let output = serde_json::to_value(output).map_err(|e| TaskFailure::fatal(e.to_string()))?;
            let data = serde_json::json!({ "platform": platform.name, "node": node.id, "name": node.name });
            let unit = unit
                .event_by(&new.origin.name, "node.started", vm.settings.tenant, vm.id.uuid(), data)
                .finish(Finish { held: ctx.held(), outcome: Outcome::Succeeded { output }, next: Vec::new() });
            match inventory.storage.apply_all(ctx.now(), unit).await {
                Ok(_) => return Ok(Done::Settled),
                // A sync has seen the node at the same time.
                Err(e) if raced(&e) => {}
                Err(e) => return Err(store_failure(e)),
            }
        }
        Err(TaskFailure::transient("others change the machine all the time"))
    }
}

#[async_trait]
impl Handler for StartHandler {
    fn kind(&self) -> &'static str {
        task_kind::NODE_START
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        let payload = payload(ctx)?;
        let driver = self.inventory.cloud_driver(payload.cloud).map_err(failure)?;
        let node = self.made(ctx, &*driver, payload.clone()).await?;
        self.settle(ctx, &*driver, &payload, node).await
    }

    async fn undo(&self, ctx: &TaskContext) -> Result<(), TaskFailure> {
        let payload = payload(ctx)?;
        let driver: Arc<dyn CloudDriver> = self.inventory.cloud_driver(payload.cloud).map_err(failure)?;
        let found = driver.node_of_token(&ctx.task().new.id.to_string()).await.map_err(|e| task_failure(&e))?;
        let Some(node) = found else { return Ok(()) };
        tracing::info!(node = node.id, "a node that nobody waits for any more is destroyed");
        match driver.destroy_node(&node.reference()).await {
            Ok(()) => Ok(()),
            Err(e) if e.kind == CloudErrorKind::NotFound => Ok(()),
            Err(e) => Err(task_failure(&e)),
        }
    }

    fn undoes(&self) -> bool {
        true
    }
}

fn payload(ctx: &TaskContext) -> Result<StartPayload, TaskFailure> {
    serde_json::from_value(ctx.task().new.payload.clone())
        .map_err(|e| TaskFailure::fatal(format!("the task's payload cannot be read: {e}")))
}
