//! EXPORT: the point in time, pulled into an uncommitted repository session.

use crate::error::ProtectError;
use crate::export::BackupPayload;
use crate::handlers::{DiskProgress, failure, is_lost, is_transient, payload, unless_stopped};
use crate::service::{EXPORT_WINDOW, Protect, millis, type_note};
use crate::verify::DAMAGED;
use async_trait::async_trait;
use bytes::Bytes;
use portolan_driver::{Changes, DriverError, ExportRequest, ExportSession, Exported};
use portolan_model::backup::{BackupStatus, BackupType, CopyStatus, PointDisk};
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_repository::{BackupRepository, DiskSpec, DiskStats, RepoError, SessionSpec};
use portolan_storage::{Query, Require, StorageExt, UnitOfWork};
use portolan_tasks::{Done, Finish, Handler, NewTask, Outcome, TaskContext, TaskFailure, TaskLinks};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The attachment that holds the machine as the platform described it.
pub(crate) const VM_ATTACHMENT: &str = "vm.json";

/// How many of a machine's newest copies are looked at for those that an increment may be told against.
const LOOKED_AT: u64 = 256;

/// The longest disk name in bytes, with room for a number.
const LONGEST_NAME: usize = 200;

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
#[derive(Default)]
struct Base {
    point: Option<RecoveryPointId>,
    checkpoint: Option<String>,
    /// The disks that it holds.
    disks: Vec<PointDisk>,
    /// Why there is none though one was wanted.
    why: String,
}

impl Base {
    fn none(why: &str) -> Self {
        Self { why: why.to_owned(), ..Self::default() }
    }

    /// Whether what the platform says has changed on a disk can be told against this base: it must hold that very
    /// disk under that name, in that size. Anything else is read in full and compared.
    fn holds(&self, name: &str, disk: Option<DiskId>, size: u64) -> bool {
        self.disks.iter().any(|d| d.name == name && Some(d.disk) == disk && d.size_bytes == size && !d.excluded)
    }
}

impl Protect {
    async fn run_export(&self, ctx: &TaskContext) -> Result<Done, ProtectError> {
        let job: BackupPayload = payload(ctx)?;
        let started = self.clock.now();
        let point = self.point_row(Scope::All, job.point).await?;
        let vm = self.vm(Scope::All, job.vm).await?;
        let repository = self.repositories.get(job.destination)?;
        let driver = self.hypervisors.get(point.platform)?;

        let included = |d: &&Disk| !vm.settings.excluded_disks.contains(&d.id);
        if let Some(bad) = vm.observed.disks.iter().filter(included).find(|d| !d.supported) {
            return Err(ProtectError::Conflict(format!(
                "the disk '{}' of '{}' cannot be read: exclude it or repair it",
                bad.name, vm.observed.name
            )));
        }
        let wanted: Vec<String> = vm.observed.disks.iter().filter(included).map(|d| d.native_id.clone()).collect();
        let base = if wanted.is_empty() { Base::default() } else { self.base_for(&job, &*repository).await? };
        let request = ExportRequest {
            vm: vm.external.native_id.clone(),
            incarnation: vm.external.incarnation.clone(),
            disks: Some(wanted),
            token: point.chain.to_string(),
            fence: ctx.held().fence,
            since: base.checkpoint.clone(),
            keep: self.checkpoints_of(job.vm).await?,
            quiesce: true,
        };
        let export = unless_stopped(ctx, async { Ok(driver.open_export(request).await?) }).await?;
        let read = self.read(ctx, &job, &point, &vm, &*repository, export.exported(), base, started);
        match unless_stopped(ctx, read).await {
            Ok((base, stats)) => self.settle_export(ctx, &job, &vm, base, &*export, stats, started).await,
            Err(e) => {
                // Who tries again goes on with the moment, and a chain that ends here is cleaned up after. A copy of
                // the link begins at a new moment, though, as does who waits for the listing: the old one may be
                // what is wrong.
                let resumes = is_transient(&e) && !matches!(e, ProtectError::Later(_));
                if ctx.stop_reason().is_none() && !resumes && !is_lost(&e) {
                    let released = unless_stopped(ctx, async { Ok(export.release(false).await?) }).await;
                    if let Err(release) = released {
                        tracing::debug!(error = %release, "an export that failed could not be released");
                    }
                }
                Err(e)
            }
        }
    }

