//! The request for a restore: one chain, RESTORE → IMPORT.

use crate::error::ProtectError;
use crate::repeat::tasks_removed;
use crate::service::{EXPORT_WINDOW, Protect, origin_of};
use portolan_model::backup::{BackupStatus, CopyStatus, RestoreType};
use portolan_model::describe::Describe;
use portolan_model::query::Filter;
use portolan_model::*;
use portolan_storage::{Query, StorageExt, StoreError, UnitOfWork};
use portolan_tasks::{NewTask, Task, TaskLinks};
use serde::{Deserialize, Serialize};

/// What the task and the job of a restore are in their request.
const TASK: &str = "restore.task";
const JOB: &str = "restore.job";

/// A recovery point to make a machine from.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreRequest {
    /// The point.
    pub point: RecoveryPointId,
    /// The copy to read; nothing for any that is present and reachable.
    pub destination: Option<BackupDestinationId>,
    /// The platform to make the machine on; nothing for the one it came from.
    pub platform: Option<PlatformId>,
    /// The host to make the machine on.
    pub host: Option<HostId>,
    /// The platform's own id of the cluster.
    pub cluster: Option<String>,
    /// The platform's own id of the datastore for disks that name none.
    pub datastore: Option<String>,
    /// The machine's name; nothing for the one it had.
    pub name: Option<Name>,
    /// Whether a machine of that name is replaced. It must be off.
    pub overwrite: bool,
    /// Whether a machine that is replaced is turned off first, at once, as by pulling the plug.
    pub power_off: bool,
    /// What happens to single disks.
    pub disks: Vec<DiskTarget>,
    /// 0 to 100.
    pub priority: i16,
}

/// What happens to one disk of a restore.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskTarget {
    /// Its name in the recovery point.
    pub name: String,
    /// The platform's own id of the datastore.
    pub datastore: Option<String>,
    /// Left out: the machine is made without it.
    pub excluded: bool,
}

/// A disk to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RestoreDisk {
    /// Its name in the recovery point, and on the platform.
    pub(crate) name: String,
    /// Virtual size in bytes.
    pub(crate) size_bytes: u64,
    /// The platform's own id of the datastore.
    pub(crate) datastore: Option<String>,
    /// It was left out of the backup: it is made anew.
    pub(crate) empty: bool,
}

/// What the links of a restore chain know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RestorePayload {
    pub(crate) job: RestoreJobId,
    pub(crate) point: RecoveryPointId,
    pub(crate) destination: BackupDestinationId,
    pub(crate) platform: PlatformId,
    pub(crate) host: Option<String>,
    pub(crate) cluster: Option<String>,
    pub(crate) datastore: Option<String>,
    pub(crate) name: String,
    pub(crate) overwrite: bool,
    #[serde(default)]
    pub(crate) power_off: bool,
    /// Whose machines may be replaced.
    pub(crate) scope: Scope,
    /// The disks to make. Decided once, so that every link, and the clean-up, asks the platform for the same.
    pub(crate) disks: Vec<RestoreDisk>,
    /// When the RESTORE ended; nothing before.
    #[serde(default)]
    pub(crate) ready: Option<Timestamp>,
}

