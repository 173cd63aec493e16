//! CLONE: a second machine with what a machine's disks hold at one moment, whether it runs or not.

use crate::cleanup::again;
use crate::error::ProtectError;
use crate::export_task::names_of;
use crate::handlers::{DiskProgress, failure, payload, unless_stopped};
use crate::restore::{RestoreDisk, check_priority};
use crate::restore_task::imports;
use crate::service::{EXPORT_WINDOW, Protect, origin_of};
use async_trait::async_trait;
use portolan_driver::{
    AbandonedExport, DriverError, ExportRequest, ExportSession, ImportRequest, ImportSession, NativeVm,
};
use portolan_model::*;
use portolan_repository::copy_disk;
use portolan_storage::{Conflict, StorageExt, StoreError};
use portolan_tasks::{Done, Finish, Handler, Json, NewTask, Outcome, Task, TaskContext, TaskFailure, TaskLinks};
use serde::{Deserialize, Serialize};

/// The step that is recorded when all disks are written, with the machine as the platform described it: from then on
/// nothing is read again.
const COPIED: &str = "copied";

pub(crate) struct CloneHandler(pub(crate) Protect);
pub(crate) struct CloneCleanupHandler(pub(crate) Protect);

/// A machine to make a second one of.
#[derive(Debug, Clone, PartialEq)]
pub struct CloneRequest {
    /// The machine.
    pub vm: VmId,
    /// The new machine's name; another machine of that name stands against it.
    pub name: Name,
    /// The platform's own id of the datastore; nothing leaves each disk where the machine has its own.
    pub datastore: Option<String>,
    /// 0 to 100.
    pub priority: i16,
}

#[derive(Clone, Serialize, Deserialize)]
struct ClonePayload {
    vm: VmId,
    platform: PlatformId,
    native_id: String,
    incarnation: String,
    name: String,
    datastore: Option<String>,
    /// The machine's disks by their native ids, and what is made of them. Decided once.
    disks: Vec<(String, RestoreDisk)>,
}

impl ClonePayload {
    fn import(&self, ctx: &TaskContext, template: Option<NativeVm>) -> ImportRequest {
        let disks: Vec<RestoreDisk> = self.disks.iter().map(|(_, disk)| disk.clone()).collect();
        ImportRequest {
            token: ctx.task().new.chain.to_string(),
            fence: ctx.held().fence,
            name: self.name.clone(),
            template,
            cluster: None,
            host: None,
            datastore: self.datastore.clone(),
            overwrite: false,
            disks: imports(&disks),
        }
    }
}

#[async_trait]
impl Handler for CloneHandler {
    fn kind(&self) -> &'static str {
        task_kind::CLONE
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_clone(ctx).await.map_err(|e| failure(ctx, e))
    }
}

#[async_trait]
impl Handler for CloneCleanupHandler {
    fn kind(&self) -> &'static str {
        task_kind::CLONE_CLEANUP
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_clone_cleanup(ctx).await.map_err(|e| again(failure(ctx, e)))
    }
}

