//! RESTORE and IMPORT. And what cleans up when a restore chain does not end well.

use crate::error::ProtectError;
use crate::export_task::VM_ATTACHMENT;
use crate::handlers::{DiskProgress, failure, payload};
use crate::restore::RestorePayload;
use crate::service::{EXPORT_WINDOW, Protect, millis};
use async_trait::async_trait;
use portolan_driver::{DiskImport, DriverError, ImportRequest, ImportSession, NativeVm};
use portolan_model::backup::BackupStatus;
use portolan_model::*;
use portolan_repository::{BackupRepository, PointManifest, RepoError, copy_disk};
use portolan_storage::{Require, StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, NewTask, Outcome, TaskContext, TaskFailure, TaskLinks};

pub(crate) struct RestoreHandler(pub(crate) Protect);
pub(crate) struct ImportHandler(pub(crate) Protect);
pub(crate) struct RestoreCleanupHandler(pub(crate) Protect);

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

#[async_trait]
impl Handler for RestoreCleanupHandler {
    fn kind(&self) -> &'static str {
        task_kind::RESTORE_CLEANUP
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_restore_cleanup(ctx).await.map_err(|e| failure(ctx, e))
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

        let point = self.point_row(Scope::All, job.point).await?;
        let repository = self.repositories.get(job.destination)?;
        let manifest = repository.point(job.point).await?;
        let import = self.begin_import(ctx, &job, &point, &*repository, &manifest).await?;
        let wanted: Vec<_> = manifest.disks.iter().filter(|d| !excluded(&job, &d.name)).collect();
        let total: u64 = wanted.iter().map(|d| d.stats.size_bytes).sum();
        let (mut before, mut written) = (0, 0);
        for disk in wanted {
            let source = repository.open_disk(job.point, &disk.name).await?;
            let sink = import.disk(&disk.name).await?;
            let observer = DiskProgress::new(ctx, before, total, format!("writing {}", disk.name));
            written += copy_disk(&*source, &*sink, &observer).await?;
            sink.flush().await.map_err(DriverError::from)?;
            before += disk.stats.size_bytes;
        }
        self.settle_restore(ctx, &job, started, written).await
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
        let payload =
            serde_json::to_value(RestorePayload { ready: Some(now), ..job.clone() }).unwrap_or_default();
        let links = TaskLinks { parent: Some(restore.id), ..restore.links.clone() };
        let next = NewTask {
            priority: restore.priority,
            start_by: Some(now + EXPORT_WINDOW),
            payload: payload.clone(),
            on_failure: Some(Box::new(self.restore_cleanup(restore.chain, restore.tenant, job.platform, payload))),
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
        let point = self.point_row(Scope::All, job.point).await?;
        let repository = self.repositories.get(job.destination)?;
        let manifest = repository.point(job.point).await?;
        let import = self.begin_import(ctx, &job, &point, &*repository, &manifest).await?;
        ctx.progress(0, 1, "importing");
        // A commit that went through before a crash answers the same machine again.
        let made = import.commit().await?;
        let now = self.clock.now();
        let sync = self.sync_link(ctx, job.platform);
        self.storage
            .change::<RestoreJob, _>(now, Scope::All, job.job, |j| {
                j.status = BackupStatus::Success;
                j.finished = Some(now);
                j.queued_import_ms = millis(job.ready.unwrap_or(started), started);
                j.import_ms = millis(started, now);
                Some(
                    UnitOfWork::new()
                        .finish(Finish {
                            held: ctx.held(),
                            outcome: Outcome::Succeeded {
                                output: serde_json::json!({ "native_id": made.native_id, "name": made.name }),
                            },
                            next: vec![sync.clone()],
                        })
                        .event(
                            "restore.succeeded",
                            j.tenant,
                            j.id.uuid(),
                            serde_json::json!({ "vm": j.vm, "name": made.name }),
                        ),
                )
            })
            .await?;
        Ok(Done::Settled)
    }

