//! What follows a chain that did not end well, in two links of one kind. The first says so on the backup or restore:
//! it needs nothing but the store, so that no lost platform or repository keeps a backup "in progress". The second
//! removes what the chain left behind, and tries until it has: it is in nobody's way meanwhile.

use crate::error::ProtectError;
use crate::export::BackupPayload;
use crate::handlers::{failure, payload};
use crate::restore::RestorePayload;
use crate::restore_task::{COMMITTING, REFUSED};
use crate::service::Protect;
use async_trait::async_trait;
use portolan_driver::{AbandonedExport, DriverError};
use portolan_model::backup::{BackupStatus, CopyStatus};
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_repository::{BackupRepository, RepoError, SessionSpec};
use portolan_storage::{Require, StorageExt, UnitOfWork};
use portolan_tasks::{
    Done, Finish, Handler, Held, Json, NewTask, Outcome, Task, TaskContext, TaskFailure, TaskLinks, TaskQuery,
};
use serde::{Deserialize, Serialize};

/// How often a unit is decided anew because somebody changed its objects meanwhile.
pub(crate) const ROUNDS: u32 = 32;
/// How the warning begins that a failed backup carries while its remains cannot be removed.
const LEFT: &str = "what the backup left behind cannot be removed yet: ";

pub(crate) struct BackupCleanupHandler(pub(crate) Protect);
pub(crate) struct RestoreCleanupHandler(pub(crate) Protect);

/// What a clean-up knows: what its chain's links know, and which of the two links it is.
#[derive(Serialize, Deserialize)]
struct CleanupPayload<T> {
    #[serde(flatten)]
    job: T,
    /// The second link.
    #[serde(default)]
    sweep: bool,
}

/// How a chain ended.
pub(crate) struct ChainEnd {
    tasks: Vec<Task>,
    /// What its last failed link said.
    pub(crate) why: Option<String>,
}

impl ChainEnd {
    /// Whether a link of that kind may have begun to work. Links that were removed from history count as begun.
    fn may_have_run(&self, kind: &str) -> bool {
        let mut links = self.tasks.iter().filter(|t| t.new.kind == kind).peekable();
        links.peek().is_none() || links.any(|t| t.started.is_some())
    }
}

#[async_trait]
impl Handler for BackupCleanupHandler {
    fn kind(&self) -> &'static str {
        task_kind::BACKUP_CLEANUP
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_backup_cleanup(ctx).await.map_err(|e| again(failure(ctx, e)))
    }
}

#[async_trait]
impl Handler for RestoreCleanupHandler {
    fn kind(&self) -> &'static str {
        task_kind::RESTORE_CLEANUP
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_restore_cleanup(ctx).await.map_err(|e| again(failure(ctx, e)))
    }
}

/// A clean-up never fails for good: it waits, longer each time, for whatever is in its way to be repaired.
pub(crate) fn again(failure: TaskFailure) -> TaskFailure {
    let transient = !failure.lost && !failure.cancelled;
    TaskFailure { transient, ..failure }
}

fn succeeded(held: Held, next: Vec<NewTask>) -> Finish {
    Finish { held, outcome: Outcome::Succeeded { output: Json::Null }, next }
}

impl Protect {
    /// The task that follows a backup chain that did not end well.
    pub(crate) fn backup_cleanup(&self, chain: ChainId, tenant: Option<TenantId>, payload: Json) -> NewTask {
        self.cleanup_link(task_kind::BACKUP_CLEANUP, chain, tenant, payload, TaskLinks::default())
    }

    /// The task that follows a restore chain that did not end well.
    pub(crate) fn restore_cleanup(&self, chain: ChainId, tenant: Option<TenantId>, payload: Json) -> NewTask {
        self.cleanup_link(task_kind::RESTORE_CLEANUP, chain, tenant, payload, TaskLinks::default())
    }

    pub(crate) fn cleanup_link(
        &self,
        kind: &str,
        chain: ChainId,
        tenant: Option<TenantId>,
        payload: Json,
        links: TaskLinks,
    ) -> NewTask {
        let link = self.link(kind, chain, tenant, links);
        // It must not wait for a free place, and it may try for as long as it takes.
        NewTask { payload, limits: Vec::new(), max_attempts: i32::MAX, priority: 100, ..link }
    }

    async fn run_backup_cleanup(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let CleanupPayload::<BackupPayload> { job, sweep } = payload(ctx)?;
        if sweep { self.sweep_backup(ctx, &job).await } else { self.fail_backup(ctx, job).await }
    }