impl Protect {
    /// Asks for a clone of a machine on its own platform. The clone is its owner's from the beginning, is off, and has
    /// network addresses of its own. A request that its sender named is carried out once.
    pub async fn clone_vm(&self, caller: &Caller, request: CloneRequest) -> Result<Task, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        caller.require(Privilege::Restore)?;
        check_priority(request.priority)?;
        let begins = self.begins(caller);
        let id = begins.id("clone.task", request.vm);
        if begins.may_repeat()
            && let Some(task) = self.tasks_there(caller.scope, &[id]).await?.pop()
        {
            return Ok(task);
        }
        let vm = self.vm(caller.scope, request.vm).await?;
        if !vm.observed.present {
            return Err(ProtectError::Conflict(format!("the machine '{}' is gone", vm.observed.name)));
        }
        if let Some(bad) = vm.observed.disks.iter().find(|d| !d.supported) {
            let text = format!("the disk '{}' of '{}' cannot be read", bad.name, vm.observed.name);
            return Err(ProtectError::Conflict(text));
        }
        let platform = self.storage.fetch::<Platform>(Scope::All, vm.observed.platform).await?.value;
        self.require_capability(&platform, |can| can.import, "makes no machines out of disks")?;
        self.check_places(caller, platform.id, request.datastore.iter(), None).await?;
        if !self.machines_named(platform.id, request.name.as_str()).await?.is_empty() {
            return Err(ProtectError::Conflict(format!("a machine '{}' is there already", request.name)));
        }
        let now = self.clock.now();
        let chain = begins.id("clone.chain", vm.id);
        let payload = ClonePayload {
            vm: vm.id,
            platform: platform.id,
            native_id: vm.external.native_id.clone(),
            incarnation: vm.external.incarnation.clone(),
            name: request.name.to_string(),
            datastore: request.datastore.clone(),
            disks: self.clone_disks(&vm, request.datastore.as_ref()).await?,
        };
        let links = TaskLinks {
            vm: Some(vm.id),
            vm_name: vm.observed.name.to_string(),
            platform: Some(platform.id),
            target_name: request.name.to_string(),
            ..TaskLinks::default()
        };
        let payload = serde_json::to_value(payload).unwrap_or_default();
        let clean_up = TaskLinks { platform: Some(platform.id), ..TaskLinks::default() };
        let tenant = vm.settings.tenant;
        let clean_up = self.cleanup_link(task_kind::CLONE_CLEANUP, chain, tenant, payload.clone(), clean_up);
        let task = NewTask {
            id,
            priority: request.priority,
            start_by: Some(now + EXPORT_WINDOW),
            payload,
            on_failure: Some(Box::new(clean_up)),
            origin: origin_of(caller),
            ..self.link(task_kind::CLONE, chain, tenant, links)
        };
        self.storage.enqueue(now, vec![task]).await?;
        let task = self.tasks_of(caller.scope, &[id]).await?.pop();
        task.ok_or(ProtectError::NotFound { kind: "task", id: id.uuid() })
    }

    async fn clone_disks(
        &self,
        vm: &VirtualMachine,
        datastore: Option<&String>,
    ) -> Result<Vec<(String, RestoreDisk)>, ProtectError> {
        let disks = &vm.observed.disks;
        let ids: Vec<DatastoreId> = disks.iter().filter_map(|d| d.datastore).collect();
        let stores = self.storage.find_all::<Datastore>(Scope::All, &ids).await?;
        let names = names_of(disks.iter().map(|d| (d.native_id.as_str(), d.name.as_str())));
        let disk = |d: &Disk| {
            let own = stores.iter().find(|s| Some(s.id) == d.datastore).map(|s| s.external.native_id.clone());
            let made = RestoreDisk {
                name: names.get(d.native_id.as_str()).cloned().unwrap_or_else(|| d.name.clone()),
                size_bytes: d.size_bytes,
                datastore: datastore.cloned().or(own),
                empty: false,
            };
            (d.native_id.clone(), made)
        };
        Ok(disks.iter().map(disk).collect())
    }

    async fn run_clone(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: ClonePayload = payload(ctx)?;
        let driver = self.hypervisors.get(job.platform)?;
        let template = match ctx.recorded(COPIED) {
            Some(known) => serde_json::from_value(known).ok(),
            None => Some(unless_stopped(ctx, self.copy_machine(ctx, &job)).await?),
        };
        let import = driver.begin_import(job.import(ctx, template)).await?;
        ctx.progress(0, 0, "making the machine");
        // A commit that went through before a crash answers the same machine again.
        let made = import.commit().await?;
        self.settle_clone(ctx, &job, &made).await
    }

    /// Writes every disk as of one moment, and answers what the machine is like.
    async fn copy_machine(&self, ctx: &TaskContext, job: &ClonePayload) -> Result<NativeVm, ProtectError> {
        let driver = self.hypervisors.get(job.platform)?;
        let request = ExportRequest {
            vm: job.native_id.clone(),
            incarnation: job.incarnation.clone(),
            disks: Some(job.disks.iter().map(|(id, _)| id.clone()).collect()),
            token: ctx.task().new.chain.to_string(),
            fence: ctx.held().fence,
            since: None,
            keep: self.checkpoints_of(job.vm).await?,
            quiesce: true,
        };
        let export = driver.open_export(request).await?;
        let template = export.exported().vm.clone();
        let import = driver.begin_import(job.import(ctx, Some(template.clone()))).await?;
        self.copy_disks(ctx, job, &*export, &*import).await?;
        // Until here the moment held: what was copied is of one.
        export.release(false).await?;
        let known = serde_json::to_value(&template).unwrap_or_default();
        self.storage.step(self.clock.now(), ctx.held(), COPIED, known).await?;
        Ok(template)
    }

    async fn copy_disks(
        &self,
        ctx: &TaskContext,
        job: &ClonePayload,
        export: &dyn ExportSession,
        import: &dyn ImportSession,
    ) -> Result<(), ProtectError> {
        let total: u64 = job.disks.iter().map(|(_, disk)| disk.size_bytes).sum();
        let mut before = 0;
        for (id, disk) in &job.disks {
            let read = export.exported().disks.iter().find(|d| d.native_id == *id);
            let Some(read) = read.filter(|d| d.source.size() == disk.size_bytes) else {
                return Err(ProtectError::Conflict(format!("the disk '{}' has changed: try again", disk.name)));
            };
            let sink = import.disk(&disk.name).await?;
            let observer = DiskProgress::new(ctx, before, total, format!("copying {}", disk.name));
            copy_disk(&*read.source, &*sink, &observer).await?;
            before += disk.size_bytes;
        }
        Ok(())
    }

    async fn settle_clone(&self, ctx: &TaskContext, job: &ClonePayload, made: &NativeVm) -> Result<Done, ProtectError> {
        let this = &ctx.task().new;
        let sync = self.sync_link(ctx, job.platform);
        let mut round = 0;
        loop {
            let now = self.clock.now();
            let (vm, unit) = self.adopt(now, job.platform, this.tenant, made).await?;
            let output = serde_json::json!({ "vm": vm, "native_id": made.native_id, "name": made.name });
            let data = serde_json::json!({ "vm": job.vm, "name": made.name });
            let finish = Finish { held: ctx.held(), outcome: Outcome::Succeeded { output }, next: vec![sync.clone()] };
            let unit = unit.finish(finish).event("machine.cloned", this.tenant, vm.uuid(), data);
            match self.storage.apply_all(now, unit).await {
                Ok(_) => return Ok(Done::Settled),
                // A sync saw the machine first.
                Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. }))
                    if round < crate::cleanup::ROUNDS =>
                {
                    round += 1;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Drops what a clone that did not end well left on the platform: its moment, and its disks.
    async fn run_clone_cleanup(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: ClonePayload = payload(ctx)?;
        let driver = self.hypervisors.get(job.platform)?;
        let nothing = |result: Result<(), DriverError>| match result {
            // Nothing was begun, or nothing can be: then there is nothing to drop.
            Err(
                DriverError::Unsupported(_)
                | DriverError::NotFound { .. }
                | DriverError::Conflict(_)
                | DriverError::Malformed(_),
            ) => Ok(()),
            other => other,
        };
        let export = AbandonedExport {
            vm: job.native_id.clone(),
            incarnation: job.incarnation.clone(),
            token: ctx.task().new.chain.to_string(),
            fence: ctx.held().fence,
        };
        nothing(driver.abandon_export(export).await)?;
        match driver.begin_import(job.import(ctx, None)).await {
            Ok(import) => import.abort().await?,
            Err(e) => nothing(Err(e))?,
        }
        // It may have been made although nobody heard of it.
        Ok(Done::Next { output: Json::Null, next: vec![self.sync_link(ctx, job.platform)] })
    }
}
