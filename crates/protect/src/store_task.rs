//! STORE: the commit.

use crate::cleanup::ROUNDS;
use crate::error::ProtectError;
use crate::export::BackupPayload;
use crate::handlers::{failure, is_lost, payload};
use crate::service::{Protect, millis};
use async_trait::async_trait;
use portolan_model::backup::{BackupStatus, BackupType, CopyStatus};
use portolan_model::describe::Describe;
use portolan_model::*;
use portolan_repository::{BackupRepository, PointMeta, RepoError, SessionSpec};
use portolan_storage::{StorageExt, Stored, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Outcome, TaskContext, TaskFailure};
use serde::Deserialize;

pub(crate) struct StoreHandler(pub(crate) Protect);

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
        if let Err(e) = self.settle_store(ctx, &job, started).await {
            if is_lost(&e)
                && let Err(left) = self.take_back(&job, &*repository).await
            {
                tracing::error!(point = %job.point, error = %left, "a point of a failed backup stays in the repository");
            }
            return Err(e);
        }
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
    async fn settle_store(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        started: Timestamp,
    ) -> Result<(), ProtectError> {
        let mut round = 0;
        loop {
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
            let output = serde_json::json!({ "stored_bytes": point.stored_bytes, "point": job.point });
            let unit = unit
                .finish(Finish { held: ctx.held(), outcome: Outcome::Succeeded { output }, next: Vec::new() })
                .event(
                    "backup.succeeded",
                    point.tenant,
                    job.point.uuid(),
                    serde_json::json!({ "vm": job.vm, "destination": job.destination }),
                );
            match self.storage.apply_all(now, unit).await {
                Ok(_) => return Ok(()),
                Err(e) if e.is_version_conflict() && round < ROUNDS => round += 1,
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// A commit that slept through the end of its chain can come after the clean-up. What the backup says is what
    /// holds: one that failed for good takes its point along.
    async fn take_back(&self, job: &BackupPayload, repository: &dyn BackupRepository) -> Result<(), ProtectError> {
        let point = self.storage.find::<RecoveryPoint>(Scope::All, job.point).await?;
        if point.is_none_or(|p| p.status != BackupStatus::Failed) {
            return Ok(());
        }
        match repository.delete(job.point).await {
            Ok(()) | Err(RepoError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
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