    /// Opens the import of a chain, or goes on with it. RESTORE and IMPORT build the same request.
    async fn begin_import(
        &self,
        ctx: &TaskContext,
        job: &RestorePayload,
        point: &RecoveryPoint,
        repository: &dyn BackupRepository,
        manifest: &PointManifest,
    ) -> Result<Box<dyn ImportSession>, ProtectError> {
        let template: Option<NativeVm> = match repository.attachment(job.point, VM_ATTACHMENT).await {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            Err(RepoError::NotFound { .. }) => None,
            Err(e) => return Err(e.into()),
        };
        let target = |name: &str| job.disks.iter().find(|t| t.name == name);
        let native_store = |name: &str| {
            let disk = template.as_ref().and_then(|t| t.disks.iter().find(|d| d.name == name));
            // A datastore of the original machine means something on the original platform only.
            disk.and_then(|d| d.datastore.clone()).filter(|_| job.platform == point.platform && job.host.is_none() && job.cluster.is_none())
        };
        let backed_up = manifest.disks.iter().map(|d| (d.name.clone(), d.stats.size_bytes));
        let left_out = point.disks.iter().filter(|d| d.excluded).map(|d| (d.name.clone(), d.size_bytes));
        let disks = backed_up
            .chain(left_out)
            .filter(|(name, _)| !excluded(job, name))
            .map(|(name, size_bytes)| DiskImport {
                datastore: target(&name)
                    .and_then(|t| t.datastore.clone())
                    .or_else(|| job.datastore.clone())
                    .or_else(|| native_store(&name)),
                name,
                size_bytes,
                format: None,
            })
            .collect();
        let driver = self.hypervisors.get(job.platform)?;
        let import = driver
            .begin_import(ImportRequest {
                token: ctx.task().new.chain.to_string(),
                fence: ctx.held().fence,
                name: job.name.clone(),
                template,
                cluster: job.cluster.clone(),
                host: job.host.clone(),
                datastore: job.datastore.clone(),
                overwrite: job.overwrite,
                disks,
            })
            .await?;
        Ok(import)
    }

    /// The import of a chain, as its links opened it.
    async fn reopen_import(
        &self,
        ctx: &TaskContext,
        job: &RestorePayload,
    ) -> Result<Box<dyn ImportSession>, ProtectError> {
        let point = self.point_row(Scope::All, job.point).await?;
        let repository = self.repositories.get(job.destination)?;
        let manifest = repository.point(job.point).await?;
        self.begin_import(ctx, job, &point, &*repository, &manifest).await
    }

    /// A sync of the platform, so that the new machine is listed.
    fn sync_link(&self, ctx: &TaskContext, platform: PlatformId) -> NewTask {
        let import = &ctx.task().new;
        let links = TaskLinks { platform: Some(platform), ..TaskLinks::default() };
        NewTask {
            payload: serde_json::json!({ "platform": platform }),
            unique_key: Some(format!("{}:{platform}:after:{}", task_kind::INVENTORY_SYNC, import.chain)),
            limits: vec![portolan_tasks::Limit { key: format!("sync:{platform}"), max: 1 }],
            origin: import.origin.clone(),
            ..self.link(task_kind::INVENTORY_SYNC, import.chain, None, links)
        }
    }

    /// The task that cleans up after a restore chain that did not end well.
    pub(crate) fn restore_cleanup(
        &self,
        chain: ChainId,
        tenant: Option<TenantId>,
        platform: PlatformId,
        payload: serde_json::Value,
    ) -> NewTask {
        let links = TaskLinks { platform: Some(platform), ..TaskLinks::default() };
        let link = self.link(task_kind::RESTORE_CLEANUP, chain, tenant, links);
        NewTask { payload, limits: Vec::new(), max_attempts: i32::MAX, priority: 100, ..link }
    }

    async fn run_restore_cleanup(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: RestorePayload = payload(ctx)?;
        let why = self.why_failed(ctx.task().new.chain).await?;
        match self.reopen_import(ctx, &job).await {
            Ok(import) => import.abort().await?,
            // Nothing was begun, or nothing can be: then there is nothing to drop.
            Err(ProtectError::Driver(
                DriverError::Unsupported(_)
                | DriverError::NotFound { .. }
                | DriverError::Conflict(_)
                | DriverError::Malformed(_),
            )) => {}
            Err(ProtectError::Repository(RepoError::NotFound { .. } | RepoError::Corrupt { .. })) => {}
            Err(e) => return Err(e),
        }
        let now = self.clock.now();
        self.storage
            .change::<RestoreJob, _>(now, Scope::All, job.job, |j| {
                j.status = BackupStatus::Failed;
                j.status_info.clone_from(&why);
                j.finished = Some(now);
                Some(UnitOfWork::new().finish(Finish {
                    held: ctx.held(),
                    outcome: Outcome::Succeeded { output: serde_json::Value::Null },
                    next: Vec::new(),
                }))
            })
            .await?;
        Ok(Done::Settled)
    }
}

fn excluded(job: &RestorePayload, disk: &str) -> bool {
    job.disks.iter().any(|t| t.name == disk && t.excluded)
}
