//! INSTANT_RESTORE, and what follows one that was given up.

use crate::cleanup::{ROUNDS, again};
use crate::error::ProtectError;
use crate::handlers::{failure, is_lost, payload, unless_stopped};
use crate::instant::{InstantPayload, PointMachine};
use crate::restore::RestoreDisk;
use crate::service::{Protect, millis};
use async_trait::async_trait;
use portolan_block::{BlockSource, ZeroSource};
use portolan_driver::{
    AbandonedInstant, DriverError, HomeProgress, InstantDisk, InstantRequest, InstantSession, NativeVm,
};
use portolan_model::backup::BackupStatus;
use portolan_model::*;
use portolan_storage::{Conflict, Require, StorageExt, StoreError, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, Json, NewTask, Outcome, TaskContext, TaskFailure, TaskLinks};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How often a machine that does not run yet is tried to be brought up.
const ATTEMPTS: i32 = 10;
/// The pause before a machine that ran is served again: what it has not got it waits for.
const SERVED_AGAIN: Duration = Duration::from_secs(2);
/// What the job says of a machine whose data is on its way.
const ON_ITS_WAY: &str = "the machine runs from the backup, its data is being brought home";

pub(crate) struct InstantHandler(pub(crate) Protect);
pub(crate) struct InstantCleanupHandler(pub(crate) Protect);

/// What a clean-up knows: the job to end, and the platform to clean up on.
#[derive(Serialize, Deserialize)]
struct InstantCleanup {
    /// Nothing where there is none, or it has been told already.
    job: Option<RestoreJobId>,
    platform: PlatformId,
}

#[async_trait]
impl Handler for InstantHandler {
    fn kind(&self) -> &'static str {
        task_kind::INSTANT_RESTORE
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_instant(ctx).await
    }
}

#[async_trait]
impl Handler for InstantCleanupHandler {
    fn kind(&self) -> &'static str {
        task_kind::INSTANT_CLEANUP
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_instant_cleanup(ctx).await.map_err(|e| again(failure(ctx, e)))
    }
}

impl Protect {
    async fn run_instant(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        let job: InstantPayload = payload(ctx).map_err(|e| failure(ctx, e))?;
        let started = self.clock.now();
        let session = match unless_stopped(ctx, self.bring_up(ctx, &job, started)).await {
            Ok(session) => session,
            Err(e) => return Err(self.not_up(ctx, &job, e).await),
        };
        let home = async {
            // The same words as long as it takes: how far it is says the rest.
            let observer = |p: HomeProgress| {
                let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                ctx.progress(clamp(p.done), clamp(p.total), "bringing the data home");
            };
            let made = session.bring_home(&observer).await?;
            self.settle_instant(ctx, &job, &made).await
        };
        unless_stopped(ctx, home).await.map_err(|e| still_out(ctx, e))
    }

    /// Has the machine run, and says so.
    async fn bring_up(
        &self,
        ctx: &TaskContext,
        job: &InstantPayload,
        started: Timestamp,
    ) -> Result<Box<dyn InstantSession>, ProtectError> {
        let due = ctx.task().new.run_at.max(ctx.task().created);
        let first = |j: &RestoreJob| j.status == BackupStatus::Queued;
        self.storage
            .change::<RestoreJob, _>(started, Scope::All, job.job, |j| {
                if first(j) {
                    j.queued_restore_ms = millis(due, started);
                }
                j.status = BackupStatus::InProgress;
                Some(UnitOfWork::new().require(Require::TaskHeld(ctx.held())))
            })
            .await?;
        ctx.progress(0, 0, "starting the machine");
        let session = self.begin_from_point(ctx, &job.machine, false).await?;
        self.note_running(ctx, job, &session.vm(), started).await?;
        Ok(session)
    }

    /// Begins a machine that runs from a point, or goes on with it.
    pub(crate) async fn begin_from_point(
        &self,
        ctx: &TaskContext,
        machine: &PointMachine,
        isolated: bool,
    ) -> Result<Box<dyn InstantSession>, ProtectError> {
        let repository = self.repositories.get(machine.destination)?;
        let template = self.template(machine.point, &*repository).await?;
        let mut disks = Vec::with_capacity(machine.disks.len());
        for RestoreDisk { name, size_bytes, empty, .. } in &machine.disks {
            let source: Arc<dyn BlockSource> = match empty {
                true => Arc::new(ZeroSource::new(*size_bytes)),
                false => repository.open_disk(machine.point, name).await?,
            };
            disks.push(InstantDisk { name: name.clone(), source });
        }
        let request = InstantRequest {
            token: ctx.task().new.chain.to_string(),
            fence: ctx.held().fence,
            name: machine.name.clone(),
            template,
            datastore: machine.datastore.clone(),
            disks,
            isolated,
        };
        Ok(self.hypervisors.get(machine.platform)?.begin_instant(request).await?)
    }