    /// What the machine's backups call their moments that an increment may still be told against: at each destination
    /// those of the newest one. A newer backup that did not succeed never was one.
    pub(crate) async fn checkpoints_of(&self, vm: VmId) -> Result<Vec<String>, ProtectError> {
        let filter =
            Filter::eq("vm", vm.uuid()).and(Filter::eq("status", describe::Describe::name(CopyStatus::Present)));
        let newest = Query::newest(filter, LOOKED_AT);
        let copies = self.storage.list_of::<BackupCopy>(Scope::All, newest).await?.items;
        let mut seen = BTreeSet::new();
        let newest: Vec<RecoveryPointId> =
            copies.iter().filter(|copy| seen.insert(copy.destination)).map(|copy| copy.point).collect();
        let points = self.storage.find_all::<RecoveryPoint>(Scope::All, &newest).await?;
        Ok(points.into_iter().filter_map(|point| point.value.checkpoint).collect())
    }

    /// Reads the machine's disks into the repository, compared with the base, or in full when that turns out to be
    /// damaged or gone. Answers what they were compared with in the end.
    #[allow(clippy::too_many_arguments)]
    async fn read(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        point: &RecoveryPoint,
        vm: &VirtualMachine,
        repository: &dyn BackupRepository,
        exported: &Exported,
        base: Base,
        started: Timestamp,
    ) -> Result<(Base, Vec<DiskStats>), ProtectError> {
        self.check_disks(ctx, vm, exported).await?;
        // A session belongs to one moment: where an earlier attempt saw another one, its session is given up, and
        // its chunks are found again by deduplication.
        let session = derived_id(point.chain, &exported.moment);
        if let Some(old) = point.session.filter(|old| *old != session) {
            self.abandon_session(repository, point, old, ctx.held().fence).await?;
        }
        let snapshot_time = point.snapshot_time.filter(|_| point.session == Some(session)).unwrap_or(started);
        self.mark_started(ctx, job, session, snapshot_time, started).await?;
        match self.pull(ctx, job, session, vm, repository, exported, &base).await {
            Err(ProtectError::Repository(RepoError::Corrupt { .. } | RepoError::ParentMissing(_)))
                if base.point.is_some() =>
            {
                let base = Base::none("a full backup was taken: the earlier one is damaged or gone");
                let stats = self.pull(ctx, job, session, vm, repository, exported, &base).await?;
                Ok((base, stats))
            }
            stats => Ok((base, stats?)),
        }
    }

    /// No disk is left out silently: neither one that the inventory has not seen yet, for which the platform is
    /// listed first, nor one that an earlier attempt did not ask for when it fixed the moment.
    async fn check_disks(
        &self,
        ctx: &TaskContext,
        vm: &VirtualMachine,
        exported: &Exported,
    ) -> Result<(), ProtectError> {
        let known = |id: &str| vm.observed.disks.iter().any(|d| d.native_id == id);
        if let Some(new) = exported.vm.disks.iter().find(|d| !known(&d.native_id)) {
            let sync = self.sync_link(ctx, vm.observed.platform);
            self.storage.enqueue(self.clock.now(), vec![sync]).await?;
            return Err(ProtectError::Later(format!(
                "'{}' has a new disk '{}': the platform is listed first",
                vm.observed.name, new.name
            )));
        }
        let wanted = |d: &&Disk| !vm.settings.excluded_disks.contains(&d.id);
        let fixed = |d: &Disk| exported.disks.iter().any(|e| e.native_id == d.native_id);
        let same = vm.observed.disks.iter().filter(wanted).all(fixed)
            && vm.observed.disks.iter().filter(wanted).count() == exported.disks.len();
        if same {
            return Ok(());
        }
        Err(ProtectError::Later(format!("the disks of '{}' to back up have changed", vm.observed.name)))
    }

