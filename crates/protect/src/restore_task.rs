//! RESTORE and IMPORT.

use crate::cleanup::ROUNDS;
use crate::error::ProtectError;
use crate::export_task::VM_ATTACHMENT;
use crate::handlers::{DiskProgress, failure, payload, unless_stopped};
use crate::restore::{RestoreDisk, RestorePayload};
use crate::service::{EXPORT_WINDOW, Protect, millis};
use async_trait::async_trait;
use portolan_driver::{DiskImport, DriverError, ImportRequest, ImportSession, NativeVm, PowerAction, PowerRequest};
use portolan_model::backup::BackupStatus;
use portolan_model::external::{ExternalKind, ExternalRef};
use portolan_model::vm::{VmObserved, VmProtection, VmSettings};
use portolan_model::*;
use portolan_repository::{BackupRepository, RepoError, copy_disk};
use portolan_storage::{Conflict, Require, StorageExt, StoreError, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Json, NewTask, Outcome, TaskContext, TaskFailure, TaskLinks};

pub(crate) struct RestoreHandler(pub(crate) Protect);
pub(crate) struct ImportHandler(pub(crate) Protect);

/// The step that an IMPORT records before it asks the platform to make the machine.
pub(crate) const COMMITTING: &str = "committing";
/// The step that it records when the platform has refused.
pub(crate) const REFUSED: &str = "refused";

#[async_trait]
impl Handler for RestoreHandler {
    fn kind(&self) -> &'static str {
        task_kind::RESTORE
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_restore(ctx).await.map_err(|e| failure(ctx, e))
    }
}

#[async_trait]
impl Handler for ImportHandler {
    fn kind(&self) -> &'static str {
        task_kind::IMPORT
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_import(ctx).await.map_err(|e| failure(ctx, e))
    }
}

impl Protect {
    async fn run_restore(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: RestorePayload = payload(ctx)?;
        let started = self.clock.now();
        let due = ctx.task().new.run_at.max(ctx.task().created);
        self.storage
            .change::<RestoreJob, _>(started, Scope::All, job.job, |j| {
                j.status = BackupStatus::InProgress;
                j.queued_restore_ms = millis(due, started);
                Some(UnitOfWork::new().require(Require::TaskHeld(ctx.held())))
            })
            .await?;

        let written = unless_stopped(ctx, self.write_disks(ctx, &job)).await?;
        self.settle_restore(ctx, &job, started, written).await
    }

    /// Writes every disk, and answers how many bytes of data they had.
    async fn write_disks(&self, ctx: &TaskContext, job: &RestorePayload) -> Result<u64, ProtectError> {
        let repository = self.repositories.get(job.destination)?;
        let template = self.template(job.point, &*repository).await?;
        let import = self.begin_import(ctx, job, template).await?;
        let total: u64 = job.disks.iter().map(|d| d.size_bytes).sum();
        let (mut before, mut written) = (0, 0);
        for disk in job.disks.iter().filter(|d| !d.empty) {
            let source = repository.open_disk(job.point, &disk.name).await?;
            let sink = import.disk(&disk.name).await?;
            let observer = DiskProgress::new(ctx, before, total, format!("writing {}", disk.name));
            written += copy_disk(&*source, &*sink, &observer).await?;
            before += disk.size_bytes;
        }
        Ok(written)
    }

