//! The tasks of machines: power and snapshots.

use crate::error::InventoryError;
use crate::handler::failure;
use crate::machines::{MachinePayload, MachineWork};
use crate::service::{Inventory, sync_task};
use async_trait::async_trait;
use portolan_driver::{
    AbandonedMove, DriverError, HomeProgress, Hypervisor, MachineSnapshot, MoveRequest, PowerRequest, SnapshotRef,
    SnapshotRequest,
};
use portolan_model::*;
use portolan_storage::{StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Json, Outcome, TaskContext, TaskFailure};
use std::sync::Arc;

/// The handlers of everything that is done with machines.
pub fn machine_handlers(inventory: &Inventory) -> Vec<Arc<dyn Handler>> {
    [task_kind::POWER, task_kind::SNAPSHOT, task_kind::SNAPSHOT_REVERSION, task_kind::SNAPSHOT_REMOVAL, task_kind::MOVE]
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
        let payload = payload(ctx)?;
        tokio::select! {
            biased;
            done = self.inventory.work_on(ctx, &payload) => done.map_err(failure),
            // What was asked of the platform goes on there, or does not: the listing after it says.
            () = ctx.cancel_token().cancelled() => Err(TaskFailure::cancelled()),
        }
    }

    async fn undo(&self, ctx: &TaskContext) -> Result<(), TaskFailure> {
        self.inventory.abandon_move(ctx, &payload(ctx)?).await.map_err(failure)
    }

    fn undoes(&self) -> bool {
        self.kind == task_kind::MOVE
    }
}

fn payload(ctx: &TaskContext) -> Result<MachinePayload, TaskFailure> {
    serde_json::from_value(ctx.task().new.payload.clone())
        .map_err(|e| TaskFailure::fatal(format!("the task's payload cannot be read: {e}")))
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

    /// Removes what a move left that did not end well: the machine is where it was.
    async fn abandon_move(&self, ctx: &TaskContext, job: &MachinePayload) -> Result<(), InventoryError> {
        let Some(vm) = self.storage.find::<VirtualMachine>(Scope::All, job.vm).await? else { return Ok(()) };
        let abandoned = AbandonedMove {
            vm: vm.external.native_id.clone(),
            incarnation: vm.external.incarnation.clone(),
            token: ctx.task().new.chain.to_string(),
            fence: ctx.held().fence,
        };
        match self.drivers.hypervisors.get(vm.observed.platform)?.abandon_move(abandoned).await {
            // There is nothing to let go of, or nothing can be.
            Ok(()) | Err(DriverError::NotFound { .. } | DriverError::Unsupported(_)) => Ok(()),
            Err(e) => Err(e.into()),
        }
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
        MachineWork::Move { datastore } => {
            let token = ctx.task().new.chain.to_string();
            let fence = ctx.held().fence;
            let request = MoveRequest { vm: native_id, incarnation, token, fence, datastore: datastore.clone() };
            let observer = |p: HomeProgress| {
                let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                ctx.progress(clamp(p.done), clamp(p.total), "moving the disks");
            };
            driver.move_machine(request, &observer).await?;
            Ok(("machine.moved", serde_json::json!({ "datastore": datastore })))
        }
        MachineWork::Remove { snapshot } => {
            driver.delete_snapshot(named(snapshot)).await?;
            Ok(("machine.snapshot_removed", serde_json::json!({ "snapshot": snapshot })))
        }
    }
}