    /// Reads every disk into the session and makes it durable.
    #[allow(clippy::too_many_arguments)]
    async fn pull(
        &self,
        ctx: &TaskContext,
        job: &BackupPayload,
        session: uuid::Uuid,
        vm: &VirtualMachine,
        repository: &dyn BackupRepository,
        exported: &Exported,
        base: &Base,
    ) -> Result<Vec<DiskStats>, ProtectError> {
        let fence = ctx.held().fence;
        let spec = SessionSpec { id: session, fence, point: job.point, vm: job.vm, parent: base.point };
        let session = repository.begin(spec).await?;
        let names = disk_names(exported);
        let total: u64 = exported.disks.iter().map(|d| d.source.size()).sum();
        let mut before = 0;
        let mut stats = Vec::new();
        for disk in &exported.disks {
            let size = disk.source.size();
            let name = names.get(disk.native_id.as_str()).cloned().unwrap_or_else(|| disk.name.clone());
            let id = vm.observed.disks.iter().find(|d| d.native_id == disk.native_id).map(|d| d.id);
            let changed = match &disk.changes {
                Changes::Ranges(ranges) if base.holds(&name, id, size) => Some(ranges.clone()),
                _ => None,
            };
            let observer = DiskProgress::new(ctx, before, total, format!("reading {name}"));
            stats.push(session.disk(DiskSpec { name, changed }, Arc::clone(&disk.source), &observer).await?);
            before += size;
        }
        let vm = serde_json::to_vec(&exported.vm).unwrap_or_default();
        session.attach(VM_ATTACHMENT, Bytes::from(vm)).await?;
        session.seal().await?;
        Ok(stats)
    }