    /// Ends the RESTORE and enqueues the IMPORT.
    async fn settle_restore(
        &self,
        ctx: &TaskContext,
        job: &RestorePayload,
        started: Timestamp,
        written: u64,
    ) -> Result<Done, ProtectError> {
        let now = self.clock.now();
        let restore = &ctx.task().new;
        let payload = serde_json::to_value(RestorePayload { ready: Some(now), ..job.clone() }).unwrap_or_default();
        let links = TaskLinks { parent: Some(restore.id), ..restore.links.clone() };
        let next = NewTask {
            priority: restore.priority,
            start_by: Some(now + EXPORT_WINDOW),
            payload: payload.clone(),
            on_failure: Some(Box::new(self.restore_cleanup(restore.chain, restore.tenant, payload))),
            origin: restore.origin.clone(),
            ..self.link(task_kind::IMPORT, restore.chain, restore.tenant, links)
        };
        self.storage
            .change::<RestoreJob, _>(now, Scope::All, job.job, |j| {
                j.restore_ms = millis(started, now);
                Some(UnitOfWork::new().finish(Finish {
                    held: ctx.held(),
                    outcome: Outcome::Succeeded { output: serde_json::json!({ "written_bytes": written }) },
                    next: vec![next.clone()],
                }))
            })
            .await?;
        Ok(Done::Settled)
    }

    async fn run_import(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: RestorePayload = payload(ctx)?;
        let started = self.clock.now();
        if job.overwrite {
            self.check_overwrite(job.scope, job.platform, &job.name).await?;
        }
        let repository = self.repositories.get(job.destination)?;
        let template = self.template(job.point, &*repository).await?;
        let import = self.begin_import(ctx, &job, template).await?;
        if job.power_off {
            self.turn_off(&job).await?;
        }
        ctx.progress(0, 1, "importing");
        self.storage.step(self.clock.now(), ctx.held(), COMMITTING, Json::Bool(true)).await?;
        // A commit that went through before a crash answers the same machine again.
        match import.commit().await {
            Ok(made) => self.settle_import(ctx, &job, &made, started).await,
            Err(e) => {
                if !e.is_transient() {
                    self.storage.step(self.clock.now(), ctx.held(), REFUSED, Json::Bool(true)).await?;
                }
                Err(e.into())
            }
        }
    }

