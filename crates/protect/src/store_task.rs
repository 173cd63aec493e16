//! STORE: the commit. And what cleans up when a backup chain does not end well.

use crate::error::ProtectError;
use crate::export::BackupPayload;
use crate::handlers::{failure, payload};
use crate::service::{Protect, millis};
use async_trait::async_trait;
use portolan_model::backup::{BackupStatus, BackupType, CopyStatus};
use portolan_model::describe::Describe;
use portolan_model::query::{Filter, Sort};
use portolan_model::*;
use portolan_repository::{BackupRepository, PointMeta, RepoError, SessionSpec};
use portolan_storage::{Conflict, Require, StorageExt, Stored, StoreError, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, NewTask, Outcome, TaskContext, TaskFailure, TaskLinks, TaskQuery};
use serde::Deserialize;

pub(crate) struct StoreHandler(pub(crate) Protect);
pub(crate) struct BackupCleanupHandler(pub(crate) Protect);

#[derive(Deserialize)]
struct StorePayload {
    #[serde(flatten)]
    job: BackupPayload,
    #[serde(default)]
    checkpoint: Option<String>,
}

#[async_trait]
impl Handler for StoreHandler {
    fn kind(&self) -> &'static str {
        task_kind::STORE
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_store(ctx).await.map_err(|e| failure(ctx, e))
    }
}

#[async_trait]
impl Handler for BackupCleanupHandler {
    fn kind(&self) -> &'static str {
        task_kind::BACKUP_CLEANUP
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_backup_cleanup(ctx).await.map_err(|e| failure(ctx, e))
    }
}

impl Protect {
    async fn run_store(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let StorePayload { job, checkpoint } = payload(ctx)?;
        let started = self.clock.now();
        let point = self.point_row(Scope::All, job.point).await?;
        let repository = self.repositories.get(job.destination)?;
        let session = repository.begin(self.session_spec(&point, ctx.held().fence)?).await?;
        ctx.progress(0, 1, "committing");
        let mut labels = std::collections::BTreeMap::new();
        labels.extend(checkpoint.map(|name| ("checkpoint".to_owned(), name)));
        let meta = PointMeta {
            vm_name: point.vm_name.clone(),
            tenant: point.tenant,
            snapshot_time: point.snapshot_time.unwrap_or(point.created),
            backup_type: point.backup_type.name().to_owned(),
            locked_until: None,
            labels,
        };
        // A commit that went through before a crash answers the same manifest again and writes nothing.
        session.commit(meta).await?;
        self.settle_store(ctx, &job, started).await?;
        if let Err(e) = self.refresh_destination(job.destination).await {
            tracing::warn!(destination = %job.destination, error = %e, "the destination's figures could not be updated");
        }
        Ok(Done::Settled)
    }

    pub(crate) fn session_spec(&self, point: &RecoveryPoint, fence: i64) -> Result<SessionSpec, ProtectError> {
        let id = point.session.ok_or_else(|| ProtectError::Conflict("the export has written nothing".into()))?;
        Ok(SessionSpec { id, fence, point: point.id, vm: point.vm, parent: point.parent })
    }