    /// The newest backup of the machine at that destination, when it can be the base of an increment.
    async fn base_for(&self, job: &BackupPayload, repository: &dyn BackupRepository) -> Result<Base, ProtectError> {
        if job.wanted == BackupType::Full {
            return Ok(Base::default());
        }
        let filter = Filter::eq("vm", job.vm.uuid())
            .and(Filter::eq("destination", job.destination.uuid()))
            .and(Filter::eq("status", describe::Describe::name(CopyStatus::Present)));
        let newest = self.storage.list_of::<BackupCopy>(Scope::All, Query::newest(filter, 1)).await?;
        let Some(copy) = newest.items.first() else {
            return Ok(Base::none("a full backup was taken: there is no earlier one at this destination"));
        };
        let row = self.storage.find::<RecoveryPoint>(Scope::All, copy.point).await?;
        if row.as_ref().is_some_and(|p| p.warnings.iter().any(|w| w.starts_with(DAMAGED))) {
            return Ok(Base::none("a full backup was taken: the earlier one is damaged"));
        }
        match repository.point(copy.point).await {
            Ok(manifest) => Ok(Base {
                point: Some(copy.point),
                checkpoint: manifest.meta.labels.get("checkpoint").cloned(),
                disks: row.map(|p| p.value.disks).unwrap_or_default(),
                why: String::new(),
            }),
            Err(RepoError::NotFound { .. } | RepoError::Corrupt { .. }) => {
                Ok(Base::none("a full backup was taken: the earlier one cannot be read from this destination"))
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
        let frozen_ms = exported.frozen.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        let why = why(&base, &exported);
        let output = serde_json::json!({
            "disks": disks.len(),
            "consistency": describe::Describe::name(exported.consistency),
            "frozen_ms": frozen_ms,
            "notes": exported.notes,
            "why_full": why,
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
                p.status_info.clone_from(&why);
                p.consistency = exported.consistency;
                p.frozen_ms = frozen_ms;
                p.checkpoint.clone_from(&exported.checkpoint);
                p.warnings.clone_from(&exported.notes);
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
        let links =
            TaskLinks { note: type_note(actual), parent: Some(export.id), platform: None, ..export.links.clone() };
        let mut payload = serde_json::to_value(BackupPayload { ready: Some(now), ..job.clone() }).unwrap_or_default();
        if let (Some(name), Some(fields)) = (checkpoint, payload.as_object_mut()) {
            fields.insert("checkpoint".into(), name.into());
        }
        let link = self.link(task_kind::STORE, export.chain, export.tenant, links);
        NewTask {
            priority: export.priority,
            start_by: Some(now + EXPORT_WINDOW),
            retries: export.retries,
            payload: payload.clone(),
            on_failure: Some(Box::new(self.backup_cleanup(export.chain, export.tenant, payload))),
            origin: export.origin.clone(),
            // The platform is shown in lists, but storing needs no node that reaches it.
            links: TaskLinks { platform: export.links.platform, ..link.links.clone() },
            ..link
        }
    }
}

/// Why not only what has changed was read: of the whole machine, or of some of its disks.
fn why(base: &Base, exported: &Exported) -> String {
    if base.point.is_none() {
        return base.why.clone();
    }
    let lost = exported.disks.iter().filter_map(|disk| match &disk.changes {
        Changes::Lost(reason) => Some(format!("'{}' was read in full: {reason}", disk.name)),
        Changes::Unknown | Changes::Ranges(_) => None,
    });
    lost.collect::<Vec<_>>().join("; ")
}

/// The point's disks: those that were read, and those that were left out.
fn point_disks(vm: &VirtualMachine, exported: &Exported, stats: &[DiskStats]) -> Vec<PointDisk> {
    let names = disk_names(exported);
    let listed = vm.observed.disks.iter().filter_map(|disk| Some((disk, names.get(disk.native_id.as_str())?)));
    listed
        .map(|(disk, name)| {
            let read = exported.disks.iter().position(|e| e.native_id == disk.native_id);
            let stats = read.and_then(|i| stats.get(i)).copied();
            PointDisk {
                disk: disk.id,
                name: name.clone(),
                size_bytes: stats.map_or(disk.size_bytes, |s| s.size_bytes),
                read_bytes: stats.map_or(0, |s| s.read_bytes),
                datastore: disk.datastore,
                excluded: stats.is_none(),
            }
        })
        .collect()
}

/// A name for each of the machine's disks by its native id, unique within the machine, and fit to be a file's name
/// on the platform that the machine is restored to. The first disk of a name has it plain, the next ones numbered:
/// so the names are the same from backup to backup for as long as the disks are.
fn disk_names(exported: &Exported) -> BTreeMap<&str, String> {
    let all = exported.vm.disks.iter().map(|d| (d.native_id.as_str(), d.name.as_str()));
    let read = exported.disks.iter().map(|d| (d.native_id.as_str(), d.name.as_str()));
    names_of(all.chain(read))
}

/// A name for every disk, by its native id: its own, cleaned, and numbered where an earlier one has it.
pub(crate) fn names_of<'a>(disks: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<&'a str, String> {
    let mut names = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for (id, name) in disks {
        if names.contains_key(id) {
            continue;
        }
        let clean: String =
            Name::lossy(name, "disk").as_str().chars().map(|c| if c == '/' { '_' } else { c }).collect();
        let mut clean = if clean.starts_with('.') { format!("_{clean}") } else { clean };
        while clean.len() > LONGEST_NAME {
            clean.pop();
        }
        let numbered = (2..).map(|n| format!("{clean} ({n})"));
        let free = std::iter::once(clean.clone()).chain(numbered).find(|n| taken.insert(n.clone()));
        names.insert(id, free.unwrap_or(clean));
    }
    names
}

/// An id that is the same whenever the chain and the moment are: 128 bits of FNV-1a over the moment's name, mixed
/// with the chain's own random bits.
fn derived_id(chain: ChainId, moment: &str) -> uuid::Uuid {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let start: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let hash = moment.bytes().fold(start, |h, b| (h ^ u128::from(b)).wrapping_mul(PRIME));
    uuid::Builder::from_u128(hash ^ chain.uuid().as_u128()).with_version(uuid::Version::Custom).into_uuid()
}
