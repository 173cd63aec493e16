//! The request for an instant restore: a machine that runs from a recovery point while its data is brought home.

use crate::error::ProtectError;
use crate::restore::{RestoreDisk, check_priority};
use crate::service::{EXPORT_WINDOW, Protect, origin_of};
use portolan_driver::Capabilities;
use portolan_model::backup::{BackupStatus, RestoreType};
use portolan_model::*;
use portolan_storage::StorageExt;
use portolan_tasks::{Limit, NewTask, Task, TaskLinks};
use serde::{Deserialize, Serialize};

/// What the task and the job of an instant restore are in their request.
const TASK: &str = "instant.task";
const JOB: &str = "instant.job";
/// How many machines of one platform run from backups at once. Each takes a place of the engine until it is home.
const AT_ONCE: i32 = 4;

/// A recovery point to run a machine from.
#[derive(Debug, Clone, PartialEq)]
pub struct InstantRequest {
    /// The point.
    pub point: RecoveryPointId,
    /// The copy to read; nothing for any that is present and reachable.
    pub destination: Option<BackupDestinationId>,
    /// The platform to run it on; nothing for the one that it came from.
    pub platform: Option<PlatformId>,
    /// The platform's own id of the datastore of what it writes, and of its disks later on.
    pub datastore: Option<String>,
    /// The machine's name; nothing for the one that it had. Nothing is replaced: another machine of that name on the
    /// platform stands against it.
    pub name: Option<Name>,
    /// 0 to 100.
    pub priority: i16,
}

/// What the task of an instant restore knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct InstantPayload {
    pub(crate) job: RestoreJobId,
    pub(crate) machine: PointMachine,
}

/// A machine that runs from a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PointMachine {
    pub(crate) point: RecoveryPointId,
    pub(crate) destination: BackupDestinationId,
    pub(crate) platform: PlatformId,
    pub(crate) datastore: Option<String>,
    pub(crate) name: String,
    /// Decided once, so that every attempt asks the platform for the same.
    pub(crate) disks: Vec<RestoreDisk>,
}

impl Protect {
    /// Asks for a machine that runs from a backup at once. The task goes on until all data is home; cancelled before
    /// that, it destroys the machine with what it wrote. Answers the task and the job, which are there at once. A
    /// request that its sender named is carried out once.
    pub async fn restore_instantly(
        &self,
        caller: &Caller,
        request: InstantRequest,
    ) -> Result<(Task, RestoreJob), ProtectError> {
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
        self.require_capability(&platform, |can| can.instant, "runs no machines from backups")?;
        self.check_places(caller, platform.id, request.datastore.iter(), None).await?;

        let now = self.clock.now();
        let job = RestoreJob {
            id: job,
            point: point.id,
            vm: point.vm,
            tenant: point.tenant,
            restore_type: RestoreType::InstantRestore,
            status: BackupStatus::Queued,
            status_info: String::new(),
            chain: begins.id("instant.chain", point.id),
            target_name: request.name.as_ref().map_or_else(|| point.vm_name.clone(), |name| name.to_string()),
            target_vm: None,
            created: now,
            finished: None,
            queued_restore_ms: 0,
            restore_ms: 0,
            queued_import_ms: 0,
            import_ms: 0,
        };
        let machine = PointMachine {
            point: point.id,
            destination: copy.destination,
            platform: platform.id,
            datastore: request.datastore.clone(),
            name: job.target_name.clone(),
            disks: disks_of(&point, request.datastore.as_ref()),
        };
        let payload = InstantPayload { job: job.id, machine };
        let links = TaskLinks {
            vm: Some(point.vm),
            vm_name: point.vm_name.clone(),
            point: Some(point.id),
            point_name: point.name.clone(),
            destination: Some(copy.destination),
            platform: Some(platform.id),
            restore_job: Some(job.id),
            target_name: job.target_name.clone(),
            ..TaskLinks::default()
        };
        let task = NewTask {
            id: task,
            priority: request.priority,
            start_by: Some(now + EXPORT_WINDOW),
            // Once the machine runs, only its own end or a wish ends the task.
            max_attempts: i32::MAX,
            payload: serde_json::to_value(payload).unwrap_or_default(),
            // It runs for as long as the data takes, beside everything else.
            limits: vec![Limit { key: format!("instant:{}", platform.id), max: AT_ONCE }],
            on_failure: Some(Box::new(self.instant_cleanup(job.chain, job.tenant, Some(job.id), platform.id))),
            origin: origin_of(caller),
            ..self.link(task_kind::INSTANT_RESTORE, job.chain, job.tenant, links)
        };
        self.begin_job(caller, job, task).await
    }

    /// Refuses early what the platform's driver cannot do. One that is not open here is asked when the task runs.
    pub(crate) fn require_capability(
        &self,
        platform: &Platform,
        can: impl FnOnce(Capabilities) -> bool,
        otherwise: &str,
    ) -> Result<(), ProtectError> {
        match self.hypervisors.get(platform.id) {
            Ok(driver) if !can(driver.capabilities()) => {
                Err(ProtectError::Conflict(format!("the platform '{}' {otherwise}", platform.name)))
            }
            _ => Ok(()),
        }
    }
}

/// The disks of a machine that runs from a point; those that were left out of the backup are there, and empty.
pub(crate) fn disks_of(point: &RecoveryPoint, datastore: Option<&String>) -> Vec<RestoreDisk> {
    let disk = |disk: &backup::PointDisk| RestoreDisk {
        name: disk.name.clone(),
        size_bytes: disk.size_bytes,
        datastore: datastore.cloned(),
        empty: disk.excluded,
    };
    point.disks.iter().map(disk).collect()
}