    /// Backup, copy, machine and task change together.
    async fn settle_store(&self, ctx: &TaskContext, job: &BackupPayload, started: Timestamp) -> Result<(), ProtectError> {
        for round in 0.. {
            let now = self.clock.now();
            let mut point = self.storage.fetch::<RecoveryPoint>(Scope::All, job.point).await?;
            let mut copy = self.storage.fetch::<BackupCopy>(Scope::All, job.copy).await?;
            let vm = self.storage.find::<VirtualMachine>(Scope::All, job.vm).await?;
            point.value.status = BackupStatus::Success;
            point.value.backup_time = Some(now);
            point.value.times.queued_store_ms = millis(job.ready.unwrap_or(started), started);
            point.value.times.store_ms = millis(started, now);
            copy.value.status = CopyStatus::Present;
            let mut unit = UnitOfWork::new().update(&point).update(&copy);
            if let Some(mut vm) = vm {
                note_success(&mut vm, &point.value, now);
                unit = unit.update(&vm);
            }
            let unit = unit
                .finish(Finish {
                    held: ctx.held(),
                    outcome: Outcome::Succeeded {
                        output: serde_json::json!({ "stored_bytes": point.stored_bytes, "point": job.point }),
                    },
                    next: Vec::new(),
                })
                .event(
                    "backup.succeeded",
                    point.tenant,
                    job.point.uuid(),
                    serde_json::json!({ "vm": job.vm, "destination": job.destination }),
                );
            match self.storage.apply_all(now, unit).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict(Conflict::Version { .. })) if round < 32 => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The task that cleans up after a backup chain that did not end well.
    pub(crate) fn backup_cleanup(
        &self,
        chain: ChainId,
        tenant: Option<TenantId>,
        destination: BackupDestinationId,
        payload: serde_json::Value,
    ) -> NewTask {
        let links = TaskLinks { destination: Some(destination), ..TaskLinks::default() };
        let link = self.link(task_kind::BACKUP_CLEANUP, chain, tenant, links);
        // It must not wait for a free place, and it may try for as long as it takes.
        NewTask { payload, limits: Vec::new(), max_attempts: i32::MAX, priority: 100, ..link }
    }

    async fn run_backup_cleanup(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let StorePayload { job, .. } = payload(ctx)?;
        let why = self.why_failed(ctx.task().new.chain).await?;
        let Some(point) = self.storage.find::<RecoveryPoint>(Scope::All, job.point).await? else {
            return Ok(Done::Output(serde_json::Value::Null));
        };
        if let Some(session) = point.session {
            let repository = self.repositories.get(job.destination)?;
            self.abandon_session(&*repository, &point, session, ctx.held().fence).await?;
        }
        let now = self.clock.now();
        let copy = self.storage.find::<BackupCopy>(Scope::All, job.copy).await?;
        let mut unit = UnitOfWork::new();
        if let Some(mut copy) = copy {
            copy.value.status = CopyStatus::Failed;
            unit = unit.update(&copy);
        }
        let mut point = point;
        point.value.status = BackupStatus::Failed;
        point.value.status_info.clone_from(&why);
        let unit = unit.update(&point).require(Require::TaskHeld(ctx.held())).event(
            "backup.failed",
            point.tenant,
            job.point.uuid(),
            serde_json::json!({ "vm": job.vm, "reason": why }),
        );
        let unit = unit.finish(Finish {
            held: ctx.held(),
            outcome: Outcome::Succeeded { output: serde_json::Value::Null },
            next: Vec::new(),
        });
        self.storage.apply_all(now, unit).await?;
        Ok(Done::Settled)
    }

    /// Gives a session up. One that was committed although its chain failed (the commit went through, the task's
    /// end did not) takes its point along: what the task said is what holds.
    pub(crate) async fn abandon_session(
        &self,
        repository: &dyn BackupRepository,
        point: &RecoveryPoint,
        session: uuid::Uuid,
        fence: i64,
    ) -> Result<(), ProtectError> {
        let spec = SessionSpec { id: session, fence, point: point.id, vm: point.vm, parent: point.parent };
        match repository.begin(spec).await {
            Ok(session) => session.abort().await?,
            Err(RepoError::NotFound { .. } | RepoError::ParentMissing(_) | RepoError::Conflict(_)) => {}
            Err(e) => return Err(e.into()),
        }
        match repository.delete(point.id).await {
            Ok(()) | Err(RepoError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// What the chain's last failed link said.
    pub(crate) async fn why_failed(&self, chain: ChainId) -> Result<String, ProtectError> {
        let query = TaskQuery { filter: Filter::eq("chain", chain.uuid()), sort: Sort::newest(), ..TaskQuery::default() };
        let tasks = self.storage.query(Scope::All, &query).await?.tasks;
        let failed = tasks
            .iter()
            .filter(|t| t.state.is_terminal() && t.state != TaskState::Succeeded)
            .max_by_key(|t| (t.finished, t.created));
        Ok(failed.map(|t| t.error.clone()).filter(|e| !e.is_empty()).unwrap_or_else(|| "the backup failed".into()))
    }
}

/// Notes a successful backup on its machine.
fn note_success(vm: &mut Stored<VirtualMachine>, point: &RecoveryPoint, now: Timestamp) {
    let protection = &mut vm.value.protection;
    protection.last_point = Some(point.id);
    protection.last_backup = Some(now);
    protection.last_size_bytes = point.size_bytes;
    protection.backups += 1;
    if point.backup_type == BackupType::Full {
        protection.last_full = Some(point.id);
        protection.last_full_name.clone_from(&point.name);
        protection.last_full_size_bytes = point.size_bytes;
    }
}