impl Protect {
    /// Asks for a restore. The job is there at once; answers its RESTORE task. A request that its sender named is
    /// carried out once: a repetition answers the job that is there.
    pub async fn restore(&self, caller: &Caller, request: RestoreRequest) -> Result<(Task, RestoreJob), ProtectError> {
        caller.require(Privilege::Restore)?;
        check_priority(request.priority)?;
        let begins = self.begins(caller);
        let (job, task) = (begins.id(JOB, request.point), begins.id(TASK, request.point));
        if let Some(found) = self.begun_before(caller, job, task).await? {
            return Ok(found);
        }
        let point = self.whole_point(caller.scope, request.point, "restored").await?;
        let copy = self.readable_copy(caller.scope, &point, request.destination).await?;
        let platform = request.platform.unwrap_or(point.platform);
        let platform = self.storage.fetch::<Platform>(caller.scope, platform).await?.value;
        let host = match request.host {
            Some(id) => {
                let host = self.storage.fetch::<Host>(caller.scope, id).await?.value;
                let facet = host.hypervisor.filter(|f| f.external.platform == platform.id);
                let native = facet.map(|f| f.external.native_id);
                Some(native.ok_or_else(|| ProtectError::Invalid("the host is not part of that platform".into()))?)
            }
            None => None,
        };
        for (i, target) in request.disks.iter().enumerate() {
            if !point.disks.iter().any(|d| d.name == target.name) {
                return Err(ProtectError::Invalid(format!("the backup has no disk '{}'", target.name)));
            }
            if request.disks.iter().take(i).any(|other| other.name == target.name) {
                return Err(ProtectError::Invalid(format!("the disk '{}' is named twice", target.name)));
            }
        }
        let stores = request.datastore.iter().chain(request.disks.iter().filter_map(|d| d.datastore.as_ref()));
        self.check_places(caller, platform.id, stores, request.cluster.as_deref()).await?;
        if request.power_off && !request.overwrite {
            return Err(ProtectError::Invalid("only a machine that is replaced is turned off".into()));
        }
        let name = request.name.as_ref().map_or_else(|| point.vm_name.clone(), |n| n.to_string());
        if request.overwrite {
            self.check_overwrite(caller.scope, platform.id, &name).await?;
        }
        let disks = self.restore_disks(&point, &platform, &request).await?;

        let now = self.clock.now();
        let job = RestoreJob {
            id: job,
            point: point.id,
            vm: point.vm,
            tenant: point.tenant,
            restore_type: RestoreType::RestoreAndImport,
            status: BackupStatus::Queued,
            status_info: String::new(),
            chain: begins.id("restore.chain", point.id),
            target_name: name.clone(),
            target_vm: None,
            created: now,
            finished: None,
            queued_restore_ms: 0,
            restore_ms: 0,
            queued_import_ms: 0,
            import_ms: 0,
        };
        let payload = RestorePayload {
            job: job.id,
            point: point.id,
            destination: copy.destination,
            platform: platform.id,
            host,
            cluster: request.cluster.clone(),
            datastore: request.datastore.clone(),
            name,
            overwrite: request.overwrite,
            power_off: request.power_off,
            scope: caller.scope,
            disks,
            ready: None,
        };
        let links = TaskLinks {
            vm: Some(point.vm),
            vm_name: point.vm_name.clone(),
            point: Some(point.id),
            point_name: point.name.clone(),
            destination: Some(copy.destination),
            platform: Some(platform.id),
            host: request.host,
            restore_job: Some(job.id),
            target_name: job.target_name.clone(),
            ..TaskLinks::default()
        };
        let payload = serde_json::to_value(payload).unwrap_or_default();
        let task = NewTask {
            id: task,
            priority: request.priority,
            start_by: Some(now + EXPORT_WINDOW),
            payload: payload.clone(),
            on_failure: Some(Box::new(self.restore_cleanup(job.chain, job.tenant, payload))),
            origin: origin_of(caller),
            ..self.link(task_kind::RESTORE, job.chain, job.tenant, links)
        };
        self.begin_job(caller, job, task).await
    }

    /// Writes a job down with its first task, and answers both.
    pub(crate) async fn begin_job(
        &self,
        caller: &Caller,
        job: RestoreJob,
        task: NewTask,
    ) -> Result<(Task, RestoreJob), ProtectError> {
        let id = task.id;
        let unit = UnitOfWork::new().create(&job).enqueue(task);
        match self.storage.apply(self.clock.now(), caller.scope, unit).await {
            Ok(_) => {}
            // The request itself, carried out elsewhere at the same time, may have been faster.
            Err(e @ StoreError::Conflict(_)) => {
                return self.begun_before(caller, job.id, id).await?.ok_or_else(|| e.into());
            }
            Err(e) => return Err(e.into()),
        }
        match self.tasks_of(caller.scope, &[id]).await?.pop() {
            Some(task) => Ok((task, job)),
            None => Err(ProtectError::NotFound { kind: "task", id: id.uuid() }),
        }
    }

    /// The task and the job of the same request, where it was carried out before.
    pub(crate) async fn begun_before(
        &self,
        caller: &Caller,
        job: RestoreJobId,
        task: TaskId,
    ) -> Result<Option<(Task, RestoreJob)>, ProtectError> {
        if !self.begins(caller).may_repeat() {
            return Ok(None);
        }
        let Some(job) = self.storage.find::<RestoreJob>(caller.scope, job).await? else {
            return Ok(None);
        };
        let task = self.tasks_there(caller.scope, &[task]).await?.pop();
        Ok(Some((task.ok_or_else(tasks_removed)?, job.value)))
    }

    /// The disks to make, each on the datastore that the request names for it, else on the one it was on where the
    /// machine goes back to its platform and that still has it; else the driver chooses.
    async fn restore_disks(
        &self,
        point: &RecoveryPoint,
        platform: &Platform,
        request: &RestoreRequest,
    ) -> Result<Vec<RestoreDisk>, ProtectError> {
        let back = platform.id == point.platform && request.host.is_none() && request.cluster.is_none();
        let ids: Vec<DatastoreId> = point.disks.iter().filter_map(|d| d.datastore).filter(|_| back).collect();
        let stores = self.storage.find_all::<Datastore>(Scope::All, &ids).await?;
        let there = |id: DatastoreId| stores.iter().find(|s| s.id == id && s.present);
        let disks = point.disks.iter().filter_map(|disk| {
            let target = request.disks.iter().find(|t| t.name == disk.name);
            if target.is_some_and(|t| t.excluded) {
                return None;
            }
            let original = || disk.datastore.and_then(there).map(|s| s.external.native_id.clone());
            let named = target.and_then(|t| t.datastore.clone()).or_else(|| request.datastore.clone());
            Some(RestoreDisk {
                name: disk.name.clone(),
                size_bytes: disk.size_bytes,
                datastore: named.or_else(original),
                empty: disk.excluded,
            })
        });
        Ok(disks.collect())
    }

