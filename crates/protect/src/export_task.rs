//! EXPORT: the point in time, pulled into an uncommitted repository session.

use crate::error::ProtectError;
use crate::export::BackupPayload;
use crate::handlers::{DiskProgress, failure, payload};
use crate::service::{Protect, millis, type_note};
use async_trait::async_trait;
use bytes::Bytes;
use portolan_driver::{Changes, DriverError, ExportRequest, ExportSession, Exported};
use portolan_model::backup::{BackupStatus, BackupType, CopyStatus, PointDisk};
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_repository::{BackupSession, DiskSpec, DiskStats, RepoError, SessionSpec};
use portolan_storage::{Query, Require, StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, NewTask, Outcome, TaskContext, TaskFailure, TaskLinks};
use std::sync::Arc;

/// The attachment that holds the machine as the platform described it.
pub(crate) const VM_ATTACHMENT: &str = "vm.json";

pub(crate) struct ExportHandler(pub(crate) Protect);

#[async_trait]
impl Handler for ExportHandler {
    fn kind(&self) -> &'static str {
        task_kind::EXPORT
    }

    async fn run(&self, ctx: &TaskContext) -> Result<Done, TaskFailure> {
        self.0.run_export(ctx).await.map_err(|e| failure(ctx, e))
    }
}

/// What the backup is compared with.
struct Base {
    point: Option<RecoveryPointId>,
    checkpoint: Option<String>,
    /// Why there is none though one was wanted.
    why: String,
}

impl Protect {
    async fn run_export(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: BackupPayload = payload(ctx)?;
        let started = self.clock.now();
        let point = self.point_row(Scope::All, job.point).await?;
        let vm = self.vm(Scope::All, job.vm).await?;
        let repository = self.repositories.get(job.destination)?;
        let driver = self.hypervisors.get(point.platform)?;
        let base = self.base_for(&job, &*repository).await?;

        let disks: Vec<&Disk> = vm.observed.disks.iter().collect();
        if let Some(bad) = disks.iter().find(|d| !d.supported && !vm.settings.excluded_disks.contains(&d.id)) {
            return Err(ProtectError::Conflict(format!(
                "the disk '{}' of '{}' cannot be read: exclude it or repair it",
                bad.name, vm.observed.name
            )));
        }
        let wanted: Vec<String> = disks
            .iter()
            .filter(|d| !vm.settings.excluded_disks.contains(&d.id))
            .map(|d| d.native_id.clone())
            .collect();
        let export = driver
            .open_export(ExportRequest {
                vm: vm.external.native_id.clone(),
                incarnation: vm.external.incarnation.clone(),
                disks: Some(wanted),
                token: point.chain.to_string(),
                fence: ctx.held().fence,
                since: base.checkpoint.clone(),
            })
            .await?;

        // A session belongs to one moment: where an earlier attempt saw another one, its session is given up, and
        // its chunks are found again by deduplication.
        let session_id = derived_id(point.chain, &export.exported().moment);
        if let Some(old) = point.session.filter(|old| *old != session_id) {
            self.abandon_session(&*repository, &point, old, ctx.held().fence).await?;
        }
        let snapshot_time = point.snapshot_time.filter(|_| point.session == Some(session_id)).unwrap_or(started);
        self.mark_started(ctx, &job, session_id, snapshot_time, started).await?;

        let session = repository
            .begin(SessionSpec {
                id: session_id,
                fence: ctx.held().fence,
                point: job.point,
                vm: job.vm,
                parent: base.point,
            })
            .await?;
        let done = self.pull(ctx, export.exported(), &*session).await;
        let stats = match done {
            Ok(stats) => stats,
            Err(e) => {
                // The moment is let go of whatever happens; what went wrong first is what counts.
                if let Err(release) = export.release(false).await {
                    tracing::debug!(error = %release, "an export that failed could not be released");
                }
                return Err(e);
            }
        };
        self.settle_export(ctx, &job, &vm, base, &*export, stats, started).await
    }