    /// Backup and copy say that they failed, and why.
    async fn fail_backup(&self, ctx: &TaskContext, job: BackupPayload) -> Result<Done, ProtectError> {
        let end = self.chain_end(ctx.task().new.chain).await?;
        let why = end.why.clone().unwrap_or_else(|| "the backup failed".into());
        let mut round = 0;
        loop {
            let point = self.storage.find::<RecoveryPoint>(Scope::All, job.point).await?;
            // A backup that ended meanwhile needs nothing; least of all one that succeeded.
            let Some(mut point) = point.filter(|p| p.status.is_open()) else { return Ok(Done::Output(Json::Null)) };
            point.value.status = BackupStatus::Failed;
            point.value.status_info.clone_from(&why);
            let mut unit = UnitOfWork::new().update(&point);
            if let Some(mut copy) = self.storage.find::<BackupCopy>(Scope::All, job.copy).await? {
                copy.value.status = CopyStatus::Failed;
                unit = unit.update(&copy);
            }
            let unit = unit
                .event(
                    "backup.failed",
                    point.tenant,
                    job.point.uuid(),
                    serde_json::json!({ "vm": job.vm, "reason": why }),
                )
                .finish(succeeded(ctx.held(), self.backup_sweep(&job, &point, &end).into_iter().collect()));
            match self.storage.apply_all(self.clock.now(), unit).await {
                Ok(_) => return Ok(Done::Settled),
                Err(e) if e.is_version_conflict() && round < ROUNDS => round += 1,
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The link that removes what is left, where there can be anything.
    fn backup_sweep(&self, job: &BackupPayload, point: &RecoveryPoint, end: &ChainEnd) -> Option<NewTask> {
        // An EXPORT that succeeded has let go of its moment.
        let exporting = job.ready.is_none() && end.may_have_run(task_kind::EXPORT);
        if !exporting && point.session.is_none() {
            return None;
        }
        let links = TaskLinks {
            destination: Some(job.destination),
            platform: Some(point.platform).filter(|_| exporting),
            ..TaskLinks::default()
        };
        let payload = serde_json::to_value(CleanupPayload { job: job.clone(), sweep: true }).unwrap_or_default();
        Some(self.cleanup_link(task_kind::BACKUP_CLEANUP, point.chain, point.tenant, payload, links))
    }

    /// Removes what a failed backup left: its session, its moment on the platform.
    async fn sweep_backup(&self, ctx: &TaskContext, job: &BackupPayload) -> Result<Done, ProtectError> {
        let Some(point) = self.storage.find::<RecoveryPoint>(Scope::All, job.point).await? else {
            return Ok(Done::Output(Json::Null));
        };
        if point.status != BackupStatus::Failed {
            return Ok(Done::Output(Json::Null));
        }
        let swept = self.sweep_backup_once(ctx, job, &point).await;
        let warning = match &swept {
            Err(e) if failure_is_real(ctx, e) => Some(format!("{LEFT}{e}")),
            Err(_) => return swept.map(|()| Done::Settled),
            Ok(()) => None,
        };
        self.storage
            .change::<RecoveryPoint, _>(self.clock.now(), Scope::All, job.point, |p| {
                let before = p.warnings.clone();
                p.warnings.retain(|w| !w.starts_with(LEFT));
                p.warnings.extend(warning.clone());
                (p.warnings != before).then(|| UnitOfWork::new().require(Require::TaskHeld(ctx.held())))
            })
            .await?;
        swept.map(|()| Done::Output(Json::Null))
    }

    async fn sweep_backup_once(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        point: &RecoveryPoint,
    ) -> Result<(), ProtectError> {
        if let Some(session) = point.session {
            let repository = self.repositories.get(job.destination)?;
            self.abandon_session(&*repository, point, session, ctx.held().fence).await?;
            // The commit may have gone through where the task's end did not: what the backup says is what holds.
            match repository.delete(point.id).await {
                Ok(()) | Err(RepoError::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if ctx.task().new.links.platform.is_some() { self.release_export(ctx, job, point).await } else { Ok(()) }
    }

    /// Lets go of the moment that the chain's EXPORT may hold on the platform.
    async fn release_export(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        point: &RecoveryPoint,
    ) -> Result<(), ProtectError> {
        let Some(vm) = self.storage.find::<VirtualMachine>(Scope::All, job.vm).await? else { return Ok(()) };
        let export = AbandonedExport {
            vm: vm.external.native_id.clone(),
            incarnation: vm.external.incarnation.clone(),
            token: point.chain.to_string(),
            fence: ctx.held().fence,
        };
        match self.hypervisors.get(point.platform)?.abandon_export(export).await {
            // The machine is gone, or its moment is, or none can be fixed: there is nothing to let go of.
            Ok(())
            | Err(
                DriverError::NotFound { .. }
                | DriverError::Conflict(_)
                | DriverError::Unsupported(_)
                | DriverError::Malformed(_),
            ) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives an uncommitted session up.
    pub(crate) async fn abandon_session(
        &self,
        repository: &dyn BackupRepository,
        point: &RecoveryPoint,
        session: uuid::Uuid,
        fence: i64,
    ) -> Result<(), ProtectError> {
        let spec = SessionSpec { id: session, fence, point: point.id, vm: point.vm, parent: None };
        Ok(repository.begin(spec).await?.abort().await?)
    }

    async fn run_restore_cleanup(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let CleanupPayload::<RestorePayload> { job, sweep } = payload(ctx)?;
        if sweep { self.sweep_restore(ctx, &job).await } else { self.fail_restore(ctx, job).await }
    }

    /// The job says that it failed, and why.
    async fn fail_restore(&self, ctx: &TaskContext, job: RestorePayload) -> Result<Done, ProtectError> {
        let end = self.chain_end(ctx.task().new.chain).await?;
        let mut why = end.why.clone().unwrap_or_else(|| "the restore failed".into());
        // The platform may have made the machine although its answer never came: nobody can tell from here.
        if self.commit_is_unknown(&end.tasks).await? {
            why = format!("{why}; the platform may have made the machine '{}' all the same", job.name);
        }
        let begun = job.ready.is_some() || end.may_have_run(task_kind::RESTORE);
        let sweep = begun.then(|| {
            let links = TaskLinks { platform: Some(job.platform), ..TaskLinks::default() };
            let payload = serde_json::to_value(CleanupPayload { job: job.clone(), sweep: true }).unwrap_or_default();
            let this = &ctx.task().new;
            self.cleanup_link(task_kind::RESTORE_CLEANUP, this.chain, this.tenant, payload, links)
        });
        self.fail_job(ctx, job.job, &why, sweep.into_iter().collect()).await
    }

    /// Ends a clean-up's first link: the job says that it failed and why, unless it has ended already.
    pub(crate) async fn fail_job(
        &self,
        ctx: &TaskContext,
        job: RestoreJobId,
        why: &str,
        next: Vec<NewTask>,
    ) -> Result<Done, ProtectError> {
        let now = self.clock.now();
        let row = self.storage.find::<RestoreJob>(Scope::All, job).await?;
        if !row.is_some_and(|j| j.status.is_open()) {
            return Ok(Done::Output(Json::Null));
        }
        self.storage
            .change::<RestoreJob, _>(now, Scope::All, job, |j| {
                j.status = BackupStatus::Failed;
                why.clone_into(&mut j.status_info);
                j.finished = Some(now);
                let data = serde_json::json!({ "vm": j.vm, "reason": why });
                let unit = UnitOfWork::new().event("restore.failed", j.tenant, j.id.uuid(), data);
                Some(unit.finish(succeeded(ctx.held(), next.clone())))
            })
            .await?;
        Ok(Done::Settled)
    }

    /// Drops what was written to the platform, and has it listed, so that a machine that was made is seen.
    async fn sweep_restore(&self, ctx: &TaskContext, job: &RestorePayload) -> Result<Done, ProtectError> {
        match self.begin_import(ctx, job, None).await {
            Ok(import) => import.abort().await?,
            // Nothing was begun, or nothing can be: then there is nothing to drop.
            Err(ProtectError::Driver(
                DriverError::Unsupported(_)
                | DriverError::NotFound { .. }
                | DriverError::Conflict(_)
                | DriverError::Malformed(_),
            )) => {}
            Err(e) => return Err(e),
        }
        let next = if job.ready.is_some() { vec![self.sync_link(ctx, job.platform)] } else { Vec::new() };
        Ok(Done::Next { output: Json::Null, next })
    }

    /// Whether an IMPORT asked the platform for the machine and never heard what became of it.
    async fn commit_is_unknown(&self, tasks: &[Task]) -> Result<bool, ProtectError> {
        for import in tasks.iter().filter(|t| t.new.kind == task_kind::IMPORT) {
            let steps = self.storage.steps(import.new.id).await?;
            let has = |step: &str| steps.iter().any(|(name, _)| name == step);
            if has(COMMITTING) && !has(REFUSED) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) async fn chain_end(&self, chain: ChainId) -> Result<ChainEnd, ProtectError> {
        let query = TaskQuery { filter: Filter::eq("chain", chain.uuid()), ..TaskQuery::default() };
        let tasks = self.storage.query(Scope::All, &query).await?.tasks;
        let own =
            |t: &&Task| t.new.kind != task_kind::INVENTORY_SYNC && !task_kind::INTERNAL.contains(&t.new.kind.as_str());
        let failed = tasks
            .iter()
            .filter(own)
            .filter(|t| t.state.is_terminal() && t.state != TaskState::Succeeded)
            .max_by_key(|t| (t.finished, t.created));
        let why = failed.map(|t| t.error.clone()).filter(|e| !e.is_empty());
        Ok(ChainEnd { tasks, why })
    }
}

/// Whether the error says something of the clean-up, rather than that this worker has to stop.
fn failure_is_real(ctx: &TaskContext, error: &ProtectError) -> bool {
    ctx.stop_reason().is_none() && !crate::handlers::is_lost(error)
}