    /// A restore replaces machines of its own scope only: another tenant's machine of that name stands against it,
    /// as any machine does where nothing may be replaced.
    pub(crate) async fn check_overwrite(
        &self,
        scope: Scope,
        platform: PlatformId,
        name: &str,
    ) -> Result<(), ProtectError> {
        let there = self.machines_named(platform, name).await?;
        if there.iter().all(|vm| scope.can_write(vm.settings.tenant)) {
            return Ok(());
        }
        Err(ProtectError::Conflict(format!("a machine '{name}' is there already")))
    }

    /// The machines of that name that are present on a platform.
    pub(crate) async fn machines_named(
        &self,
        platform: PlatformId,
        name: &str,
    ) -> Result<Vec<VirtualMachine>, ProtectError> {
        let filter =
            Filter::eq("platform", platform.uuid()).and(Filter::eq("present", true)).and(Filter::eq("name", name));
        let there = self.storage.list_of::<VirtualMachine>(Scope::All, Query::matching(filter)).await?;
        Ok(there.items.into_iter().map(|vm| vm.value).collect())
    }

    /// The copy that was named, else any that is present.
    pub(crate) async fn readable_copy(
        &self,
        scope: Scope,
        point: &RecoveryPoint,
        destination: Option<BackupDestinationId>,
    ) -> Result<BackupCopy, ProtectError> {
        let mut filter = Filter::eq("point", point.id.uuid()).and(Filter::eq("status", CopyStatus::Present.name()));
        if let Some(destination) = destination {
            filter = filter.and(Filter::eq("destination", destination.uuid()));
        }
        let found = self.storage.list_of::<BackupCopy>(scope, Query::matching(filter)).await?;
        match found.items.into_iter().next() {
            Some(copy) => Ok(copy.value),
            None => Err(ProtectError::Conflict(format!("no copy of the backup '{}' is present there", point.name))),
        }
    }

    /// A point that holds a whole backup; `done` says what is to be done with it, for the refusal of any other.
    pub(crate) async fn whole_point(
        &self,
        scope: Scope,
        id: RecoveryPointId,
        done: &str,
    ) -> Result<RecoveryPoint, ProtectError> {
        let point = self.point_row(scope, id).await?;
        if point.status.is_restorable() {
            return Ok(point);
        }
        Err(ProtectError::Conflict(format!(
            "the backup '{}' cannot be {done}: it is in state {}",
            point.name,
            point.status.description()
        )))
    }

    /// Every datastore that a request names, and its cluster, must be of the platform.
    pub(crate) async fn check_places(
        &self,
        caller: &Caller,
        platform: PlatformId,
        datastores: impl Iterator<Item = &String>,
        cluster: Option<&str>,
    ) -> Result<(), ProtectError> {
        let named: Vec<&String> = datastores.collect();
        if named.is_empty() && cluster.is_none() {
            return Ok(());
        }
        let of = || Query::matching(Filter::eq("platform", platform.uuid()).and(Filter::eq("present", true)));
        let stores = self.storage.list_of::<Datastore>(caller.scope, of()).await?.items;
        for name in named {
            if !stores.iter().any(|d| d.external.native_id == *name) {
                return Err(ProtectError::Invalid(format!("the platform has no storage '{name}'")));
            }
        }
        if let Some(cluster) = cluster {
            let clusters = self.storage.list_of::<Cluster>(caller.scope, of()).await?.items;
            if !clusters.iter().any(|c| c.external.as_ref().is_some_and(|e| e.native_id == cluster)) {
                return Err(ProtectError::Invalid(format!("the platform has no cluster '{cluster}'")));
            }
        }
        Ok(())
    }

    /// Restores of a machine, newest first.
    pub async fn restore_jobs(
        &self,
        caller: &Caller,
        query: Query,
    ) -> Result<portolan_storage::ListOf<RestoreJob>, ProtectError> {
        caller.require(Privilege::BackupRead)?;
        Ok(self.storage.list_of::<RestoreJob>(caller.scope, query).await?)
    }
}

/// Refuses what is no priority.
pub(crate) fn check_priority(priority: i16) -> Result<(), ProtectError> {
    match (0..=100).contains(&priority) {
        true => Ok(()),
        false => Err(ProtectError::Invalid("the priority must lie between 0 and 100".into())),
    }
}