    /// Pulls the plug of the machine that the import replaces, now that everything is there to take its place.
    async fn turn_off(&self, job: &RestorePayload) -> Result<(), ProtectError> {
        let driver = self.hypervisors.get(job.platform)?;
        for vm in self.machines_named(job.platform, &job.name).await? {
            let (vm, incarnation) = (vm.external.native_id.clone(), vm.external.incarnation.clone());
            match driver.power(PowerRequest { vm, incarnation, action: PowerAction::Off }).await {
                // One that is gone needs nothing; a platform that turns nothing off says itself whether it replaces.
                Ok(()) | Err(DriverError::NotFound { .. } | DriverError::Unsupported(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Ends the IMPORT: the job knows its machine, which belongs to the tenant whose backup it was, and a sync lists
    /// it.
    async fn settle_import(
        &self,
        ctx: &TaskContext,
        job: &RestorePayload,
        made: &NativeVm,
        started: Timestamp,
    ) -> Result<Done, ProtectError> {
        let sync = self.sync_link(ctx, job.platform);
        let mut round = 0;
        loop {
            let now = self.clock.now();
            let mut row = self.storage.fetch::<RestoreJob>(Scope::All, job.job).await?;
            let (vm, unit) = self.adopt(now, job.platform, row.tenant, made).await?;
            row.value.status = BackupStatus::Success;
            row.value.finished = Some(now);
            row.value.target_vm = Some(vm);
            row.value.queued_import_ms = millis(job.ready.unwrap_or(started), started);
            row.value.import_ms = millis(started, now);
            let output = serde_json::json!({ "native_id": made.native_id, "name": made.name });
            let unit = unit
                .update(&row)
                .finish(Finish { held: ctx.held(), outcome: Outcome::Succeeded { output }, next: vec![sync.clone()] })
                .event(
                    "restore.succeeded",
                    row.tenant,
                    row.id.uuid(),
                    serde_json::json!({ "vm": row.vm, "name": made.name }),
                );
            match self.storage.apply_all(now, unit).await {
                Ok(_) => return Ok(Done::Settled),
                // Somebody changed the job, or a sync saw the machine first.
                Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })) if round < ROUNDS => {
                    round += 1;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Gives a machine that was just made to its tenant: before any sync lists it, so that it is never anybody
    /// else's. What the platform says of it is the sync's to write.
    pub(crate) async fn adopt(
        &self,
        now: Timestamp,
        platform: PlatformId,
        tenant: Option<TenantId>,
        made: &NativeVm,
    ) -> Result<(VmId, UnitOfWork), ProtectError> {
        let (native_id, incarnation) = (made.native_id.clone(), made.incarnation.clone());
        let external = ExternalRef { platform, kind: ExternalKind::Vm, native_id, incarnation };
        let key = format!("external:{}", external.key());
        if let Some(mut vm) = self.storage.find_by_key::<VirtualMachine>(Scope::All, &key).await? {
            if vm.settings.tenant.is_some() || tenant.is_none() {
                return Ok((vm.id, UnitOfWork::new()));
            }
            vm.value.settings.tenant = tenant;
            return Ok((vm.id, UnitOfWork::new().update(&vm)));
        }
        let platform = self.storage.fetch::<Platform>(Scope::All, platform).await?;
        let vm = VirtualMachine {
            id: VmId::from_uuid(self.ids.uuid()),
            external,
            created: now,
            observed: VmObserved {
                name: Name::lossy(&made.name, "virtual machine"),
                present: true,
                missed: 0,
                platform: platform.id,
                platform_name: platform.name.to_string(),
                host: None,
                host_name: String::new(),
                cluster: None,
                cluster_name: String::new(),
                power: made.power,
                disks: Vec::new(),
                nics: Vec::new(),
                cpus: made.cpus,
                memory_bytes: made.memory_bytes,
                tags: Vec::new(),
                last_seen: now,
            },
            settings: VmSettings { tenant, ..VmSettings::default() },
            protection: VmProtection::default(),
        };
        Ok((vm.id, UnitOfWork::new().create(&vm)))
    }

    /// The machine as it was backed up.
    pub(crate) async fn template(
        &self,
        point: RecoveryPointId,
        repository: &dyn BackupRepository,
    ) -> Result<Option<NativeVm>, ProtectError> {
        match repository.attachment(point, VM_ATTACHMENT).await {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(RepoError::NotFound { what: "attachment", .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens the import of a chain, or goes on with it: every link asks for the same.
    pub(crate) async fn begin_import(
        &self,
        ctx: &TaskContext,
        job: &RestorePayload,
        template: Option<NativeVm>,
    ) -> Result<Box<dyn ImportSession>, ProtectError> {
        let request = ImportRequest {
            token: ctx.task().new.chain.to_string(),
            fence: ctx.held().fence,
            name: job.name.clone(),
            template,
            cluster: job.cluster.clone(),
            host: job.host.clone(),
            datastore: job.datastore.clone(),
            overwrite: job.overwrite,
            disks: imports(&job.disks),
        };
        Ok(self.hypervisors.get(job.platform)?.begin_import(request).await?)
    }

    /// A sync of the platform that begins after now, so that what has changed there is listed.
    pub(crate) fn sync_link(&self, ctx: &TaskContext, platform: PlatformId) -> NewTask {
        let this = &ctx.task().new;
        let links = TaskLinks { platform: Some(platform), ..TaskLinks::default() };
        NewTask {
            payload: serde_json::json!({ "platform": platform }),
            unique_key: Some(format!("{}:{platform}:after:{}", task_kind::INVENTORY_SYNC, this.chain)),
            limits: vec![portolan_tasks::Limit { key: format!("sync:{platform}"), max: 1 }],
            origin: this.origin.clone(),
            ..self.link(task_kind::INVENTORY_SYNC, this.chain, None, links)
        }
    }
}

/// The disks as a platform is asked for them.
pub(crate) fn imports(disks: &[RestoreDisk]) -> Vec<DiskImport> {
    let disk = |d: &RestoreDisk| DiskImport {
        name: d.name.clone(),
        size_bytes: d.size_bytes,
        datastore: d.datastore.clone(),
        format: None,
    };
    disks.iter().map(disk).collect()
}
