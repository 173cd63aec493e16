//! The tasks of machines: power and snapshots.

use crate::error::InventoryError;
use crate::handler::failure;
use crate::machines::{MachinePayload, MachineWork};
use crate::service::{Inventory, sync_task};
use async_trait::async_trait;
use portolan_driver::{Hypervisor, MachineSnapshot, PowerRequest, SnapshotRef, SnapshotRequest};
use portolan_model::*;
use portolan_storage::{StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Json, Outcome, TaskContext, TaskFailure};
use std::sync::Arc;

/// The handlers of everything that is done with machines.
pub fn machine_handlers(inventory: &Inventory) -> Vec<Arc<dyn Handler>> {
    [task_kind::POWER, task_kind::SNAPSHOT, task_kind::SNAPSHOT_REVERSION, task_kind::SNAPSHOT_REMOVAL]
        .into_iter()
        .map(|kind| Arc::new(MachineHandler { inventory: inventory.clone(), kind }) as Arc<dyn Handler>)
        .collect()
}

struct MachineHandler {
    inventory: Inventory,
    kind: &'static str,
}

#[async_trait]
impl Handler for MachineHandler {
    fn kind(&self) -> &'static str {
        self.kind
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        let payload: MachinePayload = serde_json::from_value(ctx.task().new.payload.clone())
            .map_err(|e| TaskFailure::fatal(format!("the task's payload cannot be read: {e}")))?;
        tokio::select! {
            biased;
            done = self.inventory.work_on(ctx, &payload) => done.map_err(failure),
            // What was asked of the platform goes on there, or does not: the listing after it says.
            () = ctx.cancel_token().cancelled() => Err(TaskFailure::cancelled()),
        }
    }
}

impl Inventory {
    async fn work_on(&self, ctx: &TaskContext, job: &MachinePayload) -> Result<Done, InventoryError> {
        let vm = self.storage.fetch::<VirtualMachine>(Scope::All, job.vm).await?.value;
        let driver = self.drivers.hypervisors.get(vm.observed.platform)?;
        let (what, output) = work(ctx, &*driver, &vm, &job.work).await?;
        let this = &ctx.task().new;
        let sync = sync_task(
            TaskId::from_uuid(self.ids.uuid()),
            self.clock.now(),
            vm.observed.platform,
            this.chain,
            this.origin.clone(),
        );
        let finish =
            Finish { held: ctx.held(), outcome: Outcome::Succeeded { output: output.clone() }, next: vec![sync] };
        let unit = UnitOfWork::new().finish(finish).event(what, vm.settings.tenant, vm.id.uuid(), output);
        self.storage.apply_all(self.clock.now(), unit).await?;
        Ok(Done::Settled)
    }
}

/// Does it, and answers what to call it and what came of it.
async fn work(
    ctx: &TaskContext,
    driver: &dyn Hypervisor,
    vm: &VirtualMachine,
    work: &MachineWork,
) -> Result<(&'static str, Json), InventoryError> {
    let (native_id, incarnation) = (vm.external.native_id.clone(), vm.external.incarnation.clone());
    let named = |snapshot: &str| SnapshotRef {
        vm: native_id.clone(),
        incarnation: incarnation.clone(),
        snapshot: snapshot.to_owned(),
    };
    match work {
        MachineWork::Power(wish) => {
            driver.power(PowerRequest { vm: native_id, incarnation, action: (*wish).into() }).await?;
            Ok(("machine.power", serde_json::json!({ "power": wish })))
        }
        MachineWork::Snapshot { name, memory } => {
            let request = SnapshotRequest {
                vm: native_id,
                incarnation,
                token: ctx.task().new.chain.to_string(),
                name: name.clone(),
                memory: *memory,
            };
            let MachineSnapshot { native_id, name, .. } = driver.create_snapshot(request).await?;
            Ok(("machine.snapshot", serde_json::json!({ "snapshot": native_id, "name": name })))
        }
        MachineWork::Revert { snapshot } => {
            driver.revert_snapshot(named(snapshot)).await?;
            Ok(("machine.reverted", serde_json::json!({ "snapshot": snapshot })))
        }
        MachineWork::Remove { snapshot } => {
            driver.delete_snapshot(named(snapshot)).await?;
            Ok(("machine.snapshot_removed", serde_json::json!({ "snapshot": snapshot })))
        }
    }
}