    /// Reads every disk into the session and makes it durable.
    async fn pull(
        &self,
        ctx: &TaskContext,
        exported: &Exported,
        session: &dyn BackupSession,
    ) -> Result<Vec<DiskStats>, ProtectError> {
        let total: u64 = exported.disks.iter().map(|d| d.source.size()).sum();
        let mut before = 0;
        let mut stats = Vec::new();
        for disk in &exported.disks {
            let changed = match &disk.changes {
                Changes::Unknown => None,
                Changes::Ranges(ranges) => Some(ranges.clone()),
            };
            let size = disk.source.size();
            let observer = DiskProgress::new(ctx, before, total, format!("reading {}", disk.name));
            let spec = DiskSpec { name: disk.name.clone(), changed };
            stats.push(session.disk(spec, Arc::clone(&disk.source), &observer).await?);
            before += size;
        }
        let vm = serde_json::to_vec(&exported.vm).unwrap_or_default();
        session.attach(VM_ATTACHMENT, Bytes::from(vm)).await?;
        session.seal().await?;
        Ok(stats)
    }

    /// The newest backup of the machine at that destination, when it can be the base of an increment.
    async fn base_for(
        &self,
        job: &BackupPayload,
        repository: &dyn portolan_repository::BackupRepository,
    ) -> Result<Base, ProtectError> {
        let none = |why: &str| Base { point: None, checkpoint: None, why: why.to_owned() };
        if job.wanted == BackupType::Full {
            return Ok(none(""));
        }
        let filter = Filter::eq("vm", job.vm.uuid())
            .and(Filter::eq("destination", job.destination.uuid()))
            .and(Filter::eq("status", describe::Describe::name(CopyStatus::Present)));
        let newest = self.storage.list_of::<BackupCopy>(Scope::All, Query::newest(filter, 1)).await?;
        let Some(copy) = newest.items.first() else {
            return Ok(none("a full backup was taken: there is no earlier one at this destination"));
        };
        match repository.point(copy.point).await {
            Ok(manifest) => {
                let checkpoint = manifest.meta.labels.get("checkpoint").cloned();
                Ok(Base { point: Some(copy.point), checkpoint, why: String::new() })
            }
            Err(RepoError::NotFound { .. } | RepoError::Corrupt { .. }) => {
                Ok(none("a full backup was taken: the earlier one cannot be read from this destination"))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Shows the backup as in progress, under the task's fence.
    async fn mark_started(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        session: uuid::Uuid,
        snapshot_time: Timestamp,
        started: Timestamp,
    ) -> Result<(), ProtectError> {
        let due = ctx.task().new.run_at.max(ctx.task().created);
        self.storage
            .change::<RecoveryPoint, _>(started, Scope::All, job.point, |p| {
                p.status = BackupStatus::InProgress;
                p.session = Some(session);
                p.snapshot_time = Some(snapshot_time);
                p.times.queued_export_ms = millis(due, started);
                Some(UnitOfWork::new().require(Require::TaskHeld(ctx.held())))
            })
            .await?;
        Ok(())
    }

    /// Ends the EXPORT and enqueues the STORE, in one unit with what was read.
    async fn settle_export(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        vm: &VirtualMachine,
        base: Base,
        export: &dyn ExportSession,
        stats: Vec<DiskStats>,
        started: Timestamp,
    ) -> Result<Done, ProtectError> {
        let exported = export.exported().clone();
        // Letting go also proves that the disks stood still; only then may the data become a backup.
        export.release(exported.checkpoint.is_some()).await.map_err(|e| match e {
            DriverError::Conflict(text) => ProtectError::Conflict(text),
            other => other.into(),
        })?;
        let now = self.clock.now();
        let actual = if base.point.is_some() { BackupType::Incremental } else { BackupType::Full };
        let disks = point_disks(vm, &exported, &stats);
        let read: u64 = stats.iter().map(|s| s.changed_bytes).sum();
        let stored: u64 = stats.iter().map(|s| s.stored_bytes).sum();
        let next = self.store_link(ctx, job, actual, exported.checkpoint.as_deref(), now);
        let output = serde_json::json!({
            "disks": disks.len(),
            "backup_type": describe::Describe::name(actual),
            "read_bytes": stats.iter().map(|s| s.read_bytes).sum::<u64>(),
            "changed_bytes": read,
            "new_bytes": stats.iter().map(|s| s.new_bytes).sum::<u64>(),
            "stored_bytes": stored,
            "deduplicated_bytes": stats.iter().map(|s| s.deduplicated_bytes).sum::<u64>(),
        });
        self.storage
            .change::<RecoveryPoint, _>(now, Scope::All, job.point, |p| {
                p.backup_type = actual;
                p.parent = base.point;
                p.status_info.clone_from(&base.why);
                p.disks.clone_from(&disks);
                p.size_bytes = read;
                p.stored_bytes = stored;
                p.virtual_bytes = disks.iter().map(|d| d.size_bytes).sum();
                p.times.export_ms = millis(started, now);
                Some(UnitOfWork::new().finish(Finish {
                    held: ctx.held(),
                    outcome: Outcome::Succeeded { output: output.clone() },
                    next: vec![next.clone()],
                }))
            })
            .await?;
        Ok(Done::Settled)
    }

    fn store_link(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        actual: BackupType,
        checkpoint: Option<&str>,
        now: Timestamp,
    ) -> NewTask {
        let export = &ctx.task().new;
        let links = TaskLinks { note: type_note(actual), parent: Some(export.id), platform: None, ..export.links.clone() };
        let mut payload =
            serde_json::to_value(BackupPayload { ready: Some(now), ..job.clone() }).unwrap_or_default();
        if let (Some(name), Some(fields)) = (checkpoint, payload.as_object_mut()) {
            fields.insert("checkpoint".into(), name.into());
        }
        let link = self.link(task_kind::STORE, export.chain, export.tenant, links);
        NewTask {
            priority: export.priority,
            start_by: Some(now + crate::service::EXPORT_WINDOW),
            retries: export.retries,
            payload: payload.clone(),
            on_failure: Some(Box::new(self.backup_cleanup(export.chain, export.tenant, job.destination, payload))),
            origin: export.origin.clone(),
            // The platform is shown in lists, but storing needs no node that reaches it.
            links: TaskLinks { platform: export.links.platform, ..link.links.clone() },
            ..link
        }
    }
}

/// The point's disks: those that were read, and those that were left out.
fn point_disks(vm: &VirtualMachine, exported: &Exported, stats: &[DiskStats]) -> Vec<PointDisk> {
    vm.observed
        .disks
        .iter()
        .map(|disk| {
            let read = exported.disks.iter().position(|e| e.native_id == disk.native_id);
            let stats = read.and_then(|i| stats.get(i)).copied();
            PointDisk {
                disk: disk.id,
                name: read.and_then(|i| exported.disks.get(i)).map_or_else(|| disk.name.clone(), |e| e.name.clone()),
                size_bytes: stats.map_or(disk.size_bytes, |s| s.size_bytes),
                read_bytes: stats.map_or(0, |s| s.read_bytes),
                datastore: disk.datastore,
                excluded: stats.is_none(),
            }
        })
        .collect()
}

/// An id that is the same whenever the chain and the moment are: 128 bits of FNV-1a over the moment's name, mixed
/// with the chain's own random bits.
fn derived_id(chain: ChainId, moment: &str) -> uuid::Uuid {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let start: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let hash = moment.bytes().fold(start, |h, b| (h ^ u128::from(b)).wrapping_mul(PRIME));
    uuid::Builder::from_u128(hash ^ chain.uuid().as_u128()).with_version(uuid::Version::Custom).into_uuid()
}