    /// The machine is its tenant's from the moment that it runs, and is listed.
    async fn note_running(
        &self,
        ctx: &TaskContext,
        job: &InstantPayload,
        made: &NativeVm,
        started: Timestamp,
    ) -> Result<(), ProtectError> {
        let mut round = 0;
        loop {
            let now = self.clock.now();
            let mut row = self.storage.fetch::<RestoreJob>(Scope::All, job.job).await?;
            let (vm, unit) = self.adopt(now, job.machine.platform, row.tenant, made).await?;
            // Another one where somebody has destroyed the first, and it was made anew.
            if row.target_vm == Some(vm) {
                return Ok(());
            }
            row.value.target_vm = Some(vm);
            row.value.restore_ms = millis(started, now);
            ON_ITS_WAY.clone_into(&mut row.value.status_info);
            let data = serde_json::json!({ "vm": row.vm, "name": made.name });
            let unit = unit
                .require(Require::TaskHeld(ctx.held()))
                .update(&row)
                .enqueue(self.sync_link(ctx, job.machine.platform))
                .event("restore.running", row.tenant, row.id.uuid(), data);
            match self.storage.apply_all(now, unit).await {
                Ok(_) => return Ok(()),
                // Somebody changed the job, or a sync saw the machine first.
                Err(StoreError::Conflict(Conflict::Version { .. } | Conflict::Taken { .. })) if round < ROUNDS => {
                    round += 1;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What it means that the machine does not run. One that ran before is tried for as long as it takes: it may have
    /// written what is nowhere else.
    async fn not_up(&self, ctx: &TaskContext, job: &InstantPayload, error: ProtectError) -> TaskFailure {
        let ran = match self.storage.find::<RestoreJob>(Scope::All, job.job).await {
            Ok(row) => row.is_some_and(|j| j.target_vm.is_some()),
            // Nobody knows: it may have.
            Err(_) => true,
        };
        if ran {
            return still_out(ctx, error);
        }
        let failure = failure(ctx, error);
        TaskFailure { transient: failure.transient && ctx.task().attempt < ATTEMPTS, ..failure }
    }

    /// The machine stands alone.
    async fn settle_instant(
        &self,
        ctx: &TaskContext,
        job: &InstantPayload,
        made: &NativeVm,
    ) -> Result<Done, ProtectError> {
        let sync = self.sync_link(ctx, job.machine.platform);
        let now = self.clock.now();
        let output = serde_json::json!({ "native_id": made.native_id, "name": made.name });
        self.storage
            .change::<RestoreJob, _>(now, Scope::All, job.job, |j| {
                j.status = BackupStatus::Success;
                j.status_info.clear();
                j.finished = Some(now);
                j.import_ms = millis(j.created, now).saturating_sub(j.queued_restore_ms + j.restore_ms);
                let outcome = Outcome::Succeeded { output: output.clone() };
                let data = serde_json::json!({ "vm": j.vm, "name": made.name });
                Some(UnitOfWork::new().finish(Finish { held: ctx.held(), outcome, next: vec![sync.clone()] }).event(
                    "restore.succeeded",
                    j.tenant,
                    j.id.uuid(),
                    data,
                ))
            })
            .await?;
        Ok(Done::Settled)
    }

    /// The task that follows a machine that was given up. Where there is a job, its first link tells it: that needs
    /// nothing but the store.
    pub(crate) fn instant_cleanup(
        &self,
        chain: ChainId,
        tenant: Option<TenantId>,
        job: Option<RestoreJobId>,
        platform: PlatformId,
    ) -> NewTask {
        let links = TaskLinks { platform: Some(platform).filter(|_| job.is_none()), ..TaskLinks::default() };
        let payload = serde_json::to_value(InstantCleanup { job, platform }).unwrap_or_default();
        self.cleanup_link(task_kind::INSTANT_CLEANUP, chain, tenant, payload, links)
    }

    async fn run_instant_cleanup(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let InstantCleanup { job, platform } = payload(ctx)?;
        let this = &ctx.task().new;
        if let Some(job) = job {
            let why = self.chain_end(this.chain).await?.why.unwrap_or_else(|| "the restore failed".into());
            let next = self.instant_cleanup(this.chain, this.tenant, None, platform);
            return self.fail_job(ctx, job, &why, vec![next]).await;
        }
        let instant = AbandonedInstant { token: this.chain.to_string(), fence: ctx.held().fence };
        match self.hypervisors.get(platform)?.abandon_instant(instant).await {
            // There is nothing to let go of, or nothing can be.
            Ok(()) | Err(DriverError::NotFound { .. } | DriverError::Unsupported(_) | DriverError::Malformed(_)) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(Done::Next { output: Json::Null, next: vec![self.sync_link(ctx, platform)] })
    }
}

/// What an error means for a machine that runs from a backup: its data is tried to be brought home again, unless it is
/// gone.
fn still_out(ctx: &TaskContext, error: ProtectError) -> TaskFailure {
    if is_lost(&error)
        || ctx.stop_reason().is_some()
        || matches!(error, ProtectError::Driver(DriverError::NotFound { .. }))
    {
        return failure(ctx, error);
    }
    let failure = failure(ctx, error);
    let message = format!("the machine's data is not home yet: {}", failure.message);
    TaskFailure { message, transient: true, ..failure }.after(SERVED_AGAIN)
}
